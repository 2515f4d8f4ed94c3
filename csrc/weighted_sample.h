#pragma once
#include <stdint.h>

// One entry for float weights, one for double: DType's first two.
struct WeightedSampleTable {
  bool (*sample[2])(const int64_t* users, const void* weights, int64_t* samples, int64_t R, int64_t K, int64_t M,
                    uint64_t seed, uint32_t epoch, uint32_t stream);
};
