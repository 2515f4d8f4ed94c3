// Huber's function with its bend at 1, and its derivative: of a V of T, one number or a vector.
#pragma once
#include "kernels/cpu/simd.h"

namespace {

template <class V, class T>
inline V huber_slope(V x) {
  const V one = splat<V>(T(1));
  const V below = x > one ? one : x;
  return below < -one ? -one : below;  // NaN stays NaN
}

// From its derivative: x * x / 2 up to the bend, |x| - 1/2 beyond.
template <class V, class T>
inline V huber(V x, V slope) {
  return slope * (x - slope * splat<V>(T(0.5)));
}

}  // namespace
