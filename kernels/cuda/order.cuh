// Element types, and the one order of the contract: descending score, +0.0 = -0.0, ties to the lower index.
#pragma once
#include "kernels/cuda/launch.cuh"

namespace {

struct Half { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
__device__ __forceinline__ float widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u) return __uint_as_float(sign | 0x7f800000u | (magnitude & 0x007fffffu));  // inf, NaN
  // Multiplying by 2^112 rebuilds the exponent, subnormals included, exactly.
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * __uint_as_float(0x77800000u)));
}

// Round to nearest even; not for NaN.
__device__ __forceinline__ uint16_t bfloat16_bits(float x) {
  const uint32_t bits = __float_as_uint(x);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// What a table's scores are rounded to, and an unsigned integer that orders as they do.
template <class Storage> struct ScoreOf { typedef float type; };
template <> struct ScoreOf<double> { typedef double type; };
template <class Score> struct OrderKey { typedef uint32_t type; };
template <> struct OrderKey<double> { typedef uint64_t type; };
template <class Storage> using Score = typename ScoreOf<Storage>::type;
template <class Storage> using Key = typename OrderKey<Score<Storage>>::type;

__device__ __forceinline__ uint32_t order_key(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);  // -0.0 becomes +0.0
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ uint64_t order_key(double score) {
  const uint64_t bits = static_cast<uint64_t>(__double_as_longlong(score + 0.0));
  return bits >> 63 ? ~bits : bits | 0x8000000000000000ull;
}
__device__ __forceinline__ float score_of_key(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}
__device__ __forceinline__ double score_of_key(uint64_t key) {
  return __longlong_as_double(static_cast<long long>(key >> 63 ? key & 0x7fffffffffffffffull : ~key));
}

__device__ __forceinline__ float positive_infinity(float) { return __uint_as_float(0x7f800000u); }
__device__ __forceinline__ double positive_infinity(double) { return __longlong_as_double(0x7ff0000000000000ll); }
__device__ __forceinline__ float not_a_number(float) { return __uint_as_float(0x7fc00000u); }
__device__ __forceinline__ double not_a_number(double) { return __longlong_as_double(0x7ff8000000000000ll); }

template <class T>
__device__ __forceinline__ bool rankable(T score) { return score > -positive_infinity(score); }

// A candidate. All that rank have keys above 0 and ids below 2^32 - 1, so {0, 2^32 - 1} stands behind all.
template <class K>
struct alignas(2 * sizeof(K)) Ranked {
  K key;
  uint32_t id;
};
constexpr uint32_t kNoId = 0xffffffffu;

template <class K>
__device__ __forceinline__ bool before(const Ranked<K>& a, const Ranked<K>& b) {
  return a.key > b.key || (a.key == b.key && a.id < b.id);
}

// The excluded ids of each row as CSR; an absent table excludes nothing. Only for rows that check_exclusions passed.
struct Exclusion {
  const int64_t* indptr;
  const int64_t* indices;

  __device__ bool contains(int64_t row, int64_t id) const {
    if (indptr == nullptr) return false;
    int64_t low = indptr[row];
    const int64_t end = indptr[row + 1];
    int64_t high = end;
    while (low < high) {
      const int64_t middle = (low + high) >> 1;
      if (indices[middle] < id) low = middle + 1;
      else high = middle;
    }
    return low < end && indices[low] == id;
  }
};

// By one warp: bounds within the table, ids within [0, N) that ascend. Nothing out of range is read.
__device__ __forceinline__ bool valid_exclusions(const Exclusion& exclude, int64_t nonzeros, int64_t row, int64_t N) {
  if (exclude.indptr == nullptr) return true;
  const int64_t begin = exclude.indptr[row], end = exclude.indptr[row + 1];
  if (begin < 0 || begin > end || end > nonzeros) return false;
  bool fine = true;
  for (int64_t i = begin + lane_index(); i < end; i += 32) {
    const int64_t id = exclude.indices[i];
    fine &= id >= 0 && id < N && (i == begin || exclude.indices[i - 1] <= id);
  }
  return __all_sync(kWholeWarp, fine);
}

}  // namespace
