#include "csrc/plackett_luce.h"

#include <memory>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"
#include "kernels/cpu/parallel.h"

RANKDISTILL_DECLARE(PlackettLuceTable, plackett_luce_table)

namespace py = pybind11;

namespace {

std::unique_ptr<double[]> scratch_for(int64_t B, int64_t K) {
  return std::unique_ptr<double[]>(new double[B ? max_threads() * plackett_luce_table().scratch_size(K) : 0]);
}

}  // namespace

void bind_plackett_luce(py::module_& m) {
  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("plackett_luce_forward",
        [](int dtype, uintptr_t scores, int64_t stride_scores, uintptr_t tail, int64_t stride_tail, uintptr_t lengths,
           uintptr_t losses, uintptr_t slopes, uintptr_t tail_terms, int64_t B, int64_t K, int64_t L) {
          plackett_luce_table().forward[checked_dtype(dtype)](
              pointer<const void>(scores), stride_scores, pointer<const void>(tail), stride_tail,
              pointer<const int64_t>(lengths), pointer<void>(losses), pointer<void>(slopes), pointer<void>(tail_terms),
              scratch_for(B, K).get(), B, K, L);
        },
        Unlocked());
  m.def("plackett_luce_backward",
        [](int dtype, uintptr_t grad_losses, uintptr_t tail, int64_t stride_tail, uintptr_t lengths, uintptr_t slopes,
           uintptr_t tail_terms, uintptr_t grad_scores, uintptr_t grad_tail, int64_t B, int64_t K, int64_t L) {
          plackett_luce_table().backward[checked_dtype(dtype)](
              pointer<const void>(grad_losses), pointer<const void>(tail), stride_tail, pointer<const int64_t>(lengths),
              pointer<const void>(slopes), pointer<const void>(tail_terms), pointer<void>(grad_scores),
              pointer<void>(grad_tail), B, K, L);
        },
        Unlocked());
}
