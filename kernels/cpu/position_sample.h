// Positions of a ranked list, drawn without replacement with weights exp(−(position + 1)/temperature).
#pragma once
#include <stdlib.h>

#include "kernels/cpu/parallel.h"
#include "kernels/sampling.h"

namespace {

inline void position_keys(double* keys, int64_t begin, int64_t end, uint32_t* words, uint32_t user, uint32_t epoch,
                          uint32_t stream, uint64_t seed, double temperature) {
  for (int64_t block = begin >> 2; block < (end + 3) >> 2; ++block) {
    const PhiloxBlock drawn = philox4x32_10(user, static_cast<uint32_t>(block), epoch, stream << 24, seed);
    for (int w = 0; w < 4; ++w) words[4 * block + w] = drawn.word[w];
  }
  for (int64_t i = begin; i < end; ++i) keys[i] = position_key(words[i], i, temperature);
}

// The value with exactly `rank` larger ones among distinct-enough keys: keys is reordered.
inline double kth_largest(double* keys, int64_t count, int64_t k) {
  int64_t low = 0, high = count - 1;
  while (low < high) {
    const double pivot = keys[(low + high) >> 1];
    int64_t i = low, j = high;
    while (i <= j) {
      while (keys[i] > pivot) ++i;
      while (keys[j] < pivot) --j;
      if (i <= j) {
        const double swapped = keys[i];
        keys[i++] = keys[j];
        keys[j--] = swapped;
      }
    }
    if (k - 1 <= j) high = j;
    else if (k - 1 >= i) low = i;
    else break;
  }
  return keys[k - 1];
}

// Returns false where scratch memory could not be had.
bool position_sample(const int64_t* users, const int64_t* lengths, int64_t* positions, int64_t R, int64_t K,
                     int64_t longest, double temperature, uint64_t seed, uint32_t epoch, uint32_t stream) {
  int failed = 0;
  parallel_chunks(R, 16, [=, &failed](int64_t begin, int64_t end, int) {
    const int64_t padded = (longest + 7) & ~static_cast<int64_t>(3);
    double* keys = static_cast<double*>(malloc(static_cast<size_t>(padded) * 20));
    if (keys == nullptr) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    double* reordered = keys + padded;
    uint32_t* words = reinterpret_cast<uint32_t*>(reordered + padded);
    for (int64_t r = begin; r < end; ++r) {
      int64_t* out = positions + r * K;
      int64_t length = lengths[r];
      const uint32_t user = static_cast<uint32_t>(users[r]);
      if (length <= K) {
        for (int64_t i = 0; i < K; ++i) out[i] = i < length ? i : -1;
        continue;
      }
      if (K == 0) continue;
      // No key at position i exceeds 22.88 − (i + 1)/T: past the point where that is below the K-th best of
      // the first keys, nothing can be drawn.
      int64_t first = 2 * K > 64 ? 2 * K : 64;
      if (first > length) first = length;
      first = (first + 3) & ~static_cast<int64_t>(3);
      if (first > length) first = length;
      position_keys(keys, 0, first, words, user, epoch, stream, seed, temperature);
      if (first < length) {
        memcpy(reordered, keys, static_cast<size_t>(first) * sizeof(double));
        const double reach = temperature * (22.9 - kth_largest(reordered, first, K));
        if (reach < static_cast<double>(length)) length = reach > static_cast<double>(first) ? static_cast<int64_t>(reach) + 1 : first;
        if (length > lengths[r]) length = lengths[r];
        position_keys(keys, first, length, words, user, epoch, stream, seed, temperature);
      }
      memcpy(reordered, keys, static_cast<size_t>(length) * sizeof(double));
      const double threshold = kth_largest(reordered, length, K);
      int64_t above = 0;
      for (int64_t i = 0; i < length; ++i) above += keys[i] > threshold;
      int64_t ties = K - above;  // equal keys go to the lower position
      int64_t count = 0;
      for (int64_t i = 0; i < length && count < K; ++i)
        if (keys[i] > threshold || (keys[i] == threshold && ties-- > 0)) out[count++] = i;
    }
    free(keys);
  });
  return !failed;
}

}  // namespace
