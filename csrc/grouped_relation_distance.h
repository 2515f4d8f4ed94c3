#pragma once
#include "csrc/pair_tables.h"

struct GroupedRelationDistanceTable {
  double (*distance)(const PairTableViews& tables, const int64_t* bounds, const int64_t* first_block, int64_t n_groups,
                     bool positive_only, double* block_losses, double* slopes, double* scratch);
  // fp64 numbers of scratch space that one thread needs.
  int64_t (*scratch_size)(int64_t teacher_width, int64_t student_width);
  int64_t block_rows;
};
