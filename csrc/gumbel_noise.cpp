#include "csrc/gumbel_noise.h"

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(GumbelNoiseTable, gumbel_noise_table)

namespace py = pybind11;

void bind_gumbel_noise(py::module_& m) {
  m.def("gumbel_noise",
        [](uintptr_t ids, uintptr_t parts, uintptr_t noise, int64_t B, int64_t count, uint64_t seed, uint32_t epoch,
           uint32_t last_word) {
          gumbel_noise_table().draw(pointer<const int64_t>(ids), pointer<const int64_t>(parts), pointer<double>(noise),
                                    B, count, seed, epoch, last_word);
        },
        py::call_guard<py::gil_scoped_release>());
}
