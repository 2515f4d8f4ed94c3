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

// The lower and the upper half of a vector.
template <class T, int Lanes>
struct Halves {
  static Vector<T, Lanes / 2> low(Vector<T, Lanes> v) {
    if constexpr (Lanes == 16) return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    else if constexpr (Lanes == 8) return __builtin_shufflevector(v, v, 0, 1, 2, 3);
    else return __builtin_shufflevector(v, v, 0, 1);
  }
  static Vector<T, Lanes / 2> high(Vector<T, Lanes> v) {
    if constexpr (Lanes == 16) return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    else if constexpr (Lanes == 8) return __builtin_shufflevector(v, v, 4, 5, 6, 7);
    else return __builtin_shufflevector(v, v, 2, 3);
  }
};

// The vector's halves added until `Kept` lanes are left.
template <class T, int Lanes, int Kept>
inline Vector<T, Kept> fold_to(Vector<T, Lanes> v) {
  if constexpr (Lanes == Kept) return v;
  else return fold_to<T, Lanes / 2, Kept>(Halves<T, Lanes>::low(v) + Halves<T, Lanes>::high(v));
}

// Sum of the lanes, by halves: the same tree wherever Lanes is the same.
template <class T, int Lanes>
inline T sum_lanes(Vector<T, Lanes> v) {
  const Vector<T, 2> pair = fold_to<T, Lanes, 2>(v);
  return pair[0] + pair[1];
}

}  // namespace
