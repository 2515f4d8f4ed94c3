// Positions drawn without replacement in proportion to given weights.
#pragma once
#include "kernels/cpu/position_sample.h"

namespace {

// weights [R, M], finite and not negative; samples [R, K] ascending, -1 behind where fewer weights are positive.
// Returns false where scratch memory could not be had.
template <class T>
bool weighted_sample(const int64_t* users, const T* weights, int64_t* samples, int64_t R, int64_t K, int64_t M,
                     uint64_t seed, uint32_t epoch, uint32_t stream) {
  int failed = 0;
  parallel_chunks(R, 1 + 1024 / (M + 1), [=, &failed](int64_t begin, int64_t end, int) {
    const int64_t room = M + 8 * kBlocks;
    double* keys = static_cast<double*>(malloc(static_cast<size_t>(room) * 28));
    if (keys == nullptr) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    double* reordered = keys + room;
    int64_t* at = reinterpret_cast<int64_t*>(reordered + room);
    uint32_t* words = reinterpret_cast<uint32_t*>(at + room);
    for (int64_t r = begin; r < end; ++r) {
      const T* row = weights + r * M;
      position_words(words, 0, M, static_cast<uint32_t>(users[r]), epoch, stream, seed);
      for (int64_t i = 0; i < M; ++i) {  // without branches, so that it fills vectors
        reordered[i] = weighted_key(words[i], static_cast<double>(row[i]));
      }
      int64_t count = 0;
      for (int64_t i = 0; i < M; ++i) {
        keys[count] = reordered[i];
        at[count] = i;
        count += reordered[i] != kNoKey;
      }
      const int64_t drawn = count < K ? count : K;
      take_largest(keys, reordered, at, count, drawn, samples + r * K);
      for (int64_t k = drawn; k < K; ++k) samples[r * K + k] = -1;
    }
    free(keys);
  });
  return !failed;
}

}  // namespace
