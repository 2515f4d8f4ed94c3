#include "csrc/inner_product_rank.h"

#include "csrc/isa.h"
#include "kernels/cpu/inner_product_rank.h"

namespace {

template <class Storage>
int forward(const void* users, const void* items, const void* bias, const int64_t* item_ids, const int64_t* indptr,
            const int64_t* indices, int64_t* ranks, int64_t B, int64_t N, int64_t K, int64_t D) {
  return inner_product_rank(wide_table<Storage>(users), wide_table<Storage>(items), wide_table<Storage>(bias), item_ids,
                            indptr, indices, ranks, B, N, K, D);
}

}  // namespace

extern "C" const InnerProductRankTable RANKDISTILL_TABLE(inner_product_rank_table) = {
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
};
