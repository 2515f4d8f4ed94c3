#include "csrc/masked_rank.h"

#include "csrc/isa.h"
#include "kernels/cpu/masked_rank.h"

namespace {

template <class Storage>
int forward(const void* given, int64_t stride, const int64_t* item_ids, const int64_t* indptr, const int64_t* indices,
            const uint8_t* mask, int64_t mask_stride, int64_t* ranks, int64_t B, int64_t N, int64_t K) {
  const MaskedScores<Storage> masked = {static_cast<const Storage*>(given), stride, indptr, indices, mask, mask_stride};
  return masked_rank(masked, item_ids, ranks, B, N, K);
}

}  // namespace

extern "C" const MaskedRankTable RANKDISTILL_TABLE(masked_rank_table) = {
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
};
