#include "csrc/lazy_update.h"

#include "csrc/isa.h"
#include "kernels/cpu/lazy_update.h"

namespace {

template <class T>
struct Entries {
  static void adam(void* table, void* means, void* squares, const int64_t* ids, const void* grads, int64_t M, int64_t D,
                   double beta1, double beta2, double step_size, double eps) {
    lazy_adam_step(static_cast<T*>(table), static_cast<T*>(means), static_cast<T*>(squares), ids,
                   static_cast<const T*>(grads), M, D, beta1, beta2, step_size, eps);
  }
  static void sgd(void* table, double* marks, const int64_t* ids, const void* grads, int64_t M, int64_t D, double rate,
                  double kept, double log_decay, double log_decay_after) {
    lazy_sgd_step(static_cast<T*>(table), marks, ids, static_cast<const T*>(grads), M, D, rate, kept, log_decay,
                  log_decay_after);
  }
  static void catch_up(void* table, double* marks, const int64_t* ids, int64_t M, int64_t D, double log_decay) {
    decay_catch_up(static_cast<T*>(table), marks, ids, M, D, log_decay);
  }
};

}  // namespace

extern "C" const LazyUpdateTable RANKDISTILL_TABLE(lazy_update_table) = {
    {Entries<float>::adam, Entries<double>::adam},
    {Entries<float>::sgd, Entries<double>::sgd},
    {Entries<float>::catch_up, Entries<double>::catch_up},
};
