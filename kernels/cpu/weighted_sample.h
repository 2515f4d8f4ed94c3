// Positions drawn without replacement in proportion to given weights.
#pragma once
#include "kernels/cpu/position_sample.h"

namespace {

// Room for one row of M weights.
template <class T>
struct WeightedRow {
  int64_t *keys, *at;
  uint32_t *words, *kept;
  T* weights;

  static int64_t room(int64_t M) { return M + 8 * kBlocks; }
  static size_t bytes(int64_t M) {
    return static_cast<size_t>(room(M)) * (2 * sizeof(int64_t) + 2 * sizeof(uint32_t) + sizeof(T));
  }
  WeightedRow(void* memory, int64_t M) {
    keys = static_cast<int64_t*>(memory);
    at = keys + room(M);
    weights = reinterpret_cast<T*>(at + room(M));
    words = reinterpret_cast<uint32_t*>(weights + room(M));
    kept = words + room(M);
  }

  // The positive weights, their positions and words side by side; returns how many.
  int64_t compress(const T* row, int64_t M) {
    int64_t count = 0;
    for (int64_t i = 0; i < M; ++i) {
      weights[count] = row[i];
      kept[count] = words[i];
      at[count] = i;
      count += drawable(row[i]);
    }
    return count;
  }

  void make_keys(int64_t begin, int64_t end) {  // without branches, so that it fills vectors
    for (int64_t i = begin; i < end; ++i) keys[i] = order_key(weighted_key(kept[i], weights[i]));
  }

  // Drops what cannot be among the K largest: with `bound` what K of the first keys reach, a later one reaches it only
  // if its exponential variate is at most weight/bound, and a variate -ln u is at least 1 - u. Returns how many are left.
  int64_t filter(int64_t first, int64_t count, int64_t K) {
    const double bound = score_of_key<double>(kth_largest<double, false>(keys, first, K));
    const double scale = 4294967296.0 * (1 + 1e-6) / bound;
    int64_t left = first;
    for (int64_t i = first; i < count; ++i) {
      const bool near = 4294967295.0 - kept[i] <= kept_weight(weights[i]) * scale;
      weights[left] = weights[i];
      kept[left] = kept[i];
      at[left] = at[i];
      left += near;
    }
    return left;
  }
};

// weights [R, M], finite and not negative; samples [R, K] ascending, -1 behind where fewer weights are positive.
// Returns false where scratch memory could not be had.
template <class T>
bool weighted_sample(const int64_t* users, const T* weights, int64_t* samples, int64_t R, int64_t K, int64_t M,
                     uint64_t seed, uint32_t epoch, uint32_t stream) {
  int failed = 0;
  parallel_chunks(R, 1 + 1024 / (M + 1), [=, &failed](int64_t begin, int64_t end, int) {
    void* const memory = malloc(WeightedRow<T>::bytes(M));
    if (memory == nullptr) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    WeightedRow<T> row(memory, M);
    for (int64_t r = begin; r < end; ++r) {
      position_words(row.words, 0, M, static_cast<uint32_t>(users[r]), epoch, stream, seed);
      int64_t count = row.compress(weights + r * M, M);
      const int64_t drawn = count < K ? count : K, first = K + K / 2 + kBlocks;
      if (drawn < count && K > 0) {
        row.make_keys(0, count < first ? count : first);
        if (count > first) {
          count = row.filter(first, count, K);
          row.make_keys(first, count);
        }
        take_largest(row.keys, row.at, count, K, samples + r * K);
      } else {
        memcpy(samples + r * K, row.at, static_cast<size_t>(drawn) * sizeof(int64_t));
      }
      for (int64_t k = drawn; k < K; ++k) samples[r * K + k] = -1;
    }
    free(memory);
  });
  return !failed;
}

}  // namespace
