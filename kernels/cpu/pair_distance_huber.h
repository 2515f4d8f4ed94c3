// loss = sum over ordered pairs i, j of huber(|s_i - s_j| / mean_s - |t_i - t_j| / mean_t), means over the distances
// that are not 0, and its slopes by the student's rows. Two sweeps: the means, then the rest (DESIGN.md RE-4).
#pragma once
#include "kernels/cpu/huber.h"
#include "kernels/cpu/pair_tile.h"

namespace {

// Rows as the tiles multiply them, in T, and exactly, for pairs of which a distance cancels in T.
template <class T>
struct DistanceTables {
  PairTables<T> tiles;
  const T* teacher_norms;  // squared lengths of the rows, then kPairColumns zeros
  const T* student_norms;
  PairTables<double> exact;  // widths padded to 8
};

// A squared distance of at most this share of both squared lengths has lost digits in inner products.
template <class T>
constexpr T kCancelled = sizeof(T) == sizeof(double) ? T(1e-4) : T(1) / 64;

// Columns after which sums in T are added to sums in fp64.
template <class T>
constexpr int64_t kPairSpan = sizeof(T) == sizeof(double) ? int64_t(1) << 62 : 512;

// Of two rows in fp64; width is of whole vectors.
inline double distance(const double* x, const double* y, int64_t width) {
  typedef Vector<double, kLanes<double>> V;
  V sum = {};
  for (int64_t d = 0; d < width; d += kLanes<double>) {
    const V difference = load<V>(x + d) - load<V>(y + d);
    sum += difference * difference;
  }
  return __builtin_sqrt(sum_lanes<double, kLanes<double>>(sum));
}

// distances[kPairTile] from inner products; entries past the tile's rows and columns are 0. Whether one cancelled.
template <class T>
__attribute__((noinline)) bool tile_distances(const PairTile<T>& tile, const T* products, const T* norms,
                                              T* distances) {
  int cancelled = 0;
  for (int64_t r = 0; r < kPairRows; ++r) {
    T* const out = distances + r * kPairColumns<T>;
    const T* const row = products + r * kPairColumns<T>;
    const T norm = norms[tile.row + (r < tile.rows ? r : 0)];
    for (int c = 0; c < kPairColumns<T>; ++c) {
      const T both = norm + norms[tile.column + c], square = both - 2 * row[c];
      cancelled |= square <= kCancelled<T> * both;
      out[c] = __builtin_sqrt(square);
    }
    for (int64_t c = r < tile.rows ? tile.columns : 0; c < kPairColumns<T>; ++c) out[c] = 0;
  }
  return cancelled;
}

// pair(i, j, teacher's distance, student's), in fp64 from differences, for every pair of the tile of which one of both
// cancelled. In the tile such pairs become 0, which adds nothing to any sum.
template <class T, class Pair>
__attribute__((noinline)) void take_cancelled(const DistanceTables<T>& x, const PairTile<T>& tile, T* teacher,
                                              T* student, const Pair& pair) {
  for (int64_t r = 0; r < tile.rows; ++r)
    for (int64_t c = 0; c < tile.columns; ++c) {
      const int64_t at = r * kPairColumns<T> + c, i = tile.row + r, j = tile.column + c;
      const T t = x.teacher_norms[i] + x.teacher_norms[j], s = x.student_norms[i] + x.student_norms[j];
      if (!(t - 2 * tile.teacher[at] <= kCancelled<T> * t || s - 2 * tile.student[at] <= kCancelled<T> * s)) continue;
      teacher[at] = student[at] = i == j ? (t + s) * T{} : T{};  // of a row that is not finite: NaN
      if (i == j) continue;
      const int64_t t_width = x.exact.teacher_width, s_width = x.exact.student_width;
      pair(i, j, distance(x.exact.teacher + i * t_width, x.exact.teacher + j * t_width, t_width),
           distance(x.exact.student + i * s_width, x.exact.student + j * s_width, s_width));
    }
}

struct DistanceSums {
  double teacher, teacher_count, student, student_count;
  double cancelled;  // pairs
};

// Of the pairs i < j.
template <class T>
struct SummedDistances {
  const DistanceTables<T>& x;
  DistanceSums sums = {0, 0, 0, 0, 0};
  __attribute__((noinline)) void operator()(const PairTile<T>& tile) {
    T teacher[kPairTile<T>], student[kPairTile<T>];
    const bool lost = tile_distances(tile, tile.teacher, x.teacher_norms, teacher);
    if (tile_distances(tile, tile.student, x.student_norms, student) || lost)
      take_cancelled(x, tile, teacher, student, [&](int64_t i, int64_t j, double t, double s) {
        if (j < i) return;
        sums.teacher += t;
        sums.teacher_count += t != 0;
        sums.student += s;
        sums.student_count += s != 0;
        sums.cancelled += 1;
      });
    add(tile, teacher, &sums.teacher, &sums.teacher_count);
    add(tile, student, &sums.student, &sums.student_count);
  }
  static void add(const PairTile<T>& tile, const T* distances, double* sum, double* count) {
    T total[kPairColumns<T>] = {}, positive[kPairColumns<T>] = {};
    for (int64_t r = 0; r < tile.rows; ++r)
      for (int c = 0; c < kPairColumns<T>; ++c) {
        const T d = tile.column + c > tile.row + r ? distances[r * kPairColumns<T> + c] : 0;
        total[c] += d;
        positive[c] += d != 0 ? T(1) : T(0);
      }
    for (int c = 0; c < kPairColumns<T>; ++c) {
      *sum += total[c];
      *count += positive[c];
    }
  }
};

// What a block's rows gather: sums of the weights, and of the student's rows weighted by them, of both weights.
struct BlockSums {
  double* totals[2];    // [kPairBlock]
  double* weighted[2];  // [kPairBlock][exact student_width]
};

template <class T>
struct HuberOfDistances {
  typedef Vector<T, kLanes<T>> V;
  const DistanceTables<T>& x;
  double teacher_scale, student_scale;  // 1 / mean, 0 where every distance is 0
  int64_t first_row;
  BlockSums sums;
  T* lanes[2];                  // [kPairBlock][kLanes] sums of each weight in the span
  double loss = 0, moment = 0;  // sum of huber, and of its derivative times the student's distance

  __attribute__((noinline)) void operator()(const PairTile<T>& tile) {
    T teacher[kPairTile<T>], student[kPairTile<T>];
    const bool lost = tile_distances(tile, tile.teacher, x.teacher_norms, teacher);
    if (tile_distances(tile, tile.student, x.student_norms, student) || lost)
      take_cancelled(x, tile, teacher, student,
                     [this](int64_t i, int64_t j, double t, double s) { add_pair(i, j, t, s); });
    const V zero = {}, one = splat<V>(T(1));
    const V by_teacher = splat<V>(static_cast<T>(teacher_scale)), by_student = splat<V>(static_cast<T>(student_scale));
    V losses = {}, moments = {};
    for (int64_t r = 0; r < kPairRows; ++r) {
      V bends = {}, means = {};
      for (int64_t at = r * kPairColumns<T>; at < (r + 1) * kPairColumns<T>; at += kLanes<T>) {
        const V d = load<V>(student + at), difference = d * by_student - load<V>(teacher + at) * by_teacher;
        const V slope = huber_slope<V, T>(difference);
        losses += huber<V, T>(difference, slope);
        moments += slope * d;
        const V inverse = d > zero ? one / d : zero, bend = slope * inverse;
        store(tile.weights[0] + at, bend);
        store(tile.weights[1] + at, inverse);
        bends += bend;
        means += inverse;
      }
      const int64_t row = (tile.row - first_row + r) * kLanes<T>;
      store(lanes[0] + row, load<V>(lanes[0] + row) + bends);
      store(lanes[1] + row, load<V>(lanes[1] + row) + means);
    }
    loss += sum_lanes<T, kLanes<T>>(losses);
    moment += sum_lanes<T, kLanes<T>>(moments);
  }

  void add_pair(int64_t i, int64_t j, double teacher, double student) {
    const double difference = student * student_scale - teacher * teacher_scale;
    const double slope = huber_slope<double, double>(difference);
    loss += huber<double, double>(difference, slope);
    moment += slope * student;
    if (student == 0) return;
    const int64_t width = x.exact.student_width;
    const double weights[2] = {slope / student, 1 / student};
    const double* const own = x.exact.student + i * width;
    const double* const other = x.exact.student + j * width;
    for (int w = 0; w < 2; ++w) {
      double* const out = sums.weighted[w] + (i - first_row) * width;
      for (int64_t d = 0; d < width; ++d) out[d] -= weights[w] * (own[d] - other[d]);
    }
  }

  // A span's sums in T go to those in fp64.
  void end_span(int64_t rows, const T* scratch) {
    const int64_t width = x.exact.student_width;
    for (int w = 0; w < 2; ++w) {
      const T* const weighted = weighted_sums(x.tiles, scratch, w);
      for (int64_t r = 0; r < rows; ++r) {
        for (int lane = 0; lane < kLanes<T>; ++lane) {
          sums.totals[w][r] += lanes[w][r * kLanes<T> + lane];
          lanes[w][r * kLanes<T> + lane] = 0;
        }
        for (int64_t d = 0; d < width; ++d) sums.weighted[w][r * width + d] += weighted[r * x.tiles.student_width + d];
      }
    }
  }
};

inline int64_t pair_blocks(int64_t B) { return (B + kPairBlock - 1) / kPairBlock; }

// fp64 numbers of scratch that one thread needs: BlockSums, then what the tiles need.
inline int64_t gathered_size(int64_t exact_width) { return 2 * kPairBlock * (exact_width + 1); }

template <class T>
inline int64_t distance_scratch(int64_t teacher_width, int64_t student_width, int64_t exact_width) {
  const int64_t tiles = pair_scratch<T>(teacher_width, student_width, 2) + 2 * kPairBlock * kLanes<T>;
  return gathered_size(exact_width) + (tiles * static_cast<int64_t>(sizeof(T)) + 7) / 8;
}

template <class T>
inline int64_t distance_scratch(const DistanceTables<T>& x) {
  return distance_scratch<T>(x.tiles.teacher_width, x.tiles.student_width, x.exact.student_width);
}

// The reciprocal of a mean over `count` distances; 0 where there is none, NaN where one is NaN.
inline double reciprocal_mean(double sum, double count) { return sum == 0 ? 0 : count / sum; }

// block_sums: 5 * pair_blocks(B).
template <class T>
DistanceSums summed_distances(const DistanceTables<T>& x, int64_t B, double* block_sums, double* scratch) {
  const int64_t stride = distance_scratch(x);
  parallel_chunks(pair_blocks(B), 1, [=](int64_t begin, int64_t end, int thread) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      // Pairs i < j: a block has the less to do the later it comes, so early and late ones alternate.
      const int64_t block = chunk % 2 ? pair_blocks(B) - 1 - chunk / 2 : chunk / 2;
      const int64_t row = block * kPairBlock, rows = B - row < kPairBlock ? B - row : kPairBlock;
      SummedDistances<T> point = {x};
      sweep_pairs<0>(x.tiles, row, rows, row, B, reinterpret_cast<T*>(scratch + thread * stride), point);
      memcpy(block_sums + 5 * block, &point.sums, sizeof(DistanceSums));
    }
  });
  DistanceSums sums = {0, 0, 0, 0, 0};
  for (int64_t block = 0; block < pair_blocks(B); ++block) {
    const double* const from = block_sums + 5 * block;
    sums.teacher += from[0];
    sums.teacher_count += from[1];
    sums.student += from[2];
    sums.student_count += from[3];
    sums.cancelled += from[4];
  }
  return sums;
}

template <class T>
double swept_distances(const DistanceTables<T>& x, int64_t B, const DistanceSums& sums, double* block_sums,
                       double* slopes, double* mean_slopes, double* scratch) {
  const double teacher_scale = reciprocal_mean(sums.teacher, sums.teacher_count);
  const double student_scale = reciprocal_mean(sums.student, sums.student_count);
  const int64_t stride = distance_scratch(x), width = x.exact.student_width;
  parallel_chunks(pair_blocks(B), 1, [=](int64_t begin, int64_t end, int thread) {
    double* const own = scratch + thread * stride;
    const BlockSums gathered = {{own, own + kPairBlock},
                                {own + 2 * kPairBlock, own + (2 + width) * kPairBlock}};
    T* const lanes = reinterpret_cast<T*>(own + gathered_size(width));
    T* const tiles = lanes + 2 * kPairBlock * kLanes<T>;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t row = block * kPairBlock, rows = B - row < kPairBlock ? B - row : kPairBlock;
      for (int64_t i = 0; i < gathered_size(width); ++i) own[i] = 0;
      for (int64_t i = 0; i < 2 * kPairBlock * kLanes<T>; ++i) lanes[i] = 0;
      HuberOfDistances<T> point = {
          x, teacher_scale, student_scale, row, gathered, {lanes, lanes + kPairBlock * kLanes<T>}};
      for (int64_t begin_span = 0; begin_span < B;) {
        const int64_t end_span = B - begin_span > kPairSpan<T> ? begin_span + kPairSpan<T> : B;
        sweep_pairs<2>(x.tiles, row, rows, begin_span, end_span, tiles, point);
        point.end_span(rows, tiles);
        begin_span = end_span;
      }
      block_sums[2 * block] = point.loss;
      block_sums[2 * block + 1] = point.moment;
      if (slopes == nullptr) continue;
      for (int w = 0; w < 2; ++w) {
        double* const out = (w ? mean_slopes : slopes) + row * width;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t d = 0; d < width; ++d)
            out[r * width + d] = gathered.totals[w][r] * x.exact.student[(row + r) * width + d] -
                                 gathered.weighted[w][r * width + d];
      }
    }
  });
  double loss = 0, moment = 0;
  for (int64_t block = 0; block < pair_blocks(B); ++block) {
    loss += block_sums[2 * block];
    moment += block_sums[2 * block + 1];
  }
  if (slopes != nullptr) {
    // By the distances, 2 huber'/mean; by the mean, which is itself one over the distances, the rest.
    const double direct = 2 * student_scale;
    const double through_mean = sums.student == 0 ? 0 : moment * student_scale * student_scale / sums.student_count;
    for (int64_t i = 0; i < B * width; ++i) slopes[i] = direct * slopes[i] - through_mean * mean_slopes[i];
  }
  return loss;
}

// A share of pairs that cancel above which working them out one by one costs more than fp64 throughout.
constexpr double kManyCancelled = 1.0 / 32;

// block_sums: 5 * pair_blocks(B). slopes and mean_slopes [B, exact student_width] are null where no gradient is wanted.
// panels: panels_size<T> of both widths, in fp64 numbers; scratch: distance_scratch for each thread. False, and no loss,
// where T is not fp64 and too many distances cancel.
template <class T>
bool pair_distance_huber(DistanceTables<T> x, int64_t B, double* block_sums, double* slopes, double* mean_slopes,
                         double* panels, double* scratch, double* loss) {
  T* const teacher_panels = reinterpret_cast<T*>(panels);
  T* const student_panels = teacher_panels + panels_size<T>(B, x.tiles.teacher_width);
  pack_panels(x.tiles, B, teacher_panels, student_panels);
  x.tiles.teacher_panels = teacher_panels;
  x.tiles.student_panels = student_panels;
  const DistanceSums sums = summed_distances(x, B, block_sums, scratch);
  if (sizeof(T) < sizeof(double) && sums.cancelled > kManyCancelled * (0.5 * B * (B - 1))) return false;
  *loss = swept_distances(x, B, sums, block_sums, slopes, mean_slopes, scratch);
  return true;
}

}  // namespace
