// The Plackett-Luce loss of listed items' inner products with a user, and its slopes: one pass, in which the item
// rows come through the cache once for their scores and again, from L1 or L2, for the user's slope.
#pragma once
#include "kernels/cpu/gathered_inner_product.h"
#include "kernels/cpu/plackett_luce.h"

namespace {

// Rows worked together: their item vectors should still be in the second-level cache for the users' slopes.
constexpr int64_t kGroupBytes = 384 << 10;
inline int grouped_rows(int64_t row_bytes) {
  const int64_t rows = kGroupBytes / (row_bytes + 1);
  return static_cast<int>(rows < 1 ? 1 : rows < kListRows ? rows : kListRows);
}

// Scratch for each thread, in bytes: a group's scores, and the lists of plackett_luce.h.
template <class Acc>
inline int64_t score_bytes(int64_t count) {
  return ((kListRows * count + 16) * static_cast<int64_t>(sizeof(Acc)) + 63) / 64 * 64;
}
template <class Acc>
inline int64_t embedding_scratch_bytes(int64_t K, int64_t L) {
  return score_bytes<Acc>(K + L) + list_scratch(K) * static_cast<int64_t>(sizeof(double));
}

// The first K of each row's item_ids are the list, of which lengths[b] count (all where lengths is null); the other
// L are the tail, -1 for none. slopes [B, K + L] and user_slopes [B, D], the derivatives of each row's loss by its
// scores and by its user's vector, may be null together; item_bias may be null.
template <class Storage>
void embedding_plackett_luce_forward(const Storage* users, const int64_t* user_ids, const Storage* items,
                                     const int64_t* item_ids, const Storage* item_bias, const int64_t* lengths,
                                     typename Accumulator<Storage>::type* losses,
                                     typename Accumulator<Storage>::type* slopes,
                                     typename Accumulator<Storage>::type* user_slopes, char* scratch, int64_t B,
                                     int64_t K, int64_t L, int64_t D) {
  typedef typename Accumulator<Storage>::type Acc;
  const bool with_slopes = slopes || user_slopes;  // an empty list has no address
  const int together = grouped_rows((K + L) * D * static_cast<int64_t>(sizeof(Storage)));
  parallel_chunks(B, 1 + 8192 / ((K + L) * (D + 8) + 1), [=](int64_t begin, int64_t end, int thread) {
    Acc* const scores = reinterpret_cast<Acc*>(scratch + thread * embedding_scratch_bytes<Acc>(K, L));
    double* const list = reinterpret_cast<double*>(reinterpret_cast<char*>(scores) + score_bytes<Acc>(K + L));
    for (int64_t first = begin; first < end; first += together) {
      ListRows<Acc> rows;
      rows.count = static_cast<int>(end - first < together ? end - first : together);
      for (int r = 0; r < rows.count; ++r) {
        const int64_t b = first + r, length = lengths ? lengths[b] : K;
        const Storage* user = users + (user_ids ? user_ids[b] : b) * D;
        const int64_t* ids = item_ids + b * (K + L);
        Acc* const own = scores + r * (K + L);
        for (int64_t k = 0; k < K + L; ++k) {
          ask_for_row<false>(items, ids + k, (B - b) * (K + L) - k, D);
          if (k >= length && k < K) continue;
          own[k] = listed_score<Storage, Acc>(user, items, item_bias, ids[k], D);
        }
        rows.scores[r] = own;
        rows.lengths[r] = length;
        rows.tails[r] = summed_tail(wide_table<Acc>(own + K), L);
        rows.slopes[r] = with_slopes ? slopes + b * (K + L) : nullptr;
        for (int64_t k = length; with_slopes && k < K; ++k) rows.slopes[r][k] = 0;
      }
      if (with_slopes) list_losses<true>(rows, list);
      else list_losses<false>(rows, list);
      for (int r = 0; r < rows.count; ++r) {
        const int64_t b = first + r;
        losses[b] = static_cast<Acc>(rows.losses[r]);
        if (!with_slopes) continue;
        const Acc top = static_cast<Acc>(finite_top(rows.tails[r])), scale = static_cast<Acc>(rows.tail_scales[r]);
        tail_slopes(wide_table<Acc>(rows.scores[r] + K), L, top, scale, rows.slopes[r] + K);
        weighted_row_sum<false>(user_slopes + b * D, rows.slopes[r], items, item_ids + b * (K + L), K + L, D);
      }
    }
  });
}

}  // namespace
