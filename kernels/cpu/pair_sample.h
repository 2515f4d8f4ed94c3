// Pairs of positions of a ranked list, the better first.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/sampling.h"

namespace {

// pairs [R, K, 2]; positions may be null (all 0).
void pair_sample(const int64_t* users, const int64_t* positions, const int64_t* lengths, int64_t* pairs, int64_t R,
                 int64_t K, double temperature, bool distinct, uint64_t seed, uint32_t epoch, uint32_t stream) {
  parallel_chunks(R, 1 + 512 / (K + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r)
      sample_pairs(pairs + 2 * r * K, K, lengths[r], temperature, distinct, static_cast<uint32_t>(users[r]),
                   static_cast<uint32_t>(positions ? positions[r] : 0), epoch, stream, seed);
  });
}

}  // namespace
