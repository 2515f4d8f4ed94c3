// Random draws that have the same bits on every device: Philox4x32-10 and the few exact steps around it.
//
// A draw depends on its counter and the seed alone. The counter's words:
//
//   word 0   user
//   word 1   position: of the draw in its row; for position keys, four positions share a block
//   word 2   epoch
//   word 3   stream in the top 8 bits, block of attempts (or step of the epoch) in the low 24
//
// The key is the seed, low word first. A block gives four 32-bit words, used in order.
//
// Everything here is integer arithmetic or float64 operations rounded one by one; sources that include it
// are compiled without contraction into fused multiply-adds.
#pragma once
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define RANKDISTILL_HD __host__ __device__ __forceinline__
#else
#define RANKDISTILL_HD inline
#endif

namespace {

struct PhiloxBlock {
  uint32_t word[4];
};

RANKDISTILL_HD PhiloxBlock philox4x32_10(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t seed) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return PhiloxBlock{{c0, c1, c2, c3}};
}

#ifndef __CUDACC__
// `Count` blocks at once, words in 64 bits each so that a compiler turns the loops into vectors; in place.
template <int Count>
inline void philox4x32_10_side_by_side(uint64_t* c0, uint64_t* c1, uint64_t* c2, uint64_t* c3, uint64_t seed) {
  uint64_t k0 = seed & 0xffffffffu, k1 = seed >> 32;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < Count; ++i) {
      const uint64_t p0 = c0[i] * 0xD2511F53u, p1 = c2[i] * 0xCD9E8D57u;
      c0[i] = (p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = p1 & 0xffffffffu;
      c2[i] = (p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = p0 & 0xffffffffu;
    }
    k0 = (k0 + 0x9E3779B9u) & 0xffffffffu;
    k1 = (k1 + 0xBB67AE85u) & 0xffffffffu;
  }
}
#endif

// Natural logarithm of a positive normal double: exponent·ln 2 + 2·atanh((m − 1)/(m + 1)), m in [√½, √2).
// Relative error below 1e-15; the same bits wherever + − × ÷ round to nearest.
RANKDISTILL_HD double stated_log(double x) {
  int64_t bits;
  memcpy(&bits, &x, 8);
  const int64_t shifted = bits - 0x3FE6A09E667F3BCDLL;  // √½
  const int64_t exponent = shifted >> 52;
  bits -= shifted & static_cast<int64_t>(0xFFF0000000000000ULL);
  double m;
  memcpy(&m, &bits, 8);
  const double s = (m - 1.0) / (m + 1.0);
  const double t = s * s;
  double series = 1.0 / 21.0;
  series = series * t + 1.0 / 19.0;
  series = series * t + 1.0 / 17.0;
  series = series * t + 1.0 / 15.0;
  series = series * t + 1.0 / 13.0;
  series = series * t + 1.0 / 11.0;
  series = series * t + 1.0 / 9.0;
  series = series * t + 1.0 / 7.0;
  series = series * t + 1.0 / 5.0;
  series = series * t + 1.0 / 3.0;
  series = series * t + 1.0;
  return static_cast<double>(exponent) * 0.69314718055994530942 + (2.0 * s) * series;
}

// A standard Gumbel variate from one word: −log(−log u), u = (word + ½)/2³². At most 22.88.
RANKDISTILL_HD double gumbel(uint32_t word) {
  const double u = (static_cast<double>(word) + 0.5) * 2.3283064365386962890625e-10;
  return -stated_log(-stated_log(u));
}

// Word 1 of a block of an id's Gumbel variates: the second of two parts that share ids draws elsewhere.
RANKDISTILL_HD uint32_t gumbel_position(int64_t block, int64_t part) {
  return static_cast<uint32_t>(block) + (static_cast<uint32_t>(part) << 20);
}

// Word 1 of a block of eight elements that dropout meets, of `blocks` in a row of one of several masks.
RANKDISTILL_HD uint32_t dropout_position(int64_t mask, int64_t block, int64_t blocks) {
  return static_cast<uint32_t>(mask * blocks + block);
}

// Uniform in [0, bound) from one word (Lemire), or -1 where the word must be thrown away to stay exact.
RANKDISTILL_HD int64_t bounded(uint32_t word, uint32_t bound) {
  const uint64_t product = static_cast<uint64_t>(word) * bound;
  const uint32_t low = static_cast<uint32_t>(product);
  if (low < bound && low < (0u - bound) % bound) return -1;
  return static_cast<int64_t>(product >> 32);
}

}  // namespace
