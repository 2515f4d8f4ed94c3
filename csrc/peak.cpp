#include "csrc/peak.h"

#include "csrc/bind.h"
#include "csrc/isa.h"

RANKDISTILL_DECLARE(PeakTable, peak_table)

namespace py = pybind11;

void bind_peak(py::module_& m) {
  m.def("multiply_adds",
        [](int what, int64_t steps) { return peak_table().multiply_adds(what, steps); },
        "Runs `steps` steps of independent multiply-adds on registers, on every thread; what is 0 for fp32, 1 for "
        "bf16, 2 for int8 products. Returns the operations done, 0 without the instruction.",
        py::call_guard<py::gil_scoped_release>());
}
