#pragma once
#include <stdint.h>

// One entry per DType; losses and gradients are float, or double where the storage is.
struct PlackettLuceTable {
  void (*forward[4])(const void* scores, int64_t stride_scores, const void* tail, int64_t stride_tail,
                     const int64_t* lengths, void* losses, void* slopes, void* tail_terms, double* scratch, int64_t B,
                     int64_t K, int64_t L);
  void (*backward[4])(const void* grad_losses, const void* tail, int64_t stride_tail, const int64_t* lengths,
                      const void* slopes, const void* tail_terms, void* grad_scores, void* grad_tail, int64_t B,
                      int64_t K, int64_t L);
  // fp64 numbers of scratch space that one thread needs for lists of K.
  int64_t (*scratch_size)(int64_t K);
};
