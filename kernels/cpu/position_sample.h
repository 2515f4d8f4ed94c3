// Positions of a ranked list, drawn without replacement with weights exp(−(position + 1)/temperature).
#pragma once
#include <stdlib.h>

#include "kernels/cpu/order.h"
#include "kernels/cpu/parallel.h"
#include "kernels/sampling.h"

namespace {

// Philox blocks are drawn this many at a time, side by side, so that they fill vectors.
constexpr int kBlocks = 16;

// Words of positions [begin, end), begin a multiple of 4; room is needed for whole groups of blocks.
inline void position_words(uint32_t* words, int64_t begin, int64_t end, uint32_t user, uint32_t epoch, uint32_t stream,
                           uint64_t seed) {
  for (int64_t block = begin >> 2; block < (end + 3) >> 2; block += kBlocks) {
    uint64_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
    for (int i = 0; i < kBlocks; ++i) {
      c0[i] = user;
      c1[i] = static_cast<uint32_t>(block + i);
      c2[i] = epoch;
      c3[i] = stream << 24;
    }
    philox4x32_10_side_by_side<kBlocks>(c0, c1, c2, c3, seed);
    for (int i = 0; i < kBlocks; ++i) {
      uint32_t* out = words + 4 * (block + i);
      out[0] = static_cast<uint32_t>(c0[i]);
      out[1] = static_cast<uint32_t>(c1[i]);
      out[2] = static_cast<uint32_t>(c2[i]);
      out[3] = static_cast<uint32_t>(c3[i]);
    }
  }
}

// The positions at[i] of the K largest of `count` keys, K <= count, in the order of i; equal keys go to the lower i.
inline void take_largest(const int64_t* keys, const int64_t* at, int64_t count, int64_t K, int64_t* out) {
  if (K == count) memcpy(out, at, static_cast<size_t>(K) * sizeof(int64_t));
  if (K == 0 || K == count) return;
  const int64_t bound = kth_largest<double, false>(keys, count, K);
  int64_t ties = K - count_at_least(keys, count, bound + 1), chosen = 0;
  for (int64_t i = 0; i < count && chosen < K; ++i)
    if (keys[i] > bound || (keys[i] == bound && ties-- > 0)) out[chosen++] = at[i];
}

// Returns false where scratch memory could not be had.
inline bool position_sample(const int64_t* users, const int64_t* lengths, int64_t* positions, int64_t R, int64_t K,
                     int64_t longest, double temperature, uint64_t seed, uint32_t epoch, uint32_t stream) {
  int failed = 0;
  parallel_chunks(R, 16, [=, &failed](int64_t begin, int64_t end, int) {
    const int64_t room = longest + 8 * kBlocks;
    int64_t* keys = static_cast<int64_t*>(malloc(static_cast<size_t>(room) * 20));
    if (keys == nullptr) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    int64_t* at = keys + room;
    uint32_t* words = reinterpret_cast<uint32_t*>(at + room);
    for (int64_t r = begin; r < end; ++r) {
      int64_t* out = positions + r * K;
      const int64_t length = lengths[r];
      const uint32_t user = static_cast<uint32_t>(users[r]);
      if (length <= K) {
        for (int64_t i = 0; i < K; ++i) out[i] = i < length ? i : -1;
        continue;
      }
      if (K == 0) continue;
      // Every key of the first positions, and the K-th best of them.
      int64_t count = (K + K / 2 + 4 * kBlocks - 1) / (4 * kBlocks) * (4 * kBlocks);
      if (count > length) count = length;
      position_words(words, 0, count, user, epoch, stream, seed);
      for (int64_t i = 0; i < count; ++i) keys[i] = order_key(position_key(words[i], i, temperature));
      for (int64_t i = 0; i < count; ++i) at[i] = i;
      if (count < length) {
        const double bound = score_of_key<double>(kth_largest<double, false>(keys, count, K)) - 1e-6;
        // A key at position i above the bound needs a Gumbel variate above g = bound + (i + 1)/T, hence a word w
        // with 2^32 - w < 2^32·e^-g + 1: few words reach that, and none once g exceeds 22.88.
        const double reach = temperature * (22.89 - bound);
        const int64_t end_of_reach = reach < static_cast<double>(length) ? static_cast<int64_t>(reach) + 1 : length;
        const int64_t first = count;
        if (first < end_of_reach) position_words(words, first & ~static_cast<int64_t>(3), end_of_reach, user, epoch, stream, seed);
        const double ratio = __builtin_exp(-1.0 / temperature);
        double share = 4294967296.0 * (1 + 1e-6) * __builtin_exp(-(bound + static_cast<double>(first + 1) / temperature));
        for (int64_t i = first; i < end_of_reach; ++i, share *= ratio) {
          if (4294967296.0 - words[i] > share + 1) continue;
          keys[count] = order_key(position_key(words[i], i, temperature));
          at[count++] = i;
        }
      }
      take_largest(keys, at, count, K, out);
    }
    free(keys);
  });
  return !failed;
}

}  // namespace
