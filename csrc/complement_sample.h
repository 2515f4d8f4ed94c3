#pragma once
#include <stdint.h>

struct ComplementSampleTable {
  void (*sample)(const int64_t* users, const int64_t* positions, const int64_t* indptr, const int64_t* indices,
                 const int32_t* listed, int64_t listed_count, int64_t n_items, int64_t* samples, int64_t R, int64_t L,
                 uint64_t seed, uint32_t epoch, uint32_t stream);
};
