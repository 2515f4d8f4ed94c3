#pragma once
#include <stdint.h>

struct PeakTable {
  int64_t (*multiply_adds)(int what, int64_t steps);
};
