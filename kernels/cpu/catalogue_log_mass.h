// log of the summed exponentials of a user's scores over the whole catalogue but excluded items, and its gradients.
//
// Blocks of items pass over a chunk of users; scores, and in the backward their weights, exist for 96 x 288 pairs at a
// time. The catalogue is cut in segments that depend on N alone: threads take segments, whose sums are joined in order.
// A block's exponentials are relative to its own largest score. DESIGN.md CM-1 to CM-4.
#pragma once
#include <stdlib.h>

#include "kernels/cpu/exponential.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/product_tile.h"

namespace {

constexpr int kBlockItems = 288, kBlockRows = 96;  // multiples of panels and of tiles on every instruction set
constexpr int kScoreStride = kBlockItems + 16;     // rows a power of two apart would share their cache sets
constexpr int64_t kScorePiece = 256;               // columns whose products are summed in one chain of roundings
constexpr int64_t kSegments = 32;
constexpr int64_t kChunkBytes = 384 << 10;  // of users and their sums, which stay in L2 while items pass
constexpr int64_t kMostChunkRows = 20 * kBlockRows;

inline int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

template <int Lanes>
inline Vector<float, Lanes> exp_below(Vector<float, Lanes> x) { return exp_nonpositive<Lanes>(x); }
template <int Lanes>
inline Vector<double, Lanes> exp_below(Vector<double, Lanes> x) { return exp_nonpositive_f64<12, Lanes>(x); }

// For what is read again much later: the line is not fetched first. `to` is aligned to the vector.
template <class T, class V>
inline void store_past_cache(T* to, V v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)v);
#else
  store(to, v);
#endif
}

inline int64_t catalogue_blocks(int64_t N) { return (N + kBlockItems - 1) / kBlockItems; }

template <class T>
struct CatalogueSweep {
  typedef Lanes<T> V;
  static constexpr int W = kLanes<T>, P = kPanelItems<T>, R = kTileRows;

  WideTable<T> users, items, bias;
  const int64_t *indptr, *indices;
  int64_t B, N, D;
  double log_share;  // log of the share of a row's mass that an item must reach to count; -inf: all count
  T *kept, *kept_tops;  // [blocks][B][kBlockItems], [blocks][B], or null

  bool backward;
  int64_t width, stride, chunk, blocks, segments, threads;
  char* memory;
  T *tiles, *rows, *norms;  // a chunk's users: [chunk / R][D][R], [chunk][stride], their norms from above
  T* user_buffer;
  T *tops, *sums;           // forward: [segments][chunk]
  double* totals;
  T* row_sums;              // backward: [segments][chunk][stride]
  T *floors, *scales;       // [chunk]; a score's exponential is relative to the floor, and multiplied

  struct Block {
    T *panels, *rows, *biases, *scores;  // [kBlockItems / P][D][P], [kBlockItems][stride], …, [kBlockRows][kScoreStride]
    T *item_sums, *bias_sums;            // backward
    int64_t* cursors;                    // [chunk]: the next excluded id of a row
    int64_t first, count;
    T largest, bias_most;                // norm of an item, from above
  };
  Block* per_thread;

  static T infinity() { return static_cast<T>(__builtin_inf()); }

  template <class Part>
  void take(Part*& part, int64_t size, int64_t& used) {
    part = memory ? reinterpret_cast<Part*>(memory + used) : nullptr;
    used += (size * static_cast<int64_t>(sizeof(Part)) + 63) & ~static_cast<int64_t>(63);
  }

  // False when memory ran out.
  bool prepare(bool with_gradients) {
    backward = with_gradients;
    width = rounded_up(D, W);
    stride = width + (width % 64 ? 0 : W);
    blocks = catalogue_blocks(N);
    segments = blocks < kSegments ? blocks : kSegments;
    const int64_t row_bytes = 3 * (stride + 1) * static_cast<int64_t>(sizeof(T));
    chunk = rounded_up(kChunkBytes / row_bytes, kBlockRows);
    chunk = chunk < kMostChunkRows ? chunk : kMostChunkRows;
    chunk = chunk > kBlockRows ? chunk : kBlockRows;
    const int64_t chunks = (B + chunk - 1) / chunk;
    chunk = chunks ? rounded_up((B + chunks - 1) / chunks, kBlockRows) : 0;
    threads = max_threads();
    threads = threads < segments ? threads : segments;
    memory = nullptr;
    for (int round = 0; round < 2; ++round) {  // measures, then assigns
      int64_t used = 0;
      take(tiles, chunk * D, used);
      take(rows, backward ? chunk * stride : 0, used);
      take(norms, chunk, used);
      take(user_buffer, D, used);
      take(tops, backward ? 0 : segments * chunk, used);
      take(totals, backward ? 0 : segments * chunk, used);
      take(row_sums, backward ? segments * chunk * stride : 0, used);
      take(floors, chunk, used);
      take(scales, chunk, used);
      take(per_thread, threads, used);
      for (int64_t t = 0; t < threads; ++t) {
        Block none;
        Block& block = memory ? per_thread[t] : none;
        take(block.panels, kBlockItems * D, used);
        take(block.rows, kBlockItems * stride, used);
        take(block.biases, kBlockItems, used);
        take(block.scores, kBlockRows * kScoreStride, used);
        take(block.item_sums, backward ? kBlockItems * stride : 0, used);
        take(block.bias_sums, backward ? kBlockItems : 0, used);
        take(block.cursors, chunk, used);
      }
      if (round == 0 && posix_memalign(reinterpret_cast<void**>(&memory), 64, static_cast<size_t>(used)) != 0)
        return false;
    }
    return true;
  }

  int64_t first_block(int64_t segment) const { return blocks * segment / segments; }

  // Packs users [begin, begin + count), zeros up to whole tiles.
  void load_chunk(int64_t begin, int64_t count) {
    for (int64_t b = 0; b < rounded_up(count, R); ++b) {
      T* const tile = tiles + b / R * R * D + b % R;
      const T* const user = b < count ? users.read((begin + b) * D, D, user_buffer) : nullptr;
      T square = 0;
      for (int64_t d = 0; d < D; ++d) {
        const T x = user ? user[d] : T{};
        tile[d * R] = x;
        square += x * x;
        if (backward) rows[b * stride + d] = x;
      }
      if (backward) for (int64_t d = D; d < width; ++d) rows[b * stride + d] = 0;
      norms[b] = norm_above(square, D);
    }
  }

  void load_block(Block& block, int64_t index) const {
    block.first = index * kBlockItems;
    block.count = N - block.first < kBlockItems ? N - block.first : kBlockItems;
    block.largest = 0;
    block.bias_most = -infinity();
    for (int64_t i = 0; i < rounded_up(block.count, P); ++i) {
      T* const row = block.rows + i * stride;
      if (i < block.count) items.copy((block.first + i) * D, D, row);
      else for (int64_t d = 0; d < D; ++d) row[d] = 0;
      for (int64_t d = D; d < width; ++d) row[d] = 0;
      const T own_bias = bias && i < block.count ? bias[block.first + i] : T{};
      block.biases[i] = own_bias;
      if (log_share > -infinity() && i < block.count) {
        const T norm = norm_above(square_of(row, D), D);
        block.largest = norm <= block.largest ? block.largest : norm;
        block.bias_most = own_bias <= block.bias_most ? block.bias_most : own_bias;
      }
    }
    const T* panel[P];
    for (int64_t i = 0; !(backward && kept) && i < block.count; i += P) {
      for (int64_t j = 0; j < P; ++j) panel[j] = block.rows + (i + j) * stride;
      transpose_rows(panel, P, D, block.panels + i * D);
    }
    // Gradients are weights times these rows: where an item has no part, whatever it was must not come out of 0 times it.
    // Where it has one, its score made the weight NaN.
    for (int64_t i = 0; backward && i < block.count * stride; i += W) {
      const V x = load<V>(block.rows + i);
      store(block.rows + i, x - x == V{} ? x : V{});
    }
  }

  void start_cursors(Block& block, int64_t first_item, int64_t begin, int64_t count) const {
    for (int64_t b = 0; indptr && b < count; ++b) {
      int64_t low = indptr[begin + b], high = indptr[begin + b + 1];
      while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (indices[middle] < first_item) low = middle + 1;
        else high = middle;
      }
      block.cursors[b] = low;
    }
  }

  // Whether no item of the block can hold a share of the row's mass that counts.
  bool negligible(const Block& block, int64_t b) const {
    const double most = static_cast<double>(norms[b]) * static_cast<double>(block.largest) +
                        static_cast<double>(block.bias_most) + 1e-6 * __builtin_fabs(static_cast<double>(block.bias_most));
    return most < static_cast<double>(floors[b]) + log_share;
  }

  template <bool Add>
  static void score_piece(const T* tile, const T* panel, int64_t steps, int64_t left, T* scores) {
    if (left <= kFewRows) product_tile<kFewRows, 2, 1, R, Add>(tile, panel, P, steps, scores, kScoreStride);
    else product_tile<R, 2, 1, R, Add>(tile, panel, P, steps, scores, kScoreStride);
  }

  // Scores of rows [b, b + R) of the chunk, as far as they exist.
  void score_tile(const Block& block, int64_t b, int64_t count, T* scores) const {
    for (int64_t i = 0; i < block.count; i += P)
      for (int64_t d = 0; d < D || d == 0; d += kScorePiece) {
        const int64_t steps = D - d < kScorePiece ? D - d : kScorePiece;
        const T *const tile = tiles + b * D + d * R, *const panel = block.panels + i * D + d * P;
        if (d) score_piece<true>(tile, panel, steps, count - b, scores + i);
        else score_piece<false>(tile, panel, steps, count - b, scores + i);
      }
  }

  // Adds biases and drops excluded items and padding, to whole panels.
  void finish_scores(Block& block, int64_t begin, int64_t b, T* scores) const {
    const int64_t padded = rounded_up(block.count, P);
    if (bias) for (int64_t i = 0; i < padded; i += W) store(scores + i, load<V>(scores + i) + load<V>(block.biases + i));
    if (indptr) {
      const int64_t end = indptr[begin + b + 1];
      int64_t& next = block.cursors[b];
      for (; next < end && indices[next] < block.first + block.count; ++next)
        scores[indices[next] - block.first] = -infinity();
    }
    for (int64_t i = block.count; i < padded; ++i) scores[i] = -infinity();
  }

  // Passes over the block's excluded items of a row that is left out.
  void skip_scores(Block& block, int64_t begin, int64_t b) const {
    if (!indptr) return;
    const int64_t end = indptr[begin + b + 1];
    while (block.cursors[b] < end && indices[block.cursors[b]] < block.first + block.count) ++block.cursors[b];
  }

  static T largest_of(const T* scores, int64_t padded) {
    V most[2] = {load<V>(scores), load<V>(scores + W)};
    for (int64_t i = P; i < padded; i += P)
      for (int half = 0; half < 2; ++half) {
        const V score = load<V>(scores + i + half * W);
        most[half] = score > most[half] ? score : most[half];
      }
    most[0] = most[1] > most[0] ? most[1] : most[0];
    T lanes[W];
    store(lanes, most[0]);
    T largest = -infinity();
    for (int lane = 0; lane < W; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
    return largest;
  }

  // e^(score - shift), kept where asked; their sum.
  static T exponentials(const T* scores, int64_t padded, T shift, T* to) {
    V sums[2] = {};
    const V shifts = splat<V>(shift);
    for (int64_t i = 0; i < padded; i += P)
      for (int half = 0; half < 2; ++half) {
        const V e = exp_below<W>(load<V>(scores + i + half * W) - shifts);
        sums[half] += e;
        if (to) store_past_cache(to + i + half * W, e);
      }
    return sum_lanes<T, W>(sums[0] + sums[1]);
  }

  static constexpr int kJoined = R % 4 ? 2 : 4;

  // Joins sums of exponentials, relative to `top` and to `other`, of kJoined rows.
  static void join(T* top, double* total, const T* other, const double* more) {
    typedef Vector<double, kJoined> Rows;
    Rows old_top, new_top, higher, totals, extra;
    for (int r = 0; r < kJoined; ++r) {
      old_top[r] = static_cast<double>(top[r]);
      new_top[r] = static_cast<double>(other[r]);
      higher[r] = new_top[r] > old_top[r] ? new_top[r] : old_top[r];
      totals[r] = total[r];
      extra[r] = more[r];
    }
    const Rows nothing = splat<Rows>(-__builtin_inf());
    const Rows shift = higher > nothing ? higher : Rows{};  // without mass all are -inf, and NaN stays
    const Rows low = (old_top < new_top ? old_top : new_top) - shift;
    const Rows factor = exp_nonpositive_f64<12, kJoined>(low);
    const Rows joined = old_top < new_top ? totals * factor + extra : totals + extra * factor;
    for (int r = 0; r < kJoined; ++r) {
      top[r] = static_cast<T>(higher[r]);
      total[r] = joined[r];
    }
  }

  void sum_block(Block& block, int64_t index, int64_t begin, int64_t count, T* top, double* total) const {
    const int64_t padded = rounded_up(block.count, P);
    for (int64_t b = 0; b < count; b += R) {
      const int64_t own = count - b < R ? count - b : R;
      bool left_out[R], wanted = false;
      for (int64_t r = 0; r < own; ++r) {
        left_out[r] = negligible(block, b + r);
        wanted |= !left_out[r];
      }
      if (wanted) score_tile(block, b, count, block.scores);
      T block_tops[R];
      double block_sums[R];
      for (int64_t r = 0; r < own; ++r) {
        T* const scores = block.scores + r * kScoreStride;
        const int64_t at = index * B + begin + b + r;
        block_tops[r] = -infinity();
        block_sums[r] = 0;
        if (left_out[r]) {
          skip_scores(block, begin, b + r);
          continue;
        }
        finish_scores(block, begin, b + r, scores);
        const T largest = largest_of(scores, padded);
        T* const to = kept ? kept + at * kBlockItems : nullptr;
        if (kept) kept_tops[at] = largest;
        block_tops[r] = largest;
        block_sums[r] =
            static_cast<double>(exponentials(scores, padded, largest > -infinity() ? largest : T{}, to));
      }
      for (int64_t r = own; r < rounded_up(own, kJoined); ++r) {
        block_tops[r] = -infinity();
        block_sums[r] = 0;
      }
      for (int64_t r = 0; r < own; r += kJoined) join(top + b + r, total + b + r, block_tops + r, block_sums + r);
    }
  }

  // Rows' floors, from the first block of the catalogue: what is far below them is negligible.
  void find_floors(int64_t begin, int64_t count) {
    for (int64_t b = 0; b < chunk; ++b) floors[b] = -infinity();
    if (!(log_share > -infinity()) || segments == 0) return;
    Block& block = per_thread[0];
    load_block(block, 0);
    start_cursors(block, 0, begin, count);
    for (int64_t b = 0; b < count; b += R) {
      score_tile(block, b, count, block.scores);
      for (int64_t r = 0; r < R && b + r < count; ++r) {
        finish_scores(block, begin, b + r, block.scores + r * kScoreStride);
        floors[b + r] = largest_of(block.scores + r * kScoreStride, rounded_up(block.count, P));
      }
    }
  }

  void forward(T* log_masses, T* out_tops, T* out_sums) {
    for (int64_t begin = 0; begin < B; begin += chunk) {
      const int64_t count = B - begin < chunk ? B - begin : chunk;
      load_chunk(begin, count);
      find_floors(begin, count);
      parallel_chunks(segments, (segments + threads - 1) / threads, [&](int64_t first, int64_t last, int thread) {
        Block& block = per_thread[thread];
        for (int64_t s = first; s < last; ++s) {
          T* const top = tops + s * chunk;
          double* const total = totals + s * chunk;
          for (int64_t b = 0; b < chunk; ++b) {
            top[b] = -infinity();
            total[b] = 0;
          }
          start_cursors(block, first_block(s) * kBlockItems, begin, count);
          for (int64_t index = first_block(s); index < first_block(s + 1); ++index) {
            load_block(block, index);
            sum_block(block, index, begin, count, top, total);
          }
        }
      });
      for (int64_t b = 0; b < count; b += kJoined)
        for (int64_t s = 1; s < segments; ++s)
          join(tops + b, totals + b, tops + s * chunk + b, totals + s * chunk + b);
      for (int64_t b = 0; b < count; ++b) {
        const double top = segments ? static_cast<double>(tops[b]) : -__builtin_inf();
        const double total = segments ? totals[b] : 0;
        log_masses[begin + b] = static_cast<T>(top + __builtin_log(total));
        out_tops[begin + b] = static_cast<T>(top);
        out_sums[begin + b] = static_cast<T>(total);
      }
    }
  }

  // Turns a row's scores, or what was kept of them, into weights: gradients by score.
  void weigh(Block& block, int64_t index, int64_t begin, int64_t b, T* scores) const {
    const int64_t padded = rounded_up(block.count, P);
    const T scale = scales[b];
    if (scale == 0 || negligible(block, b)) {
      if (!kept) skip_scores(block, begin, b);
      for (int64_t i = 0; i < padded; i += W) store(scores + i, V{});
      return;
    }
    const T top = tops[b];
    if (kept) {
      const int64_t at = index * B + begin + b;
      const V factor = splat<V>(exp_below<W>(splat<V>(kept_tops[at] - top))[0] * scale);
      const T* const from = kept + at * kBlockItems;
      for (int64_t i = 0; i < padded; i += W) store(scores + i, load<V>(from + i) * factor);
      return;
    }
    finish_scores(block, begin, b, scores);
    for (int64_t i = 0; i < padded; i += W)
      store(scores + i, exp_below<W>(load<V>(scores + i) - splat<V>(top)) * splat<V>(scale));
  }

  void grade_block(Block& block, int64_t index, int64_t begin, int64_t count, T* sums_by_row, bool want_bias) const {
    const int64_t padded = rounded_up(block.count, P);
    memset(block.item_sums, 0, static_cast<size_t>(kBlockItems * stride) * sizeof(T));
    memset(block.bias_sums, 0, static_cast<size_t>(kBlockItems) * sizeof(T));
    for (int64_t first = 0; first < count; first += kBlockRows) {
      const int64_t own = count - first < kBlockRows ? count - first : kBlockRows;
      for (int64_t r = 0; r < own; r += R) {
        T* const scores = block.scores + r * kScoreStride;
        if (!kept) score_tile(block, first + r, count, scores);
        for (int64_t b = r; b < own && b < r + R; ++b)
          weigh(block, index, begin, first + b, block.scores + b * kScoreStride);
        T* const to = sums_by_row + (first + r) * stride;
        if (own - r <= kFewRows)
          add_product_rows<kFewRows, kScoreStride, 1>(scores, block.rows, stride, block.count, width, to);
        else
          add_product_rows<R, kScoreStride, 1>(scores, block.rows, stride, block.count, width, to);
      }
      for (int64_t i = 0; i < padded; i += R)
        add_product_rows<R, 1, kScoreStride>(block.scores + i, rows + first * stride, stride, own, width,
                                             block.item_sums + i * stride);
      for (int64_t i = 0; want_bias && i < padded; i += W) {
        V sum = {};
        for (int64_t b = 0; b < own; ++b) sum += load<V>(block.scores + b * kScoreStride + i);
        store(block.bias_sums + i, load<V>(block.bias_sums + i) + sum);
      }
    }
  }

  // grad_items and grad_bias are added to, or written where `fresh`.
  void gradients(const T* grad, const T* given_tops, const T* given_sums, T* grad_users, T* grad_items, T* grad_bias,
                 bool fresh) {
    for (int64_t begin = 0; begin < B; begin += chunk) {
      const int64_t count = B - begin < chunk ? B - begin : chunk;
      load_chunk(begin, count);
      tops = const_cast<T*>(given_tops) + begin;
      for (int64_t b = 0; b < count; ++b) {
        const T sum = given_sums[begin + b];
        scales[b] = sum == 0 || grad[begin + b] == 0 ? T{} : grad[begin + b] / sum;
        for (int64_t d = 0; scales[b] == 0 && d < width; ++d) rows[b * stride + d] = 0;  // whatever it was
        floors[b] = static_cast<T>(static_cast<double>(tops[b]) + __builtin_log(static_cast<double>(sum)));
      }
      const bool write = fresh && begin == 0;
      parallel_chunks(segments, (segments + threads - 1) / threads, [&](int64_t first, int64_t last, int thread) {
        Block& block = per_thread[thread];
        for (int64_t s = first; s < last; ++s) {
          T* const sums_by_row = row_sums + s * chunk * stride;
          memset(sums_by_row, 0, static_cast<size_t>(chunk * stride) * sizeof(T));
          start_cursors(block, first_block(s) * kBlockItems, begin, count);
          for (int64_t index = first_block(s); index < first_block(s + 1); ++index) {
            load_block(block, index);
            grade_block(block, index, begin, count, sums_by_row, grad_bias != nullptr);
            for (int64_t i = 0; i < block.count; ++i) {
              T* const to = grad_items + (block.first + i) * D;
              const T* const from = block.item_sums + i * stride;
              if (write) for (int64_t d = 0; d < D; ++d) to[d] = from[d];
              else for (int64_t d = 0; d < D; ++d) to[d] += from[d];
              if (grad_bias) {
                T& own = grad_bias[block.first + i];
                own = write ? block.bias_sums[i] : own + block.bias_sums[i];
              }
            }
          }
        }
      });
      parallel_chunks(count, 16, [&](int64_t first, int64_t last, int) {
        for (int64_t b = first; b < last; ++b)
          for (int64_t d = 0; d < D; ++d) {
            T sum = 0;
            for (int64_t s = 0; s < segments; ++s) sum += row_sums[(s * chunk + b) * stride + d];
            grad_users[(begin + b) * D + d] = sum;
          }
      });
    }
  }
};

// Returns 0, or 1 when memory ran out. `kept` is null, or has room for what spares `catalogue_gradients` the scores.
template <class T>
inline int catalogue_log_mass(WideTable<T> users, WideTable<T> items, WideTable<T> bias, const int64_t* indptr,
                              const int64_t* indices, T* log_masses, T* tops, T* sums, T* kept, T* kept_tops, int64_t B,
                              int64_t N, int64_t D, double log_share) {
  CatalogueSweep<T> sweep = {};
  sweep.users = users, sweep.items = items, sweep.bias = bias, sweep.indptr = indptr, sweep.indices = indices;
  sweep.B = B, sweep.N = N, sweep.D = D, sweep.log_share = log_share;
  sweep.kept = kept, sweep.kept_tops = kept_tops;
  if (!sweep.prepare(false)) return 1;
  sweep.forward(log_masses, tops, sums);
  free(sweep.memory);
  return 0;
}

template <class T>
inline int catalogue_gradients(const T* grad, WideTable<T> users, WideTable<T> items, WideTable<T> bias,
                               const int64_t* indptr, const int64_t* indices, const T* tops, const T* sums,
                               const T* kept, const T* kept_tops, T* grad_users, T* grad_items, T* grad_bias, int64_t B,
                               int64_t N, int64_t D, double log_share, bool fresh) {
  CatalogueSweep<T> sweep = {};
  sweep.users = users, sweep.items = items, sweep.bias = bias, sweep.indptr = indptr, sweep.indices = indices;
  sweep.B = B, sweep.N = N, sweep.D = D, sweep.log_share = log_share;
  sweep.kept = const_cast<T*>(kept), sweep.kept_tops = const_cast<T*>(kept_tops);
  if (!sweep.prepare(true)) return 1;
  sweep.gradients(grad, tops, sums, grad_users, grad_items, grad_bias, fresh);
  free(sweep.memory);
  return 0;
}

}  // namespace
