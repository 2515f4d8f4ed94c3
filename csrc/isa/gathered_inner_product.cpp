#include "csrc/gathered_inner_product.h"

#include "csrc/isa.h"
#include "kernels/cpu/gathered_inner_product.h"

namespace {

template <class Storage>
struct Entries {
  typedef typename Accumulator<Storage>::type Acc;
  static void forward(const void* users, const int64_t* user_ids, const void* items, const int64_t* item_ids,
                      const void* item_bias, void* scores, int64_t B, int64_t K, int64_t D) {
    gathered_inner_product_forward(static_cast<const Storage*>(users), user_ids, static_cast<const Storage*>(items),
                                   item_ids, static_cast<const Storage*>(item_bias), static_cast<Acc*>(scores), B, K, D);
  }
  static void row_grads(const void* grad_scores, const void* items, const int64_t* item_ids, void* row_grads,
                        int64_t B, int64_t K, int64_t D) {
    gathered_inner_product_row_grads(static_cast<const Acc*>(grad_scores), static_cast<const Storage*>(items), item_ids,
                                     static_cast<Acc*>(row_grads), B, K, D);
  }
  static LongRuns long_runs(RunScratch scratch) {
    return {scratch.counts, scratch.before, scratch.filled, scratch.used};
  }
  static void user_grads(const void* row_grads, const int64_t* user_ids, void* grad_users, RunScratch scratch, int64_t U,
                         int64_t B, int64_t D) {
    gathered_inner_product_user_grads(static_cast<const Acc*>(row_grads), user_ids, static_cast<Acc*>(grad_users),
                                      long_runs(scratch), U, B, D);
  }
  static void item_grads(const void* grad_scores, const void* users, const int64_t* user_ids, const int64_t* item_ids,
                         void* grad_items, RunScratch scratch, int64_t N, int64_t B, int64_t K, int64_t D) {
    gathered_inner_product_item_grads(static_cast<const Acc*>(grad_scores), static_cast<const Storage*>(users), user_ids,
                                      item_ids, static_cast<Acc*>(grad_items), long_runs(scratch), N, B, K, D);
  }
  static void bias_grads(const void* grad_scores, const int64_t* item_ids, void* grad_bias, RunScratch scratch, int64_t N,
                         int64_t listed) {
    gathered_inner_product_bias_grads(static_cast<const Acc*>(grad_scores), item_ids, static_cast<Acc*>(grad_bias),
                                      long_runs(scratch), N, listed);
  }
  static void touched_grads(const void* grad_scores, const void* users, const int64_t* user_ids, const int64_t* order,
                            const int64_t* starts, void* grads, int64_t M, int64_t K, int64_t D) {
    gathered_inner_product_touched_grads(static_cast<const Acc*>(grad_scores), static_cast<const Storage*>(users),
                                         user_ids, order, starts, static_cast<Acc*>(grads), M, K, D);
  }
};

}  // namespace

extern "C" const GatheredInnerProductTable RANKDISTILL_TABLE(gathered_inner_product_table) = {
    kPiece,
    {Entries<float>::forward, Entries<double>::forward, Entries<Half>::forward, Entries<BFloat16>::forward},
    {Entries<float>::row_grads, Entries<double>::row_grads, Entries<Half>::row_grads, Entries<BFloat16>::row_grads},
    {Entries<float>::user_grads, Entries<double>::user_grads, Entries<Half>::user_grads, Entries<BFloat16>::user_grads},
    {Entries<float>::item_grads, Entries<double>::item_grads, Entries<Half>::item_grads, Entries<BFloat16>::item_grads},
    {Entries<float>::bias_grads, Entries<double>::bias_grads, Entries<Half>::bias_grads, Entries<BFloat16>::bias_grads},
    {Entries<float>::touched_grads, Entries<double>::touched_grads, Entries<Half>::touched_grads,
     Entries<BFloat16>::touched_grads},
};
