// A panel: kPanelItems<T> items packed for the tiles of score_tile.h, and what bounds the error of their scores.
#pragma once
#include "kernels/cpu/score_tile.h"

namespace {

// |tile score - exact score| <= norm * own + residual * user + bias_margin(bias), for a user of that norm and residual.
template <class T>
struct Panel {
  T largest;          // norm of an item, from above; infinite: nothing is known of the panel
  T own, user;
  T bias_most;        // the largest bias with its margin
  T scale;            // int8: what a unit of an item's byte is worth
  uint32_t unranked;  // by item: whether no user can have it, for a bias of -inf or NaN, or a NaN in its row
};

// What comes with a bias: its roundings, and those of its share of a tile's score.
template <class T>
inline T bias_margin(T bias, T rounding) {
  return (bias < 0 ? -bias : bias) * (rounding + static_cast<T>(Precision<T>::roundoff * 64));
}

// What is kept of a table that was prepared: its panels and the order of the items in them.
struct PreparedItems {
  static constexpr int64_t kMagic = 0x324d455449534b52;
  int64_t magic, bytes, N, D, dtype, filter, panel_items, steps;
  int64_t order_at, panels_at, data_at, has_bias;
};

#if defined(__AVX512F__)
// out[c][i] = rows[i][c] of 16 rows, four columns at a time.
inline void transpose_16_words(const uint32_t* const* rows, int64_t count, int64_t columns, uint32_t* out) {
  int64_t c = 0;
  for (; c + 4 <= columns; c += 4) {
    __m512i quads[4];  // of rows j, j + 4, j + 8, j + 12
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const auto quad = [&](int row) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[row] + c)); };
      __m512i all = _mm512_castsi128_si512(quad(j));
      all = _mm512_inserti32x4(all, quad(j + 4), 1);
      all = _mm512_inserti32x4(all, quad(j + 8), 2);
      quads[j] = _mm512_inserti32x4(all, quad(j + 12), 3);
    }
    const __m512i ab0 = _mm512_unpacklo_epi32(quads[0], quads[1]), ab1 = _mm512_unpackhi_epi32(quads[0], quads[1]);
    const __m512i cd0 = _mm512_unpacklo_epi32(quads[2], quads[3]), cd1 = _mm512_unpackhi_epi32(quads[2], quads[3]);
    _mm512_storeu_si512(out + c * count, _mm512_unpacklo_epi64(ab0, cd0));
    _mm512_storeu_si512(out + (c + 1) * count, _mm512_unpackhi_epi64(ab0, cd0));
    _mm512_storeu_si512(out + (c + 2) * count, _mm512_unpacklo_epi64(ab1, cd1));
    _mm512_storeu_si512(out + (c + 3) * count, _mm512_unpackhi_epi64(ab1, cd1));
  }
  for (; c < columns; ++c)
    for (int j = 0; j < 16; ++j) out[c * count + j] = rows[j][c];
}
#endif

// out[c][i] = rows[i][c]; count is a multiple of 4.
inline void transpose_words(const uint32_t* const* rows, int64_t count, int64_t columns, uint32_t* out) {
  typedef Vector<uint32_t, 4> V;
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) transpose_16_words(rows + i, count, columns, out + i);
#endif
  for (; i < count; i += 4) {
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      const V a = load<V>(rows[i] + c), b = load<V>(rows[i + 1] + c);
      const V d = load<V>(rows[i + 2] + c), e = load<V>(rows[i + 3] + c);
      const V ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const V de0 = __builtin_shufflevector(d, e, 0, 4, 1, 5), de1 = __builtin_shufflevector(d, e, 2, 6, 3, 7);
      uint32_t* const to = out + c * count + i;
      store(to, __builtin_shufflevector(ab0, de0, 0, 1, 4, 5));
      store(to + count, __builtin_shufflevector(ab0, de0, 2, 3, 6, 7));
      store(to + 2 * count, __builtin_shufflevector(ab1, de1, 0, 1, 4, 5));
      store(to + 3 * count, __builtin_shufflevector(ab1, de1, 2, 3, 6, 7));
    }
    for (; c < columns; ++c)
      for (int j = 0; j < 4; ++j) out[c * count + i + j] = rows[i + j][c];
  }
}

inline void transpose_rows(const float* const* rows, int64_t count, int64_t D, float* out) {
  const uint32_t* words[64];
  for (int64_t i = 0; i < count; ++i) words[i] = reinterpret_cast<const uint32_t*>(rows[i]);
  if (count % 4 == 0) return transpose_words(words, count, D, reinterpret_cast<uint32_t*>(out));
  for (int64_t d = 0; d < D; ++d)
    for (int64_t i = 0; i < count; ++i) out[d * count + i] = rows[i][d];
}

inline void transpose_rows(const double* const* rows, int64_t count, int64_t D, double* out) {
  for (int64_t d = 0; d < D; ++d)
    for (int64_t i = 0; i < count; ++i) out[d * count + i] = rows[i][d];
}

template <class T>
inline T square_of(const T* row, int64_t D) {
  typedef Lanes<T> V;
  constexpr int W = kLanes<T>;
  V squares = {};
  int64_t d = 0;
  for (; d + W <= D; d += W) squares += load<V>(row + d) * load<V>(row + d);
  T square = sum_lanes<T, W>(squares);
  for (; d < D; ++d) square += row[d] * row[d];
  return square;
}

// The largest magnitude of finite numbers: without their signs, bits order as numbers do.
inline float largest_magnitude(const float* row, int64_t D) {
  constexpr int W = kLanes<int32_t>;
  typedef Vector<int32_t, W> V;
  V most = {};
  int64_t d = 0;
  for (; d + W <= D; d += W) {
    const V bits = load<V>(row + d) & splat<V>(0x7fffffff);
    most = bits > most ? bits : most;
  }
  int32_t largest = 0;
  for (int lane = 0; lane < W; ++lane) largest = most[lane] > largest ? most[lane] : largest;
  float magnitude = from_bits(static_cast<uint32_t>(largest));
  for (; d < D; ++d) magnitude = __builtin_fabsf(row[d]) > magnitude ? __builtin_fabsf(row[d]) : magnitude;
  return magnitude;
}

// What a unit of a byte is worth, given the largest magnitude; never so small that its inverse overflows.
inline float int8_scale(float most) {
  const float scale = most * (1.0f / 127);
  return scale > 0x1p-60f ? scale : 0x1p-60f;
}

#if defined(__AVX512F__)
inline __mmask16 first_lanes(int64_t count) {
  return count < 16 ? static_cast<__mmask16>((1u << count) - 1) : static_cast<__mmask16>(0xffff);
}

// Bytes of a row in units of `scale`, each xor `flip`, zeros up to whole words; the squares of what is lost. No
// magnitude exceeds 127 units but for rounding.
inline __m512 quantise_int8(const float* row, int64_t D, float scale, int flip, uint8_t* bytes) {
  const __m512 inverse = _mm512_set1_ps(1 / scale), unit = _mm512_set1_ps(scale);
  const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
  __m512 lost = _mm512_setzero_ps();
  for (int64_t d = 0; d < D; d += 16) {
    const int64_t left = D - d;
    const __m512 value = left >= 16 ? _mm512_loadu_ps(row + d) : _mm512_maskz_loadu_ps(first_lanes(left), row + d);
    const __m512i byte = _mm512_cvtps_epi32(_mm512_mul_ps(value, inverse));
    const __m512 rest = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(byte), unit, value);
    lost = _mm512_fmadd_ps(rest, rest, lost);
    const __m128i packed = _mm_xor_si128(_mm512_cvtepi32_epi8(byte), flips);
    if (left >= 16) _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + d), packed);
    else _mm_mask_storeu_epi8(bytes + d, first_lanes((left + 3) / 4 * 4), packed);
  }
  return lost;
}

// The sums of the lanes of 16 vectors, in a scrambled order of the vectors.
inline __m512 sums_of_16(__m512 (&v)[16]) {
  const auto merge = [](__m512 a, __m512 b, auto low, auto high) { return _mm512_add_ps(low(a, b), high(a, b)); };
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    v[i] = merge(v[i], v[i + 8], [](__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b); },
                 [](__m512 a, __m512 b) { return _mm512_unpackhi_ps(a, b); });
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    v[i] = merge(v[i], v[i + 4], [](__m512 a, __m512 b) { return _mm512_shuffle_ps(a, b, 0x44); },
                 [](__m512 a, __m512 b) { return _mm512_shuffle_ps(a, b, 0xee); });
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    v[i] = merge(v[i], v[i + 2], [](__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0x44); },
                 [](__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0xee); });
  return merge(v[0], v[1], [](__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0x88); },
               [](__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0xdd); });
}

// Of 32 rows the largest sum of squares (NaN or infinite if any is) and the largest magnitude.
inline void measure_32(const float* const* rows, int64_t D, float* square, float* magnitude) {
  __m512 largest = _mm512_setzero_ps(), most = _mm512_setzero_ps();
  __mmask16 unordered = 0;
  for (int half = 0; half < 32; half += 16) {
    __m512 squares[16];
    for (int i = 0; i < 16; ++i) {
      const float* const row = rows[half + i];
      __m512 sum = _mm512_setzero_ps();
      for (int64_t d = 0; d < D; d += 16) {
        const __m512 value =
            D - d >= 16 ? _mm512_loadu_ps(row + d) : _mm512_maskz_loadu_ps(first_lanes(D - d), row + d);
        sum = _mm512_fmadd_ps(value, value, sum);
        most = _mm512_range_ps(most, value, 0x0b);  // of the magnitudes, the larger
      }
      squares[i] = sum;
    }
    const __m512 sums = sums_of_16(squares);
    unordered |= _mm512_cmp_ps_mask(sums, sums, _CMP_UNORD_Q);
    largest = _mm512_max_ps(largest, sums);
  }
  *square = unordered ? static_cast<float>(__builtin_nan("")) : _mm512_reduce_max_ps(largest);
  *magnitude = _mm512_reduce_max_ps(most);
}
// The row in bf16, rounded to nearest, a zero up to whole pairs; the square of what is lost.
inline __m512 quantise_bf16(const float* row, int64_t D, uint16_t* halves) {
  const __m512i half = _mm512_set1_epi32(0x7fff), one = _mm512_set1_epi32(1);
  __m512 lost = _mm512_setzero_ps();
  for (int64_t d = 0; d < D; d += 16) {
    const int64_t left = D - d;
    const __m512 value = left >= 16 ? _mm512_loadu_ps(row + d) : _mm512_maskz_loadu_ps(first_lanes(left), row + d);
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(half, odd)), 16);
    const __m512 rest = _mm512_sub_ps(value, _mm512_castsi512_ps(_mm512_slli_epi32(rounded, 16)));
    lost = _mm512_fmadd_ps(rest, rest, lost);
    const __m256i packed = _mm512_cvtepi32_epi16(rounded);
    if (left >= 16) _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + d), packed);
    else _mm256_mask_storeu_epi16(halves + d, first_lanes((left + 1) / 2 * 2), packed);
  }
  return lost;
}
#endif

// The largest sum of squares of a panel's rows, NaN if a row has one; the largest magnitude where int8 asks for it.
template <class T>
inline T measure_panel(const T* const* rows, int64_t D, float* magnitude) {
  T square = 0;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    measure_32(rows, D, &square, magnitude);
    return square;
  }
#endif
  (void)magnitude;
  for (int i = 0; i < kPanelItems<T>; ++i) {
    const T own = square_of(rows[i], D);
    square = own <= square ? square : own;  // NaN stays
    if (square != square) break;
  }
  return square;
}

enum Filter : int { kAnyFilter = 0, kWide = 1, kBf16 = 2, kInt8 = 3 };

// 32-bit words (64-bit for fp64) of a row in the filter's form.
inline int64_t filter_steps(int filter, int64_t D) {
  return filter == kInt8 ? (D + 3) / 4 : filter == kBf16 ? (D + 1) / 2 : D;
}

// Packs rows of width D, the rest of the panel zero; `stage` has room for kPanelItems<T> rows of D + 32 T's, and D.
template <class T>
inline Panel<T> pack_panel(int filter, const T* const* rows, int64_t count, int64_t D, const T* biases, T* stage,
                           T* out) {
  constexpr int P = kPanelItems<T>;
  Panel<T> panel = {};
  const T* all[P];
  T* const zero = stage + P * (D + 32);
  for (int64_t d = 0; d < D; ++d) zero[d] = 0;
  for (int i = 0; i < P; ++i) all[i] = i < count ? rows[i] : zero;
  float magnitude = 0;
  T square = measure_panel(all, D, &magnitude);
  if (square != square) {
    for (int i = 0; i < P; ++i)
      if (const T own = square_of(all[i], D); own != own) {
        panel.unranked |= 1u << i;
        all[i] = zero;
      }
    square = measure_panel(all, D, &magnitude);
  }
  panel.largest = norm_above(square, D);
  bool known = panel.largest - panel.largest == 0;
  const T rounding = rounding_margin<T>(D);
  if (biases) {
    panel.bias_most = -static_cast<T>(__builtin_inf());
    for (int64_t i = 0; i < count; ++i) {
      if (!(biases[i] > -static_cast<T>(__builtin_inf()))) panel.unranked |= 1u << i;
      if (panel.unranked >> i & 1) continue;
      known &= biases[i] <= Precision<T>::largest_norm;  // one far below zero bounds its score by itself
      const T most = biases[i] + bias_margin(biases[i], rounding);
      panel.bias_most = most > panel.bias_most ? most : panel.bias_most;
    }
  }
  if (!known) {
    panel.largest = panel.own = static_cast<T>(__builtin_inf());
    return panel;
  }
  panel.own = panel.largest * rounding;
#if !defined(RANKDISTILL_FILTERS)
  (void)filter;
#else
  if constexpr (sizeof(T) == 4) {
    if (filter != kWide) {
      const int64_t steps = filter_steps(filter, D);
      const uint32_t* words[P];
      uint32_t* const staged = reinterpret_cast<uint32_t*>(stage);
      if (filter == kInt8) panel.scale = int8_scale(magnitude);
      __m512 most = _mm512_setzero_ps();
      for (int half = 0; half < P; half += 16) {
        __m512 lost[16];
        for (int i = 0; i < 16; ++i) {
          uint32_t* const to = staged + (half + i) * (steps + 4);
          words[half + i] = to;
          const float* const row = all[half + i];
          lost[i] = filter == kInt8 ? quantise_int8(row, D, panel.scale, 0x80, reinterpret_cast<uint8_t*>(to))
                                    : quantise_bf16(row, D, reinterpret_cast<uint16_t*>(to));
        }
        most = _mm512_max_ps(most, sums_of_16(lost));
      }
      const float residual = residual_above(_mm512_reduce_max_ps(most), panel.largest);
      // The tile's own roundings: none in integers, two a pair in bf16.
      panel.own = residual + (filter == kBf16 ? 4 * rounding * panel.largest : 0);
      panel.user = panel.largest + residual;
      transpose_words(words, P, steps, reinterpret_cast<uint32_t*>(out));
      return panel;
    }
  }
#endif
  transpose_rows(all, P, D, out);
  return panel;
}

}  // namespace
