// Register tiles of matrix products: out[r][c] = sum over k, in order, of left[r][k] * right[k][c], columns in lanes.
#pragma once
#include "kernels/cpu/item_panel.h"

namespace {

// left[r][k] at left[r * RowStride + k * StepStride]: strides the compiler knows are displacements, not registers.
template <int Rows, int Vectors, int RowStride, int StepStride, bool Add, class T>
__attribute__((noinline)) void product_tile(const T* left, const T* right, int64_t right_stride, int64_t steps, T* out,
                                            int64_t out_stride) {
  typedef Lanes<T> V;
  constexpr int W = kLanes<T>;
  V sums[Rows][Vectors];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) sums[r][v] = V{};  // an initialiser would be a memset
  for (int64_t k = 0; k < steps; ++k) {
    V columns[Vectors];
    for (int v = 0; v < Vectors; ++v) columns[v] = load<V>(right + v * W);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const V row = splat<V>(left[r * RowStride]);
      for (int v = 0; v < Vectors; ++v) sums[r][v] += row * columns[v];
    }
    left += StepStride;
    right += right_stride;
  }
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) {
      T* const to = out + r * out_stride + v * W;
      store(to, Add ? load<V>(to) + sums[r][v] : sums[r][v]);
    }
}

// out[Rows][width] += left * right, `width` a multiple of a vector.
template <int Rows, int RowStride, int StepStride, class T>
inline void add_product_rows(const T* left, const T* right, int64_t stride, int64_t steps, int64_t width, T* out) {
  constexpr int W = kLanes<T>;
  int64_t c = 0;
  for (; c + 2 * W <= width; c += 2 * W)
    product_tile<Rows, 2, RowStride, StepStride, true>(left, right + c, stride, steps, out + c, stride);
  if (c < width) product_tile<Rows, 1, RowStride, StepStride, true>(left, right + c, stride, steps, out + c, stride);
}

}  // namespace
