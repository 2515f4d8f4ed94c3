#pragma once
#include "csrc/pair_tables.h"

struct PairDistanceHuberTable {
  double (*loss)(const PairTableViews& tables, const double* teacher_norms, const double* student_norms, int64_t B,
                 double* block_sums, double* slopes, double* mean_slopes, double* scratch);
  // fp64 numbers of scratch space that one thread needs.
  int64_t (*scratch_size)(int64_t teacher_width, int64_t student_width);
  int64_t (*block_sums_size)(int64_t B);
};
