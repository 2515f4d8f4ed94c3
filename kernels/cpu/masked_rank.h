// How many scores of a row stand before given columns of it: descending, equal ones by column, excluded ones left out.
//
// Few columns are counted one by one, 64 scores at a time; many are sorted, and every score that reaches the least of
// them is placed among them by binary search. Either way a row is read once. DESIGN.md GS-4.
#pragma once
#include <stdlib.h>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rank_targets.h"
#include "kernels/cpu/score_scan.h"

namespace {

constexpr int64_t kCountedTargets = 256;  // beyond, placing is cheaper than counting
constexpr int kSearches = 8;              // at once

template <class Storage>
struct MaskedRank {
  typedef Stored<Storage> S;
  typedef typename S::Key Key;
  typedef typename S::Element Element;

  MaskedScores<Storage> given;
  int64_t N, K;
  Target<Key>*targets, *sorted;  // [K]
  Key* keys;                  // of the sorted targets
  Ranked<int64_t>*ranked, *spare;
  int64_t* placed;  // [K + 1]: how many scores have just the j best targets before them
  RowScan<Storage> scan;

  // False when memory ran out.
  bool prepare() {
    const size_t each = 2 * sizeof(Target<Key>) + 2 * sizeof(Ranked<int64_t>) + sizeof(int64_t) + sizeof(Key);
    targets = static_cast<Target<Key>*>(malloc(static_cast<size_t>(K) * each + sizeof(int64_t)));
    if (!targets) return false;
    sorted = targets + K;
    ranked = reinterpret_cast<Ranked<int64_t>*>(sorted + K);
    spare = ranked + K;
    placed = reinterpret_cast<int64_t*>(spare + K);
    keys = reinterpret_cast<Key*>(placed + K + 1);
    return true;
  }

  void search(int64_t b, const int64_t* columns, int64_t* ranks) {
    scan.start(given, b, 0, N);
    int64_t count = 0;
    for (int64_t k = 0; k < K; ++k) {
      ranks[k] = -1;
      if (columns[k] < 0 || !rankable(columns[k])) continue;
      targets[count++] = {S::key(S::element(scan.row[columns[k]])), columns[k], k, 0};
    }
    if (count == 0) return;
    Target<Key>* const found = count <= kCountedTargets ? targets : sorted;
    if (found == targets) count_each(count);
    else place_all(count);
    for (int64_t j = 0; j < count; ++j) ranks[found[j].place] = found[j].better;
  }

  bool rankable(int64_t column) const {
    const Element score = S::element(scan.row[column]);
    if constexpr (sizeof(Storage) == 2) {
      if (score > S::infinity) return false;  // NaN
    }
    if (!(score >= S::bound(least_key<Storage>()))) return false;
    if (scan.mask && scan.mask[column]) return false;
    const int64_t* const found = RowScan<Storage>::first_excluded(scan.excluded, scan.excluded_end, column);
    return found == scan.excluded_end || *found != column;
  }

  void count_each(int64_t count) {
    uint64_t admitted[kScanned / 64];
    for (int64_t first = 0; first < N; first += kScanned) {
      const int64_t n = N - first < kScanned ? N - first : kScanned, words = (n + 63) / 64;
      memset(admitted, 0xff, sizeof(admitted));
      scan.leave_out(first, n, ~static_cast<uint64_t>(0) >> (64 - words), admitted);
      const auto reaching_of = [&](int64_t from, int64_t to, Element bound) {
        int64_t better = 0;
        for (int64_t w = from; w < to; ++w)
          better += bit_count(admitted[w] & reaching(scan.word_of(first + 64 * w, n - 64 * w), bound));
        return better;
      };
      for (int64_t j = 0; j < count; ++j) {
        Target<Key>& target = targets[j];
        // Before the target's column an equal score is better, behind it only a higher one.
        const Element equal = S::bound(target.key), higher = S::bound(target.key + 1);
        const int64_t own = target.id - first;
        if (own < 0 || own >= n) {
          target.better += reaching_of(0, words, own < 0 ? higher : equal);
          continue;
        }
        const int64_t w = own / 64;
        const Storage* const around = scan.word_of(first + 64 * w, n - 64 * w);
        const uint64_t before = (static_cast<uint64_t>(1) << own % 64) - 1;
        const uint64_t word = (reaching(around, equal) & before) | reaching(around, higher);
        target.better += reaching_of(0, w, equal) + bit_count(word & admitted[w]) + reaching_of(w + 1, words, higher);
      }
    }
  }

  void place_all(int64_t count) {
    sort_targets(targets, count, sorted, ranked, spare);
    for (int64_t j = 0; j < count; ++j) keys[j] = sorted[j].key;
    memset(placed, 0, static_cast<size_t>(count + 1) * sizeof(int64_t));
    const Element bound = S::bound(keys[count - 1]);
    uint64_t words[kScanned / 64];
    int64_t columns[kScanned + kSearches];
    for (int64_t first = 0; first < N; first += kScanned) {
      const int64_t n = N - first < kScanned ? N - first : kScanned;
      uint64_t filled = 0;
      for (int64_t i = 0; i < n; i += 64) {
        words[i / 64] = reaching(scan.word_of(first + i, n - i), bound);
        filled |= static_cast<uint64_t>(words[i / 64] != 0) << (i / 64);
      }
      scan.leave_out(first, n, filled, words);
      int64_t listed = 0;
      for (; filled; filled &= filled - 1) {
        const int64_t base = 64 * __builtin_ctzll(filled);
        for (uint64_t word = words[base / 64]; word; word &= word - 1)
          columns[listed++] = first + base + __builtin_ctzll(word);
      }
      for (int i = 0; i < kSearches; ++i) columns[listed + i] = first;
      for (int64_t i = 0; i < listed; i += kSearches) place(columns + i, listed - i, count);
    }
    int64_t better = 0;
    for (int64_t j = 0; j < count; ++j) {
      better += placed[j];
      sorted[j].better = better;
    }
  }

  // Places the first n of kSearches columns.
  void place(const int64_t* columns, int64_t n, int64_t count) {
    Key own[kSearches], above[kSearches];
    int32_t higher[kSearches];
    for (int i = 0; i < kSearches; ++i) {
      own[i] = S::key(S::element(scan.row[columns[i]]));
      above[i] = own[i] + 1;
    }
    count_reaching(keys, count, above, higher);
    for (int i = 0; i < kSearches && i < n; ++i) {
      int64_t before = higher[i];
      if (keys[before] == own[i]) before = targets_before(sorted, count, own[i], columns[i]);  // of equal ones, by column
      ++placed[before];
    }
  }
};

// 0, or 1 when memory ran out. Columns must lie in [-1, N), what is left out in [0, N), ascending within a row.
template <class Storage>
int masked_rank(const MaskedScores<Storage>& given, const int64_t* columns, int64_t* ranks, int64_t B, int64_t N,
                int64_t K) {
  int failed = 0;
  if (K == 0) return 0;
  parallel_chunks(B, 1, [&](int64_t begin, int64_t end, int) {
    MaskedRank<Storage> search = {};
    search.given = given;
    search.N = N;
    search.K = K;
    if (!search.prepare()) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    for (int64_t b = begin; b < end; ++b) search.search(b, columns + b * K, ranks + b * K);
    free(search.targets);
  });
  return failed;
}

}  // namespace
