#pragma once
#include "csrc/pair_tables.h"

// Rows as the tiles multiply them: widths, and squared lengths with kPairPadding zeros after the last.
template <class T>
struct DistanceRows {
  const T* rows;
  int64_t width;
  const T* norms;
};

struct PairDistanceViews {
  DistanceRows<double> teacher, student;              // widths padded to 8
  DistanceRows<float> single_teacher, single_student;  // padded to 16; null: fp64 throughout
};

constexpr int64_t kPairPadding = 32;

struct PairDistanceHuberTable {
  double (*loss)(const PairDistanceViews& x, int64_t B, double* block_sums, double* slopes, double* mean_slopes,
                 double* panels, double* scratch);
  // In fp64 numbers: panels, and the scratch space that one thread needs.
  int64_t (*panels_size)(const PairDistanceViews& x, int64_t B);
  int64_t (*scratch_size)(const PairDistanceViews& x);
  int64_t (*block_sums_size)(int64_t B);
};
