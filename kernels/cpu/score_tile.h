// Register tiles of inner products: lanes are items, packed [D][lanes]; users' values are broadcast, packed [D][rows].
//
// A tile only filters. Three precisions: the accumulator's own (every instruction set), and where the processor has
// the instructions bf16 pairs and int8 quadruples. DESIGN.md TK-1 bounds how far a tile's score may lie from the exact.
#pragma once
#include "kernels/cpu/simd.h"
#include "kernels/cpu/storage.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

// Bits of what the processor has beyond the instruction set of the table in use.
extern "C" int rankdistill_filters;

namespace {

enum FilterBit : int { kInt8Bit = 1, kBf16Bit = 2 };

template <class T>
using Lanes = Vector<T, kLanes<T>>;

// 24 accumulators of 32 registers with AVX-512, 12 of 16 without.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kFewRows = kTileRows / 3;  // of the tile for what a whole one leaves over
template <class T>
constexpr int kPanelItems = 2 * kLanes<T>;
// Rows of a tile, padded to whole vectors.
template <class T>
constexpr int kTileSlots = (kTileRows + kLanes<T> - 1) / kLanes<T> * kLanes<T>;

// What margins rest on: the unit roundoff; bounds on norms within which nothing overflows and underflow is
// negligible; the roundings per element that a tile and the exact score may differ by. And the lowest finite number.
template <class T> struct Precision {
  static constexpr double roundoff = 0x1p-24, least_norm = 0x1p-50, largest_norm = 1e18, roundings = 1, lowest = -__FLT_MAX__;
};
template <> struct Precision<double> {
  static constexpr double roundoff = 0x1p-53, least_norm = 0x1p-400, largest_norm = 1e150, roundings = 2, lowest = -__DBL_MAX__;
};
constexpr int64_t kLargestWidth = 1 << 16, kLargestInt8Width = 1 << 15;

template <class T>
inline T rounding_margin(int64_t D) {
  return static_cast<T>((Precision<T>::roundings * static_cast<double>(D) + 5) * Precision<T>::roundoff * (1 + 0x1p-5));
}

// A norm from a sum of squares, from above; infinite where margins cannot be trusted.
template <class T>
inline T norm_above(T square, int64_t D) {
  const double norm = __builtin_sqrt(static_cast<double>(square)) * (1 + 0x1p-6);
  if (!(norm <= Precision<T>::largest_norm) || D > kLargestWidth) return static_cast<T>(__builtin_inf());
  return static_cast<T>(norm < Precision<T>::least_norm ? Precision<T>::least_norm : norm);
}

// The length of a quantisation's residual, from above.
template <class T>
inline T residual_above(T square, T norm) {
  return static_cast<T>(__builtin_sqrt(static_cast<double>(square)) * (1 + 0x1p-6)) + norm * static_cast<T>(0x1p-20) +
         static_cast<T>(0x1p-64);
}

#if defined(__AVX512F__)
constexpr int kMaskChains = 4;  // comparisons into one mask wait for each other

template <int Rows, class V>
inline bool all_below(const V (&sums)[Rows][2], const float* bounds) {
  __mmask16 all[kMaskChains];
  for (int chain = 0; chain < kMaskChains; ++chain) all[chain] = 0xffff;
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    const __m512 bound = _mm512_set1_ps(bounds[r]);
    __mmask16& part = all[r % kMaskChains];
    part = _mm512_mask_cmp_ps_mask(part, (__m512)sums[r][0], bound, _CMP_LT_OQ);
    part = _mm512_mask_cmp_ps_mask(part, (__m512)sums[r][1], bound, _CMP_LT_OQ);
  }
  return (all[0] & all[1] & all[2] & all[3]) == 0xffff;
}
#endif

// Scores (with the biases, where there are any) of the first Rows users of kTileRows and a panel's items into `out`
// [Rows][kPanelItems], unless every one is below its row's bound; NaN is not.
template <int Rows, class T>
__attribute__((noinline)) bool wide_tile(const T* panel, const T* users, int64_t D, const T* bounds, const T* biases,
                                         T* out) {
  typedef Lanes<T> V;
  constexpr int W = kLanes<T>;
  V sums[Rows][2];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = V{};  // an initialiser would be a memset
  for (int64_t d = 0; d < D; ++d) {
    const V items0 = load<V>(panel), items1 = load<V>(panel + W);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const V user = splat<V>(users[r]);
      sums[r][0] += user * items0;
      sums[r][1] += user * items1;
    }
    panel += 2 * W;
    users += kTileRows;
  }
  if (biases != nullptr) {
    const V biases0 = load<V>(biases), biases1 = load<V>(biases + W);
    for (int r = 0; r < Rows; ++r) {
      sums[r][0] += biases0;
      sums[r][1] += biases1;
    }
  }
  bool below;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    below = all_below<Rows>(sums, bounds);
  } else {
    __mmask8 all[kMaskChains];
    for (int chain = 0; chain < kMaskChains; ++chain) all[chain] = 0xff;
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const __m512d bound = _mm512_set1_pd(bounds[r]);
      __mmask8& part = all[r % kMaskChains];
      part = _mm512_mask_cmp_pd_mask(part, (__m512d)sums[r][0], bound, _CMP_LT_OQ);
      part = _mm512_mask_cmp_pd_mask(part, (__m512d)sums[r][1], bound, _CMP_LT_OQ);
    }
    below = (all[0] & all[1] & all[2] & all[3]) == 0xff;
  }
#else
  auto all = sums[0][0] < splat<V>(bounds[0]);
  for (int r = 0; r < Rows; ++r) {
    const V bound = splat<V>(bounds[r]);
    all &= (sums[r][0] < bound) & (sums[r][1] < bound);
  }
  below = true;
  for (int lane = 0; lane < W; ++lane) below &= all[lane] != 0;
#endif
  if (below) return false;
  for (int r = 0; r < Rows; ++r) {
    store(out + r * 2 * W, sums[r][0]);
    store(out + r * 2 * W + W, sums[r][1]);
  }
  return true;
}

#if defined(__AVX512F__)
#define RANKDISTILL_FILTERS 1

// As assembly: from the intrinsics gcc 12 copies accumulators between registers and the stack, at half the rate.
inline void multiply_bytes(__m512i& sum, __m512i unsigned_bytes, __m512i signed_bytes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}
inline void multiply_bf16(__m512& sum, __m512i left, __m512i right) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(left), "v"(right));
}

// As wide_tile, on pairs of bf16: panel [steps][2][16] pairs, users [steps][kTileRows] pairs.
template <int Rows>
__attribute__((noinline)) bool bf16_tile(const uint32_t* panel, const uint32_t* users, int64_t steps,
                                         const float* bounds, const float* biases, float* out) {
  __m512 sums[Rows][2];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  for (int64_t step = 0; step < steps; ++step) {
    const __m512i items0 = _mm512_loadu_si512(panel), items1 = _mm512_loadu_si512(panel + 16);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const __m512i user = _mm512_set1_epi32(static_cast<int>(users[r]));
      multiply_bf16(sums[r][0], items0, user);
      multiply_bf16(sums[r][1], items1, user);
    }
    panel += 32;
    users += kTileRows;
  }
  if (biases != nullptr)
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      sums[r][0] = _mm512_add_ps(sums[r][0], _mm512_loadu_ps(biases));
      sums[r][1] = _mm512_add_ps(sums[r][1], _mm512_loadu_ps(biases + 16));
    }
  if (all_below<Rows>(sums, bounds)) return false;
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    _mm512_storeu_ps(out + r * 32, sums[r][0]);
    _mm512_storeu_ps(out + r * 32 + 16, sums[r][1]);
  }
  return true;
}

// Sums of products of bytes minus each row's bound, negative where the item cannot reach it. panel [steps][2][16]
// quadruples of item bytes + 128, users [steps][kTileRows] quadruples of user bytes; `starts` is -bound - 128 times
// the sum of the user's bytes. With biases, -bound is in `negated_bounds` and biases are in units of 1 / scales[r].
template <int Rows, bool Biased>
__attribute__((noinline)) bool int8_tile(const uint32_t* panel, const uint32_t* users, int64_t steps,
                                         const int32_t* starts, const float* biases, const float* scales,
                                         const float* negated_bounds, int32_t* out) {
  __m512i sums[Rows][2];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = _mm512_set1_epi32(starts[r]);
  if (Biased) {
    const __m512 least = _mm512_set1_ps(-0x1p30f), most = _mm512_set1_ps(0x1p30f);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r)
      for (int half = 0; half < 2; ++half) {
        __m512 start = _mm512_fmadd_ps(_mm512_loadu_ps(biases + half * 16), _mm512_set1_ps(scales[r]),
                                       _mm512_set1_ps(negated_bounds[r]));
        start = _mm512_min_ps(_mm512_max_ps(start, least), most);
        sums[r][half] = _mm512_add_epi32(sums[r][half], _mm512_cvtps_epi32(start));
      }
  }
  for (int64_t step = 0; step < steps; ++step) {
    const __m512i items0 = _mm512_loadu_si512(panel), items1 = _mm512_loadu_si512(panel + 16);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const __m512i user = _mm512_set1_epi32(static_cast<int>(users[r]));
      multiply_bytes(sums[r][0], items0, user);
      multiply_bytes(sums[r][1], items1, user);
    }
    panel += 32;
    users += kTileRows;
  }
  __m512i all = _mm512_and_si512(sums[0][0], sums[0][1]);
#pragma GCC unroll 12
  for (int r = 1; r < Rows; ++r) all = _mm512_ternarylogic_epi32(all, sums[r][0], sums[r][1], 0x80);
  if (_mm512_movepi32_mask(all) == 0xffff) return false;
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    _mm512_storeu_si512(out + r * 32, sums[r][0]);
    _mm512_storeu_si512(out + r * 32 + 16, sums[r][1]);
  }
  return true;
}
#endif

// Sums in index order of the exact products (fp64 tables: of the rounded ones, never fused, on any processor).
inline double unfused(float, double product) { return product; }
inline double unfused(double, double product) {
#if defined(__x86_64__)
  __asm__("" : "+x"(product));
#elif defined(__aarch64__)
  __asm__("" : "+w"(product));
#endif
  return product;
}

constexpr int kChains = 16;  // interleaved, because one chain waits for its own additions

template <class T>
inline void exact_inner_products(const double* user, const T* const (&rows)[kChains], int64_t D,
                                 double (&sums)[kChains]) {
  typedef Vector<float, 8> V;
  typedef Vector<double, 8> Sums;
  double s[kChains] = {};
  int64_t d = 0;
  if constexpr (__is_same(T, float)) {
    typedef Vector<float, 4> Quad;
    Sums totals[2] = {};
    for (; d + 4 <= D; d += 4)
#pragma GCC unroll 2
     for (int part = 0; part < 2; ++part) {
      Sums& total = totals[part];
      V quads[4];  // of rows j and j + 4
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j)
        quads[j] = __builtin_shufflevector(load<Quad>(rows[8 * part + j] + d), load<Quad>(rows[8 * part + j + 4] + d),
                                           0, 1, 2, 3, 4, 5, 6, 7);
      const V ab0 = __builtin_shufflevector(quads[0], quads[1], 0, 8, 1, 9, 4, 12, 5, 13);
      const V ab1 = __builtin_shufflevector(quads[0], quads[1], 2, 10, 3, 11, 6, 14, 7, 15);
      const V cd0 = __builtin_shufflevector(quads[2], quads[3], 0, 8, 1, 9, 4, 12, 5, 13);
      const V cd1 = __builtin_shufflevector(quads[2], quads[3], 2, 10, 3, 11, 6, 14, 7, 15);
      total += user[d] * __builtin_convertvector(__builtin_shufflevector(ab0, cd0, 0, 1, 8, 9, 4, 5, 12, 13), Sums);
      total += user[d + 1] * __builtin_convertvector(__builtin_shufflevector(ab0, cd0, 2, 3, 10, 11, 6, 7, 14, 15), Sums);
      total += user[d + 2] * __builtin_convertvector(__builtin_shufflevector(ab1, cd1, 0, 1, 8, 9, 4, 5, 12, 13), Sums);
      total += user[d + 3] * __builtin_convertvector(__builtin_shufflevector(ab1, cd1, 2, 3, 10, 11, 6, 7, 14, 15), Sums);
    }
    for (int j = 0; j < kChains; ++j) s[j] = totals[j / 8][j % 8];
  }
  for (; d < D; ++d)
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j)
      s[j] += unfused(rows[j][d], user[d] * static_cast<double>(rows[j][d]));
  for (int j = 0; j < kChains; ++j) sums[j] = s[j];
}

}  // namespace
