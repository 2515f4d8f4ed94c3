// loss = sum over anchors a, over ordered pairs i, k of huber(cos of the student's angle at a between i and k - cos of
// the teacher's), and its slopes by the student's rows. Per anchor: unit differences, then one sweep over pairs.
#pragma once
#include "kernels/cpu/huber.h"
#include "kernels/cpu/pair_tile.h"

namespace {

template <class T>
struct HuberOfCosines {
  typedef Vector<T, kLanes<T>> V;
  double loss = 0;
  void operator()(const PairTile<T>& tile) {
    V sum = {};
    for (int64_t r = 0; r < kPairRows; ++r) {
      const V counts = splat<V>(r < tile.rows ? T(1) : T(0));
      for (int64_t at = r * kPairColumns<T>; at < (r + 1) * kPairColumns<T>; at += kLanes<T>) {
        // A column past the last is zero in both.
        const V difference = counts * (load<V>(tile.student + at) - load<V>(tile.teacher + at));
        const V slope = huber_slope<V, T>(difference);
        sum += huber<V, T>(difference, slope);
        store(tile.weights[0] + at, slope + slope);  // every pair is met from both ends
      }
    }
    loss += sum_lanes<T, kLanes<T>>(sum);
  }
};

// unit[i] = (x_i - x_a) / |x_i - x_a|, zeros where they coincide; returns 1 / the distance, or 0. width is of whole
// vectors.
template <class T>
inline double unit_difference(const double* row, const double* anchor, int64_t width, T* unit) {
  typedef Vector<double, kLanes<double>> V;
  V squares = {};
  for (int64_t d = 0; d < width; d += kLanes<double>) {
    const V difference = load<V>(row + d) - load<V>(anchor + d);
    squares += difference * difference;
  }
  const double square = sum_lanes<double, kLanes<double>>(squares);
  const double inverse = square == 0 ? 0 : 1 / __builtin_sqrt(square);
  for (int64_t d = 0; d < width; ++d) unit[d] = static_cast<T>((row[d] - anchor[d]) * inverse);
  return inverse;
}

template <class T>
struct AngleSpace {
  double* inverses;      // [B] of the student's distances to the anchor
  double* grads;         // [B, student_width]
  double* block_losses;  // one per block
  T* teacher;            // [B, teacher_width] unit differences
  T* student;            // [B, student_width]
  T* teacher_panels;     // panels_size(B, teacher_width)
  T* student_panels;     // panels_size(B, student_width)
  T* scratch;            // pair_scratch(..., 1) for each thread
};

// Rows of x have widths padded to 16. anchors [n_anchors] are rows. slopes [B, student_width] is null or zeroed.
template <class T>
double triplet_angle_huber(const PairTables<double>& x, int64_t B, const int64_t* anchors, int64_t n_anchors,
                           double* slopes, const AngleSpace<T>& space) {
  const int64_t width = x.student_width, stride = pair_scratch<T>(x.teacher_width, width, 1);
  const int64_t blocks = (B + kPairBlock - 1) / kPairBlock;
  const PairTables<T> units = {space.teacher,       x.teacher_width,      space.student, width,
                               space.teacher_panels, space.student_panels};
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
    pack_panels(units, B, space.teacher_panels, space.student_panels);
    parallel_chunks(blocks, 1, [=](int64_t begin, int64_t end, int thread) {
      T* const own = space.scratch + thread * stride;
      for (int64_t block = begin; block < end; ++block) {
        const int64_t row = block * kPairBlock, rows = B - row < kPairBlock ? B - row : kPairBlock;
        HuberOfCosines<T> point;
        sweep_pairs<1>(units, row, rows, 0, B, own, point);
        const T* const sums = weighted_sums(units, own, 0);
        for (int64_t r = 0; slopes != nullptr && r < rows; ++r) {
          // Through the normalisation: (grad - unit (unit . grad)) / distance.
          const T* const unit = space.student + (row + r) * width;
          double along = 0;
          for (int64_t d = 0; d < width; ++d) along += static_cast<double>(unit[d]) * sums[r * width + d];
          for (int64_t d = 0; d < width; ++d)
            space.grads[(row + r) * width + d] = space.inverses[row + r] * (sums[r * width + d] - along * unit[d]);
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
