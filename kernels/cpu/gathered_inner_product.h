// scores[b, k] = <users[user_ids[b]], items[item_ids[b, k]]>, and its gradients.
//
// Gradients are bit-identical for any number of threads: a user's row is summed over k in order, repeated
// users and items over (b, k) in order, by cutting the output rows, never the input, between threads.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/storage.h"

namespace {

template <class Storage, class Acc>
inline Acc inner_product(const Storage* x, const Storage* y, int64_t width) {
  constexpr int W = kLanes<Acc>;
  Acc total = 0;
  int64_t d = 0;
  if (sizeof(Storage) == sizeof(Acc)) {
    typedef Vector<Acc, W> V;
    if (width >= W) {
      V sum = load<V>(x) * load<V>(y);
      for (d = W; d + W <= width; d += W) sum += load<V>(x + d) * load<V>(y + d);
      total = sum_lanes<Acc, W>(sum);
    }
    constexpr int Q = W >= 8 ? W / 4 : W;
    typedef Vector<Acc, Q> VQ;
    if (d + Q <= width) {
      VQ sum = load<VQ>(x + d) * load<VQ>(y + d);
      for (d += Q; d + Q <= width; d += Q) sum += load<VQ>(x + d) * load<VQ>(y + d);
      total += sum_lanes<Acc, Q>(sum);
    }
  }
  for (; d < width; ++d) total += static_cast<Acc>(widen(x[d])) * static_cast<Acc>(widen(y[d]));
  return total;
}

// y += scale * x
template <class Storage, class Acc>
inline void add_scaled(Acc* y, Acc scale, const Storage* x, int64_t width) {
  int64_t d = 0;
  if (sizeof(Storage) == sizeof(Acc)) {
    constexpr int W = kLanes<Acc>;
    typedef Vector<Acc, W> V;
    for (; d + W <= width; d += W) store(y + d, load<V>(y + d) + scale * load<V>(x + d));
    constexpr int Q = W >= 8 ? W / 4 : W;
    typedef Vector<Acc, Q> VQ;
    for (; d + Q <= width; d += Q) store(y + d, load<VQ>(y + d) + scale * load<VQ>(x + d));
  }
  for (; d < width; ++d) y[d] += scale * static_cast<Acc>(widen(x[d]));
}

// user_ids may be null: row b of users is then user b. An item id of -1 is no item: score -inf, no gradient.
template <class Storage>
void gathered_inner_product_forward(const Storage* users, const int64_t* user_ids, const Storage* items,
                                    const int64_t* item_ids, typename Accumulator<Storage>::type* scores, int64_t B,
                                    int64_t K, int64_t D) {
  typedef typename Accumulator<Storage>::type Acc;
  const int64_t grain = 1 + 16384 / (K * D + 1);
  parallel_chunks(B, grain, [=](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const Storage* user = users + (user_ids ? user_ids[b] : b) * D;
      const int64_t* ids = item_ids + b * K;
      Acc* out = scores + b * K;
      for (int64_t k = 0; k < K; ++k) {
        if (k + 8 < K && ids[k + 8] >= 0) __builtin_prefetch(items + ids[k + 8] * D);
        out[k] = ids[k] < 0 ? static_cast<Acc>(-__builtin_inf()) : inner_product<Storage, Acc>(user, items + ids[k] * D, D);
      }
    }
  });
}

// row_grads [B, D] is overwritten with the gradient of each row's user vector.
template <class Storage>
void gathered_inner_product_row_grads(const typename Accumulator<Storage>::type* grad_scores, const Storage* items,
                                      const int64_t* item_ids, typename Accumulator<Storage>::type* row_grads,
                                      int64_t B, int64_t K, int64_t D) {
  typedef typename Accumulator<Storage>::type Acc;
  parallel_chunks(B, 1 + 16384 / (K * D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      Acc* out = row_grads + b * D;
      for (int64_t d = 0; d < D; ++d) out[d] = 0;
      for (int64_t k = 0; k < K; ++k) {
        const int64_t id = item_ids[b * K + k];
        if (k + 8 < K && item_ids[b * K + k + 8] >= 0) __builtin_prefetch(items + item_ids[b * K + k + 8] * D);
        if (id >= 0) add_scaled(out, grad_scores[b * K + k], items + id * D, D);
      }
    }
  });
}

// grad_users [U, D] += row_grads, by user id, in order of b.
template <class Acc>
void gathered_inner_product_user_grads(const Acc* row_grads, const int64_t* user_ids, Acc* grad_users, int64_t U,
                                       int64_t B, int64_t D) {
  parallel_chunks(U, 1 + 65536 * U / (B * D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t b = 0; b < B; ++b)
      if (user_ids[b] >= begin && user_ids[b] < end)
        add_scaled(grad_users + user_ids[b] * D, static_cast<Acc>(1), row_grads + b * D, D);
  });
}

// grad_items [N, D] += grad_scores[b, k] * user of b, by item id, in order of (b, k).
template <class Storage>
void gathered_inner_product_item_grads(const typename Accumulator<Storage>::type* grad_scores, const Storage* users,
                                       const int64_t* user_ids, const int64_t* item_ids,
                                       typename Accumulator<Storage>::type* grad_items, int64_t N, int64_t B, int64_t K,
                                       int64_t D) {
  parallel_chunks(N, 1 + 65536 * N / (B * K * D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t b = 0; b < B; ++b) {
      const Storage* user = users + (user_ids ? user_ids[b] : b) * D;
      const int64_t* ids = item_ids + b * K;
      for (int64_t k = 0; k < K; ++k)
        if (ids[k] >= begin && ids[k] < end) add_scaled(grad_items + ids[k] * D, grad_scores[b * K + k], user, D);
    }
  });
}

}  // namespace
