// One row of each sampler: the same source on the processor and on CUDA.
#pragma once
#include "kernels/random.h"

namespace {

// Attempts by rejection before a draw enumerates what is left.
constexpr int kRejections = 64;

struct Complement {
  const int64_t* excluded;  // ascending
  int64_t excluded_count;
  const int32_t* listed;  // any order, -1 is no item
  int64_t listed_count;
  int64_t n_items;

  RANKDISTILL_HD bool has(int64_t item) const {
    int64_t low = 0, high = excluded_count;
    while (low < high) {
      const int64_t middle = (low + high) >> 1;
      if (excluded[middle] < item) low = middle + 1;
      else high = middle;
    }
    if (low < excluded_count && excluded[low] == item) return false;
    int found = 0;
    const int32_t wanted = static_cast<int32_t>(item);
    for (int64_t i = 0; i < listed_count; ++i) found |= listed[i] == wanted;
    return !found;
  }
};

RANKDISTILL_HD bool contains(const int64_t* chosen, int64_t count, int64_t item) {
  int found = 0;
  for (int64_t i = 0; i < count; ++i) found |= chosen[i] == item;
  return found;
}

// Uniform draws without replacement from the complement: chosen[0..count), -1 where nothing is left.
RANKDISTILL_HD void sample_complement(const Complement& complement, int64_t* chosen, int64_t count, uint32_t user,
                                      uint32_t first_position, uint32_t epoch, uint32_t stream, uint64_t seed) {
  bool exhausted = complement.n_items <= 0;
  for (int64_t j = 0; j < count; ++j) {
    chosen[j] = -1;
    if (exhausted) continue;
    const uint32_t position = first_position + static_cast<uint32_t>(j);
    PhiloxBlock block;
    int64_t left = -1;  // not counted yet
    for (uint32_t attempt = 0;; ++attempt) {
      if ((attempt & 3) == 0) block = philox4x32_10(user, position, epoch, stream << 24 | attempt >> 2, seed);
      const uint32_t word = block.word[attempt & 3];
      if (attempt < kRejections) {
        const int64_t item = bounded(word, static_cast<uint32_t>(complement.n_items));
        if (item < 0 || !complement.has(item) || contains(chosen, j, item)) continue;
        chosen[j] = item;
        break;
      }
      if (left < 0) {
        left = 0;
        for (int64_t item = 0; item < complement.n_items; ++item)
          left += complement.has(item) && !contains(chosen, j, item);
        exhausted = left == 0;
        if (exhausted) break;
      }
      int64_t rank = bounded(word, static_cast<uint32_t>(left));
      if (rank < 0) continue;
      for (int64_t item = 0; item < complement.n_items; ++item) {
        if (!complement.has(item) || contains(chosen, j, item)) continue;
        if (rank-- > 0) continue;
        chosen[j] = item;
        break;
      }
      break;
    }
  }
}

// The key whose `count` largest, over the positions of a row, are a draw without replacement with weights
// exp(−(position + 1)/temperature).
RANKDISTILL_HD double position_key(uint32_t word, int64_t position, double temperature) {
  return gumbel(word) - static_cast<double>(position + 1) / temperature;
}

}  // namespace
