#pragma once
#include <stdint.h>

// One entry per DType; scores are float, or double where the storage is. Returns 0, or 1 when memory ran out.
struct InnerProductTopKTable {
  int (*forward[4])(const void* users, const void* items, const int64_t* indptr, const int64_t* indices, void* scores,
                    int64_t* ids, int64_t* lengths, int64_t B, int64_t N, int64_t K, int64_t D);
};
