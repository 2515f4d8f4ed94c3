// loss = sum over k < length of log(sum over k <= l < length of e^s_l + sum over u of e^t_u) - s_k, and its slopes.
//
// The tail is summed once in the storage's accumulator, relative to its own largest score. Lists, which are short, are
// worked in fp64, kListRows rows side by side in the lanes of a vector: sums along a list are then vertical. Where
// the smallest of a list's log-normalisers is within kSpread of the row's largest score, one shift serves the whole
// row, since fp64 holds e^-600. Other rows carry (running max, scaled sum) pairs (PL-1).
//
// A row's slopes are kept as its list's, and two numbers for its tail: slope of u = scale * e^(t_u - top).
#pragma once
#include "kernels/cpu/exponential.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/storage.h"

namespace {

constexpr double kInfinity = __builtin_inf();

// fp32 scores: differences are exact in fp64. fp64 scores: the rounding of a difference is a relative error of e^it.
template <class Acc> constexpr double kSpread = 600.0;
template <> constexpr double kSpread<double> = 80.0;
template <class Acc> constexpr int kDegree = 7;
template <> constexpr int kDegree<double> = 12;

constexpr int kBlock = 1024;  // tail scores that are widened at a time

template <class Acc>
inline Acc larger(Acc x, Acc y) { return x > y ? x : y; }  // y where x is NaN

// Of lanes that are no NaN.
template <class Acc, int W>
inline Acc largest_lane(Vector<Acc, W> v) {
  if constexpr (W == 2) {
    return larger(v[0], v[1]);
  } else {
    const Vector<Acc, W / 2> low = Halves<Acc, W>::low(v), high = Halves<Acc, W>::high(v);
    return largest_lane<Acc, W / 2>(low > high ? low : high);
  }
}

template <class Acc>
inline Acc largest(const Acc* x, int64_t count) {
  constexpr int W = kLanes<Acc>;
  typedef Vector<Acc, W> V;
  Acc top = static_cast<Acc>(-kInfinity);
  int64_t i = 0;
  if (count >= W) {
    V a = splat<V>(top), b = a, c = a, d = a;
    for (; i + 4 * W <= count; i += 4 * W) {
      const V x0 = load<V>(x + i), x1 = load<V>(x + i + W), x2 = load<V>(x + i + 2 * W), x3 = load<V>(x + i + 3 * W);
      a = x0 > a ? x0 : a;
      b = x1 > b ? x1 : b;
      c = x2 > c ? x2 : c;
      d = x3 > d ? x3 : d;
    }
    for (; i < count; i += W) {
      const V last = load<V>(x + (i + W <= count ? i : count - W));  // a part again does no harm to a maximum
      a = last > a ? last : a;
    }
    a = b > a ? b : a;
    c = d > c ? d : c;
    a = c > a ? c : a;
    return largest_lane<Acc, W>(a);
  }
  for (; i < count; ++i) top = larger(x[i], top);
  return top;
}

template <int W>
inline Vector<float, W> exponential(Vector<float, W> x) { return exp_nonpositive<W>(x); }
template <int W>
inline Vector<double, W> exponential(Vector<double, W> x) { return exp_nonpositive_f64<12, W>(x); }

// Adds a vector to sums in fp64, half by half where it is of floats.
template <int W>
inline void add_wide(Vector<float, W> x, Vector<double, W / 2>* sums) {
  typedef Vector<double, W / 2> Wide;
  sums[0] += __builtin_convertvector((Halves<float, W>::low(x)), Wide);
  sums[1] += __builtin_convertvector((Halves<float, W>::high(x)), Wide);
}
template <int W>
inline void add_wide(Vector<double, W> x, Vector<double, W>* sums) { sums[0] += x; }

// Sum of e^(x - shift).
template <class Acc>
inline double exponential_sum(const Acc* x, int64_t count, Acc shift) {
  constexpr int W = kLanes<Acc>, Half = sizeof(Acc) == 4 ? W / 2 : W;
  typedef Vector<Acc, W> V;
  Vector<double, Half> sums[2] = {};
  int64_t i = 0;
  for (; i + 4 * W <= count; i += 4 * W) {
    const V a = exponential<W>(load<V>(x + i) - shift), b = exponential<W>(load<V>(x + i + W) - shift);
    const V c = exponential<W>(load<V>(x + i + 2 * W) - shift), d = exponential<W>(load<V>(x + i + 3 * W) - shift);
    add_wide<W>((a + b) + (c + d), sums);
  }
  for (; i + W <= count; i += W) add_wide<W>(exponential<W>(load<V>(x + i) - shift), sums);
  if (i < count) {
    // The last whole vector, without the lanes that were summed before; a short row's, filled up with -inf.
    V last, lane;
    for (int j = 0; j < W; ++j) lane[j] = static_cast<Acc>(j);
    if (count >= W) {
      last = load<V>(x + count - W);
      last = lane < static_cast<Acc>(W - (count - i)) ? splat<V>(static_cast<Acc>(-kInfinity)) : last;
    } else {
      last = splat<V>(static_cast<Acc>(-kInfinity));
      memcpy(&last, x, static_cast<size_t>(count) * sizeof(Acc));
    }
    add_wide<W>(exponential<W>(last - shift), sums);
  }
  return sum_lanes<double, Half>(sums[0] + sums[1]);
}

// The tail as top and mass: sum of e^t = mass * e^top.
struct Tail { double top, mass; };

// A tail of nothing but -inf: any finite shift gives its mass, 0.
inline double finite_top(const Tail& tail) { return tail.top == -kInfinity ? 0 : tail.top; }

template <class Acc>
inline Tail summed_tail(WideTable<Acc> tail, int64_t L) {
  Acc buffer[kBlock];
  Acc top = static_cast<Acc>(-kInfinity);
  for (int64_t u = 0; u < L; u += kBlock) {
    const int64_t count = L - u < kBlock ? L - u : kBlock;
    top = larger(largest(tail.read(u, count, buffer), count), top);
  }
  const Acc shift = top == static_cast<Acc>(-kInfinity) ? 0 : top;
  double mass = 0;
  for (int64_t u = 0; u < L; u += kBlock) {
    const int64_t count = L - u < kBlock ? L - u : kBlock;
    mass += exponential_sum(tail.read(u, count, buffer), count, shift);
  }
  return {static_cast<double>(top), mass};
}

template <class T> struct SignedOf { typedef int32_t type; };
template <> struct SignedOf<double> { typedef int64_t type; };

constexpr int kListRows = kLanes<double>;

// A list's length in whole blocks that are transposed.
inline int64_t padded(int64_t length) { return (length + kListRows - 1) / kListRows * kListRows; }

// fp64 numbers of scratch that `list_losses` needs for lists of K: two arrays of [padded(K)][kListRows], or three of K.
inline int64_t list_scratch(int64_t K) { return (kListRows > 2 ? 2 : 3) * kListRows * padded(K); }

// And with the lists of as many rows, widened.
inline int64_t plackett_luce_scratch(int64_t K) { return list_scratch(K) + kListRows * K; }

// Rows whose lists are worked together; what the kernel reads, and what it writes.
template <class Acc>
struct ListRows {
  int count;                        // at most kListRows
  const Acc* scores[kListRows];
  int64_t lengths[kListRows];
  Tail tails[kListRows];
  double losses[kListRows];
  Acc* slopes[kListRows];           // null together where only losses are wanted
  double tail_scales[kListRows];    // written with the slopes
};

// The pair at k: tops[k] = largest score from k on, sums[k] = sum of e^(score - tops[k]).
inline void suffix_pairs(const double* list, int64_t length, const Tail& tail, double* tops, double* sums) {
  double top = tail.top, sum = tail.mass;
  for (int64_t k = length - 1; k >= 0; --k) {
    if (list[k] > top) {
      sum = sum * exp_nonpositive(top - list[k]) + 1;
      top = list[k];
    } else {
      sum += exp_nonpositive(list[k] - top);
    }
    tops[k] = top;
    sums[k] = sum;
  }
}

inline double summed_pair_logs(const double* list, const double* tops, const double* sums, int64_t length) {
  double loss = 0;
  for (int64_t k = 0; k < length; ++k) loss += (tops[k] - list[k]) + __builtin_log(sums[k]);
  return loss;
}

// Transposes R vectors of R lanes: halves change places, then halves of halves.
template <class T, int R>
inline void transpose_square(Vector<T, R>* rows) {
  typedef Vector<T, R> V;
  typedef Vector<typename SignedOf<T>::type, R> Lane;
#pragma GCC unroll 4
  for (int half = R / 2; half > 0; half /= 2) {
    Lane low, high;  // lane j from the second operand: R + its lane
    for (int j = 0; j < R; ++j) {
      low[j] = j & half ? R + j - half : j;
      high[j] = j & half ? R + j : j + half;
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      if (i & half) continue;
      const V a = rows[i], b = rows[i + half];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + half] = __builtin_shuffle(a, b, high);
    }
  }
}

// list[k][r] = scores[r][k], -inf past each length, for k below `longest`, which is padded. The largest of each row.
template <class Acc>
inline Vector<double, kListRows> gather_lists(const ListRows<Acc>& rows, int64_t longest, double* list) {
  typedef typename SignedOf<Acc>::type Index;
  constexpr int R = kListRows;
  Vector<Index, R> lane;
  for (int j = 0; j < R; ++j) lane[j] = j;
  Vector<double, R> tops = splat<Vector<double, R>>(-kInfinity);
  for (int64_t k = 0; k < longest; k += R) {
    Vector<Acc, R> block[R];
    for (int r = 0; r < R; ++r) {
      const int64_t left = r < rows.count ? rows.lengths[r] - k : 0;
      if (left >= R) {
        block[r] = load<Vector<Acc, R>>(rows.scores[r] + k);
        continue;
      }
      if (left > 0 && k > 0) {  // the last R scores, moved down to the lanes where they belong
        const Vector<Acc, R> last = load<Vector<Acc, R>>(rows.scores[r] + k + left - R);
        block[r] = lane < static_cast<Index>(left) ? __builtin_shuffle(last, lane + static_cast<Index>(R - left))
                                                   : splat<Vector<Acc, R>>(static_cast<Acc>(-kInfinity));
        continue;
      }
      block[r] = splat<Vector<Acc, R>>(static_cast<Acc>(-kInfinity));
      for (int64_t j = 0; j < left; ++j) block[r][j] = rows.scores[r][k + j];
    }
    transpose_square<Acc, R>(block);
    for (int j = 0; j < R; ++j) {
      const Vector<double, R> scores = __builtin_convertvector(block[j], Vector<double, R>);
      tops = scores > tops ? scores : tops;
      store(list + (k + j) * R, scores);
    }
  }
  return tops;
}

// slopes[r][k] = list[k][r] below each length.
template <class Acc>
inline void scatter_lists(const double* list, int64_t longest, ListRows<Acc>& rows) {
  constexpr int R = kListRows;
  for (int64_t k = 0; k < longest; k += R) {
    Vector<Acc, R> block[R];
    for (int j = 0; j < R; ++j)
      block[j] = __builtin_convertvector(load<Vector<double, R>>(list + (k + j) * R), Vector<Acc, R>);
    transpose_square<Acc, R>(block);
    for (int r = 0; r < rows.count; ++r) {
      const int64_t left = rows.lengths[r] - k;
      if (left >= R) store(rows.slopes[r] + k, block[r]);
      else for (int64_t j = 0; j < left; ++j) rows.slopes[r][k + j] = block[r][j];
    }
  }
}

// x in [1, 2) times a power of 2.
template <class V>
inline V mantissa_of(V x) {
  typedef Vector<uint64_t, kListRows> Bits;
  Bits bits;
  memcpy(&bits, &x, sizeof(V));
  bits = (bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull;
  memcpy(&x, &bits, sizeof(V));
  return x;
}

// The logarithm of normal positive numbers, to 3e-16 of 1 + its size: ln m = 2 artanh((m - 1) / (m + 1)), m about 1.
template <class V>
inline V log_positive(V x) {
  typedef Vector<int64_t, kListRows> Bits;
  Bits bits;
  memcpy(&bits, &x, sizeof(V));
  const V mantissa = mantissa_of(x), upper = splat<V>(1.4142135623730951);
  const V m = mantissa > upper ? 0.5 * mantissa : mantissa;
  const V exponent = __builtin_convertvector((bits >> 52) - 1023, V) + (mantissa > upper ? splat<V>(1.0) : V{});
  const V s = (m - 1.0) / (m + 1.0), square = s * s;
  V p = splat<V>(1.0 / 21);
  for (int odd = 19; odd > 0; odd -= 2) p = p * square + 1.0 / odd;
  return exponent * 0x1.62e42fefa39efp-1 + 2.0 * s * p;
}

// One row, with any spread. list, tops and sums are scratch of `length`.
template <bool Slopes, class Acc>
inline void spread_list(ListRows<Acc>& rows, int r, double* list, double* tops, double* sums) {
  const int64_t length = rows.lengths[r];
  for (int64_t k = 0; k < length; ++k) list[k] = static_cast<double>(rows.scores[r][k]);
  suffix_pairs(list, length, rows.tails[r], tops, sums);
  rows.losses[r] = summed_pair_logs(list, tops, sums, length);
  if (!Slopes) return;
  double inverse = 0, shift = tops[0];  // of the normalisers up to k, summed, times e^shift
  for (int64_t k = 0; k < length; ++k) {
    if (tops[k] != shift) inverse *= exp_nonpositive(tops[k] - shift);
    shift = tops[k];
    inverse += 1 / sums[k];
    rows.slopes[r][k] = static_cast<Acc>(exp_nonpositive(list[k] - shift) * inverse - 1);
  }
  rows.tail_scales[r] = inverse * exp_nonpositive(rows.tails[r].top - shift);
}

// Losses, and with Slopes list slopes up to each length and tail scales.
template <bool Slopes, class Acc>
inline void list_losses(ListRows<Acc>& rows, double* scratch) {
  constexpr int R = kListRows;
  typedef Vector<double, R> V;
  typedef Vector<int64_t, R> Counts;
  typedef Vector<uint64_t, R> Bits;
  int64_t longest = 0;
  for (int r = 0; r < rows.count; ++r) longest = rows.lengths[r] > longest ? rows.lengths[r] : longest;
  longest = padded(longest);
  double *const list = scratch, *const sums = list + R * longest;
  V tops = gather_lists(rows, longest, list);
  Counts lengths = {};
  V tail_tops = {}, masses = {}, bottoms = {};
  for (int r = 0; r < R; ++r) {
    const int64_t length = r < rows.count ? rows.lengths[r] : 0;
    lengths[r] = length;
    if (length == 0) continue;
    tail_tops[r] = rows.tails[r].top;
    masses[r] = rows.tails[r].mass;
    bottoms[r] = larger(static_cast<double>(rows.scores[r][length - 1]), rows.tails[r].top);
  }

  tops = tail_tops > tops ? tail_tops : tops;
  const V shift = tops > -kInfinity ? tops : V{};
  V sum = masses * exp_nonpositive_f64<12, R>(tail_tops - shift), product = splat<V>(1.0), rest = {}, logs = {};
  Bits exponents = {};
  for (int64_t k = longest; k-- > 0;) {
    const V score = load<V>(list + k * R);
    const V term = exp_nonpositive_f64<kDegree<Acc>, R>(score - shift);
    sum += term;
    const V counted = k < lengths ? sum : splat<V>(1.0);
    Bits bits;
    memcpy(&bits, &counted, sizeof(bits));
    exponents += bits >> 52;
    product *= mantissa_of(counted);
    rest += k < lengths ? shift - score : V{};
    if (k % 512 == 0) {
      logs += log_positive(product);
      product = splat<V>(1.0);
    }
    if (Slopes) {
      store(list + k * R, term);
      store(sums + k * R, counted);
    }
  }
  const V doublings = __builtin_convertvector((Counts)exponents - 1023 * longest, V);
  const V losses = logs + doublings * 0x1.62e42fefa39efp-1 + rest + 0 * sum;  // NaN where a score is
  for (int r = 0; r < rows.count; ++r) rows.losses[r] = rows.lengths[r] ? losses[r] : 0;

  if (Slopes) {
    V inverse = {};  // of the normalisers up to k, summed, times e^shift
    for (int64_t k = 0; k < longest; ++k) {
      inverse += k < lengths ? 1.0 / load<V>(sums + k * R) : V{};
      store(sums + k * R, load<V>(list + k * R) * inverse - 1.0);
    }
    const V scales = inverse * exp_nonpositive_f64<12, R>(tail_tops - shift);
    scatter_lists(sums, longest, rows);
    for (int r = 0; r < rows.count; ++r) rows.tail_scales[r] = rows.lengths[r] ? scales[r] : 0;
  }

  for (int r = 0; r < rows.count; ++r) {
    if (rows.lengths[r] == 0 || tops[r] - bottoms[r] <= kSpread<Acc>) continue;
    if (tops[r] == kInfinity) {
      rows.losses[r] = rows.tail_scales[r] = __builtin_nan("");
      for (int64_t k = 0; Slopes && k < rows.lengths[r]; ++k) rows.slopes[r][k] = static_cast<Acc>(__builtin_nan(""));
    } else {
      spread_list<Slopes>(rows, r, list, list + rows.lengths[r], list + 2 * rows.lengths[r]);
    }
  }
}

// out[u] = scale * e^(tail[u] - top), where there is mass.
template <class Acc>
inline void tail_slopes(WideTable<Acc> tail, int64_t L, Acc top, Acc scale, Acc* out) {
  constexpr int W = kLanes<Acc>;
  typedef Vector<Acc, W> V;
  Acc buffer[kBlock];
  for (int64_t begin = 0; begin < L; begin += kBlock) {
    const int64_t count = L - begin < kBlock ? L - begin : kBlock;
    const Acc* const x = tail.read(begin, count, buffer);
    Acc* const to = out + begin;
    int64_t u = 0;
    for (; u + W <= count; u += W) store(to + u, exponential<W>(load<V>(x + u) - top) * scale);
    if (u == count) continue;
    if (count >= W) {  // the last whole vector, part of it again
      store(to + count - W, exponential<W>(load<V>(x + count - W) - top) * scale);
      continue;
    }
    Acc last[W] = {};
    memcpy(last, x + u, static_cast<size_t>(count - u) * sizeof(Acc));
    store(last, exponential<W>(load<V>(last) - top) * scale);
    memcpy(to + u, last, static_cast<size_t>(count - u) * sizeof(Acc));
  }
}

// lengths may be null: all K. Rows lie stride_scores and stride_tail elements apart. slopes [B, K], 0 past a length,
// and tail_terms [B, 2], top and scale, may be null together. scratch: plackett_luce_scratch(K) doubles for each thread.
template <class Acc>
void plackett_luce_forward(WideTable<Acc> scores, int64_t stride_scores, WideTable<Acc> tail, int64_t stride_tail,
                           const int64_t* lengths, Acc* losses, Acc* slopes, Acc* tail_terms, double* scratch,
                           int64_t B, int64_t K, int64_t L) {
  parallel_chunks(B, 1 + 8192 / (K + L + 1), [=](int64_t begin, int64_t end, int thread) {
    double* const own = scratch + thread * plackett_luce_scratch(K);
    Acc* const widened = reinterpret_cast<Acc*>(own + list_scratch(K));
    for (int64_t b = begin; b < end; b += kListRows) {
      ListRows<Acc> rows;
      rows.count = static_cast<int>(end - b < kListRows ? end - b : kListRows);
      for (int r = 0; r < rows.count; ++r) {
        rows.lengths[r] = lengths ? lengths[b + r] : K;
        rows.scores[r] = scores.read((b + r) * stride_scores, rows.lengths[r], widened + r * K);
        rows.tails[r] = summed_tail(tail.from((b + r) * stride_tail), L);
        rows.slopes[r] = tail_terms ? slopes + (b + r) * K : nullptr;  // an empty list has no address
        for (int64_t k = rows.lengths[r]; tail_terms && k < K; ++k) rows.slopes[r][k] = 0;
      }
      if (tail_terms) list_losses<true>(rows, own);
      else list_losses<false>(rows, own);
      for (int r = 0; r < rows.count; ++r) {
        losses[b + r] = static_cast<Acc>(rows.losses[r]);
        if (!tail_terms) continue;
        tail_terms[2 * (b + r)] = static_cast<Acc>(finite_top(rows.tails[r]));
        tail_terms[2 * (b + r) + 1] = static_cast<Acc>(rows.tail_scales[r]);
      }
    }
  });
}

// grad_scores [B, K] and grad_tail [B, L] are contiguous and overwritten; slopes and tail_terms are the forward's.
template <class Acc>
void plackett_luce_backward(const Acc* grad_losses, WideTable<Acc> tail, int64_t stride_tail, const int64_t* lengths,
                            const Acc* slopes, const Acc* tail_terms, Acc* grad_scores, Acc* grad_tail, int64_t B,
                            int64_t K, int64_t L) {
  parallel_chunks(B, 1 + 8192 / (K + L + 1), [=](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t length = lengths ? lengths[b] : K;
      const Acc grad = grad_losses[b], *const slope = slopes + b * K;
      Acc* const to = grad_scores + b * K;
      for (int64_t k = 0; k < length; ++k) to[k] = grad * slope[k];
      for (int64_t k = length; k < K; ++k) to[k] = 0;
      if (length == 0) memset(grad_tail + b * L, 0, static_cast<size_t>(L) * sizeof(Acc));
      else
        tail_slopes(tail.from(b * stride_tail), L, tail_terms[2 * b], grad * tail_terms[2 * b + 1], grad_tail + b * L);
    }
  });
}

}  // namespace
