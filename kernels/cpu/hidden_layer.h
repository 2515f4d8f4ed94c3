// What happens to hidden layers between matrix products, in one pass over them.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"

namespace {

// Numbers that a thread must have to itself to be worth starting.
constexpr int64_t kPassGrain = 65536;

// layer [rows, M, H] becomes relu(layer + bias [M, H]), weighted [rows, M, H] that times the row's share of the expert.
template <class T>
void weighted_layer(T* layer, const T* bias, const T* shares, T* weighted, int64_t rows, int64_t M, int64_t H) {
  const int64_t width = M * H;
  parallel_chunks(rows, kPassGrain / (width + 1) + 1, [=](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t m = 0; m < M; ++m) {
        const T share = shares[r * M + m];
        T* const row = layer + r * width + m * H;
        T* const out = weighted + r * width + m * H;
        const T* const added = bias + m * H;
        for (int64_t h = 0; h < H; ++h) {
          const T x = row[h] + added[h];
          const T shown = x < 0 ? 0 : x;  // NaN stays NaN
          row[h] = shown;
          out[h] = shown * share;
        }
      }
  });
}

// slopes [rows, M, H] arrive as those of weighted and leave as those before the relu. weighted is made again; added:
// slopes . layer to grad_shares [rows, M], the sum of what leaves to grad_bias [M, H]. An expert is one thread's.
template <class T>
void weighted_layer_backward(T* slopes, const T* layer, const T* shares, T* weighted, T* grad_shares, T* grad_bias,
                             int64_t rows, int64_t M, int64_t H) {
  typedef Vector<T, kLanes<T>> V;
  const int64_t width = M * H, whole = H - H % kLanes<T>;
  parallel_chunks(M, kPassGrain / (rows * H + 1) + 1, [=](int64_t begin, int64_t end, int) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t m = begin; m < end; ++m) {
        const T share = shares[r * M + m];
        const int64_t at = r * width + m * H;
        const V every = splat<V>(share), zero = {};
        V sums = {};
        for (int64_t h = 0; h < whole; h += kLanes<T>) {
          const V shown = load<V>(layer + at + h), slope = load<V>(slopes + at + h);
          sums += slope * shown;
          store(weighted + at + h, shown * every);
          const V before = shown <= zero ? zero : slope * every;
          store(slopes + at + h, before);
          store(grad_bias + m * H + h, load<V>(grad_bias + m * H + h) + before);
        }
        T sum = sum_lanes<T, kLanes<T>>(sums);
        for (int64_t h = whole; h < H; ++h) {
          const T shown = layer[at + h], slope = slopes[at + h];
          sum += slope * shown;
          weighted[at + h] = shown * share;
          slopes[at + h] = shown <= 0 ? 0 : slope * share;
          grad_bias[m * H + h] += slopes[at + h];
        }
        grad_shares[r * M + m] += sum;
      }
  });
}

// Bytes may be anything's, so that only __restrict lets these two loops fill vectors.
template <class T>
inline void keep_span(T* __restrict x, const uint8_t* __restrict kept, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= static_cast<T>(kept[i]);
}

template <class T>
inline void drop_span(T* __restrict layer, uint8_t* __restrict kept, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T x = layer[i], shown = (x < 0 ? 0 : x) * static_cast<T>(kept[i]);
    layer[i] = shown;
    kept[i] = shown > 0;
  }
}

// x [n] becomes x * kept [n] of 0 and 1.
template <class T>
void keep_where(T* x, const uint8_t* kept, int64_t n) {
  parallel_chunks(n, kPassGrain,
                  [=](int64_t begin, int64_t end, int) { keep_span(x + begin, kept + begin, end - begin); });
}

// layer [n] becomes relu(layer) * kept, and kept whether that is above 0.
template <class T>
void dropped_layer(T* layer, uint8_t* kept, int64_t n) {
  parallel_chunks(n, kPassGrain,
                  [=](int64_t begin, int64_t end, int) { drop_span(layer + begin, kept + begin, end - begin); });
}

}  // namespace
