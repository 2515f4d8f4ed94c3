#pragma once
#include <stdint.h>

// Room for sums of long runs (LongRuns in kernels/cpu/touched_rows.h).
struct RunScratch {
  int32_t* counts;
  double* before;
  int32_t *filled, *used;
};

// One entry per DType; accumulators and gradients are float, or double where the storage is.
struct GatheredInnerProductTable {
  int64_t piece;  // rows of an id that are no long run
  void (*forward[4])(const void* users, const int64_t* user_ids, const void* items, const int64_t* item_ids,
                     const void* item_bias, void* scores, int64_t B, int64_t K, int64_t D);
  void (*row_grads[4])(const void* grad_scores, const void* items, const int64_t* item_ids, void* row_grads, int64_t B,
                       int64_t K, int64_t D);
  void (*user_grads[4])(const void* row_grads, const int64_t* user_ids, void* grad_users, RunScratch scratch, int64_t U,
                        int64_t B, int64_t D);
  void (*item_grads[4])(const void* grad_scores, const void* users, const int64_t* user_ids, const int64_t* item_ids,
                        void* grad_items, RunScratch scratch, int64_t N, int64_t B, int64_t K, int64_t D);
  void (*bias_grads[4])(const void* grad_scores, const int64_t* item_ids, void* grad_bias, RunScratch scratch, int64_t N,
                        int64_t listed);
  void (*touched_grads[4])(const void* grad_scores, const void* users, const int64_t* user_ids, const int64_t* order,
                           const int64_t* starts, void* grads, int64_t M, int64_t K, int64_t D);
};
