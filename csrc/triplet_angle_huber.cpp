#include "csrc/triplet_angle_huber.h"

#include <vector>

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"
#include "kernels/cpu/parallel.h"

RANKDISTILL_DECLARE(TripletAngleHuberTable, triplet_angle_huber_table)

namespace py = pybind11;

void bind_triplet_angle_huber(py::module_& m) {
  m.def("triplet_angle_huber",
        [](uintptr_t teacher, int64_t teacher_width, uintptr_t student, int64_t student_width, int64_t B,
           uintptr_t anchors, int64_t n_anchors, bool single, uintptr_t slopes) {
          const TripletAngleHuberTable& table = triplet_angle_huber_table();
          std::vector<double> space(table.space_size(B, teacher_width, student_width, max_threads()));
          return table.loss({pointer<const double>(teacher), teacher_width, pointer<const double>(student),
                             student_width},
                            B, pointer<const int64_t>(anchors), n_anchors, single, pointer<double>(slopes), space.data());
        },
        py::call_guard<py::gil_scoped_release>());
}
