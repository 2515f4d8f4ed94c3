#include "csrc/masked_topk.h"

#include "csrc/isa.h"
#include "kernels/cpu/masked_topk.h"

namespace {

template <class Storage>
int forward(const void* given, int64_t stride, const int64_t* indptr, const int64_t* indices, const uint8_t* mask,
            int64_t mask_stride, void* scores, int64_t* ids, int64_t* lengths, int64_t B, int64_t N, int64_t K) {
  const MaskedScores<Storage> masked = {static_cast<const Storage*>(given), stride, indptr, indices, mask, mask_stride};
  return masked_topk(masked, static_cast<Storage*>(scores), ids, lengths, B, N, K);
}

}  // namespace

extern "C" const MaskedTopKTable RANKDISTILL_TABLE(masked_topk_table) = {
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
};
