// loss = sum over groups, over pairs i, j of one group, of (t_i . t_j - s_i . s_j)^2, pairs with t_i . t_j > 0 only
// where asked, and its slopes by the student's rows. Rows are unit vectors, the rows of a group lie together.
#pragma once
#include "kernels/cpu/pair_tile.h"

namespace {

template <bool PositiveOnly>
struct SquaredDifference {
  double loss = 0;
  void operator()(const PairTile<double>& tile) {
    double sums[kPairColumns<double>] = {};
    for (int64_t r = 0; r < kPairRows; ++r) {
      const double* const t = tile.teacher + r * kPairColumns<double>;
      const double* const s = tile.student + r * kPairColumns<double>;
      double* const weight = tile.weights[0] + r * kPairColumns<double>;
      const double counts = r < tile.rows ? 1 : 0;
      for (int c = 0; c < kPairColumns<double>; ++c) {  // a column past the last is zero in both
        double difference = counts * (s[c] - t[c]);
        if (PositiveOnly) difference = t[c] > 0 ? difference : 0;
        sums[c] += difference * difference;
        weight[c] = 4 * difference;  // every pair is met from both ends
      }
    }
    for (int c = 0; c < kPairColumns<double>; ++c) loss += sums[c];
  }
};

// The group of a block, given the first block of each group.
inline int64_t group_of(const int64_t* first_block, int64_t n_groups, int64_t block) {
  int64_t low = 0, high = n_groups - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) >> 1;
    if (first_block[middle] <= block) low = middle;
    else high = middle - 1;
  }
  return low;
}

template <bool PositiveOnly>
void swept_groups(const PairTables<double>& x, const int64_t* bounds, const int64_t* first_block, int64_t n_groups,
                  double* block_losses, double* slopes, double* scratch) {
  const int64_t stride = pair_scratch<double>(x.teacher_width, x.student_width, 1);
  const int64_t work = kPairBlock * (x.teacher_width + 2 * x.student_width);
  parallel_chunks(first_block[n_groups], 1 + 65536 / (work + 1), [=](int64_t begin, int64_t end, int thread) {
    double* const own = scratch + thread * stride;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t g = group_of(first_block, n_groups, block);
      const int64_t first = bounds[2 * g], end_of_group = bounds[2 * g + 1];
      const int64_t row = first + (block - first_block[g]) * kPairBlock;
      const int64_t rows = end_of_group - row < kPairBlock ? end_of_group - row : kPairBlock;
      SquaredDifference<PositiveOnly> point;
      sweep_pairs<1>(x, row, rows, first, end_of_group, own, point);
      block_losses[block] = point.loss;
      if (slopes == nullptr) continue;
      const double* const sums = weighted_sums(x, own, 0);
      for (int64_t i = 0; i < rows * x.student_width; ++i) slopes[row * x.student_width + i] = sums[i];
    }
  });
}

// bounds [n_groups, 2] are each group's rows, first_block [n_groups + 1] the first block of kPairBlock rows of each.
// slopes may be null; rows of no group are left as they are. scratch: pair_scratch<double>(..., 1) for each thread.
double grouped_relation_distance(const PairTables<double>& x, const int64_t* bounds, const int64_t* first_block,
                                 int64_t n_groups, bool positive_only, double* block_losses, double* slopes,
                                 double* scratch) {
  if (positive_only) swept_groups<true>(x, bounds, first_block, n_groups, block_losses, slopes, scratch);
  else swept_groups<false>(x, bounds, first_block, n_groups, block_losses, slopes, scratch);
  double loss = 0;
  for (int64_t block = 0; block < first_block[n_groups]; ++block) loss += block_losses[block];
  return loss;
}

}  // namespace
