// Uniform draws without replacement from the items that a row's exclusions and list leave.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/sampling.h"

namespace {

// First blocks are drawn this many at a time, side by side, so that they fill vectors.
constexpr int kDraws = 16;

// As Free, but most items are known to be free by one bit: of a set of hashes, of what a row has drawn and, where they
// are few, of what it excludes and lists.
struct FilteredFree {
  uint64_t bits[64] = {};
  bool covers_taken;

  FilteredFree(const Complement& complement, int64_t count) {
    const int64_t taken = complement.excluded_count + complement.listed_count;
    covers_taken = taken <= 1024 && taken <= 8 * count;
    if (!covers_taken) return;
    for (int64_t i = 0; i < complement.excluded_count; ++i) add(complement.excluded[i]);
    for (int64_t i = 0; i < complement.listed_count; ++i) add(complement.listed[i]);
  }
  static uint64_t hash(int64_t item) { return static_cast<uint64_t>(item) * 0x9E3779B97F4A7C15u >> 52; }
  void add(int64_t item) { bits[hash(item) >> 6] |= static_cast<uint64_t>(1) << (hash(item) & 63); }
  bool has(const Complement& complement, const int64_t* chosen, int64_t j, int64_t item) const {
    const bool met = bits[hash(item) >> 6] >> (hash(item) & 63) & 1;
    if (!met) return covers_taken || complement.has(item);
    return complement.has(item) && !contains(chosen, j, item);
  }
};

// As sample_complement, whose draws it has.
inline void sample_complement_side_by_side(const Complement& complement, int64_t* chosen, int64_t count, uint32_t user,
                                           uint32_t first_position, uint32_t epoch, uint32_t stream, uint64_t seed) {
  bool exhausted = complement.n_items <= 0;
  FilteredFree free(complement, count);
  uint64_t c0[kDraws], c1[kDraws], c2[kDraws], c3[kDraws];
  for (int64_t begin = 0; begin < count; begin += kDraws) {
    const int64_t end = begin + kDraws < count ? begin + kDraws : count;
    for (int i = 0; i < kDraws && !exhausted; ++i) {
      c0[i] = user;
      c1[i] = first_position + static_cast<uint32_t>(begin + i);
      c2[i] = epoch;
      c3[i] = stream << 24;
    }
    if (!exhausted) philox4x32_10_side_by_side<kDraws>(c0, c1, c2, c3, seed);
    for (int64_t j = begin; j < end; ++j) {
      chosen[j] = -1;
      if (exhausted) continue;
      const int64_t i = j - begin;
      const PhiloxBlock block = {{static_cast<uint32_t>(c0[i]), static_cast<uint32_t>(c1[i]),
                                  static_cast<uint32_t>(c2[i]), static_cast<uint32_t>(c3[i])}};
      exhausted = !draw_from_complement(complement, free, chosen, j, block, user,
                                        first_position + static_cast<uint32_t>(j), epoch, stream, seed);
      free.add(chosen[j]);
    }
  }
}

// positions may be null (all 0); indptr and listed may be null (nothing excluded, nothing listed).
void complement_sample(const int64_t* users, const int64_t* positions, const int64_t* indptr, const int64_t* indices,
                       const int32_t* listed, int64_t listed_count, int64_t n_items, int64_t* samples, int64_t R,
                       int64_t L, uint64_t seed, uint32_t epoch, uint32_t stream) {
  parallel_chunks(R, 1 + 512 / (L + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t user = users[r];
      const int64_t first = indptr ? indptr[user] : 0;
      const Complement complement = {indices + first, indptr ? indptr[user + 1] - first : 0,
                                     listed + user * listed_count, listed_count, n_items};
      sample_complement_side_by_side(complement, samples + r * L, L, static_cast<uint32_t>(user),
                                     static_cast<uint32_t>(positions ? positions[r] : 0), epoch, stream, seed);
    }
  });
}

}  // namespace
