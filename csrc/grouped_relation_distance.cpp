#include "csrc/grouped_relation_distance.h"

#include <vector>

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"
#include "kernels/cpu/parallel.h"

RANKDISTILL_DECLARE(GroupedRelationDistanceTable, grouped_relation_distance_table)

namespace py = pybind11;

void bind_grouped_relation_distance(py::module_& m) {
  m.def("grouped_relation_distance",
        [](uintptr_t teacher, int64_t teacher_width, uintptr_t student, int64_t student_width, uintptr_t bounds,
           int64_t n_groups, bool positive_only, uintptr_t slopes) {
          const GroupedRelationDistanceTable& table = grouped_relation_distance_table();
          const int64_t* const rows = pointer<const int64_t>(bounds);
          std::vector<int64_t> first_block(n_groups + 1, 0);
          for (int64_t g = 0; g < n_groups; ++g)
            first_block[g + 1] = first_block[g] + (rows[2 * g + 1] - rows[2 * g] + table.block_rows - 1) / table.block_rows;
          std::vector<double> losses(first_block[n_groups]);
          std::vector<double> scratch(max_threads() * table.scratch_size(teacher_width, student_width));
          return table.distance({pointer<const double>(teacher), teacher_width, pointer<const double>(student),
                                 student_width},
                                rows, first_block.data(), n_groups, positive_only, losses.data(),
                                pointer<double>(slopes), scratch.data());
        },
        py::call_guard<py::gil_scoped_release>());
}
