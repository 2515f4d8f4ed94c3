// How many items score better for a user than given ones, without the [B, N] scores and without sorting them.
//
// Register tiles of 2 vectors of users x a few items compare every score, less and plus its margin, with the users'
// targets. Where a target lies between the two, the item gets its exact scores for the whole panel of users: fp64 sums
// with a user per lane, which cost no more than one. Excluded items are counted along and subtracted exactly. So the
// counts are exact, whatever the tile, the threads or the instruction set. fp64 tiles are exact themselves.
// DESIGN.md TK-1 (margin), GS-5.
#pragma once
#include <stdlib.h>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rank_targets.h"
#include "kernels/cpu/score_scan.h"

namespace {

#if defined(__AVX512F__)
constexpr int kItems = 12;  // 24 accumulators of 32 registers
#else
constexpr int kItems = 6;  // 12 of 16
#endif
constexpr int kChains = 8;                      // interleaved, because one chain waits for its own additions
constexpr int64_t kItemBlockBytes = 256 << 10;  // a block of items stays in L2 while the panels pass over it
constexpr int64_t kGroupBytes = 2 << 20;        // of the panels that share a pass over the items
constexpr int64_t kMostPanels = 16;
constexpr int64_t kComparedTargets = 96;        // per user; more are cheaper by binary search
constexpr int64_t kMostItems = 1 << 30;         // of one pass, whose counts are 32 bits wide

// What the margin rests on: bounds of norms and biases within which nothing overflows and underflow is negligible.
constexpr double kRoundoff = 0x1p-24, kLeastNorm = 0x1p-50, kLargestNorm = 1e18, kLargestBias = 1e36,
                 kLowestBias = 0x1.8p127;
constexpr int64_t kLargestWidth = 1 << 16;

inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// A product that is rounded before it is added, whatever the compiler would fuse.
template <class V>
inline V rounded(V product) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(product));
#elif defined(__x86_64__)
  __asm__("" : "+x"(product));
#elif defined(__aarch64__)
  __asm__("" : "+w"(product));
#endif
  return product;
}

// sum + a b: products of fp64 numbers rounded first, those of others exact (fp64) or within the margin (fp32).
template <class T, class V>
inline V add_product(V sum, V a, V b) {
  if constexpr (sizeof(T) == 8) return sum + rounded(a * b);
  else return sum + a * b;
}

template <class T>
struct InnerProductRank {
  typedef typename OrderKey<T>::type Key;
  static constexpr int W = kLanes<T>, L = 2 * W;
  static constexpr bool kExactTile = sizeof(T) == 8;
  typedef Vector<T, W> V;
  typedef Vector<Key, W> VI;

  struct Panel {
    int64_t rows[L], counts[L];  // users and how many targets each has: 0 for a spare lane
    int64_t most;                // the largest of the counts
    T norms[L];
    T* users;              // [D, L]
    Target<Key>* targets;  // [L, most], sorted
    T* scores;             // the targets', to compare with: [most, L], NaN past a user's count;
                           // to search in: [L, 1 + most], NaN in front
    Key* ids;              // [most, L]: the targets', from `begin` on
    int32_t* better;       // [most, L]: items that were compared and are better
    int32_t* placed;       // [L, most + 1]: items that have just the j best targets before them
  };
  // A tile's scores, less and plus their margins.
  struct Bounds {
    alignas(64) T low[kItems][L];
    alignas(64) T high[kItems][L];
  };

  WideTable<T> users, items, bias;
  const int64_t *indptr, *indices, *item_ids;
  int64_t* ranks;  // [B, K]
  int64_t K, D;
  int64_t begin, end;  // the items that are counted
  int64_t most;        // targets of any user

  char* memory;
  int64_t stride, block_items, group;
  T *block, *norm_margins, *bias_margins, *biases;
  double* wide;  // a user in fp64
  T* row_buffer;  // [kChains, D]
  Panel* panels;
  Target<Key>* found;
  Ranked<int64_t>*ranked, *spare;

  static T infinity() { return static_cast<T>(__builtin_inf()); }
  static T nan() { return static_cast<T>(__builtin_nan("")); }

  // False when memory ran out.
  bool prepare() {
    stride = D % 128 ? D : D + 16;  // rows a power of two apart would share their cache sets
    block_items = kItemBlockBytes / (static_cast<int64_t>(sizeof(T)) * max64(stride, 1)) / kItems * kItems;
    block_items = min64(max64(block_items, kItems), 340 * kItems);
    const int64_t panel_bytes = L * (D * static_cast<int64_t>(sizeof(T)) + (most + 1) * 48);
    group = min64(kMostPanels, max64(1, kGroupBytes / panel_bytes));
    for (int round = 0; round < 2; ++round) {  // measures, then assigns
      int64_t used = 0;
      take(block, block_items * stride, used);
      take(norm_margins, block_items, used);
      take(bias_margins, block_items, used);
      take(biases, block_items, used);
      take(wide, D, used);
      take(row_buffer, kChains * D, used);
      take(panels, group, used);
      take(found, most, used);
      take(ranked, most, used);
      take(spare, most, used);
      for (int64_t p = 0; p < group; ++p) {
        Panel none;
        Panel& panel = memory ? panels[p] : none;
        take(panel.users, D * L, used);
        take(panel.targets, L * most, used);
        take(panel.scores, L * (most + 1), used);
        take(panel.ids, most * L, used);
        take(panel.better, most * L, used);
        take(panel.placed, L * (most + 1), used);
      }
      if (round == 0 && posix_memalign(reinterpret_cast<void**>(&memory), 64, static_cast<size_t>(used)) != 0)
        return false;
    }
    return true;
  }

  template <class Part>
  void take(Part*& part, int64_t size, int64_t& used) {
    part = memory ? reinterpret_cast<Part*>(memory + used) : nullptr;
    used += (size * static_cast<int64_t>(sizeof(Part)) + 63) & ~static_cast<int64_t>(63);
  }

  // Counts for every step-th panel of the users in `order`, from panel `first` on.
  void count(const Ranked<int64_t>* order, int64_t rows, int64_t first, int64_t step) {
    const int64_t all = (rows + L - 1) / L;
    while (first < all) {
      int64_t together = 0;
      for (; together < group && first < all; ++together, first += step)
        start_panel(panels[together], order + first * L, min64(L, rows - first * L));
      for (int64_t item = begin; item < end; item += block_items) {
        const int64_t n = min64(block_items, end - item);
        load_block(item, n);
        for (int64_t p = 0; p < together; ++p) count_block(panels[p], item, n);
      }
      for (int64_t p = 0; p < together; ++p)
        for (int lane = 0; lane < L; ++lane)
          if (panels[p].counts[lane]) finish(panels[p], lane);
    }
  }

  void start_panel(Panel& panel, const Ranked<int64_t>* order, int64_t rows) {
    memset(panel.users, 0, static_cast<size_t>(D * L) * sizeof(T));
    panel.most = 0;
    for (int lane = 0; lane < L; ++lane) {
      panel.counts[lane] = 0;
      panel.norms[lane] = 0;
      if (lane >= rows) continue;
      const int64_t b = panel.rows[lane] = order[lane].position;
      const T* const user = load_user(b);
      for (int64_t d = 0; d < D; ++d) panel.users[d * L + lane] = user[d];
      Target<Key>* const targets = panel.targets + lane * most;
      const int64_t count = find_targets(b, targets);
      panel.counts[lane] = count;
      panel.most = max64(panel.most, count);
      if (count == 0) continue;
      panel.norms[lane] = norm_above(panel.users + lane, L);
    }
    for (int lane = 0; lane < L; ++lane) {
      if (!compared(panel)) panel.scores[lane * (most + 1)] = nan();
      for (int64_t j = 0; j < panel.most; ++j) {
        const T score = j < panel.counts[lane] ? score_of_key<T>(panel.targets[lane * most + j].key) : nan();
        panel.scores[compared(panel) ? j * L + lane : lane * (most + 1) + 1 + j] = score;
      }
    }
    for (int64_t j = 0; j < panel.most; ++j)
      for (int lane = 0; lane < L; ++lane) {
        const int64_t id = j < panel.counts[lane] ? panel.targets[lane * most + j].id - begin : 0;
        panel.ids[j * L + lane] = static_cast<Key>(min64(max64(id, 0), kMostItems));
      }
    memset(panel.better, 0, static_cast<size_t>(panel.most * L) * sizeof(int32_t));
    memset(panel.placed, 0, static_cast<size_t>(L * (most + 1)) * sizeof(int32_t));
  }

  static bool compared(const Panel& panel) { return panel.most <= kComparedTargets; }

  const T* load_user(int64_t b) {
    const T* const user = users.read(b * D, D, row_buffer);
    for (int64_t d = 0; d < D; ++d) wide[d] = static_cast<double>(user[d]);
    return user;
  }

  // The sorted targets of row b; those that have no rank get -1.
  int64_t find_targets(int64_t b, Target<Key>* targets) {
    int64_t ids[kChains], places[kChains], waiting = 0, count = 0;
    T scores[kChains];
    for (int64_t k = 0; k <= K; ++k) {
      if (k < K) {
        const int64_t id = item_ids[b * K + k];
        if (id < 0) continue;
        if (excluded(b, id)) {
          no_rank(b, k);
          continue;
        }
        ids[waiting] = id;
        places[waiting++] = k;
        if (waiting < kChains) continue;
      }
      exact_scores(ids, waiting, scores);
      for (int64_t j = 0; j < waiting; ++j) {
        if (scores[j] > -infinity()) found[count++] = {order_key(scores[j]), ids[j], places[j], 0};
        else no_rank(b, places[j]);
      }
      waiting = 0;
    }
    sort_targets(found, count, targets, ranked, spare);
    return count;
  }

  void no_rank(int64_t b, int64_t k) {
    __atomic_store_n(ranks + b * K + k, static_cast<int64_t>(-1), __ATOMIC_RELAXED);
  }

  int64_t first_excluded(int64_t b, int64_t from) const {
    if (!indptr) return 0;
    return RowScan<T>::first_excluded(indices + indptr[b], indices + indptr[b + 1], from) - indices;
  }
  bool excluded(int64_t b, int64_t id) const {
    const int64_t at = first_excluded(b, id);
    return indptr && at < indptr[b + 1] && indices[at] == id;
  }

  // Of the user in `wide` for at most kChains items.
  void exact_scores(const int64_t* ids, int64_t count, T* scores) const {
    if (count == 0) return;
    const T* rows[kChains];
    double sums[kChains] = {};
    const T* const table = items.in_place();
    for (int64_t j = 0; j < kChains; ++j) {
      const int64_t at = ids[j < count ? j : 0] * D;
      rows[j] = table ? table + at : items.read(at, D, row_buffer + j * D);
    }
    for (int64_t d = 0; d < D; ++d)
#pragma GCC unroll 8
      for (int j = 0; j < kChains; ++j)
        sums[j] = add_product<T>(sums[j], wide[d], static_cast<double>(rows[j][d]));
    for (int64_t j = 0; j < count; ++j)
      scores[j] = static_cast<T>(bias ? sums[j] + static_cast<double>(bias[ids[j]]) : sums[j]);
  }

  // A bound of a vector's norm from above; infinite where the margin cannot be trusted.
  T norm_above(const T* x, int64_t step) const {
    T squares[kChains] = {};
    for (int64_t d = 0; d < D; ++d) squares[d % kChains] += x[d * step] * x[d * step];
    double square = 0;
    for (int j = 0; j < kChains; ++j) square += static_cast<double>(squares[j]);
    const double norm = __builtin_sqrt(square) * (1 + 0x1p-6);
    if (!(norm <= kLargestNorm) || D > kLargestWidth) return infinity();
    return static_cast<T>(norm < kLeastNorm ? kLeastNorm : norm);
  }

  // Widens `n` items, with zero rows up to whole tiles.
  void load_block(int64_t item, int64_t n) {
    const int64_t padded = (n + kItems - 1) / kItems * kItems;
    for (int64_t i = 0; i < padded; ++i) {
      T* const to = block + i * stride;
      if (i < n) items.copy((item + i) * D, D, to);
      else for (int64_t d = 0; d < D; ++d) to[d] = 0;
      biases[i] = i < n && bias ? bias[item + i] : 0;
      if constexpr (!kExactTile) {
        norm_margins[i] = static_cast<T>((static_cast<double>(D) + 4) * kRoundoff * (1 + 0x1p-5)) * norm_above(to, 1);
        bias_margins[i] = 0;
        if (biases[i] > -infinity()) bound_bias(i);
        else biases[i] = -infinity();  // NaN too: whatever the product, nothing that ranks
      }
    }
  }

  // The margin of a bias; one far below zero is taken for a higher one, to which no product adds up to -inf.
  void bound_bias(int64_t i) {
    const double own = static_cast<double>(biases[i]), added = own < -kLowestBias ? -kLowestBias : own;
    const double margin = 4 * kRoundoff * (1 + 0x1p-5) * __builtin_fabs(own) + (added - own) * (1 + 0x1p-20);
    biases[i] = static_cast<T>(added);
    bias_margins[i] = own <= kLargestBias ? static_cast<T>(margin) : infinity();
  }

  void count_block(Panel& panel, int64_t item, int64_t n) {
    Bounds bounds;
    for (int64_t i = 0; i < n; i += kItems) {
      const int valid = static_cast<int>(min64(kItems, n - i));
      bound_tile(panel, i, valid, bounds);
      if (!compared(panel)) place_tile(panel, item + i, i, valid, bounds);
      else if (compare_tile(panel, bounds)) resolve_tile(panel, item + i, i, valid, bounds);
    }
  }

  void bound_tile(const Panel& panel, int64_t i, int valid, Bounds& bounds) const {
    V sums[kItems][2] = {};
    const T* from = panel.users;
    const T* rows[kItems / 3];  // a base and a stride register address three rows
    for (int j = 0; j < kItems / 3; ++j) rows[j] = block + (i + 3 * j) * stride;
    for (int64_t d = 0; d < D; ++d, from += L) {
      const V user0 = load<V>(from), user1 = load<V>(from + W);
#pragma GCC unroll 4
      for (int j = 0; j < kItems / 3; ++j) {
        const V item0 = splat<V>(rows[j][0]), item1 = splat<V>(rows[j][stride]), item2 = splat<V>(rows[j][2 * stride]);
        sums[3 * j][0] = add_product<T>(sums[3 * j][0], user0, item0);
        sums[3 * j][1] = add_product<T>(sums[3 * j][1], user1, item0);
        sums[3 * j + 1][0] = add_product<T>(sums[3 * j + 1][0], user0, item1);
        sums[3 * j + 1][1] = add_product<T>(sums[3 * j + 1][1], user1, item1);
        sums[3 * j + 2][0] = add_product<T>(sums[3 * j + 2][0], user0, item2);
        sums[3 * j + 2][1] = add_product<T>(sums[3 * j + 2][1], user1, item2);
        ++rows[j];
      }
    }
    for (int half = 0; half < 2; ++half) {
      const V norms = load<V>(panel.norms + half * W), unbounded = splat<V>(infinity());
      for (int c = 0; c < kItems; ++c) {
        const V score = sums[c][half] + splat<V>(biases[i + c]);
        V low = score, high = score;
        if constexpr (!kExactTile) {
          const V margin = norms * splat<V>(norm_margins[i + c]) + splat<V>(bias_margins[i + c]);
          low = margin < unbounded ? score - margin : -unbounded;
          high = margin < unbounded ? score + margin : unbounded;
        } else {
          low = high = score == score ? score : -unbounded;
        }
        store(bounds.low[c] + half * W, low);
        store(bounds.high[c] + half * W, high);
      }
    }
    for (int c = valid; c < kItems; ++c)
      for (int lane = 0; lane < L; ++lane) bounds.low[c][lane] = bounds.high[c][lane] = -infinity();
  }

  // Counts the items whose bounds decide; true if some do not.
  bool compare_tile(Panel& panel, const Bounds& bounds) const {
    VI undecided = {};
    for (int64_t j = 0; j < panel.most; ++j)
      for (int half = 0; half < 2; ++half) {
        const int64_t at = j * L + half * W;
        const V score = load<V>(panel.scores + at);
        VI surely = {}, perhaps = {};
#pragma GCC unroll 12
        for (int c = 0; c < kItems; ++c) {
          surely -= static_cast<VI>(load<V>(bounds.low[c] + half * W) > score);
          perhaps -= static_cast<VI>(load<V>(bounds.high[c] + half * W) >= score);
        }
        undecided |= surely ^ perhaps;
        add(panel.better + at, surely);
      }
    return any(undecided);
  }

  static bool any(VI bits) {
    uint64_t words[sizeof(VI) / 8], all = 0;
    memcpy(words, &bits, sizeof(VI));
    for (const uint64_t word : words) all |= word;
    return all != 0;
  }

  static void add(int32_t* to, VI counts) {
    if constexpr (sizeof(Key) == 4) store(to, load<VI>(to) + counts);
    else for (int lane = 0; lane < W; ++lane) to[lane] += static_cast<int32_t>(counts[lane]);
  }

  // Decides by exact scores what the bounds of a tile did not.
  __attribute__((noinline)) void resolve_tile(Panel& panel, int64_t item, int64_t i, int valid,
                                              const Bounds& bounds) const {
    T exact[L];
    for (int c = 0; c < valid; ++c) {
      const VI own = splat<VI>(static_cast<Key>(item + c - begin));
      bool known = false;
      for (int64_t at = 0; at < panel.most * L; at += W) {
        const int half = static_cast<int>(at % L);
        const V score = load<V>(panel.scores + at);
        const VI undecided = (load<V>(bounds.high[c] + half) >= score) & (score >= load<V>(bounds.low[c] + half));
        if (!any(undecided)) continue;
        if (!known) panel_scores(panel, item + c, i + c, bounds.low[c], exact);
        known = true;
        const V other = load<V>(exact + half);
        const VI equal = (other == score) & (own < load<VI>(panel.ids + at));
        add(panel.better + at, undecided & ((other > score) | equal) & 1);
      }
    }
  }

  __attribute__((noinline)) void place_tile(Panel& panel, int64_t item, int64_t i, int valid,
                                            const Bounds& bounds) const {
    T exact[kItems][L];
    uint32_t known = 0;
    for (int lane = 0; lane < L; ++lane) {
      const int64_t count = panel.counts[lane];
      if (count == 0) continue;
      const T* const scores = panel.scores + lane * (most + 1) + 1;
      const Target<Key>* const targets = panel.targets + lane * most;
      int32_t* const placed = panel.placed + lane * (most + 1);
      T low[kItems];
      int32_t before[kItems];
      for (int c = 0; c < kItems; ++c) low[c] = bounds.low[c][lane];
      count_reaching(scores, count, low, before);
      for (int c = 0; c < valid; ++c) {
        int64_t place = before[c];
        if (scores[place - 1] <= bounds.high[c][lane]) {
          if (!(known >> c & 1)) panel_scores(panel, item + c, i + c, bounds.low[c], exact[c]);
          known |= 1u << c;
          const T score = exact[c][lane];
          place = score > -infinity() ? targets_before(targets, count, order_key(score), item + c) : count;
        }
        ++placed[place];
      }
    }
  }

  // The exact scores of one item, the i-th of the block, for all users of a panel.
  void panel_scores(const Panel& panel, int64_t item, int64_t i, const T* tile, T* exact) const {
    if constexpr (kExactTile) {
      memcpy(exact, tile, L * sizeof(T));
    } else {
      constexpr int H = kLanes<double>;
      typedef Vector<float, H> F;
      typedef Vector<double, H> X;
      X sums[L / H] = {};
      const T* const values = block + i * stride;
      for (int64_t d = 0; d < D; ++d) {
        const X value = splat<X>(static_cast<double>(values[d]));
        for (int q = 0; q < L / H; ++q)
          sums[q] += __builtin_convertvector(load<F>(panel.users + d * L + q * H), X) * value;
      }
      const X added = splat<X>(bias ? static_cast<double>(bias[item]) : 0.0);
      for (int q = 0; q < L / H; ++q) store(exact + q * H, __builtin_convertvector(bias ? sums[q] + added : sums[q], F));
    }
  }

  // Takes the excluded items back, and adds up.
  void finish(Panel& panel, int lane) {
    const int64_t b = panel.rows[lane], count = panel.counts[lane];
    const Target<Key>* const targets = panel.targets + lane * most;
    int32_t* const placed = panel.placed + lane * (most + 1);
    const int64_t stop = indptr ? first_excluded(b, end) : 0;
    int64_t ids[kChains], waiting = 0;
    T scores[kChains];
    if (stop) load_user(b);
    for (int64_t e = first_excluded(b, begin); e <= stop && stop; ++e) {
      if (e < stop) {
        if (e > indptr[b] && indices[e] == indices[e - 1]) continue;
        ids[waiting++] = indices[e];
        if (waiting < kChains) continue;
      }
      exact_scores(ids, waiting, scores);
      for (int64_t j = 0; j < waiting; ++j)
        if (scores[j] > -infinity()) --placed[targets_before(targets, count, order_key(scores[j]), ids[j])];
      waiting = 0;
    }
    int64_t better = 0;
    for (int64_t j = 0; j < count; ++j) {
      better += placed[j];
      const int64_t compared = panel.better[j * L + lane];
      __atomic_fetch_add(ranks + b * K + targets[j].place, better + compared, __ATOMIC_RELAXED);
    }
  }
};

constexpr int64_t kMostRows = static_cast<int64_t>(1) << 31;  // that are ordered together

// 0, or 1 when memory ran out. Ids must lie in [-1, N), excluded ones in [0, N), ascending within a row.
template <class T>
int inner_product_rank(WideTable<T> users, WideTable<T> items, WideTable<T> bias, const int64_t* item_ids,
                       const int64_t* indptr, const int64_t* indices, int64_t* ranks, int64_t B, int64_t N, int64_t K,
                       int64_t D) {
  typedef InnerProductRank<T> Search;
  for (; B > kMostRows; B -= kMostRows) {
    if (inner_product_rank(users, items, bias, item_ids, indptr, indices, ranks, kMostRows, N, K, D)) return 1;
    users = users.from(kMostRows * D);
    item_ids += kMostRows * K;
    ranks += kMostRows * K;
    if (indptr) indptr += kMostRows;
  }
  // Users with as many targets share panels.
  typedef Ranked<int64_t> Row;
  Row* const order = static_cast<Row*>(malloc(static_cast<size_t>(B) * 2 * sizeof(Row) + 1));
  if (!order) return 1;
  int64_t rows = 0;
  for (int64_t b = 0; b < B; ++b) {
    int64_t asked = 0;
    for (int64_t k = 0; k < K; ++k) {
      const bool is_item = item_ids[b * K + k] >= 0;
      ranks[b * K + k] = is_item ? 0 : -1;
      asked += is_item;
    }
    if (asked) order[rows++] = {asked, static_cast<uint32_t>(b)};
  }
  sort_ranked(order, order + B, rows);
  const int64_t panels = (rows + Search::L - 1) / Search::L, threads = max_threads();
  if (rows == 0) {
    free(order);
    return 0;
  }
  // Too few users for all threads: they share the items, whose counts add up.
  int64_t splits = max64(1, min64(threads / panels, N / 16384));
  splits = max64(splits, (N + kMostItems - 1) / kMostItems);
  const int64_t workers = min64(panels, max64(1, threads / splits));
  int failed = 0;
  parallel_chunks(workers * splits, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t split = task / workers;
      Search search = {};
      search.users = users;
      search.items = items;
      search.bias = bias;
      search.item_ids = item_ids;
      search.indptr = indptr;
      search.indices = indices;
      search.ranks = ranks;
      search.K = K;
      search.D = D;
      search.begin = N * split / splits;
      search.end = N * (split + 1) / splits;
      search.most = order[0].key;
      if (search.prepare()) search.count(order, rows, task % workers, workers);
      else __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      free(search.memory);
    }
  });
  free(order);
  return failed;
}

}  // namespace
