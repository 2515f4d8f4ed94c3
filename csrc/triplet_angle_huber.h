#pragma once
#include "csrc/pair_tables.h"

struct TripletAngleHuberTable {
  // space: space_size fp64 numbers, then one scratch per thread.
  double (*loss)(const PairTableViews& tables, int64_t B, const int64_t* anchors, int64_t n_anchors, double* slopes,
                 double* space);
  int64_t (*space_size)(int64_t B, int64_t teacher_width, int64_t student_width);
  int64_t (*scratch_size)(int64_t teacher_width, int64_t student_width);
};
