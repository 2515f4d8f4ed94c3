// What a launch of the filter is given, as its kernels take it.
#pragma once
#include "csrc/cuda/launchers.h"
#include "kernels/cuda/score_filter.cuh"

namespace {

inline FilterRows filter_rows(const TopKFilter& f) {
  return {f.B, f.N, f.norms, f.thresholds, f.rounding, f.states, {f.indptr, f.indices}};
}

// The launcher knows the height of its tiles: user_tiles and tiles_per_unit are its to fill in.
inline FilterWork filter_work(const TopKFilter& f) {
  return {static_cast<const uint8_t*>(f.user_image), static_cast<const uint8_t*>(f.item_image),
          static_cast<const ItemTerms*>(f.terms), image_shape(f.D), tiles_of(f.N), 0, 0};
}

inline Survivors survivors_of(const TopKFilter& f) {
  return {static_cast<Survivor*>(f.survivors), f.counts, f.capacity};
}

}  // namespace
