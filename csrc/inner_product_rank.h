#pragma once
#include <stdint.h>

// One entry per DType. Returns 0, or 1 when memory ran out.
struct InnerProductRankTable {
  int (*forward[4])(const void* users, const void* items, const void* bias, const int64_t* item_ids,
                    const int64_t* indptr, const int64_t* indices, int64_t* ranks, int64_t B, int64_t N, int64_t K,
                    int64_t D);
};
