#include "csrc/masked_topk.h"

#include <new>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(MaskedTopKTable, masked_topk_table)

namespace py = pybind11;

void bind_masked_topk(py::module_& m) {
  m.def("masked_topk",
        [](int dtype, uintptr_t given, int64_t stride, uintptr_t indptr, uintptr_t indices, uintptr_t mask,
           int64_t mask_stride, uintptr_t scores, uintptr_t ids, uintptr_t lengths, int64_t B, int64_t N, int64_t K) {
          const int failed = masked_topk_table().forward[checked_dtype(dtype)](
              pointer<const void>(given), stride, pointer<const int64_t>(indptr), pointer<const int64_t>(indices),
              pointer<const uint8_t>(mask), mask_stride, pointer<void>(scores), pointer<int64_t>(ids),
              pointer<int64_t>(lengths), B, N, K);
          if (failed) throw std::bad_alloc();
        },
        py::call_guard<py::gil_scoped_release>());
}
