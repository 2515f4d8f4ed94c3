// A register tile of inner products: lanes are users, packed [D][lanes]; item values are broadcast from rows.
//
// A tile only filters. DESIGN.md TK-1 proves |tile score - exact score| <= user norm * item margin.
#pragma once
#include "kernels/cpu/simd.h"
#include "kernels/cpu/storage.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

// 24 accumulators of 32 registers with AVX-512, 12 of 16 without; items come in threes because a base and a
// stride register then address three rows.
#if defined(__AVX512F__)
constexpr int kTileItems = 12;
#else
constexpr int kTileItems = 6;
#endif
constexpr int kTileThrees = kTileItems / 3;

template <class T>
using Lanes = Vector<T, kLanes<T>>;
template <class T>
constexpr int kTileUsers = 2 * kLanes<T>;

// What the margin rests on: the unit roundoff; bounds on norms within which nothing overflows and underflow
// is negligible; the roundings per element that a tile and the exact score may differ by.
template <class T> struct Precision {
  static constexpr double roundoff = 0x1p-24, least_norm = 0x1p-50, largest_norm = 1e18, roundings = 1;
};
template <> struct Precision<double> {
  static constexpr double roundoff = 0x1p-53, least_norm = 0x1p-400, largest_norm = 1e150, roundings = 2;
};
constexpr int64_t kLargestWidth = 1 << 16;

// A bound of the row's norm from above; infinite where the margin cannot be trusted.
template <class T>
inline T norm_above(const T* row, int64_t D) {
  typedef Lanes<T> V;
  constexpr int W = kLanes<T>;
  V squares = {};
  int64_t d = 0;
  for (; d + W <= D; d += W) squares += load<V>(row + d) * load<V>(row + d);
  T square = sum_lanes<T, W>(squares);
  for (; d < D; ++d) square += row[d] * row[d];
  const T norm = __builtin_sqrt(static_cast<double>(square)) * (1 + 0x1p-6);
  if (!(norm <= Precision<T>::largest_norm) || D > kLargestWidth) return __builtin_inf();
  return norm < Precision<T>::least_norm ? static_cast<T>(Precision<T>::least_norm) : norm;
}

// Times a user's norm: the margin of an item with this norm.
template <class T>
inline T margin_of(T norm, int64_t D) {
  const double factor = (Precision<T>::roundings * static_cast<double>(D) + 4) * Precision<T>::roundoff * (1 + 0x1p-5);
  return static_cast<T>(factor) * norm;
}

template <class T>
inline void tile_product(const T* panel, const T* items, int64_t stride, int64_t D, Lanes<T> (&tile)[kTileItems][2]) {
  typedef Lanes<T> V;
  constexpr int W = kLanes<T>;
  V sums[kTileItems][2] = {};
  const T* rows[kTileThrees];
  for (int j = 0; j < kTileThrees; ++j) rows[j] = items + 3 * j * stride;
  for (int64_t d = 0; d < D; ++d) {
    const V user0 = load<V>(panel), user1 = load<V>(panel + W);
    panel += 2 * W;
#pragma GCC unroll 4
    for (int j = 0; j < kTileThrees; ++j) {
      const V item0 = splat<V>(rows[j][0]), item1 = splat<V>(rows[j][stride]), item2 = splat<V>(rows[j][2 * stride]);
      sums[3 * j][0] += user0 * item0;
      sums[3 * j][1] += user1 * item0;
      sums[3 * j + 1][0] += user0 * item1;
      sums[3 * j + 1][1] += user1 * item1;
      sums[3 * j + 2][0] += user0 * item2;
      sums[3 * j + 2][1] += user1 * item2;
      ++rows[j];
    }
  }
  for (int c = 0; c < kTileItems; ++c) {
    tile[c][0] = sums[c][0];
    tile[c][1] = sums[c][1];
  }
}

// Which lanes are still below their threshold: NaN is not.
#if defined(__AVX512F__)
template <class T> using Below = uint32_t;
template <class T>
constexpr uint32_t all_below() { return (1u << kLanes<T>) - 1; }
inline uint32_t and_below(uint32_t below, Lanes<float> x, Lanes<float> bound) {
  return _mm512_mask_cmp_ps_mask(static_cast<__mmask16>(below), (__m512)x, (__m512)bound, _CMP_LT_OQ);
}
inline uint32_t and_below(uint32_t below, Lanes<double> x, Lanes<double> bound) {
  return _mm512_mask_cmp_pd_mask(static_cast<__mmask8>(below), (__m512d)x, (__m512d)bound, _CMP_LT_OQ);
}
template <class T>
inline uint32_t lanes_not_below(uint32_t below) { return ~below & all_below<T>(); }
#else
template <class T> struct SignedOf { typedef int32_t type; };
template <> struct SignedOf<double> { typedef int64_t type; };
template <class T> using Below = Vector<typename SignedOf<T>::type, kLanes<T>>;
template <class T>
inline Below<T> all_below() { return ~Below<T>{}; }
inline Below<float> and_below(Below<float> below, Lanes<float> x, Lanes<float> bound) { return below & (x < bound); }
inline Below<double> and_below(Below<double> below, Lanes<double> x, Lanes<double> bound) { return below & (x < bound); }
template <class T>
inline uint32_t lanes_not_below(Below<T> below) {
  uint32_t lanes = 0;
  for (int i = 0; i < kLanes<T>; ++i) lanes |= static_cast<uint32_t>(below[i] == 0) << i;
  return lanes;
}
#endif

// panel [D][lanes] from `count` <= lanes rows of width D, spaced by `stride`; the other lanes are zero.
template <class T>
inline void pack_panel(const T* rows, int64_t stride, int64_t count, int64_t D, T* panel) {
  constexpr int L = kTileUsers<T>;
  for (int64_t d = 0; d < D; ++d)
    for (int lane = 0; lane < L; ++lane) panel[d * L + lane] = lane < count ? rows[lane * stride + d] : 0;
}

template <class Storage, class T>
inline void widen_row(const Storage* from, T* to, int64_t D) {
  for (int64_t d = 0; d < D; ++d) to[d] = widen(from[d]);
}

// Sums in index order of the exact products (fp64 tables: of the rounded ones, never fused, on any processor).
inline double unfused(float, double product) { return product; }
inline double unfused(BFloat16, double product) { return product; }
inline double unfused(Half, double product) { return product; }
inline double unfused(double, double product) {
#if defined(__x86_64__)
  __asm__("" : "+x"(product));
#elif defined(__aarch64__)
  __asm__("" : "+w"(product));
#endif
  return product;
}

constexpr int kChains = 8;  // interleaved, because one chain waits for its own additions

template <class Storage>
inline void exact_inner_products(const double* user, const Storage* const (&rows)[kChains], int64_t D,
                                 double (&sums)[kChains]) {
  double s[kChains] = {};
  for (int64_t d = 0; d < D; ++d)
#pragma GCC unroll 8
    for (int j = 0; j < kChains; ++j)
      s[j] += unfused(rows[j][d], user[d] * static_cast<double>(widen(rows[j][d])));
  for (int j = 0; j < kChains; ++j) sums[j] = s[j];
}

}  // namespace
