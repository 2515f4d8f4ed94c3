// Validation of indices that came from a caller: the position of the first bad one, or -1.
#include <stdint.h>

#include <pybind11/pybind11.h>

#include "csrc/bind.h"
#include "csrc/pointers.h"

namespace py = pybind11;

void bind_index_check(py::module_& m) {
  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("first_out_of_range",
        [](uintptr_t indices, int64_t count, int64_t low, int64_t high) -> int64_t {
          const int64_t* ids = pointer<const int64_t>(indices);
          int64_t bad = 0;
          for (int64_t i = 0; i < count; ++i) bad |= (ids[i] < low) | (ids[i] >= high);
          if (!bad) return -1;
          for (int64_t i = 0; i < count; ++i)
            if (ids[i] < low || ids[i] >= high) return i;
          return -1;
        },
        "Position of the first of `count` int64 indices outside [low, high), or -1.", Unlocked());
}
