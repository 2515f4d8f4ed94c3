// Huber's function with its bend at 1, and its derivative.
#pragma once

namespace {

inline double huber(double x) {
  const double size = __builtin_fabs(x);
  return size < 1 ? 0.5 * x * x : size - 0.5;  // NaN stays NaN
}

inline double huber_slope(double x) { return x > 1 ? 1 : x < -1 ? -1 : x; }

}  // namespace
