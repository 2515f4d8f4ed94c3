#include "csrc/pair_sample.h"

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(PairSampleTable, pair_sample_table)

namespace py = pybind11;

void bind_pair_sample(py::module_& m) {
  m.def("pair_sample",
        [](uintptr_t users, uintptr_t positions, uintptr_t lengths, uintptr_t pairs, int64_t R, int64_t K,
           double temperature, bool distinct, uint64_t seed, uint32_t epoch, uint32_t stream) {
          pair_sample_table().sample(pointer<const int64_t>(users), pointer<const int64_t>(positions),
                                     pointer<const int64_t>(lengths), pointer<int64_t>(pairs), R, K, temperature,
                                     distinct, seed, epoch, stream);
        },
        py::call_guard<py::gil_scoped_release>());
}
