#include "csrc/embedding_plackett_luce.h"

#include "csrc/isa.h"
#include "kernels/cpu/embedding_plackett_luce.h"

namespace {

template <class Storage>
struct Entries {
  typedef typename Accumulator<Storage>::type Acc;
  static int64_t scratch_bytes(int64_t K, int64_t L) { return embedding_scratch_bytes<Acc>(K, L); }
  static void forward(const void* users, const int64_t* user_ids, const void* items, const int64_t* item_ids,
                      const void* item_bias, const int64_t* lengths, void* losses, void* slopes, void* user_slopes,
                      char* scratch, int64_t B, int64_t K, int64_t L, int64_t D) {
    embedding_plackett_luce_forward(static_cast<const Storage*>(users), user_ids, static_cast<const Storage*>(items),
                                    item_ids, static_cast<const Storage*>(item_bias), lengths, static_cast<Acc*>(losses),
                                    static_cast<Acc*>(slopes), static_cast<Acc*>(user_slopes), scratch, B, K, L, D);
  }
};

}  // namespace

extern "C" const EmbeddingPlackettLuceTable RANKDISTILL_TABLE(embedding_plackett_luce_table) = {
    {Entries<float>::scratch_bytes, Entries<double>::scratch_bytes, Entries<Half>::scratch_bytes,
     Entries<BFloat16>::scratch_bytes},
    {Entries<float>::forward, Entries<double>::forward, Entries<Half>::forward, Entries<BFloat16>::forward},
};
