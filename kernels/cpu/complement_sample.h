// Uniform draws without replacement from the items that a row's exclusions and list leave.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/sampling.h"

namespace {

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
      sample_complement(complement, samples + r * L, L, static_cast<uint32_t>(user),
                        static_cast<uint32_t>(positions ? positions[r] : 0), epoch, stream, seed);
    }
  });
}

}  // namespace
