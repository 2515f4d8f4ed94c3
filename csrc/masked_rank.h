#pragma once
#include <stdint.h>

// One entry per DType. Returns 0, or 1 when memory ran out.
struct MaskedRankTable {
  int (*forward[4])(const void* given, int64_t stride, const int64_t* item_ids, const int64_t* indptr,
                    const int64_t* indices, const uint8_t* mask, int64_t mask_stride, int64_t* ranks, int64_t B,
                    int64_t N, int64_t K);
};
