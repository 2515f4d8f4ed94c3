// scores[b, k] = <users[user_ids[b]], items[item_ids[b, k]]> + item_bias[item_ids[b, k]], and its gradients.
//
// Gradients are bit-identical for any number of threads: a user's row is summed over k in order, repeated
// users and items over (b, k) in order, by cutting the output rows, never the input, between threads.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/touched_rows.h"

namespace {

template <class Storage, class Acc>
inline Acc inner_product(const Storage* x, const Storage* y, int64_t width) {
  int64_t d = 0;
  Acc total = 0;
  if constexpr (sizeof(Storage) == sizeof(Acc)) {
    constexpr int W = kLanes<Acc>, Q = kShortLanes<Acc>;
    typedef Vector<Acc, W> V;
    typedef Vector<Acc, Q> VQ;
    VQ sum = {};
    if (width >= W) {
      V wide = load<V>(x) * load<V>(y);
      d = W;
      if (width >= 4 * W) {  // two sums, so that each has half of the roundings
        V other = load<V>(x + d) * load<V>(y + d);
        for (d = 2 * W; d + 2 * W <= width; d += 2 * W) {
          wide += load<V>(x + d) * load<V>(y + d);
          other += load<V>(x + d + W) * load<V>(y + d + W);
        }
        wide += other;
      }
      for (; d + W <= width; d += W) wide += load<V>(x + d) * load<V>(y + d);
      sum = fold_to<Acc, W, Q>(wide);
    }
    for (; d + Q <= width; d += Q) sum += load<VQ>(x + d) * load<VQ>(y + d);
    total = sum_lanes<Acc, Q>(sum);
  } else if (width >= 32) {
    double whole = 0;  // of pieces whose sums have a few roundings each
    while (d + 16 <= width) {
      const int64_t end = d + 512 < width ? d + 512 : width;
      Acc sums[16] = {};
      for (; d + 16 <= end; d += 16)
        for (int j = 0; j < 16; ++j) sums[j] += static_cast<Acc>(widen(x[d + j])) * static_cast<Acc>(widen(y[d + j]));
      for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
      whole += static_cast<double>(sums[0]);
    }
    total = static_cast<Acc>(whole);
  }
  for (; d < width; ++d) total += static_cast<Acc>(widen(x[d])) * static_cast<Acc>(widen(y[d]));
  return total;
}

// Asks for the row that will be needed kAhead entries later, of `left` that are to come; ids may be -1. Random rows of a
// large table come a quarter to a half faster for it.
constexpr int64_t kAhead = 12;
template <bool Write, class T>
inline void ask_for_row(const T* table, const int64_t* ids, int64_t left, int64_t D) {
  if (left <= kAhead || ids[kAhead] < 0) return;
  const char* const row = reinterpret_cast<const char*>(table + ids[kAhead] * D);
  const int64_t bytes = D * static_cast<int64_t>(sizeof(T)), most = bytes < 1024 ? bytes : 1024;
  for (int64_t byte = 0; byte < most; byte += 64) __builtin_prefetch(row + byte, Write);
}

// Columns [d, d + lanes of V) of Σ_k scale[k]·items[ids[k]], in registers; two sums so that adds overlap. 0 times an item
// that is no number adds 0.
template <bool Ask, class V, class Storage, class Acc>
inline void weighted_sum(Acc* out, const Acc* scale, const Storage* items, const int64_t* ids, int64_t K, int64_t D) {
  V even = {}, odd = {};
  int64_t k = 0;
  for (; k + 2 <= K; k += 2) {
    if constexpr (Ask) {
      ask_for_row<false>(items, ids + k, K - k, D);
      ask_for_row<false>(items, ids + k + 1, K - k - 1, D);
    }
    if (ids[k] >= 0 && scale[k] != 0) even += scale[k] * load<V>(items + ids[k] * D);
    if (ids[k + 1] >= 0 && scale[k + 1] != 0) odd += scale[k + 1] * load<V>(items + ids[k + 1] * D);
  }
  if (k < K && ids[k] >= 0 && scale[k] != 0) even += scale[k] * load<V>(items + ids[k] * D);
  store(out, even + odd);
}

// The score of an item, -inf where its id is -1; item_bias may be null.
template <class Storage, class Acc>
inline Acc listed_score(const Storage* user, const Storage* items, const Storage* item_bias, int64_t id, int64_t D) {
  if (id < 0) return static_cast<Acc>(-__builtin_inf());
  const Acc product = inner_product<Storage, Acc>(user, items + id * D, D);
  return item_bias ? product + static_cast<Acc>(widen(item_bias[id])) : product;
}

// user_ids may be null: row b of users is then user b. An item id of -1 is no item: score -inf, no gradient.
template <class Storage>
void gathered_inner_product_forward(const Storage* users, const int64_t* user_ids, const Storage* items,
                                    const int64_t* item_ids, const Storage* item_bias,
                                    typename Accumulator<Storage>::type* scores, int64_t B, int64_t K, int64_t D) {
  typedef typename Accumulator<Storage>::type Acc;
  const int64_t grain = 1 + 16384 / (K * D + 1);
  parallel_chunks(B, grain, [=](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const Storage* user = users + (user_ids ? user_ids[b] : b) * D;
      const int64_t* ids = item_ids + b * K;
      Acc* out = scores + b * K;
      for (int64_t k = 0; k < K; ++k) {
        ask_for_row<false>(items, ids + k, (B - b) * K - k, D);
        out[k] = listed_score<Storage, Acc>(user, items, item_bias, ids[k], D);
      }
    }
  });
}

// out [D] = Σ_k scale[k]·items[ids[k]]; an id of -1 adds nothing. Ask: the rows are not in the cache yet.
template <bool Ask, class Storage, class Acc>
inline void weighted_row_sum(Acc* out, const Acc* scale, const Storage* items, const int64_t* ids, int64_t K, int64_t D) {
  int64_t d = 0;
  if constexpr (sizeof(Storage) == sizeof(Acc)) {
    constexpr int W = kLanes<Acc>, Q = kShortLanes<Acc>;
    if (Ask && d + W <= D) {
      weighted_sum<true, Vector<Acc, W>>(out, scale, items, ids, K, D);
      d = W;
    }
    for (; d + W <= D; d += W) weighted_sum<false, Vector<Acc, W>>(out + d, scale, items + d, ids, K, D);
    for (; d + Q <= D; d += Q) weighted_sum<false, Vector<Acc, Q>>(out + d, scale, items + d, ids, K, D);
  }
  if (d == D) return;
  for (int64_t e = d; e < D; ++e) out[e] = 0;
  for (int64_t k = 0; k < K; ++k)
    if (ids[k] >= 0 && scale[k] != 0) add_scaled(out + d, scale[k], items + ids[k] * D + d, D - d);
}

// row_grads [B, D] is overwritten with the gradient of each row's user vector.
template <class Storage>
void gathered_inner_product_row_grads(const typename Accumulator<Storage>::type* grad_scores, const Storage* items,
                                      const int64_t* item_ids, typename Accumulator<Storage>::type* row_grads,
                                      int64_t B, int64_t K, int64_t D) {
  parallel_chunks(B, 1 + 16384 / (K * D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b)
      weighted_row_sum<true>(row_grads + b * D, grad_scores + b * K, items, item_ids + b * K, K, D);
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

// grad_items [N, D] += grad_scores[b, k] * user of b, by item id, in order of (b, k). Of gradient 0 nothing is added, whatever
// the user is.
template <class Storage>
void gathered_inner_product_item_grads(const typename Accumulator<Storage>::type* grad_scores, const Storage* users,
                                       const int64_t* user_ids, const int64_t* item_ids,
                                       typename Accumulator<Storage>::type* grad_items, int64_t N, int64_t B, int64_t K,
                                       int64_t D) {
  parallel_chunks(N, 1 + 65536 * N / (B * K * D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t b = 0; b < B; ++b) {
      const Storage* user = users + (user_ids ? user_ids[b] : b) * D;
      const int64_t* ids = item_ids + b * K;
      for (int64_t k = 0; k < K; ++k) {
        ask_for_row<true>(grad_items, ids + k, (B - b) * K - k, D);
        if (ids[k] < begin || ids[k] >= end || grad_scores[b * K + k] == 0) continue;
        add_scaled(grad_items + ids[k] * D, grad_scores[b * K + k], user, D);
      }
    }
  });
}

// grad_bias [N] += grad_scores, by item id, in order of (b, k).
template <class Acc>
void gathered_inner_product_bias_grads(const Acc* grad_scores, const int64_t* item_ids, Acc* grad_bias, int64_t N,
                                       int64_t listed) {
  parallel_chunks(N, 1 + 65536 * N / (listed + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t i = 0; i < listed; ++i)
      if (item_ids[i] >= begin && item_ids[i] < end) grad_bias[item_ids[i]] += grad_scores[i];
  });
}

// grads [M, D] of the touched items alone (touched_rows.h says how occurrences are listed), in order of (b, k).
template <class Storage>
void gathered_inner_product_touched_grads(const typename Accumulator<Storage>::type* grad_scores, const Storage* users,
                                          const int64_t* user_ids, const int64_t* order, const int64_t* starts,
                                          typename Accumulator<Storage>::type* grads, int64_t M, int64_t K, int64_t D) {
  typedef typename Accumulator<Storage>::type Acc;
  parallel_chunks(M, 1 + 16384 / (D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      Acc* const grad = grads + m * D;
      for (int64_t d = 0; d < D; ++d) grad[d] = 0;
      for (int64_t i = starts[m]; i < starts[m + 1]; ++i) {
        if (i + kAhead < starts[M]) __builtin_prefetch(grad_scores + order[i + kAhead]);
        const int64_t b = order[i] / K;
        if (grad_scores[order[i]] == 0) continue;
        add_scaled(grad, grad_scores[order[i]], users + (user_ids ? user_ids[b] : b) * D, D);
      }
    }
  });
}

}  // namespace
