#pragma once
#include <stdint.h>

// One entry for float, one for double: DType's first two.
struct LazyUpdateTable {
  void (*adam[2])(void* table, void* means, void* squares, const int64_t* ids, const void* grads, int64_t M, int64_t D,
                  double beta1, double beta2, double step_size, double eps);
  void (*sgd[2])(void* table, double* marks, const int64_t* ids, const void* grads, int64_t M, int64_t D, double rate,
                 double kept, double log_decay, double log_decay_after);
  void (*catch_up[2])(void* table, double* marks, const int64_t* ids, int64_t M, int64_t D, double log_decay);
};
