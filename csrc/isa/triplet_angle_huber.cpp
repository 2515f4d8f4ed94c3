#include "csrc/triplet_angle_huber.h"

#include "csrc/isa.h"
#include "kernels/cpu/triplet_angle_huber.h"

namespace {

int64_t space_size(int64_t B, int64_t teacher_width, int64_t student_width) {
  return B * (teacher_width + 2 * student_width + 1) + (B + kPairBlock - 1) / kPairBlock;
}

double loss(const PairTableViews& tables, int64_t B, const int64_t* anchors, int64_t n_anchors, double* slopes,
            double* space) {
  const PairTables x = {tables.teacher, tables.teacher_width, tables.student, tables.student_width};
  AngleSpace parts;
  parts.teacher = space;
  parts.student = parts.teacher + B * x.teacher_width;
  parts.grads = parts.student + B * x.student_width;
  parts.inverses = parts.grads + B * x.student_width;
  parts.block_losses = parts.inverses + B;
  parts.scratch = space + space_size(B, x.teacher_width, x.student_width);
  return triplet_angle_huber(x, B, anchors, n_anchors, slopes, parts);
}

int64_t scratch_size(int64_t teacher_width, int64_t student_width) {
  return pair_scratch(teacher_width, student_width, 1);
}

}  // namespace

extern "C" const TripletAngleHuberTable RANKDISTILL_TABLE(triplet_angle_huber_table) = {
    loss,
    space_size,
    scratch_size,
};
