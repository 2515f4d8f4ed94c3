#pragma once
#include <stdint.h>

struct IndexCheckTable {
  int64_t (*first_out_of_range)(const int64_t* indices, int64_t count, int64_t low, int64_t high);
};
