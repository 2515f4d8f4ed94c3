#pragma once
#include <stdint.h>

// One entry per DType; losses and slopes are float, or double where the storage is.
struct EmbeddingPlackettLuceTable {
  int64_t (*scratch_bytes[4])(int64_t K, int64_t L);
  void (*forward[4])(const void* users, const int64_t* user_ids, const void* items, const int64_t* item_ids,
                     const void* item_bias, const int64_t* lengths, void* losses, void* slopes, void* user_slopes,
                     char* scratch, int64_t B, int64_t K, int64_t L, int64_t D);
};
