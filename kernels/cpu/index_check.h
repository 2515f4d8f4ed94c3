// Validation of indices that came from a caller.
#pragma once
#include <stdint.h>

namespace {

// The position of the first index outside [low, high), or -1. High is at least low.
int64_t first_out_of_range(const int64_t* indices, int64_t count, int64_t low, int64_t high) {
  constexpr int64_t kBlock = 4096;
  const uint64_t width = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    int64_t bad = 0;
    for (int64_t i = begin; i < end; ++i)
      bad |= static_cast<uint64_t>(indices[i]) - static_cast<uint64_t>(low) >= width;
    if (!bad) continue;
    for (int64_t i = begin; i < end; ++i)
      if (indices[i] < low || indices[i] >= high) return i;
  }
  return -1;
}

}  // namespace
