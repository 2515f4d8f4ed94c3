// loss = sum over ordered pairs i, j of huber(|s_i - s_j| / mean_s - |t_i - t_j| / mean_t), means over the distances
// that are not 0, and its slopes by the student's rows. Two sweeps: the means, then the rest (DESIGN.md RE-4).
#pragma once
#include "kernels/cpu/huber.h"
#include "kernels/cpu/pair_tile.h"

namespace {

// Below this share of the squared norms a squared distance has lost digits and is summed again from differences.
constexpr double kCancelled = 1e-4;

inline double squared_distance(const double* x, const double* y, int64_t width) {
  PairVector sum = {};
  for (int64_t d = 0; d < width; d += kPairLanes) {
    const PairVector difference = load<PairVector>(x + d) - load<PairVector>(y + d);
    sum += difference * difference;
  }
  return sum_lanes<double, kPairLanes>(sum);
}

// distances[kPairTile] from inner products; entries past the tile's rows and columns are 0.
inline void tile_distances(const PairTile& tile, const double* products, const double* table, int64_t width,
                           const double* norms, double* distances) {
  for (int64_t r = 0; r < kPairRows; ++r) {
    double* const out = distances + r * kPairColumns;
    if (r >= tile.rows) {
      for (int c = 0; c < kPairColumns; ++c) out[c] = 0;
      continue;
    }
    const double norm = norms[tile.row + r];
    bool cancelled = false;
    for (int64_t c = 0; c < tile.columns; ++c) {
      const double both = norm + norms[tile.column + c];
      const double square = both - 2 * products[r * kPairColumns + c];
      cancelled |= square < kCancelled * both;
      out[c] = __builtin_sqrt(square > 0 ? square : square != square ? square : 0);
    }
    for (int64_t c = tile.columns; c < kPairColumns; ++c) out[c] = 0;
    if (!cancelled) continue;
    for (int64_t c = 0; c < tile.columns; ++c)
      if (out[c] * out[c] < kCancelled * (norm + norms[tile.column + c]))
        out[c] = __builtin_sqrt(
            squared_distance(table + (tile.row + r) * width, table + (tile.column + c) * width, width));
  }
}

struct DistanceSums { double teacher, teacher_count, student, student_count; };

struct PairNorms { const double* teacher; const double* student; };

// Of the pairs i < j.
struct SummedDistances {
  const PairTables& x;
  const PairNorms& norms;
  DistanceSums sums = {0, 0, 0, 0};
  void operator()(const PairTile& tile) {
    double distances[kPairTile];
    tile_distances(tile, tile.teacher, x.teacher, x.teacher_width, norms.teacher, distances);
    add(tile, distances, &sums.teacher, &sums.teacher_count);
    tile_distances(tile, tile.student, x.student, x.student_width, norms.student, distances);
    add(tile, distances, &sums.student, &sums.student_count);
  }
  static void add(const PairTile& tile, const double* distances, double* sum, double* count) {
    for (int64_t r = 0; r < tile.rows; ++r) {
      double row = 0, positive = 0;
      for (int64_t c = 0; c < kPairColumns; ++c) {
        const double d = tile.column + c > tile.row + r ? distances[r * kPairColumns + c] : 0;
        row += d;
        positive += d != 0 ? 1 : 0;
      }
      *sum += row;
      *count += positive;
    }
  }
};

template <bool Slopes>
struct HuberOfDistances {
  const PairTables& x;
  const PairNorms& norms;
  double teacher_scale, student_scale;      // 1 / mean, 0 where every distance is 0
  double* totals[2];                        // [kPairBlock] sums of each weight
  int64_t first_row;
  double loss = 0, moment = 0;              // sum of huber, and of its derivative times the student's distance
  void operator()(const PairTile& tile) {
    double teacher[kPairTile], student[kPairTile];
    tile_distances(tile, tile.teacher, x.teacher, x.teacher_width, norms.teacher, teacher);
    tile_distances(tile, tile.student, x.student, x.student_width, norms.student, student);
    for (int64_t r = 0; r < kPairRows; ++r) {
      double losses[kPairColumns], moments[kPairColumns];
      double* const bend = tile.weights[0] + r * kPairColumns;
      double* const mean = tile.weights[1] + r * kPairColumns;
      for (int c = 0; c < kPairColumns; ++c) {
        const double d = student[r * kPairColumns + c];
        const double difference = d * student_scale - teacher[r * kPairColumns + c] * teacher_scale;
        losses[c] = huber(difference);
        const double slope = huber_slope(difference);
        moments[c] = slope * d;
        const double inverse = d > 0 ? 1 / d : 0;
        bend[c] = slope * inverse;
        mean[c] = inverse;
      }
      double bends = 0, means = 0;
      for (int c = 0; c < kPairColumns; ++c) {
        loss += losses[c];
        moment += moments[c];
        bends += bend[c];
        means += mean[c];
      }
      if (Slopes && r < tile.rows) {
        totals[0][tile.row + r - first_row] += bends;
        totals[1][tile.row + r - first_row] += means;
      }
    }
  }
};

inline int64_t pair_blocks(int64_t B) { return (B + kPairBlock - 1) / kPairBlock; }

// The reciprocal of a mean over `count` distances; 0 where there is none, NaN where one is NaN.
inline double reciprocal_mean(double sum, double count) { return sum == 0 ? 0 : count / sum; }

template <bool Slopes>
double swept_distances(const PairTables& x, const PairNorms& norms, int64_t B, const DistanceSums& sums,
                       double* block_sums, double* slopes, double* mean_slopes, double* scratch) {
  const double teacher_scale = reciprocal_mean(sums.teacher, sums.teacher_count);
  const double student_scale = reciprocal_mean(sums.student, sums.student_count);
  const int64_t stride = pair_scratch(x.teacher_width, x.student_width, 2) + 2 * kPairBlock;
  parallel_chunks(pair_blocks(B), 1, [=](int64_t begin, int64_t end, int thread) {
    double* const totals = scratch + thread * stride;
    double* const own = totals + 2 * kPairBlock;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t row = block * kPairBlock, rows = B - row < kPairBlock ? B - row : kPairBlock;
      for (int64_t i = 0; i < 2 * kPairBlock; ++i) totals[i] = 0;
      HuberOfDistances<Slopes> point = {x, norms, teacher_scale, student_scale, {totals, totals + kPairBlock}, row};
      sweep_pairs<Slopes ? 2 : 0>(x, row, rows, 0, B, own, point);
      block_sums[2 * block] = point.loss;
      block_sums[2 * block + 1] = point.moment;
      if (!Slopes) continue;
      for (int w = 0; w < 2; ++w) {
        double* const out = (w ? mean_slopes : slopes) + row * x.student_width;
        const double* const weighted = weighted_sums(x, own, w);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t d = 0; d < x.student_width; ++d)
            out[r * x.student_width + d] = totals[w * kPairBlock + r] * x.student[(row + r) * x.student_width + d] -
                                           weighted[r * x.student_width + d];
      }
    }
  });
  double loss = 0, moment = 0;
  for (int64_t block = 0; block < pair_blocks(B); ++block) {
    loss += block_sums[2 * block];
    moment += block_sums[2 * block + 1];
  }
  if (Slopes) {
    // By the distances, 2 huber'/mean; by the mean, which is itself one over the distances, the rest.
    const double direct = 2 * student_scale;
    const double through_mean = sums.student == 0 ? 0 : moment * student_scale * student_scale / sums.student_count;
    for (int64_t i = 0; i < B * x.student_width; ++i) slopes[i] = direct * slopes[i] - through_mean * mean_slopes[i];
  }
  return loss;
}

// norms are the rows' squared lengths. block_sums: 4 * pair_blocks(B). slopes and mean_slopes [B, student_width] are
// null where no gradient is wanted. scratch: pair_scratch(..., 2) + 2 * kPairBlock for each thread.
double pair_distance_huber(const PairTables& x, const PairNorms& norms, int64_t B, double* block_sums, double* slopes,
                           double* mean_slopes, double* scratch) {
  const int64_t stride = pair_scratch(x.teacher_width, x.student_width, 2) + 2 * kPairBlock;
  parallel_chunks(pair_blocks(B), 1, [=](int64_t begin, int64_t end, int thread) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      // Pairs i < j: a block has the less to do the later it comes, so early and late ones alternate.
      const int64_t block = chunk % 2 ? pair_blocks(B) - 1 - chunk / 2 : chunk / 2;
      const int64_t row = block * kPairBlock, rows = B - row < kPairBlock ? B - row : kPairBlock;
      SummedDistances point = {x, norms};
      sweep_pairs<0>(x, row, rows, row, B, scratch + thread * stride, point);
      double* const out = block_sums + 4 * block;
      out[0] = point.sums.teacher;
      out[1] = point.sums.teacher_count;
      out[2] = point.sums.student;
      out[3] = point.sums.student_count;
    }
  });
  DistanceSums sums = {0, 0, 0, 0};
  for (int64_t block = 0; block < pair_blocks(B); ++block) {
    sums.teacher += block_sums[4 * block];
    sums.teacher_count += block_sums[4 * block + 1];
    sums.student += block_sums[4 * block + 2];
    sums.student_count += block_sums[4 * block + 3];
  }
  if (slopes != nullptr) return swept_distances<true>(x, norms, B, sums, block_sums, slopes, mean_slopes, scratch);
  return swept_distances<false>(x, norms, B, sums, block_sums, slopes, mean_slopes, scratch);
}

}  // namespace
