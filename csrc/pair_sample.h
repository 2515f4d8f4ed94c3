#pragma once
#include <stdint.h>

struct PairSampleTable {
  void (*sample)(const int64_t* users, const int64_t* positions, const int64_t* lengths, int64_t* pairs, int64_t R,
                 int64_t K, double temperature, bool distinct, uint64_t seed, uint32_t epoch, uint32_t stream);
};
