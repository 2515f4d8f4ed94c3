#include "csrc/inner_product_topk.h"

#include "csrc/isa.h"
#include "kernels/cpu/inner_product_topk.h"

namespace {

template <class Storage>
int forward(const void* users, const void* items, const int64_t* indptr, const int64_t* indices, void* scores,
            int64_t* ids, int64_t* lengths, int64_t B, int64_t N, int64_t K, int64_t D) {
  typedef typename Accumulator<Storage>::type Acc;
  return inner_product_topk(static_cast<const Storage*>(users), static_cast<const Storage*>(items), indptr, indices,
                            static_cast<Acc*>(scores), ids, lengths, B, N, K, D);
}

}  // namespace

extern "C" const InnerProductTopKTable RANKDISTILL_TABLE(inner_product_topk_table) = {
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
};
