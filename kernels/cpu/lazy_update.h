// Optimiser steps that read and write the touched rows of a table alone; ids are distinct.
#pragma once
#include "kernels/cpu/parallel.h"

namespace {

inline float sqrt_of(float x) { return __builtin_sqrtf(x); }
inline double sqrt_of(double x) { return __builtin_sqrt(x); }

constexpr int64_t kRowsAhead = 4;
template <class T>
inline void prefetch_whole_row(const T* row, int64_t D) {
  for (int64_t d = 0; d < D; d += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + d, 1);
}

// Adam with its moments, for the rows ids [M] of table, means and squares [N, D]; grads [M, D].
template <class T>
void lazy_adam_step(T* table, T* means, T* squares, const int64_t* ids, const T* grads, int64_t M, int64_t D,
                    double beta1, double beta2, double step_size, double eps) {
  const T mean_rate = static_cast<T>(1 - beta1), square_rate = static_cast<T>(1 - beta2);
  const T size = static_cast<T>(step_size), floor = static_cast<T>(eps);
  parallel_chunks(M, 1 + 8192 / (D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      if (m + kRowsAhead < end) {
        const int64_t ahead = ids[m + kRowsAhead] * D;
        prefetch_whole_row(table + ahead, D);
        prefetch_whole_row(means + ahead, D);
        prefetch_whole_row(squares + ahead, D);
      }
      T* __restrict__ row = table + ids[m] * D;
      T* __restrict__ mean = means + ids[m] * D;
      T* __restrict__ square = squares + ids[m] * D;
      const T* __restrict__ grad = grads + m * D;
      for (int64_t d = 0; d < D; ++d) {
        mean[d] += (grad[d] - mean[d]) * mean_rate;
        square[d] += (grad[d] * grad[d] - square[d]) * square_rate;
        row[d] -= size * (mean[d] / (sqrt_of(square[d]) + floor));
      }
    }
  });
}

// How a row is multiplied by `factor`: whole x row - part x row. Near 1 it is the distance from 1 that is rounded to T: a
// factor that is rounded itself, the same at every step, is wrong by the same amount every time.
template <class T>
struct Decay {
  T whole, part;
  explicit Decay(double factor) : whole(factor < 0.5 ? 0 : 1), part(static_cast<T>(whole - factor)) {}
};

// marks [N]: the sum of log(1 - rate x decay) over all steps, as it stood when a row was last brought up to date. What
// has come since is `log_decay - mark`. Null ids stand for rows 0 to M - 1; others may repeat (hence one thread), and
// those below 0 are none.
template <class T>
void decay_catch_up(T* table, double* marks, const int64_t* ids, int64_t M, int64_t D, double log_decay) {
  parallel_chunks(M, ids ? M : 1 + 8192 / (D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      const int64_t id = ids ? ids[m] : m;
      if (id < 0 || marks[id] == log_decay) continue;
      const Decay<T> decay(__builtin_exp(log_decay - marks[id]));
      marks[id] = log_decay;
      T* row = table + id * D;
      for (int64_t d = 0; d < D; ++d) row[d] = decay.whole * row[d] - decay.part * row[d];
    }
  });
}

// row = kept x (row with the decay it missed) - rate x grad; the row's mark becomes log_decay_after. Null
// marks: no row has missed any.
template <class T>
void lazy_sgd_step(T* table, double* marks, const int64_t* ids, const T* grads, int64_t M, int64_t D, double rate,
                   double kept, double log_decay, double log_decay_after) {
  const T scale = static_cast<T>(rate);
  parallel_chunks(M, 1 + 8192 / (D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      if (m + kRowsAhead < end) prefetch_whole_row(table + ids[m + kRowsAhead] * D, D);
      double missed = 1;
      if (marks) {
        if (marks[ids[m]] != log_decay) missed = __builtin_exp(log_decay - marks[ids[m]]);
        marks[ids[m]] = log_decay_after;
      }
      const Decay<T> decay(missed * kept);
      T* __restrict__ row = table + ids[m] * D;
      const T* __restrict__ grad = grads + m * D;
      for (int64_t d = 0; d < D; ++d) row[d] = decay.whole * row[d] - (decay.part * row[d] + scale * grad[d]);
    }
  });
}

}  // namespace
