// loss = sum over k < length of log(sum over k <= l < length of e^s_l + sum over u of e^t_u) - s_k, and its gradient.
//
// The tail is summed once in the storage's accumulator, relative to its own largest score. The list, which is
// short, is worked in fp64. Where the smallest of its log-normalisers is within kSpread of the row's largest score,
// one shift serves the whole row, since fp64 holds e^-600. Other rows carry (running max, scaled sum) pairs (PL-1).
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
constexpr int kScratchArrays = 3;

// A list's length with room for whole vectors of any instruction set.
inline int64_t padded(int64_t length) { return (length + 7) / 8 * 8; }

inline const float* widened(const float* x, int64_t, float*) { return x; }
inline const double* widened(const double* x, int64_t, double*) { return x; }
template <class Storage>
inline const float* widened(const Storage* x, int64_t count, float* buffer) {
  for (int64_t i = 0; i < count; ++i) buffer[i] = widen(x[i]);
  return buffer;
}

template <class Acc>
inline Acc larger(Acc x, Acc y) { return x > y ? x : y; }  // y where x is NaN

template <class Acc>
inline Acc largest(const Acc* x, int64_t count) {
  constexpr int W = kLanes<Acc>;
  typedef Vector<Acc, W> V;
  Acc top = static_cast<Acc>(-kInfinity);
  int64_t i = 0;
  if (count >= W) {
    V a = splat<V>(top), b = a;
    for (; i + 2 * W <= count; i += 2 * W) {
      const V x0 = load<V>(x + i), x1 = load<V>(x + i + W);
      a = x0 > a ? x0 : a;
      b = x1 > b ? x1 : b;
    }
    const V last = load<V>(x + count - W);  // overlaps what is done, which does no harm to a maximum
    if (i + W <= count) {
      const V x0 = load<V>(x + i);
      a = x0 > a ? x0 : a;
    }
    a = last > a ? last : a;
    a = b > a ? b : a;
    Acc lane[W];
    store(lane, a);
    for (int half = W / 2; half > 0; half /= 2)
      for (int j = 0; j < half; ++j) lane[j] = larger(lane[j], lane[j + half]);
    return lane[0];
  }
  for (; i < count; ++i) top = larger(x[i], top);
  return top;
}

template <int W>
inline Vector<float, W> exponential(Vector<float, W> x) { return exp_nonpositive<W>(x); }
template <int W>
inline Vector<double, W> exponential(Vector<double, W> x) { return exp_nonpositive_f64<12, W>(x); }

// Sum of e^(x - shift); Store: the terms are written to `terms`, which may be x.
template <bool Store, class Acc>
inline double exponential_sum(const Acc* x, int64_t count, Acc shift, Acc* terms) {
  constexpr int W = kLanes<Acc>;
  typedef Vector<Acc, W> V;
  typedef Vector<double, W> Wide;
  Wide total = {};
  int64_t i = 0;
  for (; i + 4 * W <= count; i += 4 * W) {
    const V a = exponential<W>(load<V>(x + i) - shift), b = exponential<W>(load<V>(x + i + W) - shift);
    const V c = exponential<W>(load<V>(x + i + 2 * W) - shift), d = exponential<W>(load<V>(x + i + 3 * W) - shift);
    if (Store) {
      store(terms + i, a);
      store(terms + i + W, b);
      store(terms + i + 2 * W, c);
      store(terms + i + 3 * W, d);
    }
    total += __builtin_convertvector((a + b) + (c + d), Wide);
  }
  for (; i + W <= count; i += W) {
    const V a = exponential<W>(load<V>(x + i) - shift);
    if (Store) store(terms + i, a);
    total += __builtin_convertvector(a, Wide);
  }
  if (i < count && count >= W) {
    // The last whole vector; the lanes that were summed before are stored again and left out of the sum.
    V a = exponential<W>(load<V>(x + count - W) - shift), lane;
    if (Store) store(terms + count - W, a);
    for (int j = 0; j < W; ++j) lane[j] = static_cast<Acc>(j);
    a = lane < static_cast<Acc>(W - (count - i)) ? V{} : a;
    total += __builtin_convertvector(a, Wide);
  } else if (i < count) {
    Acc rest[W];
    for (int j = 0; j < W; ++j) rest[j] = j < count ? x[j] : static_cast<Acc>(-kInfinity);
    const V a = exponential<W>(load<V>(rest) - shift);
    total += __builtin_convertvector(a, Wide);
    if (Store) {
      store(rest, a);
      for (int j = 0; j < count; ++j) terms[j] = rest[j];
    }
  }
  return sum_lanes<double, W>(total);
}

// The tail as top and mass: sum of e^t = mass * e^top.
struct Tail { double top, mass; };

template <bool Store, class Storage, class Acc>
inline Tail summed_tail(const Storage* tail, int64_t L, Acc* terms) {
  Acc buffer[kBlock];
  Acc top = static_cast<Acc>(-kInfinity);
  for (int64_t u = 0; u < L; u += kBlock) {
    const int64_t count = L - u < kBlock ? L - u : kBlock;
    top = larger(largest(widened(tail + u, count, buffer), count), top);
  }
  // A tail of nothing but -inf: any finite shift gives its mass, 0.
  const Acc shift = top == static_cast<Acc>(-kInfinity) ? 0 : top;
  double mass = 0;
  for (int64_t u = 0; u < L; u += kBlock) {
    const int64_t count = L - u < kBlock ? L - u : kBlock;
    mass += exponential_sum<Store>(widened(tail + u, count, buffer), count, shift, Store ? terms + u : terms);
  }
  return {static_cast<double>(top), mass};
}

// The list of one row: its scores in fp64, the row's largest score, and the max at its last position.
struct List { double top, bottom; };

template <class Storage>
inline List widened_list(const Storage* scores, int64_t length, const Tail& tail, double* list) {
  for (int64_t k = 0; k < length; ++k) list[k] = static_cast<double>(widen(scores[k]));
  const double top = larger(largest(list, length), tail.top);
  for (int64_t k = length; k < padded(length); ++k) list[k] = top;
  return {top, larger(list[length - 1], tail.top)};
}

// Sum over k of log(sums[k]) + top - list[k], from the product of the mantissas and the sum of the exponents.
inline double summed_logs(const double* sums, const double* list, double top, int64_t length) {
  constexpr int W = kLanes<double>;
  typedef Vector<double, W> V;
  typedef Vector<uint64_t, W> Bits;
  double logs = 0;
  V rest = {};
  for (int64_t begin = 0; begin < length; begin += 512) {
    const int64_t end = begin + 512 < length ? begin + 512 : length;
    V product = splat<V>(1.0);
    for (int64_t k = begin; k < end; k += W) {
      Bits bits;
      memcpy(&bits, sums + k, sizeof(bits));
      const Bits mantissa_bits = (bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull;
      const Bits exponent_bits = (bits >> 52) | 0x4330000000000000ull;  // 2^52 + exponent, as a double
      V mantissa, exponent;
      memcpy(&mantissa, &mantissa_bits, sizeof(V));
      memcpy(&exponent, &exponent_bits, sizeof(V));
      product *= mantissa;
      rest += (exponent - (0x1p52 + 1023)) * 0x1.62e42fefa39efp-1 + (top - load<V>(list + k));
    }
    double lane[W];
    store(lane, product);
    for (int i = 1; i < W; ++i) lane[0] *= lane[i];
    logs += __builtin_log(lane[0]);
  }
  return logs + sum_lanes<double, W>(rest);
}

// out[i] = start + x[0] + ... + x[i] for x of `count` numbers, a multiple of 8: four chains side by side, since
// one is bound by the latency of its additions.
inline void prefix_sums(const double* x, int64_t count, double start, double* out) {
  typedef Vector<double, 2> V;
  const int64_t quarter = count / 4;
  double a = start, b = 0, c = 0, d = 0;
  for (int64_t i = 0; i < quarter; ++i) {
    out[i] = a += x[i];
    out[quarter + i] = b += x[quarter + i];
    out[2 * quarter + i] = c += x[2 * quarter + i];
    out[3 * quarter + i] = d += x[3 * quarter + i];
  }
  b += a;
  c += b;
  for (int64_t i = 0; i < quarter; i += 2) {
    store(out + quarter + i, load<V>(out + quarter + i) + a);
    store(out + 2 * quarter + i, load<V>(out + 2 * quarter + i) + b);
    store(out + 3 * quarter + i, load<V>(out + 3 * quarter + i) + c);
  }
}

// The same from the other end: out[i] = start + x[i] + ... + x[count - 1].
inline void suffix_sums(const double* x, int64_t count, double start, double* out) {
  typedef Vector<double, 2> V;
  const int64_t quarter = count / 4;
  double a = 0, b = 0, c = 0, d = start;
  for (int64_t i = quarter - 1; i >= 0; --i) {
    out[i] = a += x[i];
    out[quarter + i] = b += x[quarter + i];
    out[2 * quarter + i] = c += x[2 * quarter + i];
    out[3 * quarter + i] = d += x[3 * quarter + i];
  }
  c += d;
  b += c;
  for (int64_t i = 0; i < quarter; i += 2) {
    store(out + i, load<V>(out + i) + b);
    store(out + quarter + i, load<V>(out + quarter + i) + c);
    store(out + 2 * quarter + i, load<V>(out + 2 * quarter + i) + d);
  }
}

// exponentials[k] = e^(list[k] - top), sums[k] = the tail's mass and all of them from k on.
template <int Degree>
inline void shifted_sums(const double* list, int64_t length, double top, double mass, double* exponentials,
                         double* sums) {
  constexpr int W = kLanes<double>;
  typedef Vector<double, W> V;
  for (int64_t k = 0; k < length; k += W)
    store(exponentials + k, exp_nonpositive_f64<Degree, W>(load<V>(list + k) - top));
  for (int64_t k = length; k < padded(length); ++k) exponentials[k] = 0;
  suffix_sums(exponentials, padded(length), mass, sums);
  for (int64_t k = length; k < padded(length); ++k) sums[k] = 1.0;
}

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

template <class Storage>
inline double row_loss(const Storage* scores, int64_t length, const Storage* tail_scores, int64_t L, double* list,
                       double* tops, double* sums) {
  typedef typename Accumulator<Storage>::type Acc;
  if (length == 0) return 0;
  const Tail tail = summed_tail<false>(tail_scores, L, static_cast<Acc*>(nullptr));
  const List row = widened_list(scores, length, tail, list);
  if (row.top == kInfinity) return __builtin_nan("");
  if (row.top - row.bottom <= kSpread<Acc>) {
    shifted_sums<kDegree<Acc>>(list, length, row.top, tail.mass * exp_nonpositive(tail.top - row.top), tops, sums);
    return summed_logs(sums, list, row.top, length) + 0 * sums[0];  // NaN where a score is
  }
  suffix_pairs(list, length, tail, tops, sums);
  return summed_pair_logs(list, tops, sums, length);
}

template <class Acc>
inline void fill(Acc* out, int64_t count, double value) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<Acc>(value);
}

// The loss is written too where `loss` is not null.
template <class Storage, class Acc>
inline void row_grads(Acc grad, const Storage* scores, int64_t length, int64_t K, const Storage* tail_scores, int64_t L,
                      Acc* grad_scores, Acc* grad_tail, double* list, double* tops, double* sums,
                      double* loss = nullptr) {
  fill(grad_scores + length, K - length, 0);
  if (length == 0) {
    if (loss != nullptr) *loss = 0;
    return fill(grad_tail, L, 0);
  }
  const Tail tail = summed_tail<true>(tail_scores, L, grad_tail);
  const List row = widened_list(scores, length, tail, list);
  const double upstream = static_cast<double>(grad);
  double inverse = 0;  // of the normalisers up to j, summed, times e^shift
  double shift;
  if (row.top == kInfinity) {
    if (loss != nullptr) *loss = __builtin_nan("");
    fill(grad_scores, length, __builtin_nan(""));
    return fill(grad_tail, L, __builtin_nan(""));
  }
  if (row.top - row.bottom <= kSpread<Acc>) {
    shift = row.top;
    shifted_sums<kDegree<Acc>>(list, length, shift, tail.mass * exp_nonpositive(tail.top - shift), tops, sums);
    if (loss != nullptr) *loss = summed_logs(sums, list, shift, length) + 0 * sums[0];  // NaN where a score is
    constexpr int W = kLanes<double>;
    typedef Vector<double, W> V;
    for (int64_t k = 0; k < length; k += W) store(list + k, 1.0 / load<V>(sums + k));
    for (int64_t k = length; k < padded(length); ++k) list[k] = 0;
    prefix_sums(list, padded(length), 0, sums);
    inverse = sums[length - 1];
    for (int64_t k = 0; k < length; ++k) grad_scores[k] = static_cast<Acc>(upstream * (tops[k] * sums[k] - 1));
  } else {
    suffix_pairs(list, length, tail, tops, sums);
    if (loss != nullptr) *loss = summed_pair_logs(list, tops, sums, length);
    shift = tops[0];
    for (int64_t k = 0; k < length; ++k) {
      if (tops[k] != shift) inverse *= exp_nonpositive(tops[k] - shift);
      shift = tops[k];
      inverse += 1 / sums[k];
      grad_scores[k] = static_cast<Acc>(upstream * (exp_nonpositive(list[k] - shift) * inverse - 1));
    }
  }
  const Acc scale = static_cast<Acc>(upstream * (inverse * exp_nonpositive(tail.top - shift)));
  for (int64_t u = 0; u < L; ++u) grad_tail[u] *= scale;
}

// lengths may be null: all K. Rows lie stride_scores and stride_tail elements apart.
// scratch: kScratchArrays * padded(K) doubles for each thread.
template <class Storage>
void plackett_luce_forward(const Storage* scores, int64_t stride_scores, const Storage* tail, int64_t stride_tail,
                           const int64_t* lengths, typename Accumulator<Storage>::type* losses, double* scratch,
                           int64_t B, int64_t K, int64_t L) {
  parallel_chunks(B, 1 + 8192 / (K + L + 1), [=](int64_t begin, int64_t end, int thread) {
    double* const list = scratch + thread * kScratchArrays * padded(K);
    for (int64_t b = begin; b < end; ++b)
      losses[b] = static_cast<typename Accumulator<Storage>::type>(
          row_loss(scores + b * stride_scores, lengths ? lengths[b] : K, tail + b * stride_tail, L, list,
                   list + padded(K), list + 2 * padded(K)));
  });
}

// grad_scores [B, K] and grad_tail [B, L] are contiguous and overwritten.
template <class Storage>
void plackett_luce_backward(const typename Accumulator<Storage>::type* grad_losses, const Storage* scores,
                            int64_t stride_scores, const Storage* tail, int64_t stride_tail, const int64_t* lengths,
                            typename Accumulator<Storage>::type* grad_scores,
                            typename Accumulator<Storage>::type* grad_tail, double* scratch, int64_t B, int64_t K,
                            int64_t L) {
  parallel_chunks(B, 1 + 8192 / (K + L + 1), [=](int64_t begin, int64_t end, int thread) {
    double* const list = scratch + thread * kScratchArrays * padded(K);
    for (int64_t b = begin; b < end; ++b)
      row_grads(grad_losses[b], scores + b * stride_scores, lengths ? lengths[b] : K, K, tail + b * stride_tail, L,
                grad_scores + b * K, grad_tail + b * L, list, list + padded(K), list + 2 * padded(K));
  });
}

}  // namespace
