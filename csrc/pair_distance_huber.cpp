#include "csrc/pair_distance_huber.h"

#include <vector>

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"
#include "kernels/cpu/parallel.h"

RANKDISTILL_DECLARE(PairDistanceHuberTable, pair_distance_huber_table)

namespace py = pybind11;

namespace {

// Squared lengths of rows, and the zeros after them.
std::vector<double> squared_lengths(const double* rows, int64_t B, int64_t width) {
  std::vector<double> squares(B + kPairPadding);
  for (int64_t i = 0; i < B; ++i)
    for (int64_t d = 0; d < width; ++d) squares[i] += rows[i * width + d] * rows[i * width + d];
  return squares;
}

// Rows in fp32, padded with zeros to whole vectors, and their squared lengths.
struct SingleRows {
  int64_t width;
  std::vector<float> rows, norms;
  SingleRows(const double* from, int64_t B, int64_t from_width, const std::vector<double>& squares)
      : width((from_width + 15) / 16 * 16), rows(B * width), norms(squares.begin(), squares.end()) {
    for (int64_t i = 0; i < B; ++i)
      for (int64_t d = 0; d < from_width; ++d) rows[i * width + d] = static_cast<float>(from[i * from_width + d]);
  }
  DistanceRows<float> view() const { return {rows.data(), width, norms.data()}; }
};

}  // namespace

void bind_pair_distance_huber(py::module_& m) {
  m.def("pair_distance_huber",
        [](uintptr_t teacher_address, int64_t teacher_width, uintptr_t student_address, int64_t student_width,
           int64_t B, bool single, uintptr_t slopes) {
          const PairDistanceHuberTable& table = pair_distance_huber_table();
          const double* const teacher = pointer<const double>(teacher_address);
          const double* const student = pointer<const double>(student_address);
          const std::vector<double> teacher_norms = squared_lengths(teacher, B, teacher_width);
          const std::vector<double> student_norms = squared_lengths(student, B, student_width);
          const int64_t in_single = single ? B : 0;
          const SingleRows single_teacher(teacher, in_single, teacher_width, teacher_norms);
          const SingleRows single_student(student, in_single, student_width, student_norms);
          PairDistanceViews x = {{teacher, teacher_width, teacher_norms.data()},
                                 {student, student_width, student_norms.data()},
                                 {},
                                 {}};
          if (single) x.single_teacher = single_teacher.view(), x.single_student = single_student.view();
          std::vector<double> sums(table.block_sums_size(B));
          std::vector<double> panels(table.panels_size(x, B));
          std::vector<double> scratch(max_threads() * table.scratch_size(x));
          std::vector<double> mean_slopes(slopes ? B * student_width : 0);
          return table.loss(x, B, sums.data(), pointer<double>(slopes), mean_slopes.data(), panels.data(),
                            scratch.data());
        },
        py::call_guard<py::gil_scoped_release>());
}
