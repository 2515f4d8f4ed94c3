#pragma once
#include <stdint.h>

// One entry per DType; `scores` out is of the type in. Returns 0, or 1 when memory ran out.
struct MaskedTopKTable {
  int (*forward[4])(const void* given, int64_t stride, const int64_t* indptr, const int64_t* indices,
                    const uint8_t* mask, int64_t mask_stride, void* scores, int64_t* ids, int64_t* lengths, int64_t B,
                    int64_t N, int64_t K);
};
