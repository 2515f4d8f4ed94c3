// Which rows of a table a list of ids names, and the sums of what belongs to each: gradients of touched rows alone.
//
// Sums run in the order of the list, those of more than kPiece rows by way of the sums of kPiece each, which are added up
// in fp64: in one chain the roundings of thousands of rows add up. So they have the same bits for any number of threads, and the same as those that a
// dense gradient gets.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/storage.h"

namespace {

// Lanes of the short vectors that take what the full ones leave.
template <class Acc>
constexpr int kShortLanes = kLanes<Acc> >= 8 ? kLanes<Acc> / 4 : kLanes<Acc>;

// y += scale * x
template <class Storage, class Acc>
inline void add_scaled(Acc* y, Acc scale, const Storage* x, int64_t width) {
  int64_t d = 0;
  if constexpr (sizeof(Storage) == sizeof(Acc)) {
    constexpr int W = kLanes<Acc>, Q = kShortLanes<Acc>;
    typedef Vector<Acc, W> V;
    typedef Vector<Acc, Q> VQ;
    for (; d + W <= width; d += W) store(y + d, load<V>(y + d) + scale * load<V>(x + d));
    for (; d + Q <= width; d += Q) store(y + d, load<VQ>(y + d) + scale * load<VQ>(x + d));
  }
  for (; d < width; ++d) y[d] += scale * static_cast<Acc>(widen(x[d]));
}

constexpr int kDigitBits = 11;

inline int bits_below(int64_t count) {
  int bits = 0;
  while (bits < 63 && (static_cast<int64_t>(1) << bits) < count) ++bits;
  return bits;
}

// Whether ids below N and positions below count fit one 64-bit key together.
inline bool touched_rows_fit(int64_t count, int64_t N) { return bits_below(count) + bits_below(N) <= 64; }

// ids [count] in [-1, N), -1 for none. Writes the positions of all others to `order`, by id and then ascending, the
// distinct ids to `touched`, ascending, and to `starts` where each one's positions begin in `order`, with their number
// at the end (count + 1 entries of room). `keys` is scratch of 2·count. Returns how many are distinct.
inline int64_t touched_rows(const int64_t* ids, int64_t count, int64_t N, uint64_t* keys, int64_t* order, int64_t* touched,
                     int64_t* starts) {
  const int position_bits = bits_below(count), id_bits = bits_below(N);
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] >= 0) keys[kept++] = static_cast<uint64_t>(ids[i]) << position_bits | static_cast<uint64_t>(i);
  // A radix sort by the id's digits alone: positions ascend already, and every pass is stable.
  const int passes = (id_bits + kDigitBits - 1) / kDigitBits;
  const int width = passes ? (id_bits + passes - 1) / passes : 0;
  uint64_t *from = keys, *to = keys + count;
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = position_bits + pass * width;
    const uint64_t mask = (static_cast<uint64_t>(1) << width) - 1;
    int64_t next[1 << kDigitBits] = {};
    for (int64_t i = 0; i < kept; ++i) ++next[from[i] >> shift & mask];
    int64_t total = 0;
    for (uint64_t digit = 0; digit <= mask; ++digit) {
      const int64_t here = next[digit];
      next[digit] = total;
      total += here;
    }
    for (int64_t i = 0; i < kept; ++i) to[next[from[i] >> shift & mask]++] = from[i];
    uint64_t* const swapped = from;
    from = to;
    to = swapped;
  }
  const uint64_t position_mask = (static_cast<uint64_t>(1) << position_bits) - 1;
  int64_t distinct = 0;
  for (int64_t i = 0; i < kept; ++i) {
    const int64_t id = static_cast<int64_t>(from[i] >> position_bits);
    order[i] = static_cast<int64_t>(from[i] & position_mask);
    if (distinct == 0 || touched[distinct - 1] != id) {
      touched[distinct] = id;
      starts[distinct++] = i;
    }
  }
  starts[distinct] = kept;
  return distinct;
}

constexpr int64_t kPiece = 32;
constexpr int64_t kPieceColumns = 256;

template <class Acc>
inline void add_widened(double* sum, const Acc* row, int64_t D) {
  for (int64_t d = 0; d < D; ++d) sum[d] += static_cast<double>(row[d]);
}

// sum [D] = what `add` (to, i, first column, columns) adds for each i in [begin, end).
template <class Acc, class Add>
inline void sum_in_pieces(Acc* sum, int64_t begin, int64_t end, int64_t D, const Add& add) {
  for (int64_t d = 0; d < D; ++d) sum[d] = 0;
  if (end - begin <= kPiece) {
    for (int64_t i = begin; i < end; ++i) add(sum, i, 0, D);
    return;
  }
  for (int64_t column = 0; column < D; column += kPieceColumns) {
    const int64_t columns = D - column < kPieceColumns ? D - column : kPieceColumns;
    double whole[kPieceColumns];
    for (int64_t d = 0; d < columns; ++d) whole[d] = 0;
    for (int64_t first = begin; first < end; first += kPiece) {
      const int64_t last = first + kPiece < end ? first + kPiece : end;
      Acc piece[kPieceColumns];
      for (int64_t d = 0; d < columns; ++d) piece[d] = 0;
      for (int64_t i = first; i < last; ++i) add(piece, i, column, columns);
      add_widened(whole, piece, columns);
    }
    for (int64_t d = 0; d < columns; ++d) sum[column + d] = static_cast<Acc>(whole[d]);
  }
}

// The same sums where ids come in any order: of more than kPiece rows the table holds the piece that grows, and the sum
// of those before lies beside it, so that most additions touch one place.
// counts [N] zeros; before [runs][D] and filled [runs] for min(N, listed / (kPiece + 1)) runs; used 0.
struct LongRuns {
  int32_t* counts;  // of an id's rows, to kPiece + 1; -1 - run where they are more than kPiece
  double* before;
  int32_t *filled, *used;
};

template <class Acc>
struct TableSums {
  LongRuns runs;
  Acc* sums;  // [N, D]
  int64_t D;

  double* before(int64_t run) const { return runs.before + run * D; }

  // Of ids in [begin, end), which is one thread's part.
  void count(const int64_t* ids, int64_t listed, int64_t begin, int64_t end) const {
    if (listed <= kPiece) return;
    for (int64_t i = 0; i < listed; ++i)
      if (ids[i] >= begin && ids[i] < end) runs.counts[ids[i]] += runs.counts[ids[i]] <= kPiece;
    for (int64_t id = begin; id < end; ++id) {
      if (runs.counts[id] <= kPiece) continue;
      const int32_t run = __atomic_fetch_add(runs.used, 1, __ATOMIC_RELAXED);
      runs.counts[id] = -1 - run;
      runs.filled[run] = 0;
      for (int64_t d = 0; d < D; ++d) before(run)[d] = 0;
    }
  }

  // The next row of an id; of scale 0 it adds nothing.
  template <class Storage>
  void add(int64_t id, Acc scale, const Storage* row) const {
    Acc* const sum = sums + id * D;
    const int32_t run = -1 - runs.counts[id];
    if (scale != 0) add_scaled(sum, scale, row, D);
    if (run < 0) return;
    if (++runs.filled[run] < kPiece) return;
    add_widened(before(run), sum, D);
    for (int64_t d = 0; d < D; ++d) sum[d] = 0;
    runs.filled[run] = 0;
  }

  void finish_all(int64_t listed, int64_t begin, int64_t end) const {
    for (int64_t id = begin; id < end && listed > kPiece; ++id) {
      if (runs.counts[id] >= 0) continue;
      double* const whole = before(-1 - runs.counts[id]);
      add_widened(whole, sums + id * D, D);
      for (int64_t d = 0; d < D; ++d) sums[id * D + d] = static_cast<Acc>(whole[d]);
    }
  }
};

// sums [M, D]: the rows of each touched id added up.
template <class Storage>
void sum_touched_rows(const Storage* rows, const int64_t* order, const int64_t* starts,
                      typename Accumulator<Storage>::type* sums, int64_t M, int64_t D) {
  typedef typename Accumulator<Storage>::type Acc;
  parallel_chunks(M, 1 + 16384 / (D + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m)
      sum_in_pieces(sums + m * D, starts[m], starts[m + 1], D, [=](Acc* to, int64_t i, int64_t d, int64_t columns) {
        add_scaled(to, static_cast<Acc>(1), rows + order[i] * D + d, columns);
      });
  });
}

}  // namespace
