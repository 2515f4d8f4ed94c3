#include "csrc/pair_distance_huber.h"

#include <vector>

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"
#include "kernels/cpu/parallel.h"

RANKDISTILL_DECLARE(PairDistanceHuberTable, pair_distance_huber_table)

namespace py = pybind11;

void bind_pair_distance_huber(py::module_& m) {
  m.def("pair_distance_huber",
        [](uintptr_t teacher, int64_t teacher_width, uintptr_t student, int64_t student_width, uintptr_t teacher_norms,
           uintptr_t student_norms, int64_t B, uintptr_t slopes) {
          const PairDistanceHuberTable& table = pair_distance_huber_table();
          std::vector<double> sums(table.block_sums_size(B));
          std::vector<double> scratch(max_threads() * table.scratch_size(teacher_width, student_width));
          std::vector<double> mean_slopes(slopes ? B * student_width : 0);
          return table.loss({pointer<const double>(teacher), teacher_width, pointer<const double>(student),
                             student_width},
                            pointer<const double>(teacher_norms), pointer<const double>(student_norms), B, sums.data(),
                            pointer<double>(slopes), mean_slopes.data(), scratch.data());
        },
        py::call_guard<py::gil_scoped_release>());
}
