// The exact K best items of each user by inner product, without ever writing the [B, N] scores.
//
// Sample, filter, select: a threshold per row from a small sample of the items; one pass of register tiles over
// panels of items that keeps what may reach it; exact scores of what was kept; selection by the one order. That a row
// found K scores at or above its threshold proves it complete; a row that did not is redone without one. So results
// depend neither on the sample nor on the filter's precision, tiles, threads, item order or instruction set.
// DESIGN.md TK-1 (margins), TK-2 (sample), TK-3 (candidates), TK-11 (filters).
#pragma once
#include <stdlib.h>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/topk_tiles.h"

namespace {

constexpr int64_t kGroupBytes = 10 << 20;  // of all threads together; at least one tile of rows each
constexpr int64_t kMostGroupRows = 2040;   // rows that share one pass over the items
constexpr int64_t kLeastSample = 1200, kMostSample = 16384;
constexpr int64_t kSampledBits = 1 << 20;
constexpr int64_t kSplitBytes = 4 << 20;
constexpr int64_t kPending = 48;  // hits that wait while their rows come from memory

template <class T>
struct TopK : TopKTiles<T> {
  typedef TopKTiles<T> Tiles;
  typedef typename Tiles::Rows::Key Key;
  typedef typename Tiles::Bounds Bounds;
  static constexpr int R = kTileRows, S = kTileSlots<T>, W = kLanes<T>, P = kPanelItems<T>;
  static constexpr bool kQuantises = Tiles::kQuantises;
  using Tiles::B;
  using Tiles::begin;
  using Tiles::candidates;
  using Tiles::capacity;
  using Tiles::D;
  using Tiles::end;
  using Tiles::infinity;
  using Tiles::K;
  using Tiles::row_buffer;
  using Tiles::rows;
  using Tiles::prepared;
  using Tiles::filter;
  using Tiles::rounding;
  using Tiles::thresholds;
  using Tiles::norms;
  using Tiles::residuals;
  using Tiles::inverse_scales;
  using Tiles::byte_sums;
  using Tiles::panel_data;
  using Tiles::stage;
  using Tiles::wide_rows;
  using Tiles::add_biases;
  using Tiles::biased;
  using Tiles::panel_biases;
  using Tiles::tile_scores;
  using Tiles::user_row;
  using Tiles::item_at;
  using Tiles::pack;
  using Tiles::pack_users;
  using Tiles::slot_of;
  using Tiles::run_tile;
  using Tiles::bound_tile;
  using Tiles::reaching;

  int64_t group_rows, sample, rank, maxima_slots;
  T* maxima;
  uint64_t* sampled;
  int64_t *order, *again;
  int64_t* rescored_by;  // by tile: exact scores that its rows needed before the end
  bool* exact_ready;     // by tile: exact_users is filled
  double *exact_users, *exact_panel, *exact_biases, *exact_scores, *exact_bounds;
  int64_t exact_columns;
  int8_t first_with[P], next_with[P];  // the items of a column of exact_panel; -1 ends them

  // Hits of low-precision tiles, before their scores in the accumulator's precision.
  int32_t *hit_lanes, *hit_slots;
  int64_t* hit_ids;
  T* hit_margins;
  int64_t hits;

  // Sizes, from the shapes alone.
  void plan(int64_t rows_here, int threads) {
    const int64_t n = end - begin;
    rounding = rounding_margin<T>(D);
    // TK-2: with `rank` of the sample above the threshold, fewer than K of all items are above it once in 1e5 rows.
    sample = min64(max64(n / 32, kLeastSample), kMostSample) / P * P;
    const double mean = static_cast<double>(K) * static_cast<double>(sample) / static_cast<double>(max64(n, 1));
    rank = static_cast<int64_t>(mean + 4 * __builtin_sqrt(mean) + 3) + 1;
    if (sample > n / 4 || rank > sample / 6) sample = 0;
    maxima_slots = sample ? min64(max64(8 * rank / P, 2), max64(sample / P / 3, 1)) : 0;
    capacity = min64(n, 3 * K + 64);
    const int64_t row_bytes = capacity * static_cast<int64_t>(sizeof(Candidate<T>)) +
                              2 * D * static_cast<int64_t>(sizeof(T)) + maxima_slots * P * static_cast<int64_t>(sizeof(T));
    group_rows = min64(kMostGroupRows, max64(R, kGroupBytes / threads / max64(row_bytes, 1) / R * R));
    group_rows = min64(group_rows, rows_here);
  }

  void lay_out(Arena& arena) {
    const int64_t tiles = (group_rows + R - 1) / R;
    this->lay_out_tiles(arena, tiles);
    arena.take(candidates, group_rows * capacity);
    arena.take(hit_lanes, kPending + R * P + 2 * W);
    arena.take(hit_slots, kPending + R * P + 2 * W);
    arena.take(hit_ids, kPending + R * P);
    arena.take(hit_margins, kPending + R * P);
    arena.take(maxima, group_rows * maxima_slots * P);
    arena.take(sampled, sample && this->indptr ? kSampledBits / 64 : 0);
    arena.take(order, group_rows);
    arena.take(again, group_rows);
    arena.take(rescored_by, tiles);
    arena.take(exact_users, kQuantises ? tiles * D * R : 0);
    arena.take(exact_ready, tiles);
    arena.take(exact_panel, P * D);
    arena.take(exact_biases, P);
    arena.take(exact_scores, R * P);
    arena.take(exact_bounds, R);
  }

  // False when memory ran out.
  bool search(int64_t first_row, int64_t last_row, int threads) {
    plan(last_row - first_row, threads);
    const bool bytes_fit = rankdistill_filters & kInt8Bit && D <= kLargestInt8Width;
    if (!kQuantises) filter = kWide;
    if (filter == kAnyFilter && bytes_fit && (sample || prepared)) filter = kInt8;
    if (filter == kAnyFilter) filter = rankdistill_filters & kBf16Bit ? kBf16 : kWide;
    Arena arena;
    lay_out(arena);
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, static_cast<size_t>(arena.used)) != 0) return false;
    arena.base = static_cast<char*>(memory);
    arena.used = 0;
    lay_out(arena);
    const int chosen = filter;
    for (int64_t b = first_row; b < last_row; b += group_rows) {
      const int64_t count = min64(group_rows, last_row - b);
      for (int64_t i = 0; i < count; ++i) order[i] = b + i;
      filter = chosen;
      const int64_t short_rows = search_group(order, count, sample > 0);
      if (short_rows) search_group(again, short_rows, false);
    }
    free(memory);
    return true;
  }

  // The rows that came up short of their threshold are counted, and listed in `again`.
  int64_t search_group(const int64_t* group, int64_t count, bool sampled_first) {
    const int64_t tiles = (count + R - 1) / R;
    for (int64_t i = 0; i < count; ++i) this->start_row(slot_of(i), candidates + i * capacity, group[i]);
    pack_users(count, tiles);
    while (sampled_first && !estimate_thresholds(count, tiles)) {
      filter = weaker_filter();
      pack_users(count, tiles);
    }
    for (int64_t t = 0; t < tiles; ++t) rescored_by[t] = exact_ready[t] = 0;
    hits = 0;
    for (int64_t first = begin; first < end; first += P) pass_panel(first, count, tiles);
    refine();
    int64_t short_rows = 0;
    for (int64_t i = 0; i < count; ++i)
      if (!this->finish(rows[slot_of(i)], thresholds[slot_of(i)])) again[short_rows++] = rows[slot_of(i)].user;
    return short_rows;
  }

  int weaker_filter() const { return filter == kInt8 && rankdistill_filters & kBf16Bit ? kBf16 : kWide; }

  // Sampled item j: one of the j-th of `sample` even stretches of the positions, at a scattered place in it.
  int64_t stretch(int64_t j) const {
    const int64_t n = end - begin;
    return begin + n / sample * j + n % sample * j / sample;
  }
  int64_t sampled_item(int64_t j) const {
    const int64_t from = stretch(j);
    const uint64_t scattered = (static_cast<uint64_t>(j) + 1) * 0x9E3779B97F4A7C15u >> 33;
    return item_at(from + static_cast<int64_t>(scattered % static_cast<uint64_t>(stretch(j + 1) - from)));
  }
  static int64_t sampled_bit(int64_t id) {
    return static_cast<int64_t>((static_cast<uint64_t>(id) * 0x9E3779B97F4A7C15u) >> 44);
  }

  // Thresholds from the largest of groups of sampled items, deeper by the excluded ones among them. False where the
  // filter's margin would let too much pass, so that one more precise pays.
  __attribute__((noinline)) bool estimate_thresholds(int64_t count, int64_t tiles) {
    const int64_t groups = maxima_slots * P;
    for (int64_t i = 0; i < count * groups; ++i) maxima[i] = -infinity();
    if (this->indptr) memset(sampled, 0, kSampledBits / 8);
    Panel<T> panel = {};
    for (int64_t first = 0; first < sample; first += P) {
      panel = pack([&](int64_t i) { return sampled_item(first + i); }, P, false, panel_data);
      if (this->indptr)
        for (int64_t i = 0; i < P; ++i) {
          const int64_t bit = sampled_bit(sampled_item(first + i));
          sampled[bit / 64] |= static_cast<uint64_t>(1) << (bit % 64);
        }
      if (!(panel.largest < infinity())) continue;
      for (int64_t t = 0; t < tiles; ++t) sample_tile(t, panel, first / P % maxima_slots, count);
    }
    int64_t passing = 0, wanted = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t slot = slot_of(i);
      Row<T>& r = rows[slot];
      int64_t depth = rank;
      for (int64_t e = r.excluded; e < r.excluded_end; ++e) {
        const int64_t bit = sampled_bit(this->indices[e]);
        depth += sampled[bit / 64] >> (bit % 64) & 1;
      }
      if (depth > groups / 2) continue;
      Key* const group_keys = reinterpret_cast<Key*>(maxima + i * groups);
      for (int64_t g = 0; g < groups; ++g) {
        const Key key = order_key(maxima[i * groups + g]);
        memcpy(group_keys + g, &key, sizeof(key));
      }
      const T bound = score_of_key<T>(kth_largest<T>(group_keys, groups, depth));
      if (!(bound - bound == 0)) continue;  // not finite
      const T margin = norms[slot] * panel.own + residuals[slot] * panel.user;
      passing += count_at_least(group_keys, groups, order_key(bound - margin));
      wanted += depth;
      // Where it costs little, low enough that many equal scores cannot all fall short by a rounding.
      thresholds[slot] = r.sampled_threshold = filter == kWide ? bound - margin : bound;
    }
    return filter == kWide || prepared != nullptr || passing <= 3 * wanted;
  }

  void sample_tile(int64_t t, const Panel<T>& panel, int64_t group, int64_t count) {
    typedef Lanes<T> V;
    Bounds bounds;
    for (int s = 0; s < S; ++s) {
      bounds.bounds[s] = -infinity();
      bounds.steps[s] = 0;
      bounds.negated[s] = 0;
      bounds.starts[s] = INT32_MAX / 2;  // everything is stored
      bounds.units[s] = filter == kInt8 && inverse_scales[t * S + s] > 0 ? panel.scale / inverse_scales[t * S + s] : 1;
    }
    if (filter == kInt8)
      for (int s = 0; s < S; ++s) bounds.starts[s] -= byte_sums[t * S + s];
    const int64_t rows_here = min64(R, count - t * R);
    if (!run_tile(t, panel_data, bounds, rows_here)) return;
    for (int64_t r = 0; r < rows_here; ++r) {
      T* const most = maxima + ((t * R + r) * maxima_slots + group) * P;
      for (int half = 0; half < 2; ++half) {
        V score = load<V>(tile_scores + r * P + half * W);
        if constexpr (kQuantises)
          if (filter == kInt8) {
            typedef Vector<int32_t, W> VI;
            const VI sums = load<VI>(tile_scores + r * P + half * W) - splat<VI>(INT32_MAX / 2);
            score = __builtin_convertvector(sums, V) * splat<V>(bounds.units[r]);
          }
        if (biased) score = load<V>(panel_biases + half * W) > -infinity() ? score : splat<V>(-infinity());
        const V before = load<V>(most + half * W);
        store(most + half * W, score > before ? score : before);  // NaN: no
      }
    }
  }

  void pass_panel(int64_t first, int64_t count, int64_t tiles) {
    const int64_t here = min64(P, end - first);
    const T* data = panel_data;
    Panel<T> panel;
    bool packed = false, exact_packed = false;
    const auto place = [&](int64_t i) { return item_at(first + i); };
    if (prepared) {
      memcpy(&panel, reinterpret_cast<const char*>(prepared) + prepared->panels_at + first / P * static_cast<int64_t>(sizeof(panel)), sizeof(panel));
      packed = filter == prepared->filter;
      if (packed) {
        data = reinterpret_cast<const T*>(reinterpret_cast<const char*>(prepared) + prepared->data_at) +
               first / P * prepared->steps * P;
        add_biases(panel, place, here, true);
      }
    } else {
      panel = pack(place, here, true, panel_data);
      packed = true;
    }
    const uint64_t real = ((static_cast<uint64_t>(1) << here) - 1) & ~static_cast<uint64_t>(panel.unranked);
    if (!real) return;
    if (!(panel.largest < infinity())) {
      for (int64_t i = 0; i < count; ++i)
        for (uint64_t lanes = real; lanes; lanes &= lanes - 1)
          this->add(rows[slot_of(i)], thresholds[slot_of(i)], -infinity(), infinity(), place(__builtin_ctzll(lanes)));
      this->rescored = 0;
      return;
    }
    const Ahead ahead = next_panel(first, data, tiles);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t rows_here = min64(R, count - t * R);
      for (int64_t line = 0; line < ahead.lines; ++line) __builtin_prefetch(ahead.from + (t * ahead.lines + line) * 64, 0, 2);
      Bounds bounds;
      if (!bound_tile(t, panel, bounds)) continue;
      // Bounds cannot tell this tile's candidates apart.
      if (kQuantises && rescored_by[t] >= rows_here * capacity) {
        if (!exact_packed) pack_exact(place, here);
        exact_packed = true;
        exact_tile(t, first, rows_here);
        continue;
      }
      if (!packed) {  // a prepared table in another filter's form: its order and norms serve
        panel = pack(place, here, true, panel_data);
        packed = true;
        if (!bound_tile(t, panel, bounds)) continue;
      }
      if (run_tile(t, data, bounds, rows_here)) log_tile(t, bounds, first, real, rows_here);
    }
  }

  // What the next panel reads, fetched a little with every tile: its own burst of reads would wait for memory.
  struct Ahead {
    const char* from;
    int64_t lines;  // with each tile
  };
  Ahead next_panel(int64_t first, const T* data, int64_t tiles) const {
    const int64_t next = min64(P, end - first - P);
    if (next <= 0) return {nullptr, 0};
    const int64_t words = prepared ? prepared->steps * P : 0;
    const int64_t bytes = prepared ? words * static_cast<int64_t>(sizeof(T)) : next * D * this->items.element_bytes;
    const char* const from = prepared ? reinterpret_cast<const char*>(data + words) : this->items.address((first + P) * D);
    return {from, (bytes / 64 + tiles - 1) / tiles};
  }

  __attribute__((noinline)) void log_tile(int64_t t, const Bounds& bounds, int64_t first, uint64_t real, int64_t rows_here) {
#if defined(RANKDISTILL_FILTERS)
    if constexpr (kQuantises)
      if (filter != kWide) return collect_hits(t, bounds, first, real, rows_here);
#endif
    for (int64_t r = 0; r < rows_here; ++r)
      for (uint64_t lanes = reaching(r, bounds) & real; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctzll(lanes);
        const int64_t id = item_at(first + lane);
        const T added = this->biases ? bias_margin(static_cast<T>(this->biases[id]), rounding) : 0;
        add_bounded(t * S + r, tile_scores[r * P + lane] - added, bounds.margins[r] + added, id);
      }
  }

  // The score is that of a tile or finer: -inf is what fell below all numbers, though the item may rank.
  void add_bounded(int64_t slot, T score, T margin, int64_t id) {
    T& threshold = thresholds[slot];
    Row<T>& row = rows[slot];
    const bool bounded = margin < infinity();
    constexpr T lowest = static_cast<T>(Precision<T>::lowest);
    const T upper = bounded ? (score < lowest ? lowest : score) + margin : infinity();
    if (row.count == capacity) {
      this->make_room(row, threshold);
      rescored_by[slot / S] += this->rescored;
      this->rescored = 0;
    }
    // Written even when dropped: a branch here would be mispredicted.
    row.found[row.count] = {bounded ? score - margin : -infinity(), upper, id};
    row.count += !(upper < threshold);
  }

#if defined(RANKDISTILL_FILTERS)
  void collect_hits(int64_t t, const Bounds& bounds, int64_t first, uint64_t real, int64_t rows_here) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int64_t last = hits;
    for (int64_t r = 0; r < rows_here; ++r) {
      const uint32_t reached = static_cast<uint32_t>(reaching(r, bounds) & real);
      for (int half = 0; half < 2; ++half) {
        const __mmask16 mask = static_cast<__mmask16>(reached >> (16 * half));
        const __m512i here = _mm512_add_epi32(lanes, _mm512_set1_epi32(16 * half));
        _mm512_storeu_si512(hit_lanes + last, _mm512_maskz_compress_epi32(mask, here));
        _mm512_storeu_si512(hit_slots + last, _mm512_set1_epi32(static_cast<int>(t * S + r)));
        last += __builtin_popcount(mask);
      }
    }
    const int64_t bytes = min64(D * this->items.element_bytes, 1024);
    for (int64_t h = hits; h < last; ++h) {
      hit_ids[h] = item_at(first + hit_lanes[h]);
      hit_margins[h] = bounds.refined[hit_slots[h] - t * S];
      const char* const from = this->items.address(hit_ids[h] * D);
      for (int64_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(from + offset);
    }
    hits = last;
    if (hits >= kPending) refine();
  }

  // Scores of the hits in fp32, four at a time.
  __attribute__((noinline)) void refine() {
    if constexpr (kQuantises) refine_fp32();
  }

  void refine_fp32() {
    const float* const table = this->items.in_place();
    for (int64_t h = 0; h < hits; h += 4) {
      __m512 sums[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const int64_t at = min64(h + j, hits - 1);
        const int64_t first = hit_ids[at] * D;
        const float* const item = table ? table + first : this->items.read(first, D, row_buffer + j * D);
        const float* const user = user_row(hit_slots[at]);
        sums[j] = _mm512_setzero_ps();
        for (int64_t d = 0; d < D; d += 16) {
          const __mmask16 left = first_lanes(D - d);
          sums[j] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(left, user + d), _mm512_maskz_loadu_ps(left, item + d), sums[j]);
        }
      }
      const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(sums[0], sums[1]), _mm512_unpackhi_ps(sums[0], sums[1]));
      const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(sums[2], sums[3]), _mm512_unpackhi_ps(sums[2], sums[3]));
      const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
      const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
      float scores[4];
      _mm_storeu_ps(scores, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
      for (int64_t j = 0; j < min64(4, hits - h); ++j) {
        float score = scores[j], margin = hit_margins[h + j];
        if (this->biases) {
          const float bias = this->biases[hit_ids[h + j]];
          score += bias;
          margin += bias_margin(bias, rounding);
        }
        add_bounded(hit_slots[h + j], score, margin, hit_ids[h + j]);
      }
    }
    hits = 0;
  }
#else
  void refine() {}
#endif

  bool same_item(int64_t a, int64_t b) const {
    const size_t bytes = static_cast<size_t>(this->items.element_bytes);
    return memcmp(this->items.address(a * D), this->items.address(b * D), bytes * static_cast<size_t>(D)) == 0 &&
           (!this->biases || memcmp(this->biases.address(a), this->biases.address(b), bytes) == 0);
  }

  // Tiles of fp64, whose sums are the exact scores: for rows whose candidates no bound can tell apart. A panel of few
  // different items (those without data often share one vector) has a column for each, else one for every item.
  template <class Place>
  void pack_exact(const Place& place, int64_t here) {
    constexpr int Q = kPanelItems<double>;
    int64_t ids[P];
    int8_t last_with[P];
    exact_columns = 0;
    bool few = true;
    for (int64_t i = 0; few && i < here; ++i) {
      const int64_t id = place(i);
      int64_t column = 0;
      while (column < exact_columns && !same_item(ids[column], id)) ++column;
      few = column < Q;
      if (!few) break;
      next_with[i] = -1;
      if (column < exact_columns) {
        next_with[last_with[column]] = static_cast<int8_t>(i);
      } else {
        ids[exact_columns++] = id;
        first_with[column] = static_cast<int8_t>(i);
      }
      last_with[column] = static_cast<int8_t>(i);
    }
    if (!few) {
      exact_columns = here;
      for (int64_t i = 0; i < here; ++i) {
        ids[i] = place(i);
        first_with[i] = static_cast<int8_t>(i);
        next_with[i] = -1;
      }
    }
    for (int64_t part = 0; part < exact_columns; part += Q)
      for (int64_t i = 0; i < Q; ++i) {
        const bool real = part + i < exact_columns;
        const int64_t id = real ? ids[part + i] : 0;
        const T* const row = this->items.read(id * D, D, row_buffer);
        double* const to = exact_panel + part * D + i;
        for (int64_t d = 0; d < D; ++d) to[d * Q] = real ? static_cast<double>(row[d]) : 0;
        exact_biases[part + i] = real && this->biases ? static_cast<double>(this->biases[id]) : 0;
      }
  }

  void exact_tile(int64_t t, int64_t first, int64_t rows_here) {
    constexpr int Q = kPanelItems<double>;
    double* const users = exact_users + t * D * R;
    for (int64_t r = 0; r < R; ++r) {
      exact_bounds[r] = r < rows_here ? exact_bound(rows[t * S + r], thresholds[t * S + r], first) : __builtin_inf();
      if (exact_ready[t]) continue;
      const T* const user = r < rows_here ? user_row(t * S + r) : nullptr;
      for (int64_t d = 0; d < D; ++d) users[d * R + r] = user ? static_cast<double>(user[d]) : 0;
    }
    exact_ready[t] = true;
    for (int64_t part = 0; part < exact_columns; part += Q) {
      if (!wide_tile<R>(exact_panel + part * D, users, D, exact_bounds, this->biases ? exact_biases + part : nullptr,
                        exact_scores))
        continue;
      for (int64_t r = 0; r < rows_here; ++r)
        for (int64_t column = 0; column < min64(Q, exact_columns - part); ++column) {
          const double sum = exact_scores[r * Q + column];
          const T score = static_cast<T>(sum);
          if (sum < exact_bounds[r] || !(score > -infinity())) continue;
          add_exact(t * S + r, score, first, part + column);
        }
    }
  }

  void add_exact(int64_t slot, T score, int64_t first, int64_t column) {
    Row<T>& row = rows[slot];
    for (int64_t item = first_with[column]; item >= 0; item = next_with[item]) {
      const int64_t id = item_at(first + item);
      if (score < thresholds[slot] || (row.settled && score == thresholds[slot] && id > row.last_id)) continue;
      this->add(row, thresholds[slot], score, score, id);
    }
  }

  // Below it no sum rounds to a score that the row still wants: half way to the threshold's lower neighbour, or to
  // its upper one where an equal score no longer counts because ids only rise.
  double exact_bound(const Row<T>& row, T threshold, int64_t first) const {
    if (!(threshold > -infinity()) || !(threshold < infinity())) return -__builtin_inf();
    const bool settled = row.settled && prepared == nullptr && first > row.last_id;
    // +0 and -0 are one score: what is below it is below both.
    const T neighbour = score_of_key<T>(order_key(threshold) + (settled ? 1 : threshold == 0 ? -2 : -1));
    return (static_cast<double>(threshold) + static_cast<double>(neighbour)) / 2;
  }
};

// How many ways to split the items: each part of them is packed once for each part of the users, and each needs its own
// K best of every user. Times per element as measured; a wrong one only costs time.
inline int64_t item_splits(int64_t B, int64_t N, int64_t K, int64_t D, int64_t threads, bool packed) {
  const double pack = packed ? 0.02 : 0.18, multiply = 0.007, select = 310;  // ns
  int64_t best = 1;
  double least = __builtin_inf();
  for (int64_t splits = 1; splits <= min64(threads, max64(1, N / max64(16384, 16 * K))); ++splits) {
    if (splits > 2 && splits * B * K * 16 > kSplitBytes) break;  // lists of every part are kept
    const int64_t row_chunks = max64(1, threads / splits), tiles = (B + kTileRows - 1) / kTileRows;
    const int64_t rows = (tiles + row_chunks - 1) / row_chunks * kTileRows;
    const double items = static_cast<double>(N) / static_cast<double>(splits), width = static_cast<double>(D);
    const double time = items * width * (pack + multiply * static_cast<double>(rows)) +
                        static_cast<double>(rows * K) * select;
    if (time < least) {
      least = time;
      best = splits;
    }
  }
  return best;
}

// 0, or 1 when memory ran out. Excluded ids must be in [0, N), ascending within a row.
template <class T>
int inner_product_topk(const TopKTables<T>& tables, const PreparedItems* prepared, int filter) {
  const int64_t B = tables.B, N = tables.N, K = tables.K;
  if (B == 0) return 0;
  if (K == 0) {
    for (int64_t b = 0; b < B; ++b) tables.lengths[b] = 0;
    return 0;
  }
  const int threads = max_threads();
  const int64_t tiles = (B + kTileRows - 1) / kTileRows;
  const int64_t splits = item_splits(B, N, K, tables.D, threads, prepared != nullptr);
  const int64_t row_chunks = splits > 1 ? max64(1, threads / splits) : threads;
  int failed = 0;
  T* part_scores = tables.scores;
  int64_t *part_ids = tables.ids, *part_lengths = tables.lengths;
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
  parallel_chunks(splits * row_chunks, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t split = chunk / row_chunks, part = chunk % row_chunks;
      const int64_t from = tiles * part / row_chunks * kTileRows, to = min64(B, tiles * (part + 1) / row_chunks * kTileRows);
      if (from >= to) continue;
      TopK<T> search = {};
      static_cast<TopKTables<T>&>(search) = tables;
      search.prepared = prepared;
      search.filter = filter;
      search.begin = N * split / splits / kPanelItems<T> * kPanelItems<T>;
      search.end = split + 1 == splits ? N : N * (split + 1) / splits / kPanelItems<T> * kPanelItems<T>;
      search.ids_from = prepared ? 0 : search.begin;
      search.ids_to = prepared ? N : search.end;
      search.scores = part_scores + (splits > 1 ? split * B * K : 0);
      search.ids = part_ids + (splits > 1 ? split * B * K : 0);
      search.lengths = part_lengths + (splits > 1 ? split * B : 0);
      if (!search.search(from, to, threads)) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    }
  });
  if (splits > 1 && !failed)
    failed = !merge_topk(part_scores, part_ids, part_lengths, splits, tables.scores, tables.ids, tables.lengths, B, K);
  free(memory);
  return failed;
}

}  // namespace
