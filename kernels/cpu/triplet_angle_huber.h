// loss = sum over anchors a, over ordered pairs i, k of huber(cos of the student's angle at a between i and k - cos of
// the teacher's), and its slopes by the student's rows. Per anchor: unit differences, then one sweep over pairs.
#pragma once
#include "kernels/cpu/huber.h"
#include "kernels/cpu/pair_tile.h"

namespace {

struct HuberOfCosines {
  double loss = 0;
  void operator()(const PairTile& tile) {
    double sums[kPairColumns] = {};
    for (int64_t r = 0; r < kPairRows; ++r) {
      const double counts = r < tile.rows ? 1 : 0;
      for (int c = 0; c < kPairColumns; ++c) {  // a column past the last is zero in both
        const int64_t at = r * kPairColumns + c;
        const double difference = counts * (tile.student[at] - tile.teacher[at]);
        sums[c] += huber(difference);
        tile.weights[0][at] = 2 * huber_slope(difference);  // every pair is met from both ends
      }
    }
    for (int c = 0; c < kPairColumns; ++c) loss += sums[c];
  }
};

// unit[i] = (x_i - x_a) / |x_i - x_a|, zeros where they coincide; returns 1 / the distance, or 0.
inline double unit_difference(const double* row, const double* anchor, int64_t width, double* unit) {
  double square = 0;
  for (int64_t d = 0; d < width; ++d) {
    unit[d] = row[d] - anchor[d];
    square += unit[d] * unit[d];
  }
  const double inverse = square == 0 ? 0 : 1 / __builtin_sqrt(square);
  for (int64_t d = 0; d < width; ++d) unit[d] *= inverse;
  return inverse;
}

struct AngleSpace {
  double* teacher;       // [B, teacher_width] unit differences
  double* student;       // [B, student_width]
  double* inverses;      // [B] of the student's distances to the anchor
  double* grads;         // [B, student_width]
  double* block_losses;  // one per block
  double* scratch;       // pair_scratch(..., 1) for each thread
};

// anchors [n_anchors] are rows. slopes [B, student_width] is null or zeroed.
double triplet_angle_huber(const PairTables& x, int64_t B, const int64_t* anchors, int64_t n_anchors, double* slopes,
                           const AngleSpace& space) {
  const int64_t width = x.student_width, stride = pair_scratch(x.teacher_width, width, 1);
  const int64_t blocks = (B + kPairBlock - 1) / kPairBlock;
  const PairTables units = {space.teacher, x.teacher_width, space.student, width};
  double loss = 0;
  for (int64_t n = 0; n < n_anchors; ++n) {
    const int64_t anchor = anchors[n];
    parallel_chunks(B, 256, [=](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        unit_difference(x.teacher + i * x.teacher_width, x.teacher + anchor * x.teacher_width, x.teacher_width,
                        space.teacher + i * x.teacher_width);
        space.inverses[i] =
            unit_difference(x.student + i * width, x.student + anchor * width, width, space.student + i * width);
      }
    });
    parallel_chunks(blocks, 1, [=](int64_t begin, int64_t end, int thread) {
      double* const own = space.scratch + thread * stride;
      for (int64_t block = begin; block < end; ++block) {
        const int64_t row = block * kPairBlock, rows = B - row < kPairBlock ? B - row : kPairBlock;
        HuberOfCosines point;
        if (slopes == nullptr) {
          sweep_pairs<0>(units, row, rows, 0, B, own, point);
        } else {
          sweep_pairs<1>(units, row, rows, 0, B, own, point);
          const double* const sums = weighted_sums(units, own, 0);
          for (int64_t r = 0; r < rows; ++r) {
            // Through the normalisation: (grad - unit (unit . grad)) / distance.
            const double* const unit = space.student + (row + r) * width;
            double along = 0;
            for (int64_t d = 0; d < width; ++d) along += unit[d] * sums[r * width + d];
            for (int64_t d = 0; d < width; ++d)
              space.grads[(row + r) * width + d] =
                  space.inverses[row + r] * (sums[r * width + d] - along * unit[d]);
          }
        }
        space.block_losses[block] = point.loss;
      }
    });
    for (int64_t block = 0; block < blocks; ++block) loss += space.block_losses[block];
    if (slopes == nullptr) continue;
    parallel_chunks(width, 8, [=](int64_t begin, int64_t end, int) {
      for (int64_t i = 0; i < B; ++i)
        for (int64_t d = begin; d < end; ++d) {
          slopes[i * width + d] += space.grads[i * width + d];
          slopes[anchor * width + d] -= space.grads[i * width + d];
        }
    });
  }
  return loss;
}

}  // namespace
