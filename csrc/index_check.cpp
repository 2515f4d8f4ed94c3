#include "csrc/index_check.h"

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(IndexCheckTable, index_check_table)

namespace py = pybind11;

void bind_index_check(py::module_& m) {
  m.def("first_out_of_range",
        [](uintptr_t indices, int64_t count, int64_t low, int64_t high) {
          return index_check_table().first_out_of_range(pointer<const int64_t>(indices), count, low, high);
        },
        "Position of the first of `count` int64 indices outside [low, high), or -1.",
        py::call_guard<py::gil_scoped_release>());
}
