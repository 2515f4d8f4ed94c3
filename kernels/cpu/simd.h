// Vectors in the compiler's own vector extension: one source, the width of the instruction set it is
// compiled for. No intrinsics here, so the baseline build also serves processors that are not x86.
#pragma once
#include <stdint.h>
#include <string.h>

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T, int Lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * Lanes)));
};
template <class T, int Lanes>
using Vector = typename VectorOf<T, Lanes>::type;

// Lanes of T in one register.
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class V, class T>
inline V load(const T* from) {
  V v;
  memcpy(&v, from, sizeof(V));
  return v;
}

template <class V, class T>
inline void store(T* to, V v) {
  memcpy(to, &v, sizeof(V));
}

template <class V, class T>
inline V splat(T value) {
  return value - V{};
}

// Sum of the lanes, by halves: the same tree wherever Lanes is the same.
template <class T, int Lanes>
inline T sum_lanes(Vector<T, Lanes> v) {
  T lane[Lanes];
  memcpy(lane, &v, sizeof(v));
  for (int half = Lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

}  // namespace
