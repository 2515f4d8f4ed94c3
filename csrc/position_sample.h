#pragma once
#include <stdint.h>

struct PositionSampleTable {
  bool (*sample)(const int64_t* users, const int64_t* lengths, int64_t* positions, int64_t R, int64_t K,
                 int64_t longest, double temperature, uint64_t seed, uint32_t epoch, uint32_t stream);
};
