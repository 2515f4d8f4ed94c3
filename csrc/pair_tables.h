// What the kernels over pairs of rows share at their boundary: two contiguous fp64 tables with padded widths.
#pragma once
#include <stdint.h>

struct PairTableViews {
  const double* teacher;
  int64_t teacher_width;
  const double* student;
  int64_t student_width;
};
