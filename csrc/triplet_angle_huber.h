#pragma once
#include "csrc/pair_tables.h"

struct TripletAngleHuberTable {
  // single: products in fp32; the student's width is then padded to 16. space: space_size fp64 numbers.
  double (*loss)(const PairTableViews& tables, int64_t B, const int64_t* anchors, int64_t n_anchors, bool single,
                 double* slopes, double* space);
  int64_t (*space_size)(int64_t B, int64_t teacher_width, int64_t student_width, int64_t threads);
};
