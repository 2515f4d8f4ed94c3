#include "csrc/pair_distance_huber.h"

#include "csrc/isa.h"
#include "kernels/cpu/pair_distance_huber.h"

namespace {

template <class T>
DistanceTables<T> tables(const PairDistanceViews& x, const DistanceRows<T>& teacher, const DistanceRows<T>& student) {
  return {{teacher.rows, teacher.width, student.rows, student.width},
          teacher.norms,
          student.norms,
          {x.teacher.rows, x.teacher.width, x.student.rows, x.student.width}};
}

DistanceTables<float> in_fp32(const PairDistanceViews& x) { return tables(x, x.single_teacher, x.single_student); }
DistanceTables<double> in_fp64(const PairDistanceViews& x) { return tables(x, x.teacher, x.student); }

static_assert(kPairColumns<float> <= kPairPadding, "tiles read the norms of columns past the last row");

double loss(const PairDistanceViews& x, int64_t B, double* block_sums, double* slopes, double* mean_slopes,
            double* panels, double* scratch) {
  double value = 0;
  if (x.single_teacher.rows == nullptr ||
      !pair_distance_huber(in_fp32(x), B, block_sums, slopes, mean_slopes, panels, scratch, &value))
    pair_distance_huber(in_fp64(x), B, block_sums, slopes, mean_slopes, panels, scratch, &value);
  return value;
}

int64_t scratch_size(const PairDistanceViews& x) {
  const int64_t single = x.single_teacher.rows == nullptr ? 0 : distance_scratch(in_fp32(x));
  const int64_t full = distance_scratch(in_fp64(x));
  return single > full ? single : full;
}

int64_t panels_size(const PairDistanceViews& x, int64_t B) {
  const int64_t full = panels_size<double>(B, x.teacher.width + x.student.width);
  const int64_t single = panels_size<float>(B, x.single_teacher.width + x.single_student.width);
  return single > full ? single : full;
}

int64_t block_sums_size(int64_t B) { return 5 * pair_blocks(B); }

}  // namespace

extern "C" const PairDistanceHuberTable RANKDISTILL_TABLE(pair_distance_huber_table) = {
    loss,
    panels_size,
    scratch_size,
    block_sums_size,
};
