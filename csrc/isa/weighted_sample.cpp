#include "csrc/weighted_sample.h"

#include "csrc/isa.h"
#include "kernels/cpu/weighted_sample.h"

namespace {

template <class T>
struct Entries {
  static bool sample(const int64_t* users, const void* weights, int64_t* samples, int64_t R, int64_t K, int64_t M,
                     uint64_t seed, uint32_t epoch, uint32_t stream) {
    return weighted_sample(users, static_cast<const T*>(weights), samples, R, K, M, seed, epoch, stream);
  }
};

}  // namespace

extern "C" const WeightedSampleTable RANKDISTILL_TABLE(weighted_sample_table) = {
    {Entries<float>::sample, Entries<double>::sample},
};
