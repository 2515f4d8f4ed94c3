#include "csrc/touched_rows.h"

#include "csrc/isa.h"
#include "kernels/cpu/touched_rows.h"

namespace {

template <class Storage>
struct Entries {
  typedef typename Accumulator<Storage>::type Acc;
  static void sums(const void* rows, const int64_t* order, const int64_t* starts, void* sums, int64_t M, int64_t D) {
    sum_touched_rows(static_cast<const Storage*>(rows), order, starts, static_cast<Acc*>(sums), M, D);
  }
};

}  // namespace

extern "C" const TouchedRowsTable RANKDISTILL_TABLE(touched_rows_table) = {
    touched_rows_fit,
    touched_rows,
    {Entries<float>::sums, Entries<double>::sums, Entries<Half>::sums, Entries<BFloat16>::sums},
};
