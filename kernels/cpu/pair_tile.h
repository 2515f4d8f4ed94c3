// Tiles of two relations at once: inner products between rows of a teacher's table and between rows of a student's,
// a function of both, and the sum of the student's rows weighted by it. Nothing of size B x B leaves the tile.
//
// T is the precision of products and weights (DESIGN.md RE-3). Rows are contiguous and a student's width is padded with
// zeros to whole vectors of any instruction set. A block of rows is swept by the thread that owns it, against all
// columns in order, so the bits do not depend on the number of threads.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"

namespace {

// What several sweeps share is kept out of line, and weights are summed where nobody wants slopes too: copies of sweeps are
// most of the compile time.

// Registers: 24 accumulators of 32 with AVX-512, 12 of 16 without.
#if defined(__AVX512F__)
constexpr int kPairRows = 12;
#else
constexpr int kPairRows = 6;
#endif
template <class T>
constexpr int kPairColumns = 2 * kLanes<T>;
template <class T>
constexpr int kPairTile = kPairRows * kPairColumns<T>;
// Rows of a block, whose vectors stay in the second-level cache while columns pass by; a multiple of kPairRows.
constexpr int64_t kPairBlock = 96;

template <class T>
struct PairTables {
  const T* teacher;
  int64_t teacher_width;
  const T* student;
  int64_t student_width;
  const T* teacher_panels = nullptr;  // by pack_panels; null: a sweep packs its columns itself
  const T* student_panels = nullptr;
};

// Numbers T of scratch that one thread needs for `Weights` weighted sums.
template <class T>
inline int64_t pair_scratch(int64_t teacher_width, int64_t student_width, int weights) {
  return (teacher_width + student_width) * kPairColumns<T> + weights * kPairBlock * student_width;
}

// panel [width][kPairColumns] from `count` rows; the other columns are zero.
template <class T>
__attribute__((noinline)) void pack_columns(const T* rows, int64_t count, int64_t width, T* panel) {
  for (int64_t c = 0; c < kPairColumns<T>; ++c)
    for (int64_t d = 0; d < width; ++d) panel[d * kPairColumns<T> + c] = c < count ? rows[c * width + d] : 0;
}

// tile[r][c] += sum over d of rows[r][d] * panel[d][c]; rows lie `stride` apart, a row past `count` repeats the last.
template <class T>
__attribute__((noinline)) void tile_products(const T* rows, int64_t stride, int64_t count, const T* panel, int64_t width, T* tile) {
  typedef Vector<T, kLanes<T>> V;
  V sums[kPairRows][2] = {};
  const T* row[kPairRows];
  for (int r = 0; r < kPairRows; ++r) row[r] = rows + (r < count ? r : count - 1) * stride;
  for (int64_t d = 0; d < width; ++d) {
    const V low = load<V>(panel), high = load<V>(panel + kLanes<T>);
    panel += kPairColumns<T>;
#pragma GCC unroll 12
    for (int r = 0; r < kPairRows; ++r) {
      const V x = splat<V>(row[r][d]);
      sums[r][0] += x * low;
      sums[r][1] += x * high;
    }
  }
  for (int r = 0; r < kPairRows; ++r) {
    store(tile + r * kPairColumns<T>, sums[r][0]);
    store(tile + r * kPairColumns<T> + kLanes<T>, sums[r][1]);
  }
}

template <int Vectors, class T>
inline void add_weighted(const T* weights, const T* columns, int64_t count, int64_t width, T* sums) {
  typedef Vector<T, kLanes<T>> V;
  V total[kPairRows][Vectors];
  for (int r = 0; r < kPairRows; ++r)
    for (int v = 0; v < Vectors; ++v) total[r][v] = load<V>(sums + r * width + v * kLanes<T>);
  for (int64_t c = 0; c < count; ++c) {
    V column[Vectors];
    for (int v = 0; v < Vectors; ++v) column[v] = load<V>(columns + c * width + v * kLanes<T>);
#pragma GCC unroll 12
    for (int r = 0; r < kPairRows; ++r) {
      const V weight = splat<V>(weights[r * kPairColumns<T> + c]);
      for (int v = 0; v < Vectors; ++v) total[r][v] += weight * column[v];
    }
  }
  for (int r = 0; r < kPairRows; ++r)
    for (int v = 0; v < Vectors; ++v) store(sums + r * width + v * kLanes<T>, total[r][v]);
}

// sums[r] += sum over c < count of weights[r][c] * columns[c], rows of `width` numbers.
template <class T>
__attribute__((noinline)) void add_weighted_columns(const T* weights, const T* columns, int64_t count, int64_t width,
                                                    T* sums) {
  int64_t d = 0;
  for (; d + 2 * kLanes<T> <= width; d += 2 * kLanes<T>) add_weighted<2>(weights, columns + d, count, width, sums + d);
  for (; d < width; d += kLanes<T>) add_weighted<1>(weights, columns + d, count, width, sums + d);
}

// One tile as a point function sees it. Entries past `rows` or `columns` must get weights of 0.
template <class T>
struct PairTile {
  int64_t row, rows, column, columns;  // the first of each, and how many are real
  const T* teacher;                    // [kPairRows][kPairColumns] inner products
  const T* student;
  T* weights[2];
};

// Numbers T of all panels of B columns.
template <class T>
inline int64_t panels_size(int64_t B, int64_t width) {
  return (B + kPairColumns<T> - 1) / kPairColumns<T> * kPairColumns<T> * width;
}

// The tables' columns in panels, so that blocks of rows need not pack them each for itself.
template <class T>
inline void pack_panels(const PairTables<T>& x, int64_t B, T* teacher_panels, T* student_panels) {
  parallel_chunks((B + kPairColumns<T> - 1) / kPairColumns<T>, 4, [=](int64_t begin, int64_t end, int) {
    for (int64_t j = begin * kPairColumns<T>; j < end * kPairColumns<T>; j += kPairColumns<T>) {
      const int64_t columns = B - j < kPairColumns<T> ? B - j : kPairColumns<T>;
      pack_columns(x.teacher + j * x.teacher_width, columns, x.teacher_width, teacher_panels + j * x.teacher_width);
      pack_columns(x.student + j * x.student_width, columns, x.student_width, student_panels + j * x.student_width);
    }
  });
}

// point(tile) for every tile of rows [row, row + rows) against columns [begin, end); rows <= kPairBlock. With panels
// begin is a multiple of kPairColumns, end one or the last.
// sums[w][r] = sum over columns j of weights[w][r][j] * student row j is left behind the panels: `weighted_sums`.
template <int Weights, class T, class Point>
inline void sweep_pairs(const PairTables<T>& x, int64_t row, int64_t rows, int64_t begin, int64_t end, T* scratch,
                        Point& point) {
  T* const own_panel = scratch;
  T* const own_student_panel = own_panel + x.teacher_width * kPairColumns<T>;
  T* const sums = own_student_panel + x.student_width * kPairColumns<T>;
  for (int64_t i = 0; i < Weights * kPairBlock * x.student_width; ++i) sums[i] = 0;
  T teacher[kPairTile<T>], student[kPairTile<T>], weights[2][kPairTile<T>];
  for (int64_t j = begin; j < end; j += kPairColumns<T>) {
    const int64_t columns = end - j < kPairColumns<T> ? end - j : kPairColumns<T>;
    const T* teacher_panel = x.teacher_panels + j * x.teacher_width;
    const T* student_panel = x.student_panels + j * x.student_width;
    if (x.teacher_panels == nullptr) {
      pack_columns(x.teacher + j * x.teacher_width, columns, x.teacher_width, own_panel);
      pack_columns(x.student + j * x.student_width, columns, x.student_width, own_student_panel);
      teacher_panel = own_panel;
      student_panel = own_student_panel;
    }
    for (int64_t i = 0; i < rows; i += kPairRows) {
      const int64_t count = rows - i < kPairRows ? rows - i : kPairRows;
      tile_products(x.teacher + (row + i) * x.teacher_width, x.teacher_width, count, teacher_panel, x.teacher_width,
                    teacher);
      tile_products(x.student + (row + i) * x.student_width, x.student_width, count, student_panel, x.student_width,
                    student);
      const PairTile<T> tile = {row + i, count, j, columns, teacher, student, {weights[0], weights[1]}};
      point(tile);
      for (int w = 0; w < Weights; ++w)
        add_weighted_columns(weights[w], x.student + j * x.student_width, columns, x.student_width,
                             sums + (w * kPairBlock + i) * x.student_width);
    }
  }
}

// The sums of weight `w` that sweep_pairs left: [kPairBlock][student_width].
template <class T>
inline const T* weighted_sums(const PairTables<T>& x, const T* scratch, int w) {
  return scratch + (x.teacher_width + x.student_width) * kPairColumns<T> + w * kPairBlock * x.student_width;
}

}  // namespace
