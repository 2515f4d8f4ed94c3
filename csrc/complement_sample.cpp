#include "csrc/complement_sample.h"

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(ComplementSampleTable, complement_sample_table)

namespace py = pybind11;

void bind_complement_sample(py::module_& m) {
  m.def("complement_sample",
        [](uintptr_t users, uintptr_t positions, uintptr_t indptr, uintptr_t indices, uintptr_t listed,
           int64_t listed_count, int64_t n_items, uintptr_t samples, int64_t R, int64_t L, uint64_t seed,
           uint32_t epoch, uint32_t stream) {
          complement_sample_table().sample(pointer<const int64_t>(users), pointer<const int64_t>(positions),
                                           pointer<const int64_t>(indptr), pointer<const int64_t>(indices),
                                           pointer<const int32_t>(listed), listed_count, n_items,
                                           pointer<int64_t>(samples), R, L, seed, epoch, stream);
        },
        py::call_guard<py::gil_scoped_release>());
}
