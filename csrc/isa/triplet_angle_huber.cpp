#include "csrc/triplet_angle_huber.h"

#include "csrc/isa.h"
#include "kernels/cpu/triplet_angle_huber.h"

namespace {

// Enough for either precision.
int64_t space_size(int64_t B, int64_t teacher_width, int64_t student_width, int64_t threads) {
  return B * (teacher_width + 2 * student_width + 1) + (B + kPairBlock - 1) / kPairBlock +
         panels_size<float>(B, teacher_width + student_width) +
         threads * pair_scratch<float>(teacher_width, student_width, 1);
}

template <class T>
double loss_in(const PairTableViews& tables, int64_t B, const int64_t* anchors, int64_t n_anchors, double* slopes,
               double* space) {
  const PairTables<double> x = {tables.teacher, tables.teacher_width, tables.student, tables.student_width};
  AngleSpace<T> parts;
  parts.inverses = space;
  parts.grads = parts.inverses + B;
  parts.block_losses = parts.grads + B * x.student_width;
  parts.teacher = reinterpret_cast<T*>(parts.block_losses + (B + kPairBlock - 1) / kPairBlock);
  parts.student = parts.teacher + B * x.teacher_width;
  parts.teacher_panels = parts.student + B * x.student_width;
  parts.student_panels = parts.teacher_panels + panels_size<T>(B, x.teacher_width);
  parts.scratch = parts.student_panels + panels_size<T>(B, x.student_width);
  return triplet_angle_huber(x, B, anchors, n_anchors, slopes, parts);
}

double loss(const PairTableViews& tables, int64_t B, const int64_t* anchors, int64_t n_anchors, bool single,
            double* slopes, double* space) {
  return single ? loss_in<float>(tables, B, anchors, n_anchors, slopes, space)
                : loss_in<double>(tables, B, anchors, n_anchors, slopes, space);
}

}  // namespace

extern "C" const TripletAngleHuberTable RANKDISTILL_TABLE(triplet_angle_huber_table) = {
    loss,
    space_size,
};
