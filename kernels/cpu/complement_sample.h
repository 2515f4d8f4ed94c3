// Uniform draws without replacement from the items that a row's exclusions and list leave.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/sampling.h"

namespace {

// First blocks are drawn this many at a time, side by side, so that they fill vectors.
constexpr int kDraws = 16;

// As sample_complement, whose draws it has.
inline void sample_complement_side_by_side(const Complement& complement, int64_t* chosen, int64_t count, uint32_t user,
                                           uint32_t first_position, uint32_t epoch, uint32_t stream, uint64_t seed) {
  bool exhausted = complement.n_items <= 0;
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
      exhausted = !draw_from_complement(complement, chosen, j, block, user, first_position + static_cast<uint32_t>(j),
                                        epoch, stream, seed);
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
