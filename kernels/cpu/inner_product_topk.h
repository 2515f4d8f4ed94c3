// The exact K best items of each user by inner product, without ever writing the [B, N] scores.
//
// Sample, filter, select: a threshold per row from a small sample of the items; one pass of register tiles that
// keeps the items whose upper bound reaches the threshold; exact scores of what was kept; selection by the one
// order. That a row found K scores at or above its threshold proves it complete; a row that did not is redone
// without a threshold. So results depend neither on the sample nor on tiles, threads or instruction set.
// DESIGN.md TK-1 (margin), TK-2 (sample), TK-3 (buffers).
#pragma once
#include <stdlib.h>

#include "kernels/cpu/order.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/score_tile.h"

namespace {

constexpr int64_t kItemBlockBytes = 256 << 10;  // a block of items stays in L2 while the panels pass over it
constexpr int64_t kRowBufferBytes = 10 << 20;   // of all threads together; at least one panel each
constexpr int64_t kMostGroupRows = 512;         // rows that share one pass over the items
constexpr int64_t kLeastSample = 1200, kMostSample = 16384;

inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// Bounds of an item's exact score; equal once it has been computed.
template <class T>
struct Candidate {
  T lower, upper;
  int64_t id;
};

template <class T>
struct Row {
  int64_t user;
  Candidate<T>* found;      // in ascending order of id, always
  int64_t count, clean;     // the first `clean` of them have been checked against the exclusions
  int64_t excluded, excluded_end;
  T sampled_threshold;
};

// Hands out parts of one allocation: the first round measures, the second assigns.
struct Arena {
  char* base = nullptr;
  int64_t used = 0;
  template <class T>
  void take(T*& part, int64_t count) {
    part = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (count * static_cast<int64_t>(sizeof(T)) + 127) & ~static_cast<int64_t>(63);
  }
};

template <class Storage>
struct TopK {
  typedef typename Accumulator<Storage>::type T;
  typedef typename OrderKey<T>::type Key;
  static constexpr int L = kTileUsers<T>;
  static constexpr int W = kLanes<T>;
  static T infinity() { return static_cast<T>(__builtin_inf()); }

  const Storage* users;
  const Storage* items;
  const int64_t* indptr;  // null: nothing is excluded
  const int64_t* indices;
  int64_t K, D;
  int64_t begin, end;  // the items that this search looks at
  T* scores;           // [B, K]
  int64_t* ids;        // [B, K]
  int64_t* lengths;    // [B]

  int64_t stride, block_items, group_rows, capacity, sample, groups, rank;
  T *block, *margins, *panels, *norms, *thresholds, *tile_scores, *row, *maxima;
  double* wide_row;
  Row<T>* rows;
  Candidate<T>* candidates;
  Key* keys;
  Ranked<Key>*ranked, *spare;
  uint32_t* sample_excluded;
  int64_t *order, *again;

  // Sizes, from the shapes alone.
  void plan(int64_t B, int threads) {
    const int64_t n = end - begin;
    stride = D % 128 ? D : D + 16;  // rows a power of two apart would share their cache sets
    block_items = max64(1, kItemBlockBytes / (static_cast<int64_t>(sizeof(T)) * max64(stride, 1)) / kTileItems) * kTileItems;
    block_items = min64(block_items, 4080);
    // TK-2: with `rank` of the sample above the threshold, fewer than K of all items are above it once in 1e5 rows.
    sample = min64(max64(n / 32, kLeastSample), kMostSample) / kTileItems * kTileItems;
    const double mean = static_cast<double>(K) * static_cast<double>(sample) / static_cast<double>(max64(n, 1));
    rank = static_cast<int64_t>(mean + 4 * __builtin_sqrt(mean) + 3) + 1;
    groups = min64(6 * rank, sample / 3);
    if (sample > n / 4 || rank > sample / 6) sample = 0;
    const double expected = sample ? 1.15 * static_cast<double>(rank) * static_cast<double>(n) / static_cast<double>(sample) : 0;
    capacity = min64(n, max64(3 * K, static_cast<int64_t>(1.4 * expected)) + 64);
    const int64_t row_bytes =
        1 + capacity * static_cast<int64_t>(sizeof(Candidate<T>)) + D * static_cast<int64_t>(sizeof(T));
    group_rows = min64(kMostGroupRows, max64(L, kRowBufferBytes / threads / row_bytes / L * L));
    group_rows = min64(group_rows, B);
  }

  void lay_out(Arena& arena) {
    const int64_t P = (group_rows + L - 1) / L, padded = P * L;
    arena.take(block, block_items * stride);
    arena.take(margins, block_items);
    arena.take(panels, padded * D);
    arena.take(norms, padded);
    arena.take(thresholds, padded);
    arena.take(tile_scores, kTileItems * L);
    arena.take(row, L * D);
    arena.take(wide_row, D);
    arena.take(rows, group_rows);
    arena.take(candidates, group_rows * capacity);
    arena.take(keys, capacity);
    arena.take(ranked, capacity);
    arena.take(spare, capacity);
    arena.take(maxima, sample ? P * groups * L : 0);
    arena.take(sample_excluded, P * sample);
    arena.take(order, group_rows);
    arena.take(again, group_rows);
  }

  // False when memory ran out.
  bool search(int64_t first_row, int64_t last_row, int threads) {
    plan(last_row - first_row, threads);
    Arena arena;
    lay_out(arena);
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, static_cast<size_t>(arena.used)) != 0) return false;
    arena.base = static_cast<char*>(memory);
    arena.used = 0;
    lay_out(arena);
    for (int64_t b = first_row; b < last_row; b += group_rows) {
      const int64_t count = min64(group_rows, last_row - b);
      for (int64_t i = 0; i < count; ++i) order[i] = b + i;
      const int64_t short_rows = search_group(order, count, sample > 0);
      if (short_rows) search_group(again, short_rows, false);
    }
    free(memory);
    return true;
  }

  // The rows that came up short of their threshold are counted, and listed in `again`.
  int64_t search_group(const int64_t* group, int64_t count, bool sampled) {
    const int64_t P = (count + L - 1) / L;
    for (int64_t p = 0; p < P; ++p) start_panel(group, count, p);
    if (sampled) estimate_thresholds(count, P);
    for (int64_t first = begin; first < end; first += block_items) {
      const int64_t valid = min64(block_items, end - first);
      for (int64_t i = 0; i < valid; ++i) {
        widen_row(items + (first + i) * D, block + i * stride, D);
        margins[i] = margin_of(norm_above(block + i * stride, D), D);
      }
      const int64_t tiles = pad_block(valid);
      for (int64_t p = 0; p < P; ++p) filter_panel(p, min64(L, count - p * L), first, valid, tiles);
    }
    int64_t short_rows = 0;
    for (int64_t i = 0; i < count; ++i)
      if (!finish(rows[i], thresholds[i])) again[short_rows++] = rows[i].user;
    return short_rows;
  }

  void start_panel(const int64_t* group, int64_t count, int64_t p) {
    for (int lane = 0; lane < L; ++lane) {
      const int64_t i = p * L + lane;
      if (i >= count) {
        norms[i] = static_cast<T>(Precision<T>::least_norm);
        thresholds[i] = infinity();
        continue;
      }
      widen_row(users + group[i] * D, row + lane * D, D);
      norms[i] = norm_above(row + lane * D, D);
      thresholds[i] = -infinity();
      Row<T>& r = rows[i];
      r.user = group[i];
      r.found = candidates + i * capacity;
      r.count = r.clean = 0;
      r.excluded = indptr ? first_at_least(indptr[r.user], indptr[r.user + 1], begin) : 0;
      r.excluded_end = indptr ? first_at_least(r.excluded, indptr[r.user + 1], end) : 0;
      r.sampled_threshold = -infinity();
    }
    pack_panel(row, D, min64(L, count - p * L), D, panels + p * L * D);
  }

  int64_t first_at_least(int64_t low, int64_t high, int64_t id) const {
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (indices[middle] < id) low = middle + 1; else high = middle;
    }
    return low;
  }

  // Zero rows up to whole tiles.
  int64_t pad_block(int64_t valid) {
    const int64_t tiles = (valid + kTileItems - 1) / kTileItems;
    for (int64_t i = valid; i < tiles * kTileItems; ++i) {
      for (int64_t d = 0; d < D; ++d) block[i * stride + d] = 0;
      margins[i] = 0;
    }
    return tiles;
  }

  // Sampled item j: one of the j-th of `sample` even stretches of the range, at a scattered place in it.
  int64_t stretch(int64_t j) const {
    const int64_t n = end - begin;
    return begin + n / sample * j + n % sample * j / sample;
  }
  int64_t sampled_item(int64_t j) const {
    const int64_t from = stretch(j);
    const uint64_t scattered = (static_cast<uint64_t>(j) + 1) * 0x9E3779B97F4A7C15u >> 33;
    return from + static_cast<int64_t>(scattered % static_cast<uint64_t>(stretch(j + 1) - from));
  }

  // The rank-th largest of the maxima of `groups` groups of sampled items: at most the rank-th of the sample.
  __attribute__((noinline)) void estimate_thresholds(int64_t count, int64_t P) {
    for (int64_t i = 0; i < P * groups * L; ++i) maxima[i] = -infinity();
    for (int64_t i = 0; i < P * sample; ++i) sample_excluded[i] = 0;
    for (int64_t i = 0; i < count; ++i) {
      int64_t j = 0;
      for (int64_t e = rows[i].excluded; e < rows[i].excluded_end; ++e) {
        const int64_t guess = static_cast<int64_t>(static_cast<double>(indices[e] - begin) * static_cast<double>(sample) /
                                                   static_cast<double>(end - begin)) - 1;
        j = min64(max64(j, guess), sample - 1);
        while (j + 1 < sample && stretch(j + 1) <= indices[e]) ++j;
        if (sampled_item(j) == indices[e]) sample_excluded[i / L * sample + j] |= 1u << (i % L);
      }
    }
    for (int64_t first = 0; first < sample; first += block_items) {
      const int64_t valid = min64(block_items, sample - first);
      for (int64_t i = 0; i < valid; ++i) widen_row(items + sampled_item(first + i) * D, block + i * stride, D);
      for (int64_t p = 0; p < P; ++p) sample_panel(p, first, valid);
    }
    for (int64_t p = 0; p < P; ++p) {
      T* bounds = thresholds + p * L;
      lane_thresholds(maxima + p * groups * L);
      for (int64_t lane = 0; lane < min64(L, count - p * L); ++lane) {
        const T bound = tile_scores[lane];
        if (!(bound - bound == 0)) continue;  // not finite
        bounds[lane] = rows[p * L + lane].sampled_threshold = bound;
      }
    }
  }

  void sample_panel(int64_t p, int64_t first, int64_t valid) {
    Lanes<T> tile[kTileItems][2];
    T* const largest = maxima + p * groups * L;
    for (int64_t i = 0; i < valid; i += kTileItems) {
      tile_product(panels + p * L * D, block + i * stride, stride, D, tile);
      const uint32_t* const excluded = sample_excluded + p * sample + first + i;
      for (int c = 0; c < kTileItems; ++c) {
        if (__builtin_expect(excluded[c] != 0, 0)) {
          T lanes[L];
          memcpy(lanes, tile[c], sizeof(lanes));
          for (int lane = 0; lane < L; ++lane)
            if (excluded[c] >> lane & 1) lanes[lane] = -infinity();
          memcpy(tile[c], lanes, sizeof(lanes));
        }
      }
      for (int j = 0; j < kTileThrees; ++j) {
        T* const group = largest + ((first + i) / 3 + j) % groups * L;
        for (int half = 0; half < 2; ++half) {
          Lanes<T> most = load<Lanes<T>>(group + half * W);
          for (int c = 3 * j; c < 3 * j + 3; ++c) most = tile[c][half] > most ? tile[c][half] : most;  // NaN: no
          store(group + half * W, most);
        }
      }
    }
  }

  // kth_largest for all lanes at once, into tile_scores.
  void lane_thresholds(T* largest) {
    typedef typename OrderKey<T>::bits Bits;
    typedef Vector<Key, W> VK;
    Key* const lane_keys = reinterpret_cast<Key*>(largest);
    for (int64_t i = 0; i < groups * L; ++i) {
      const Key key = order_key(largest[i]);
      memcpy(lane_keys + i, &key, sizeof(key));
    }
    const Bits sign = static_cast<Bits>(1) << (sizeof(Bits) * 8 - 1);
    for (int half = 0; half < 2; ++half) {
      VK bound = splat<VK>(static_cast<Key>(sign));
      for (int bit = sizeof(Bits) * 8 - 1; bit >= 0; --bit) {
        const VK tried = bound ^ splat<VK>(static_cast<Key>(static_cast<Bits>(1) << bit));
        VK reached = {};
        for (int64_t g = 0; g < groups; ++g) reached -= static_cast<VK>(load<VK>(lane_keys + g * L + half * W) >= tried);
        bound = reached >= splat<VK>(static_cast<Key>(rank)) ? tried : bound;
      }
      for (int lane = 0; lane < W; ++lane) tile_scores[half * W + lane] = score_of_key<T>(bound[lane]);
    }
  }

  void filter_panel(int64_t p, int64_t valid_lanes, int64_t first, int64_t valid, int64_t tiles) {
    typedef Lanes<T> V;
    V tile[kTileItems][2];
    const V norm0 = load<V>(norms + p * L), norm1 = load<V>(norms + p * L + W);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t i = t * kTileItems;
      tile_product(panels + p * L * D, block + i * stride, stride, D, tile);
      const V bound0 = load<V>(thresholds + p * L), bound1 = load<V>(thresholds + p * L + W);
      Below<T> below0 = all_below<T>(), below1 = below0;
      for (int c = 0; c < kTileItems; ++c) {
        below0 = and_below(below0, tile[c][0] + norm0 * splat<V>(margins[i + c]), bound0);
        below1 = and_below(below1, tile[c][1] + norm1 * splat<V>(margins[i + c]), bound1);
      }
      const uint32_t lanes = lanes_not_below<T>(below0) | lanes_not_below<T>(below1) << W;
      if (lanes == 0) continue;
      for (int c = 0; c < kTileItems; ++c) {
        store(tile_scores + c * L, tile[c][0]);
        store(tile_scores + c * L + W, tile[c][1]);
      }
      const uint32_t real = valid_lanes < 32 ? (1u << valid_lanes) - 1 : ~0u;
      log_survivors(p, lanes & real, first + i, margins + i, min64(kTileItems, valid - i));
    }
  }

  __attribute__((noinline)) void log_survivors(int64_t p, uint32_t candidate_lanes, int64_t first, const T* margin,
                                               int64_t count) {
    typedef Lanes<T> V;
    const V norm0 = load<V>(norms + p * L), norm1 = load<V>(norms + p * L + W);
    const V bound0 = load<V>(thresholds + p * L), bound1 = load<V>(thresholds + p * L + W);
    for (int64_t c = 0; c < count; ++c) {
      const T* const scored = tile_scores + c * L;
      const V most0 = load<V>(scored) + norm0 * splat<V>(margin[c]);
      const V most1 = load<V>(scored + W) + norm1 * splat<V>(margin[c]);
      uint32_t lanes = lanes_not_below<T>(and_below(all_below<T>(), most0, bound0)) |
                       lanes_not_below<T>(and_below(all_below<T>(), most1, bound1)) << W;
      for (lanes &= candidate_lanes; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        Row<T>& r = rows[p * L + lane];
        if (r.count == capacity) make_room(r, thresholds[p * L + lane]);
        const T slack = norms[p * L + lane] * margin[c];
        Candidate<T>& candidate = r.found[r.count++];
        const bool bounded = slack < infinity();
        candidate.lower = bounded ? scored[lane] - slack : -infinity();
        candidate.upper = bounded ? scored[lane] + slack : infinity();
        candidate.id = first + c;
      }
    }
  }

  __attribute__((noinline)) void make_room(Row<T>& r, T& threshold) {
    drop_excluded(r);
    raise_threshold(r, threshold);
    if (r.count <= capacity - capacity / 4) return;
    rescore(r);
    keep_best(r, threshold);
    r.clean = r.count;
  }

  void drop_excluded(Row<T>& r) {
    int64_t kept = r.clean;
    for (int64_t i = r.clean; i < r.count; ++i) {
      const int64_t id = r.found[i].id;
      while (r.excluded < r.excluded_end && indices[r.excluded] < id) ++r.excluded;
      if (r.excluded < r.excluded_end && indices[r.excluded] == id) continue;
      r.found[kept++] = r.found[i];
    }
    r.count = r.clean = kept;
  }

  // The threshold becomes the K-th largest lower bound; what cannot reach it goes.
  void raise_threshold(Row<T>& r, T& threshold) {
    if (r.count < K) return;
    for (int64_t i = 0; i < r.count; ++i) keys[i] = order_key(r.found[i].lower);
    const T bound = score_of_key<T>(kth_largest<T>(keys, r.count, K));
    if (!(bound > threshold)) return;
    threshold = bound;
    int64_t kept = 0;
    for (int64_t i = 0; i < r.count; ++i)
      if (!(r.found[i].upper < bound)) r.found[kept++] = r.found[i];
    r.count = r.clean = kept;
  }

  // Exact scores; what cannot be ranked goes.
  void rescore(Row<T>& r) {
    const Storage* const user = users + r.user * D;
    for (int64_t d = 0; d < D; ++d) wide_row[d] = static_cast<double>(widen(user[d]));
    Candidate<T>* pending[2][kChains];
    int64_t waiting = 0, flip = 0, ready = 0;
    for (int64_t i = 0; i <= r.count; ++i) {
      if (i < r.count) {
        if (r.found[i].lower == r.found[i].upper) continue;
        const char* const from = reinterpret_cast<const char*>(items + r.found[i].id * D);
        const int64_t bytes = min64(D * static_cast<int64_t>(sizeof(Storage)), 512);
        for (int64_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(from + offset);
        pending[flip][waiting++] = &r.found[i];
        if (waiting < kChains) continue;
      }
      // One batch behind the prefetches.
      score_batch(pending[1 - flip], ready);
      ready = waiting;
      waiting = 0;
      flip = 1 - flip;
    }
    score_batch(pending[1 - flip], ready);
    int64_t kept = 0;
    for (int64_t i = 0; i < r.count; ++i)
      if (r.found[i].lower > -infinity()) r.found[kept++] = r.found[i];
    r.count = r.clean = kept;
  }

  void score_batch(Candidate<T>* const* batch, int64_t count) {
    if (count == 0) return;
    const Storage* sources[kChains];
    double sums[kChains];
    for (int64_t j = 0; j < kChains; ++j) sources[j] = items + batch[j < count ? j : 0]->id * D;
    exact_inner_products(wide_row, sources, D, sums);
    for (int64_t j = 0; j < count; ++j) batch[j]->lower = batch[j]->upper = static_cast<T>(sums[j]);
  }

  // The K best of exact scores, ties to the lower id, which stands first.
  void keep_best(Row<T>& r, T& threshold) {
    if (r.count < K) return;
    for (int64_t i = 0; i < r.count; ++i) keys[i] = order_key(r.found[i].lower);
    const Key last = kth_largest<T>(keys, r.count, K);
    int64_t ties = K;
    for (int64_t i = 0; i < r.count; ++i) ties -= keys[i] > last;
    int64_t kept = 0;
    for (int64_t i = 0; i < r.count; ++i)
      if (keys[i] > last || (keys[i] == last && ties-- > 0)) r.found[kept++] = r.found[i];
    r.count = kept;
    const T bound = score_of_key<T>(last);
    if (bound > threshold) threshold = bound;
  }

  // False if the sampled threshold was too high to prove the row complete.
  bool finish(Row<T>& r, T& threshold) {
    drop_excluded(r);
    raise_threshold(r, threshold);
    rescore(r);
    keep_best(r, threshold);
    T worst = infinity();
    for (int64_t i = 0; i < r.count; ++i) {
      worst = r.found[i].lower < worst ? r.found[i].lower : worst;
      ranked[i] = {order_key(r.found[i].lower), static_cast<uint32_t>(i)};
    }
    if (r.sampled_threshold > -infinity() && (r.count < K || worst < r.sampled_threshold)) return false;
    sort_ranked(ranked, spare, r.count);
    T* const out = scores + r.user * K;
    int64_t* const out_ids = ids + r.user * K;
    for (int64_t i = 0; i < r.count; ++i) {
      out[i] = r.found[ranked[i].position].lower;
      out_ids[i] = r.found[ranked[i].position].id;
    }
    for (int64_t i = r.count; i < K; ++i) {
      out[i] = -infinity();
      out_ids[i] = -1;
    }
    lengths[r.user] = r.count;
    return true;
  }
};

// The best K of `splits` lists [splits, B, K] of ascending ranges of items: equal scores already stand by id.
template <class T>
bool merge_topk(const T* part_scores, const int64_t* part_ids, const int64_t* part_lengths, int64_t splits, T* scores,
                int64_t* ids, int64_t* lengths, int64_t B, int64_t K) {
  typedef Ranked<typename OrderKey<T>::type> R;
  int failed = 0;
  parallel_chunks(B, 16, [&](int64_t first, int64_t last, int) {
    R* const ranked = static_cast<R*>(malloc(sizeof(R) * 2 * static_cast<size_t>(splits * K)));
    if (!ranked) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    for (int64_t b = first; ranked && b < last; ++b) {
      int64_t count = 0;
      for (int64_t s = 0; s < splits; ++s)
        for (int64_t k = 0; k < part_lengths[s * B + b]; ++k)
          ranked[count++] = {order_key(part_scores[(s * B + b) * K + k]), static_cast<uint32_t>(s * K + k)};
      sort_ranked(ranked, ranked + splits * K, count);
      count = min64(count, K);
      for (int64_t k = 0; k < K; ++k) {
        const int64_t from = k < count ? (ranked[k].position / K * B + b) * K + ranked[k].position % K : 0;
        scores[b * K + k] = k < count ? part_scores[from] : static_cast<T>(-__builtin_inf());
        ids[b * K + k] = k < count ? part_ids[from] : -1;
      }
      lengths[b] = count;
    }
    free(ranked);
  });
  return !failed;
}

// 0, or 1 when memory ran out. Excluded ids must be in [0, N), ascending within a row.
template <class Storage>
int inner_product_topk(const Storage* users, const Storage* items, const int64_t* indptr, const int64_t* indices,
                       typename Accumulator<Storage>::type* scores, int64_t* ids, int64_t* lengths, int64_t B,
                       int64_t N, int64_t K, int64_t D) {
  typedef typename Accumulator<Storage>::type T;
  if (B == 0) return 0;
  if (K == 0) {
    for (int64_t b = 0; b < B; ++b) lengths[b] = 0;
    return 0;
  }
  const int threads = max_threads();
  const int64_t panels = (B + kTileUsers<T> - 1) / kTileUsers<T>;
  // Too few users for all threads: they share the items, whose lists are merged.
  const int64_t splits = max64(1, min64(threads / panels, N / max64(4096, 4 * K)));
  int failed = 0;
  T* part_scores = scores;
  int64_t *part_ids = ids, *part_lengths = lengths;
  void* memory = nullptr;
  if (splits > 1) {
    Arena arena;
    for (int round = 0; round < 2; ++round) {
      arena.used = 0;
      arena.take(part_scores, splits * B * K);
      arena.take(part_ids, splits * B * K);
      arena.take(part_lengths, splits * B);
      if (round == 0 && posix_memalign(&memory, 64, static_cast<size_t>(arena.used)) != 0) return 1;
      arena.base = static_cast<char*>(memory);
    }
  }
  parallel_chunks(panels * splits, 1, [&](int64_t first, int64_t last, int) {
    while (first < last) {
      const int64_t split = first / panels;
      const int64_t stop = min64(last, (split + 1) * panels);
      TopK<Storage> search = {};
      search.users = users;
      search.items = items;
      search.indptr = indptr;
      search.indices = indices;
      search.K = K;
      search.D = D;
      search.begin = N * split / splits;
      search.end = N * (split + 1) / splits;
      search.scores = part_scores + (splits > 1 ? split * B * K : 0);
      search.ids = part_ids + (splits > 1 ? split * B * K : 0);
      search.lengths = part_lengths + (splits > 1 ? split * B : 0);
      const int64_t row = (first - split * panels) * kTileUsers<T>;
      if (!search.search(row, min64(B, (stop - split * panels) * kTileUsers<T>), threads))
        __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      first = stop;
    }
  });
  if (splits > 1 && !failed)
    failed = !merge_topk(part_scores, part_ids, part_lengths, splits, scores, ids, lengths, B, K);
  free(memory);
  return failed;
}

}  // namespace
