#include "csrc/catalogue_log_mass.h"

#include "csrc/isa.h"
#include "kernels/cpu/catalogue_log_mass.h"

namespace {

template <class Storage>
struct Entries {
  typedef typename Accumulator<Storage>::type Acc;
  static int forward(const void* users, const void* items, const void* bias, const int64_t* indptr,
                     const int64_t* indices, void* log_masses, void* tops, void* sums, void* kept, void* kept_tops,
                     int64_t B, int64_t N, int64_t D, double log_share) {
    return catalogue_log_mass(wide_table<Storage>(users), wide_table<Storage>(items), wide_table<Storage>(bias), indptr,
                              indices, static_cast<Acc*>(log_masses), static_cast<Acc*>(tops), static_cast<Acc*>(sums),
                              static_cast<Acc*>(kept), static_cast<Acc*>(kept_tops), B, N, D, log_share);
  }
  static int backward(const void* grad, const void* users, const void* items, const void* bias, const int64_t* indptr,
                      const int64_t* indices, const void* tops, const void* sums, const void* kept,
                      const void* kept_tops, void* grad_users, void* grad_items, void* grad_bias, int64_t B, int64_t N,
                      int64_t D, double log_share, bool fresh) {
    return catalogue_gradients(static_cast<const Acc*>(grad), wide_table<Storage>(users), wide_table<Storage>(items),
                               wide_table<Storage>(bias), indptr, indices,
                               static_cast<const Acc*>(tops), static_cast<const Acc*>(sums),
                               static_cast<const Acc*>(kept), static_cast<const Acc*>(kept_tops),
                               static_cast<Acc*>(grad_users), static_cast<Acc*>(grad_items),
                               static_cast<Acc*>(grad_bias), B, N, D, log_share, fresh);
  }
};

}  // namespace

extern "C" const CatalogueLogMassTable RANKDISTILL_TABLE(catalogue_log_mass_table) = {
    {Entries<float>::forward, Entries<double>::forward, Entries<Half>::forward, Entries<BFloat16>::forward},
    {Entries<float>::backward, Entries<double>::backward, Entries<Half>::backward, Entries<BFloat16>::backward},
    kBlockItems,
};
