// Which of 64 stored scores reach a bound, as the bits of a word: all that most scores of a row are ever asked.
#pragma once
#include "kernels/cpu/order.h"
#include "kernels/cpu/storage.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// How stored scores are compared without being widened. A key orders as in order.h; an element is what a scan loads.
template <class Storage>
struct Stored {
  typedef Storage Element;
  typedef typename OrderKey<Storage>::type Key;
  static Storage least() { return static_cast<Storage>(-__builtin_inf()); }
  static Element element(Storage score) { return score; }
  static Key key(Element score) { return order_key(score); }
  // The element that those of this key and above reach: NaN past +inf, which nothing reaches.
  static Element bound(Key key) { return score_of_key<Storage>(key); }
};

// fp16 and bf16 are compared as 16-bit integers that order as they do; -0.0 is -1, just below +0.0.
template <class Storage, int Infinity>
struct Stored16 {
  typedef int16_t Element;
  typedef int32_t Key;
  static constexpr Element infinity = Infinity;
  static Storage least() { return Storage{static_cast<uint16_t>(Infinity | 0x8000)}; }
  static Element element(Storage score) {
    const int16_t bits = static_cast<int16_t>(score.bits);
    return static_cast<int16_t>(bits ^ ((bits >> 15) & 0x7fff));
  }
  static Key key(Element element) { return element == -1 ? 0 : element; }
  static Element bound(Key key) { return static_cast<int16_t>(key == 0 ? -1 : key); }
};
template <> struct Stored<Half> : Stored16<Half, 0x7c00> {};
template <> struct Stored<BFloat16> : Stored16<BFloat16, 0x7f80> {};

// The key of the least score that can be ranked.
template <class Storage>
inline typename Stored<Storage>::Key least_key() {
  return Stored<Storage>::key(Stored<Storage>::element(Stored<Storage>::least())) + 1;
}

inline int64_t bit_count(uint64_t word) {
#if defined(__x86_64__) && !defined(__POPCNT__)  // the compiler would call a function
  word -= word >> 1 & 0x5555555555555555u;
  word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
  return static_cast<int64_t>(((word + (word >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * 0x0101010101010101u >> 56);
#else
  return __builtin_popcountll(word);
#endif
}

template <class T>
using Lanes = Vector<T, kLanes<T>>;

// A bit per lane: x >= bound (false for NaN).
#if defined(__AVX512F__)
inline uint64_t lanes_reaching(Lanes<float> x, Lanes<float> bound) {
  return _mm512_cmp_ps_mask((__m512)x, (__m512)bound, _CMP_GE_OQ);
}
inline uint64_t lanes_reaching(Lanes<double> x, Lanes<double> bound) {
  return _mm512_cmp_pd_mask((__m512d)x, (__m512d)bound, _CMP_GE_OQ);
}
inline uint64_t lanes_reaching(Lanes<int16_t> x, Lanes<int16_t> bound) {
  return _mm512_cmpge_epi16_mask((__m512i)x, (__m512i)bound);
}
#else
#if defined(__AVX2__)
inline uint32_t truths(Lanes<float>, Lanes<int32_t> truth) {
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)truth));
}
inline uint32_t truths(Lanes<double>, Lanes<int64_t> truth) {
  return static_cast<uint32_t>(_mm256_movemask_pd((__m256d)truth));
}
inline uint32_t truths(Lanes<int16_t>, Lanes<int16_t> truth) {
  const __m128i low = _mm256_castsi256_si128((__m256i)truth), high = _mm256_extracti128_si256((__m256i)truth, 1);
  return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(low, high)));
}
#elif defined(__x86_64__)
inline uint32_t truths(Lanes<float>, Lanes<int32_t> truth) {
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)truth));
}
inline uint32_t truths(Lanes<double>, Lanes<int64_t> truth) {
  return static_cast<uint32_t>(_mm_movemask_pd((__m128d)truth));
}
inline uint32_t truths(Lanes<int16_t>, Lanes<int16_t> truth) {
  return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16((__m128i)truth, _mm_setzero_si128())));
}
#else
template <class V, class VI>
inline uint32_t truths(V, VI truth) {
  uint32_t bits = 0;
  for (unsigned lane = 0; lane < sizeof(VI) / sizeof(truth[0]); ++lane)
    bits |= static_cast<uint32_t>(truth[lane] != 0) << lane;
  return bits;
}
#endif
template <class V>
inline uint64_t lanes_reaching(V x, V bound) { return truths(x, x >= bound); }
#endif

// Bit i: scores[i] can be ranked and reaches the bound, which is at least that of least_key().
template <class Storage>
inline uint64_t reaching(const Storage* scores, typename Stored<Storage>::Element bound) {
  typedef typename Stored<Storage>::Element Element;
  typedef Lanes<Element> V;
  constexpr int W = kLanes<Element>;
  const V bounds = splat<V>(bound);
  uint64_t word = 0;
#pragma GCC unroll 32
  for (int i = 0; i < 64; i += W) {
    if constexpr (sizeof(Storage) == 2) {
      const V bits = load<V>(scores + i);
      const V elements = bits ^ ((bits >> 15) & splat<V>(static_cast<int16_t>(0x7fff)));
      word |= (lanes_reaching(elements, bounds) & lanes_reaching(splat<V>(Stored<Storage>::infinity), elements)) << i;
    } else {
      word |= lanes_reaching(load<V>(scores + i), bounds) << i;
    }
  }
  return word;
}

// Bit i: bytes[i] is not zero, of 8 bytes.
inline uint64_t nonzero_of_8(const uint8_t* bytes) {
  uint64_t eight = load<uint64_t>(bytes);
  eight |= eight >> 4;
  eight |= eight >> 2;
  eight |= eight >> 1;
  return (eight & 0x0101010101010101u) * 0x0102040810204080u >> 56;  // gathers the lowest bits in the highest byte
}

// The same of 64 bytes.
inline uint64_t nonzero(const uint8_t* bytes) {
#if defined(__AVX512F__)
  const __m512i all = _mm512_loadu_si512(bytes);
  return _mm512_test_epi8_mask(all, all);
#else
  uint64_t word = 0;
  for (int i = 0; i < 64; i += 8) word |= nonzero_of_8(bytes + i) << i;
  return word;
#endif
}

// Row-major scores [B, N] and what of them is left out; null for nothing.
template <class Storage>
struct MaskedScores {
  const Storage* scores;
  int64_t stride;
  const int64_t* indptr;  // the left out of row b: indices[indptr[b]] to indices[indptr[b + 1] - 1], ascending
  const int64_t* indices;
  const uint8_t* mask;  // not zero where left out
  int64_t mask_stride;
};

constexpr int64_t kScanned = 4096;  // scores per step of a scan: 64 words of 64 bits

// One row, read in ascending steps of kScanned scores.
template <class Storage>
struct RowScan {
  const Storage* row;
  const uint8_t* mask;
  const int64_t *excluded, *excluded_end;
  Storage tail[64];

  void start(const MaskedScores<Storage>& given, int64_t b, int64_t begin, int64_t end) {
    row = given.scores + b * given.stride;
    mask = given.mask ? given.mask + b * given.mask_stride : nullptr;
    excluded = excluded_end = nullptr;
    if (!given.indptr) return;
    const int64_t* const stop = given.indices + given.indptr[b + 1];
    excluded = first_excluded(given.indices + given.indptr[b], stop, begin);
    excluded_end = first_excluded(excluded, stop, end);
  }

  static const int64_t* first_excluded(const int64_t* low, const int64_t* high, int64_t from) {
    while (low < high) {
      const int64_t* const middle = low + (high - low) / 2;
      if (*middle < from) low = middle + 1; else high = middle;
    }
    return low;
  }

  // 64 scores from column i, of which only the first n are the row's.
  const Storage* word_of(int64_t i, int64_t n) {
    if (n >= 64) return row + i;
    for (int64_t j = 0; j < 64; ++j) tail[j] = j < n ? row[i + j] : Stored<Storage>::least();
    return tail;
  }

  // Clears the bits of what is left out among n <= kScanned scores from column `first`. `filled`: which words count.
  void leave_out(int64_t first, int64_t n, uint64_t filled, uint64_t* words) {
    for (; excluded < excluded_end && *excluded < first + n; ++excluded) {
      const int64_t i = *excluded - first;
      if (filled >> (i / 64) & 1) words[i / 64] &= ~(static_cast<uint64_t>(1) << (i % 64));
    }
    if (!mask) return;
    for (uint64_t left = filled; left; left &= left - 1) __builtin_prefetch(mask + first + 64 * __builtin_ctzll(left));
    for (; filled; filled &= filled - 1) {
      const int64_t i = 64 * __builtin_ctzll(filled);
      uint64_t out = 0;
      if (i + 64 <= n) out = nonzero(mask + first + i);
      else for (int64_t j = i; j < n; ++j) out |= static_cast<uint64_t>(mask[first + j] != 0) << (j - i);
      words[i / 64] &= ~out;
    }
  }
};

}  // namespace
