#include "csrc/grouped_relation_distance.h"

#include "csrc/isa.h"
#include "kernels/cpu/grouped_relation_distance.h"

namespace {

double distance(const PairTableViews& tables, const int64_t* bounds, const int64_t* first_block, int64_t n_groups,
                bool positive_only, double* block_losses, double* slopes, double* scratch) {
  const PairTables<double> x = {tables.teacher, tables.teacher_width, tables.student, tables.student_width};
  return grouped_relation_distance(x, bounds, first_block, n_groups, positive_only, block_losses, slopes, scratch);
}

int64_t scratch_size(int64_t teacher_width, int64_t student_width) {
  return pair_scratch<double>(teacher_width, student_width, 1);
}

}  // namespace

extern "C" const GroupedRelationDistanceTable RANKDISTILL_TABLE(grouped_relation_distance_table) = {
    distance,
    scratch_size,
    kPairBlock,
};
