#include "csrc/pair_distance_huber.h"

#include "csrc/isa.h"
#include "kernels/cpu/pair_distance_huber.h"

namespace {

double loss(const PairTableViews& tables, const double* teacher_norms, const double* student_norms, int64_t B,
            double* block_sums, double* slopes, double* mean_slopes, double* scratch) {
  const PairTables x = {tables.teacher, tables.teacher_width, tables.student, tables.student_width};
  return pair_distance_huber(x, {teacher_norms, student_norms}, B, block_sums, slopes, mean_slopes, scratch);
}

int64_t scratch_size(int64_t teacher_width, int64_t student_width) {
  return pair_scratch(teacher_width, student_width, 2) + 2 * kPairBlock;
}

int64_t block_sums_size(int64_t B) { return 4 * pair_blocks(B); }

}  // namespace

extern "C" const PairDistanceHuberTable RANKDISTILL_TABLE(pair_distance_huber_table) = {
    loss,
    scratch_size,
    block_sums_size,
};
