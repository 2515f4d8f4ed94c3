#include "csrc/plackett_luce.h"

#include "csrc/isa.h"
#include "kernels/cpu/plackett_luce.h"

namespace {

template <class Storage>
struct Entries {
  typedef typename Accumulator<Storage>::type Acc;
  static void forward(const void* scores, int64_t stride_scores, const void* tail, int64_t stride_tail,
                      const int64_t* lengths, void* losses, void* slopes, void* tail_terms, double* scratch, int64_t B,
                      int64_t K, int64_t L) {
    plackett_luce_forward(wide_table<Storage>(scores), stride_scores, wide_table<Storage>(tail), stride_tail, lengths,
                          static_cast<Acc*>(losses), static_cast<Acc*>(slopes), static_cast<Acc*>(tail_terms), scratch,
                          B, K, L);
  }
  static void backward(const void* grad_losses, const void* tail, int64_t stride_tail, const int64_t* lengths,
                       const void* slopes, const void* tail_terms, void* grad_scores, void* grad_tail, int64_t B,
                       int64_t K, int64_t L) {
    plackett_luce_backward(static_cast<const Acc*>(grad_losses), wide_table<Storage>(tail), stride_tail, lengths,
                           static_cast<const Acc*>(slopes), static_cast<const Acc*>(tail_terms),
                           static_cast<Acc*>(grad_scores), static_cast<Acc*>(grad_tail), B, K, L);
  }
};

}  // namespace

extern "C" const PlackettLuceTable RANKDISTILL_TABLE(plackett_luce_table) = {
    {Entries<float>::forward, Entries<double>::forward, Entries<Half>::forward, Entries<BFloat16>::forward},
    {Entries<float>::backward, Entries<double>::backward, Entries<Half>::backward, Entries<BFloat16>::backward},
    plackett_luce_scratch,
};
