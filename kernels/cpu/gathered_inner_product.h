// scores[b, k] = <users[user_ids[b]], items[item_ids[b, k]]> + item_bias[item_ids[b, k]], and its gradients.
//
// Gradients are bit-identical for any number of threads: a user's row is summed over k in order, repeated
// users and items over (b, k) in order, long runs in pieces (touched_rows.h), by cutting the output rows, never the
// input, between threads.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/storage.h"
#include "kernels/cpu/touched_rows.h"

namespace {

constexpr int64_t kProductPiece = 512;  // columns whose products one chain of roundings may hold

template <class Acc>
inline Acc product_piece(const Acc* x, const Acc* y, int64_t width) {
  constexpr int W = kLanes<Acc>, Q = kShortLanes<Acc>;
  typedef Vector<Acc, W> V;
  typedef Vector<Acc, Q> VQ;
  int64_t d = 0;
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
  Acc total = sum_lanes<Acc, Q>(sum);
  for (; d < width; ++d) total += x[d] * y[d];
  return total;
}

template <class Storage, class Acc>
inline Acc inner_product(const Storage* x, const Storage* y, int64_t width) {
  double whole = 0;
  int64_t d = 0;
  if constexpr (sizeof(Storage) == sizeof(Acc)) {
    if (width <= kProductPiece) return product_piece<Acc>(x, y, width);
    for (; d < width; d += kProductPiece) {
      const int64_t left = width - d;
      whole += static_cast<double>(product_piece<Acc>(x + d, y + d, left < kProductPiece ? left : kProductPiece));
    }
    return static_cast<Acc>(whole);
  }
  while (width >= 32 && d + 16 <= width) {
    const int64_t end = d + kProductPiece < width ? d + kProductPiece : width;
    Acc sums[16] = {};
    for (; d + 16 <= end; d += 16)
      for (int j = 0; j < 16; ++j) sums[j] += static_cast<Acc>(widen(x[d + j])) * static_cast<Acc>(widen(y[d + j]));
    for (int half = 8; half; half /= 2)
      for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
    whole += static_cast<double>(sums[0]);
  }
  Acc total = static_cast<Acc>(whole);
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
void gathered_inner_product_user_grads(const Acc* row_grads, const int64_t* user_ids, Acc* grad_users, LongRuns runs,
                                       int64_t U, int64_t B, int64_t D) {
  const TableSums<Acc> table = {runs, grad_users, D};
  parallel_chunks(U, 1 + 65536 * U / (B * D + 1), [=](int64_t begin, int64_t end, int) {
    table.count(user_ids, B, begin, end);
    for (int64_t b = 0; b < B; ++b)
      if (user_ids[b] >= begin && user_ids[b] < end) table.add(user_ids[b], static_cast<Acc>(1), row_grads + b * D);
    table.finish_all(B, begin, end);
  });
}

// grad_items [N, D] += grad_scores[b, k] * user of b, by item id, in order of (b, k). Of gradient 0 nothing is added, whatever
// the user is.
template <class Storage>
void gathered_inner_product_item_grads(const typename Accumulator<Storage>::type* grad_scores, const Storage* users,
                                       const int64_t* user_ids, const int64_t* item_ids,
                                       typename Accumulator<Storage>::type* grad_items, LongRuns runs, int64_t N,
                                       int64_t B, int64_t K, int64_t D) {
  const TableSums<typename Accumulator<Storage>::type> table = {runs, grad_items, D};
  parallel_chunks(N, 1 + 65536 * N / (B * K * D + 1), [=](int64_t begin, int64_t end, int) {
    table.count(item_ids, B * K, begin, end);
    for (int64_t b = 0; b < B; ++b) {
      const Storage* user = users + (user_ids ? user_ids[b] : b) * D;
      const int64_t* ids = item_ids + b * K;
      for (int64_t k = 0; k < K; ++k) {
        ask_for_row<true>(grad_items, ids + k, (B - b) * K - k, D);
        if (ids[k] >= begin && ids[k] < end) table.add(ids[k], grad_scores[b * K + k], user);
      }
    }
    table.finish_all(B * K, begin, end);
  });
}

// grad_bias [N] += grad_scores, by item id, in order of (b, k).
template <class Acc>
void gathered_inner_product_bias_grads(const Acc* grad_scores, const int64_t* item_ids, Acc* grad_bias, LongRuns runs,
                                       int64_t N, int64_t listed) {
  const TableSums<Acc> table = {runs, grad_bias, 1};
  parallel_chunks(N, 1 + 65536 * N / (listed + 1), [=](int64_t begin, int64_t end, int) {
    table.count(item_ids, listed, begin, end);
    for (int64_t i = 0; i < listed; ++i)
      if (item_ids[i] >= begin && item_ids[i] < end) table.add(item_ids[i], static_cast<Acc>(1), grad_scores + i);
    table.finish_all(listed, begin, end);
  });
}

// grads [M, D] of the touched items alone (touched_rows.h says how occurrences are listed), in order of (b, k).
template <class Storage>
void gathered_inner_product_touched_grads(const typename Accumulator<Storage>::type* grad_scores, const Storage* users,
                                          const int64_t* user_ids, const int64_t* order, const int64_t* starts,
                                          typename Accumulator<Storage>::type* grads, int64_t M, int64_t K, int64_t D) {
  typedef typename Accumulator<Storage>::type Acc;
  parallel_chunks(M, 1 + 16384 / (D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m)
      sum_in_pieces(grads + m * D, starts[m], starts[m + 1], D, [=](Acc* to, int64_t i, int64_t d, int64_t columns) {
        if (d == 0 && i + kAhead < starts[M]) __builtin_prefetch(grad_scores + order[i + kAhead]);
        const int64_t b = order[i] / K;
        if (grad_scores[order[i]] != 0)
          add_scaled(to, grad_scores[order[i]], users + (user_ids ? user_ids[b] : b) * D + d, columns);
      });
  });
}

}  // namespace
