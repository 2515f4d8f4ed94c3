#include "csrc/inner_product_topk.h"

#include <new>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(InnerProductTopKTable, inner_product_topk_table)

namespace py = pybind11;

void bind_inner_product_topk(py::module_& m) {
  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("inner_product_topk",
        [](int dtype, uintptr_t users, uintptr_t items, uintptr_t indptr, uintptr_t indices, uintptr_t scores,
           uintptr_t ids, uintptr_t lengths, int64_t B, int64_t N, int64_t K, int64_t D) {
          const int failed = inner_product_topk_table().forward[checked_dtype(dtype)](
              pointer<const void>(users), pointer<const void>(items), pointer<const int64_t>(indptr),
              pointer<const int64_t>(indices), pointer<void>(scores), pointer<int64_t>(ids),
              pointer<int64_t>(lengths), B, N, K, D);
          if (failed) throw std::bad_alloc();
        },
        Unlocked());
  m.def("first_not_ascending",
        [](uintptr_t indptr, uintptr_t indices, int64_t rows) -> int64_t {
          const int64_t* starts = pointer<const int64_t>(indptr);
          const int64_t* ids = pointer<const int64_t>(indices);
          for (int64_t b = 0; b < rows; ++b)
            for (int64_t i = starts[b] + 1; i < starts[b + 1]; ++i)
              if (ids[i] < ids[i - 1]) return i;
          return -1;
        },
        "Position of the first id of a CSR table that is less than the one before it in its row, or -1.", Unlocked());
}
