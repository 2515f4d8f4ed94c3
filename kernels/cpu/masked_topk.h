// The K best scores of each row of a given matrix, in one streaming pass over it.
//
// A bound per row from a strided sample; one pass that asks 64 scores at a time whether they reach it and keeps the few
// that do and are not excluded; exact selection among those. K kept scores prove a row complete; a row with fewer is
// searched again from a lower bound, at last from none. So results depend on neither sample, threads nor instruction
// set. DESIGN.md GS-1, GS-2.
#pragma once
#include <stdlib.h>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/score_scan.h"

namespace {

constexpr int64_t kRun = 16;              // sampled scores that stand side by side: a cache line of fp32
constexpr int64_t kLeastSampled = 128;    // shorter rows are not sampled
constexpr int64_t kLeastSplit = 1 << 17;  // columns of a row that are worth a thread

inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

template <class Storage>
struct MaskedTopK {
  typedef Stored<Storage> S;
  typedef typename S::Key Key;
  typedef typename S::Element Element;
  typedef typename Accumulator<Storage>::type Wide;  // what order.h calls keys of this size

  MaskedScores<Storage> given;
  int64_t K;
  int64_t begin, end;  // the columns that are searched

  int64_t runs, period, capacity;
  char* memory;
  int64_t* starts;     // of the sampled runs, from `begin`
  uint16_t* left_out;  // a bit per sampled score of the row
  Element* maxima;
  Key* keys;      // of the kept scores
  int64_t* kept;  // their columns, ascending
  Ranked<Key>*ranked, *spare;

  RowScan<Storage> scan;  // of the row in work
  int64_t count;          // kept scores
  int64_t crowded;        // with more than that, the best are picked out
  Key lowest;             // scores of lower keys are not kept

  // False when memory ran out.
  bool prepare() {
    const int64_t n = end - begin;
    runs = 0;
    period = 32;
    if (n >= kLeastSampled) {
      while (period < 1024 && n / (2 * period) >= 64) period *= 2;
      while (n / period > 256) period *= 2;
      runs = n / period;
    }
    capacity = 2 * min64(K, n) + 2 * kScanned + 64 + 4;
    for (int round = 0; round < 2; ++round) {  // measures, then assigns
      int64_t used = 0;
      take(starts, runs, used);
      take(left_out, runs, used);
      take(maxima, runs * kRun, used);
      take(keys, max64(capacity, runs * kRun), used);
      take(kept, capacity, used);
      take(ranked, capacity, used);
      take(spare, capacity, used);
      if (round == 0 && posix_memalign(reinterpret_cast<void**>(&memory), 64, static_cast<size_t>(used)) != 0)
        return false;
    }
    for (int64_t j = 0; j < runs; ++j) {
      const uint64_t scattered = (static_cast<uint64_t>(j) + 1) * 0x9E3779B97F4A7C15u >> 33;
      starts[j] = j * period + static_cast<int64_t>(scattered % static_cast<uint64_t>(period - kRun + 1));
    }
    return true;
  }

  template <class T>
  void take(T*& part, int64_t size, int64_t& used) {
    part = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
    used += (size * static_cast<int64_t>(sizeof(T)) + 63) & ~static_cast<int64_t>(63);
  }

  // The K best of row b's columns, best first; how many there are.
  int64_t search(int64_t b, Storage* scores, int64_t* ids) {
    scan.start(given, b, begin, end);
    const int64_t* const excluded = scan.excluded;
    const int64_t sampled = runs * kRun;
    // Where `rank` of the sample reach a bound, fewer than K of all do so once in 400 random rows.
    const double share = static_cast<double>(sampled) / static_cast<double>(max64(end - begin, 1));
    const double mean = static_cast<double>(K) * share;
    int64_t rank = static_cast<int64_t>(mean + 2.5 * __builtin_sqrt(mean) + 3);
    if (runs && excluded != scan.excluded_end) mark_left_out();
    for (;; rank = 4 * rank + 16) {
      lowest = least_key<Storage>();
      const bool bounded = rank * 5 < sampled * 3 && sampled_bound(rank);
      const int64_t expected = bounded ? static_cast<int64_t>(static_cast<double>(rank) / share) : 0;
      crowded = min64(2 * max64(K, expected) + 256, capacity - 64 - 4);
      scan.excluded = excluded;
      count = 0;
      pass();
      if (!bounded || count >= K) break;
    }
    return finish(scores, ids);
  }

  void mark_left_out() {
    memset(left_out, 0, static_cast<size_t>(runs) * sizeof(uint16_t));
    const int shift = __builtin_ctzll(static_cast<uint64_t>(period));
    for (const int64_t* e = scan.excluded; e < scan.excluded_end; ++e) {
      const int64_t j = (*e - begin) >> shift;
      if (j >= runs) break;
      const uint64_t place = static_cast<uint64_t>(*e - begin - starts[j]);
      if (place < static_cast<uint64_t>(kRun)) left_out[j] = static_cast<uint16_t>(left_out[j] | 1u << place);
    }
  }

  // Makes `lowest` a key that `rank` of the sample reach; false if it holds fewer that can be ranked.
  bool sampled_bound(int64_t rank) {
    typedef Vector<Element, kLanes<Element> < kRun ? kLanes<Element> : kRun> V;
    constexpr int W = sizeof(V) / sizeof(Element);
    // Only the largest of each group is looked at: the rank-th of these is at most the sample's.
    const int64_t groups = min64(runs, (6 * rank + kRun - 1) / kRun);
    const Element least = S::element(S::least());
    for (int64_t i = 0; i < groups * kRun; ++i) maxima[i] = least;
    const bool excludes = scan.excluded != scan.excluded_end;
    for (int64_t j = 0, group = 0; j < runs; ++j) {
      const int64_t first = begin + starts[j];
      Element* const largest = maxima + group * kRun;
      group = group + 1 == groups ? 0 : group + 1;
      uint32_t out = excludes ? left_out[j] : 0;
      if (scan.mask)
        out |= static_cast<uint32_t>(nonzero_of_8(scan.mask + first) | nonzero_of_8(scan.mask + first + 8) << 8);
      Element run[kRun];
      for (int i = 0; i < kRun; i += W) {
        V x = load<V>(scan.row + first + i);
        if constexpr (sizeof(Storage) == 2) {
          x ^= (x >> 15) & splat<V>(static_cast<int16_t>(0x7fff));
          x = x > splat<V>(S::infinity) ? splat<V>(least) : x;
        }
        store(run + i, x);
      }
      for (; out; out &= out - 1) run[__builtin_ctz(out)] = least;
      for (int i = 0; i < kRun; i += W) {
        const V x = load<V>(run + i), most = load<V>(largest + i);
        store(largest + i, x > most ? x : most);  // NaN is not
      }
    }
    for (int64_t i = 0; i < groups * kRun; ++i) keys[i] = S::key(maxima[i]);
    const Key bound = kth_largest<Wide>(keys, groups * kRun, rank);
    if (bound < lowest) return false;
    lowest = bound;
    return true;
  }

  void pass() {
    uint64_t words[kScanned / 64];
    for (int64_t first = begin; first < end; first += kScanned) {
      const int64_t n = min64(kScanned, end - first);
      const Element bound = S::bound(lowest);
      uint64_t filled = 0;
      for (int64_t i = 0; i < n; i += 64) {
        words[i / 64] = reaching(scan.word_of(first + i, n - i), bound);
        filled |= static_cast<uint64_t>(words[i / 64] != 0) << (i / 64);
      }
      scan.leave_out(first, n, filled, words);
      int64_t keyed = count;
      for (; filled; filled &= filled - 1) {
        const int w = __builtin_ctzll(filled);
        keep(words[w], first + 64 * w);
        if (__builtin_expect(count > crowded, 0)) {
          set_keys(keyed);
          keep_best();
          keyed = count;
          for (uint64_t left = filled & (filled - 1); left; left &= left - 1) {
            const int64_t i = 64 * __builtin_ctzll(left);
            words[i / 64] &= reaching(scan.word_of(first + i, n - i), S::bound(lowest));
          }
        }
      }
      set_keys(keyed);
    }
  }

  void set_keys(int64_t from) {
    for (int64_t i = from; i < count; ++i) keys[i] = S::key(S::element(scan.row[kept[i]]));
  }

  // Appends base + i for every bit i of a word: four at a time, because how many there are cannot be predicted.
  void keep(uint64_t word, int64_t base) {
    constexpr uint64_t kNever = static_cast<uint64_t>(1) << 63;  // counting the zeros of 0 is undefined
    int64_t* to = kept + count;
    count += bit_count(word);
    do {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        *to++ = base + __builtin_ctzll(word | kNever);
        word &= word - 1;
      }
    } while (word);
  }

  // The highest key found that K of the kept scores reach: either just K do, or it is the K-th and some tie at it.
  Key bound_of_best() const {
    typedef typename OrderKey<Wide>::bits Bits;
    constexpr int kBits = sizeof(Bits) * 8;
    constexpr Bits sign = static_cast<Bits>(1) << (kBits - 1);
    Key low = keys[0], high = keys[0];
    for (int64_t i = 1; i < count; ++i) {
      low = keys[i] < low ? keys[i] : low;
      high = keys[i] > high ? keys[i] : high;
    }
    const Bits differing = static_cast<Bits>(low) ^ static_cast<Bits>(high);
    if (differing == 0) return low;
    int bit = (63 - __builtin_clzll(static_cast<uint64_t>(differing))) & ~1;  // two bits at a time
    Bits bound = bit + 2 < kBits ? (static_cast<Bits>(high) ^ sign) >> (bit + 2) << (bit + 2) : 0;
    for (; bit >= 0; bit -= 2) {
      const Bits base = bound;
      int64_t reached[3];
      count_reaching(static_cast<Key>((base | static_cast<Bits>(1) << bit) ^ sign),
                     static_cast<Key>((base | static_cast<Bits>(2) << bit) ^ sign),
                     static_cast<Key>((base | static_cast<Bits>(3) << bit) ^ sign), reached);
      for (int i = 0; i < 3 && reached[i] >= K; ++i) {
        bound = base | static_cast<Bits>(i + 1) << bit;
        if (reached[i] == K) return static_cast<Key>(bound ^ sign);
      }
    }
    return static_cast<Key>(bound ^ sign);
  }

  void count_reaching(Key low, Key middle, Key high, int64_t (&reached)[3]) const {
    constexpr int W = kLanes<Key>;
    typedef Vector<Key, W> V;
    V counts[3] = {};
    int64_t i = 0;
    for (; i + W <= count; i += W) {
      const V some = load<V>(keys + i);
      counts[0] -= static_cast<V>(some >= splat<V>(low));
      counts[1] -= static_cast<V>(some >= splat<V>(middle));
      counts[2] -= static_cast<V>(some >= splat<V>(high));
    }
    for (int j = 0; j < 3; ++j) reached[j] = sum_lanes<Key, W>(counts[j]);
    for (; i < count; ++i) {
      reached[0] += keys[i] >= low;
      reached[1] += keys[i] >= middle;
      reached[2] += keys[i] >= high;
    }
  }

  // put(key, i, taken) for every kept score i, ascending: taken for the K best, of equal ones the first.
  template <class Put>
  void best(const Put& put) const {
    const Key bound = bound_of_best();
    int64_t ties = K - count_at_least(keys, count, static_cast<Key>(bound + 1));
    for (int64_t i = 0; i < count; ++i) {
      const Key key = keys[i];
      const bool equal = key == bound;
      put(key, i, (key > bound) | (equal & (ties > 0)));
      ties -= equal;
    }
  }

  // Makes room. Later scores must beat the least of what stays: an equal one would come after it.
  void keep_best() {
    int64_t left = 0;
    Key least = keys[0];
    best([&](Key key, int64_t i, bool taken) {
      keys[left] = key;
      kept[left] = kept[i];
      left += taken;
    });
    count = left;
    for (int64_t i = 0; i < count; ++i) least = i == 0 || keys[i] < least ? keys[i] : least;
    lowest = least + 1;
  }

  int64_t finish(Storage* scores, int64_t* ids) {
    int64_t found = 0;
    if (count > K) {
      best([&](Key key, int64_t i, bool taken) {
        ranked[found] = {key, static_cast<uint32_t>(i)};
        found += taken;
      });
    } else {
      for (; found < count; ++found) ranked[found] = {keys[found], static_cast<uint32_t>(found)};
    }
    sort_ranked(ranked, spare, found);
    for (int64_t i = 0; i < found; ++i) {
      ids[i] = kept[ranked[i].position];
      scores[i] = scan.row[ids[i]];
    }
    for (int64_t i = found; i < K; ++i) {
      ids[i] = -1;
      scores[i] = S::least();
    }
    return found;
  }
};

// Equal scores of the lists already stand by column, because their ranges ascend. Lists are [splits, B, K].
template <class Storage>
bool merge_lists(const Storage* part_scores, const int64_t* part_ids, const int64_t* part_lengths, int64_t splits,
                 Storage* scores, int64_t* ids, int64_t* lengths, int64_t B, int64_t K) {
  typedef Stored<Storage> S;
  typedef Ranked<typename S::Key> R;
  int failed = 0;
  parallel_chunks(B, 1, [&](int64_t begin, int64_t end, int) {
    R* const ranked = static_cast<R*>(malloc(sizeof(R) * 2 * static_cast<size_t>(splits * K)));
    if (!ranked) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    for (int64_t b = begin; ranked && b < end; ++b) {
      int64_t count = 0;
      for (int64_t s = 0; s < splits; ++s)
        for (int64_t k = 0; k < part_lengths[s * B + b]; ++k)
          ranked[count++] = {S::key(S::element(part_scores[(s * B + b) * K + k])), static_cast<uint32_t>(s * K + k)};
      sort_ranked(ranked, ranked + splits * K, count);
      count = min64(count, K);
      for (int64_t k = 0; k < K; ++k) {
        const int64_t from = k < count ? (ranked[k].position / K * B + b) * K + ranked[k].position % K : 0;
        scores[b * K + k] = k < count ? part_scores[from] : S::least();
        ids[b * K + k] = k < count ? part_ids[from] : -1;
      }
      lengths[b] = count;
    }
    free(ranked);
  });
  return !failed;
}

// 0, or 1 when memory ran out. What is left out must lie in [0, N), ascending within a row.
template <class Storage>
int masked_topk(const MaskedScores<Storage>& given, Storage* scores, int64_t* ids, int64_t* lengths, int64_t B,
                int64_t N, int64_t K) {
  if (B == 0) return 0;
  if (K == 0) {
    for (int64_t b = 0; b < B; ++b) lengths[b] = 0;
    return 0;
  }
  // Too few rows for all threads: they share the columns, whose lists are merged.
  const int64_t splits = max64(1, min64(max_threads() / B, N / max64(kLeastSplit, 16 * K)));
  const size_t listed = splits > 1 ? static_cast<size_t>(splits * B) : 0;
  const size_t list_bytes = static_cast<size_t>(K) * (8 + sizeof(Storage)) + 8;
  int64_t* const part_ids = static_cast<int64_t*>(malloc(listed * list_bytes + 8));
  if (!part_ids) return 1;
  int64_t* const part_lengths = part_ids + listed * static_cast<size_t>(K);
  Storage* const part_scores = reinterpret_cast<Storage*>(part_lengths + listed);
  int failed = 0;
  parallel_chunks(B * splits, 1, [&](int64_t first, int64_t last, int) {
    while (first < last) {
      const int64_t split = first / B, stop = min64(last, (split + 1) * B);
      MaskedTopK<Storage> search = {};
      search.given = given;
      search.K = K;
      search.begin = N * split / splits;
      search.end = N * (split + 1) / splits;
      if (!search.prepare()) {
        __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        return;
      }
      for (; first < stop; ++first) {
        if (splits > 1) part_lengths[first] = search.search(first % B, part_scores + first * K, part_ids + first * K);
        else lengths[first] = search.search(first, scores + first * K, ids + first * K);
      }
      free(search.memory);
    }
  });
  if (splits > 1 && !failed)
    failed = !merge_lists(part_scores, part_ids, part_lengths, splits, scores, ids, lengths, B, K);
  free(part_ids);
  return failed;
}

}  // namespace
