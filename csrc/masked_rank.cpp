#include "csrc/masked_rank.h"

#include <new>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(MaskedRankTable, masked_rank_table)

namespace py = pybind11;

void bind_masked_rank(py::module_& m) {
  m.def("masked_rank",
        [](int dtype, uintptr_t given, int64_t stride, uintptr_t item_ids, uintptr_t indptr, uintptr_t indices,
           uintptr_t mask, int64_t mask_stride, uintptr_t ranks, int64_t B, int64_t N, int64_t K) {
          const int failed = masked_rank_table().forward[checked_dtype(dtype)](
              pointer<const void>(given), stride, pointer<const int64_t>(item_ids), pointer<const int64_t>(indptr),
              pointer<const int64_t>(indices), pointer<const uint8_t>(mask), mask_stride, pointer<int64_t>(ranks), B,
              N, K);
          if (failed) throw std::bad_alloc();
        },
        py::call_guard<py::gil_scoped_release>());
}
