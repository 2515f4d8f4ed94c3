#include "csrc/inner_product_rank.h"

#include <new>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(InnerProductRankTable, inner_product_rank_table)

namespace py = pybind11;

void bind_inner_product_rank(py::module_& m) {
  m.def("inner_product_rank",
        [](int dtype, uintptr_t users, uintptr_t items, uintptr_t bias, uintptr_t item_ids, uintptr_t indptr,
           uintptr_t indices, uintptr_t ranks, int64_t B, int64_t N, int64_t K, int64_t D) {
          const int failed = inner_product_rank_table().forward[checked_dtype(dtype)](
              pointer<const void>(users), pointer<const void>(items), pointer<const void>(bias),
              pointer<const int64_t>(item_ids), pointer<const int64_t>(indptr), pointer<const int64_t>(indices),
              pointer<int64_t>(ranks), B, N, K, D);
          if (failed) throw std::bad_alloc();
        },
        py::call_guard<py::gil_scoped_release>());
}
