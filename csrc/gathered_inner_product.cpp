#include "csrc/gathered_inner_product.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(GatheredInnerProductTable, gathered_inner_product_table)

namespace py = pybind11;

namespace {

// Of `listed` ids of a table of N rows; what is not used is not touched.
struct OwnRunScratch {
  std::unique_ptr<int32_t[]> counts, filled;
  std::unique_ptr<double[]> before;
  int32_t used = 0;

  OwnRunScratch(int64_t N, int64_t listed, int64_t D) {
    const int64_t runs = std::min(N, listed / (gathered_inner_product_table().piece + 1));
    if (runs > INT32_MAX)
      throw std::invalid_argument("gathered_inner_product: expected at most 2^31 rows of many ids; got " + std::to_string(runs));
    counts.reset(new int32_t[N]());
    filled.reset(new int32_t[runs]);
    before.reset(new double[runs * D]);
  }
  RunScratch get() { return {counts.get(), before.get(), filled.get(), &used}; }
};

}  // namespace

void bind_gathered_inner_product(py::module_& m) {
  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("gathered_inner_product_forward",
        [](int dtype, uintptr_t users, uintptr_t user_ids, uintptr_t items, uintptr_t item_ids, uintptr_t item_bias,
           uintptr_t scores, int64_t B, int64_t K, int64_t D) {
          gathered_inner_product_table().forward[checked_dtype(dtype)](
              pointer<const void>(users), pointer<const int64_t>(user_ids), pointer<const void>(items),
              pointer<const int64_t>(item_ids), pointer<const void>(item_bias), pointer<void>(scores), B, K, D);
        },
        Unlocked());
  m.def("gathered_inner_product_row_grads",
        [](int dtype, uintptr_t grad_scores, uintptr_t items, uintptr_t item_ids, uintptr_t row_grads, int64_t B,
           int64_t K, int64_t D) {
          gathered_inner_product_table().row_grads[checked_dtype(dtype)](
              pointer<const void>(grad_scores), pointer<const void>(items), pointer<const int64_t>(item_ids),
              pointer<void>(row_grads), B, K, D);
        },
        Unlocked());
  m.def("gathered_inner_product_user_grads",
        [](int dtype, uintptr_t row_grads, uintptr_t user_ids, uintptr_t grad_users, int64_t U, int64_t B, int64_t D) {
          OwnRunScratch scratch(U, B, D);
          gathered_inner_product_table().user_grads[checked_dtype(dtype)](
              pointer<const void>(row_grads), pointer<const int64_t>(user_ids), pointer<void>(grad_users), scratch.get(),
              U, B, D);
        },
        Unlocked());
  m.def("gathered_inner_product_item_grads",
        [](int dtype, uintptr_t grad_scores, uintptr_t users, uintptr_t user_ids, uintptr_t item_ids,
           uintptr_t grad_items, int64_t N, int64_t B, int64_t K, int64_t D) {
          OwnRunScratch scratch(N, B * K, D);
          gathered_inner_product_table().item_grads[checked_dtype(dtype)](
              pointer<const void>(grad_scores), pointer<const void>(users), pointer<const int64_t>(user_ids),
              pointer<const int64_t>(item_ids), pointer<void>(grad_items), scratch.get(), N, B, K, D);
        },
        Unlocked());
  m.def("gathered_inner_product_bias_grads",
        [](int dtype, uintptr_t grad_scores, uintptr_t item_ids, uintptr_t grad_bias, int64_t N, int64_t listed) {
          OwnRunScratch scratch(N, listed, 1);
          gathered_inner_product_table().bias_grads[checked_dtype(dtype)](
              pointer<const void>(grad_scores), pointer<const int64_t>(item_ids), pointer<void>(grad_bias), scratch.get(),
              N, listed);
        },
        Unlocked());
  m.def("gathered_inner_product_touched_grads",
        [](int dtype, uintptr_t grad_scores, uintptr_t users, uintptr_t user_ids, uintptr_t order, uintptr_t starts,
           uintptr_t grads, int64_t M, int64_t K, int64_t D) {
          gathered_inner_product_table().touched_grads[checked_dtype(dtype)](
              pointer<const void>(grad_scores), pointer<const void>(users), pointer<const int64_t>(user_ids),
              pointer<const int64_t>(order), pointer<const int64_t>(starts), pointer<void>(grads), M, K, D);
        },
        Unlocked());
}
