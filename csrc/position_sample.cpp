#include "csrc/position_sample.h"

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(PositionSampleTable, position_sample_table)

namespace py = pybind11;

void bind_position_sample(py::module_& m) {
  m.def("position_sample",
        [](uintptr_t users, uintptr_t lengths, uintptr_t positions, int64_t R, int64_t K, int64_t longest,
           double temperature, uint64_t seed, uint32_t epoch, uint32_t stream) {
          return position_sample_table().sample(pointer<const int64_t>(users), pointer<const int64_t>(lengths),
                                                pointer<int64_t>(positions), R, K, longest, temperature, seed, epoch,
                                                stream);
        },
        "False where scratch memory could not be had.", py::call_guard<py::gil_scoped_release>());
}
