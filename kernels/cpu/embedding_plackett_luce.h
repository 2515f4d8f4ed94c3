// The Plackett-Luce loss of listed items' inner products with a user, and its slopes: one pass per row, in which
// the item rows come through the cache once for their scores and again, from L1, for the user's slope.
#pragma once
#include "kernels/cpu/gathered_inner_product.h"
#include "kernels/cpu/plackett_luce.h"

namespace {

// Scratch for each thread, in bytes: a row's scores, and the lists of plackett_luce.h.
template <class Acc>
inline int64_t score_bytes(int64_t count) {
  return ((count + 16) * static_cast<int64_t>(sizeof(Acc)) + 63) / 64 * 64;
}
template <class Acc>
inline int64_t embedding_scratch_bytes(int64_t K, int64_t L) {
  return score_bytes<Acc>(K + L) + kScratchArrays * padded(K) * static_cast<int64_t>(sizeof(double));
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
  parallel_chunks(B, 1 + 8192 / ((K + L) * (D + 8) + 1), [=](int64_t begin, int64_t end, int thread) {
    Acc* const scores = reinterpret_cast<Acc*>(scratch + thread * embedding_scratch_bytes<Acc>(K, L));
    double* const list = reinterpret_cast<double*>(reinterpret_cast<char*>(scores) + score_bytes<Acc>(K + L));
    for (int64_t b = begin; b < end; ++b) {
      const Storage* user = users + (user_ids ? user_ids[b] : b) * D;
      const int64_t* ids = item_ids + b * (K + L);
      const int64_t length = lengths ? lengths[b] : K;
      for (int64_t k = 0; k < K + L; ++k) {
        if (k >= length && k < K) continue;
        scores[k] = listed_score<Storage, Acc>(user, items, item_bias, ids[k], D);
      }
      double* const tops = list + padded(K);
      double* const sums = tops + padded(K);
      if (slopes == nullptr && user_slopes == nullptr) {
        losses[b] = static_cast<Acc>(row_loss<Acc>(scores, length, scores + K, L, list, tops, sums));
        continue;
      }
      Acc* const slope = slopes + b * (K + L);
      double loss;
      row_grads<Acc, Acc>(1, scores, length, K, scores + K, L, slope, slope + K, list, tops, sums, &loss);
      losses[b] = static_cast<Acc>(loss);
      weighted_row_sum(user_slopes + b * D, slope, items, ids, K + L, D);
    }
  });
}

}  // namespace
