// The candidates of each row of an exact top-K search: bounds of their scores, and how the best are kept.
//
// Nothing is dropped without a proof, by bounds or by exact scores, whatever the order in which candidates come.
// DESIGN.md TK-3.
#pragma once
#include "kernels/cpu/item_panel.h"
#include "kernels/cpu/order.h"

namespace {

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
  Candidate<T>* found;
  int64_t count, clean;  // the first `clean` of them have been checked against the exclusions
  int64_t excluded, excluded_end;
  T sampled_threshold;
  // Where `settled`, K items have the threshold or more, those of exactly it with ids up to `last_id`.
  bool settled;
  int64_t last_id;
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

// A call's arguments: tables, exclusions and outputs.
template <class T>
struct TopKTables {
  WideTable<T> users, items, biases;
  const int64_t* indptr;  // null: nothing is excluded
  const int64_t* indices;
  T* scores;         // [B, K]
  int64_t* ids;      // [B, K]
  int64_t* lengths;  // [B]
  int64_t B, N, K, D;
};

template <class T>
struct TopKRows : TopKTables<T> {
  typedef typename OrderKey<T>::type Key;
  static T infinity() { return static_cast<T>(__builtin_inf()); }
  using TopKTables<T>::users;
  using TopKTables<T>::items;
  using TopKTables<T>::biases;
  using TopKTables<T>::indptr;
  using TopKTables<T>::indices;
  using TopKTables<T>::K;
  using TopKTables<T>::D;

  int64_t begin, end;        // the positions that this search looks at
  int64_t ids_from, ids_to;  // and the ids that may stand there
  int64_t capacity;
  double* wide_row;
  T* row_buffer;  // [kChains, D], for rows that are not stored as T
  Row<T>* rows;
  Candidate<T>* candidates;
  Key* keys;
  int64_t* tied;
  Ranked<Key>*ranked, *spare;
  int64_t rescored;  // exact scores computed before the end, since somebody last looked

  void lay_out_rows(Arena& arena, int64_t count) {
    arena.take(wide_row, D);
    arena.take(row_buffer, kChains * D);
    arena.take(rows, count);
    arena.take(keys, capacity);
    arena.take(tied, capacity);
    arena.take(ranked, capacity);
    arena.take(spare, capacity);
  }

  void start_row(int64_t at, Candidate<T>* found, int64_t user) {
    Row<T>& r = rows[at];
    r = {};
    r.user = user;
    r.found = found;
    r.excluded = indptr ? first_at_least(indptr[user], indptr[user + 1], ids_from) : 0;
    r.excluded_end = indptr ? first_at_least(r.excluded, indptr[user + 1], ids_to) : 0;
    r.sampled_threshold = -infinity();
  }

  int64_t first_at_least(int64_t low, int64_t high, int64_t id) const {
    const int64_t* from = indices + low;
    for (int64_t count = high - low; count > 0;) {  // without a branch that depends on the ids
      const int64_t half = (count + 1) / 2;
      from += from[half - 1] < id ? half : 0;
      count -= half;
    }
    return from - indices;
  }

  bool is_excluded(const Row<T>& r, int64_t id) const {
    const int64_t at = first_at_least(r.excluded, r.excluded_end, id);
    return at < r.excluded_end && indices[at] == id;
  }

  void add(Row<T>& r, T& threshold, T lower, T upper, int64_t id) {
    if (r.count == capacity) make_room(r, threshold);
    r.found[r.count++] = {lower, upper, id};
  }

  __attribute__((noinline)) void make_room(Row<T>& r, T& threshold) {
    drop_excluded(r);
    raise_threshold(r, threshold);
    if (r.count <= capacity - capacity / 4) return;
    rescored += rescore(r);
    keep_best(r, threshold);
  }

  void drop_excluded(Row<T>& r) {
    if (r.excluded == r.excluded_end) {
      r.clean = r.count;
      return;
    }
    int64_t kept = r.clean;
    for (int64_t i = r.clean; i < r.count; ++i)
      if (!is_excluded(r, r.found[i].id)) r.found[kept++] = r.found[i];
    r.count = r.clean = kept;
  }

  // The threshold becomes the K-th largest lower bound; what cannot reach it goes.
  void raise_threshold(Row<T>& r, T& threshold) {
    if (r.count < K) return;
    for (int64_t i = 0; i < r.count; ++i) keys[i] = order_key(r.found[i].lower);
    const T bound = score_of_key<T>(kth_largest<T>(keys, r.count, K));
    if (!(bound > threshold)) return;
    threshold = bound;
    r.settled = false;
    int64_t kept = 0;
    for (int64_t i = 0; i < r.count; ++i)
      if (!(r.found[i].upper < bound)) r.found[kept++] = r.found[i];
    r.count = r.clean = kept;
  }

  // Exact scores of all candidates; what cannot be ranked goes. Returns how many were computed.
  int64_t rescore(Row<T>& r) {
    const T* const user = users.read(r.user * D, D, row_buffer);
    for (int64_t d = 0; d < D; ++d) wide_row[d] = static_cast<double>(user[d]);
    Candidate<T>* pending[2][kChains];
    int64_t waiting = 0, flip = 0, ready = 0, computed = 0;
    for (int64_t i = 0; i <= r.count; ++i) {
      if (i < r.count) {
        if (r.found[i].lower == r.found[i].upper) continue;
        const char* const from = items.address(r.found[i].id * D);
        const int64_t bytes = min64(D * items.element_bytes, 512);
        for (int64_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(from + offset);
        pending[flip][waiting++] = &r.found[i];
        ++computed;
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
    return computed;
  }

  void score_batch(Candidate<T>* const* batch, int64_t count) {
    if (count == 0) return;
    const T* sources[kChains];
    double sums[kChains];
    const T* const table = items.in_place();
    for (int64_t j = 0; j < kChains; ++j) {
      const int64_t at = batch[j < count ? j : 0]->id * D;
      sources[j] = table ? table + at : items.read(at, D, row_buffer + j * D);
    }
    exact_inner_products(wide_row, sources, D, sums);
    for (int64_t j = 0; j < count; ++j) {
      const double bias = biases ? static_cast<double>(biases[batch[j]->id]) : 0;
      batch[j]->lower = batch[j]->upper = static_cast<T>(biases ? sums[j] + bias : sums[j]);
    }
  }

  // The K best of exact scores, ties to the lower ids.
  void keep_best(Row<T>& r, T& threshold) {
    if (r.count < K) return;
    for (int64_t i = 0; i < r.count; ++i) keys[i] = order_key(r.found[i].lower);
    const Key last = kth_largest<T>(keys, r.count, K);
    int64_t wanted = K, ties = 0;
    for (int64_t i = 0; i < r.count; ++i) {
      wanted -= keys[i] > last;
      if (keys[i] == last) tied[ties++] = -r.found[i].id;
    }
    const int64_t last_id = -kth_largest<double>(tied, ties, wanted);
    int64_t kept = 0;
    for (int64_t i = 0; i < r.count; ++i)
      if (keys[i] > last || (keys[i] == last && r.found[i].id <= last_id)) r.found[kept++] = r.found[i];
    r.count = r.clean = min64(kept, K);  // more only if a damaged order repeats ids
    const T bound = score_of_key<T>(last);
    if (bound < threshold) return;
    threshold = bound;
    r.settled = true;
    r.last_id = last_id;
  }

  // False if the sampled threshold was too high to prove the row complete.
  bool finish(Row<T>& r, T& threshold) {
    drop_excluded(r);
    raise_threshold(r, threshold);
    rescore(r);
    keep_best(r, threshold);
    T worst = infinity();
    for (int64_t i = 0; i < r.count; ++i) worst = r.found[i].lower < worst ? r.found[i].lower : worst;
    if (r.sampled_threshold > -infinity() && (r.count < K || worst < r.sampled_threshold)) return false;
    sort(r);
    T* const out = this->scores + r.user * K;
    int64_t* const out_ids = this->ids + r.user * K;
    for (int64_t i = 0; i < r.count; ++i) {
      out[i] = r.found[ranked[i].position].lower;
      out_ids[i] = r.found[ranked[i].position].id;
    }
    for (int64_t i = r.count; i < K; ++i) {
      out[i] = -infinity();
      out_ids[i] = -1;
    }
    this->lengths[r.user] = r.count;
    return true;
  }

  // Into `ranked`, equal scores by id.
  void sort(const Row<T>& r) {
    for (int64_t i = 0; i < r.count; ++i) ranked[i] = {order_key(r.found[i].lower), static_cast<uint32_t>(i)};
    sort_ranked(ranked, spare, r.count);
    for (int64_t i = 0; i < r.count;) {
      int64_t stop = i + 1;
      bool ascending = true;
      for (; stop < r.count && ranked[stop].key == ranked[i].key; ++stop)
        ascending &= r.found[ranked[stop - 1].position].id < r.found[ranked[stop].position].id;
      if (!ascending) sort_tie(r, i, stop);
      i = stop;
    }
  }

  void sort_tie(const Row<T>& r, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) tied[i - from] = r.found[ranked[i].position].id;
    // Heap sort of ids and positions: a tie may be as long as the list.
    const int64_t n = to - from;
    Ranked<Key>* const part = ranked + from;
    const auto sink = [&](int64_t root, int64_t size) {
      for (int64_t child; (child = 2 * root + 1) < size; root = child) {
        if (child + 1 < size && tied[child + 1] > tied[child]) ++child;
        if (tied[root] >= tied[child]) return;
        swap(root, child, part);
      }
    };
    for (int64_t root = n / 2; root-- > 0;) sink(root, n);
    for (int64_t last = n - 1; last > 0; --last) {
      swap(0, last, part);
      sink(0, last);
    }
  }

  void swap(int64_t a, int64_t b, Ranked<Key>* part) {
    const int64_t id = tied[a];
    tied[a] = tied[b];
    tied[b] = id;
    const Ranked<Key> moving = part[a];
    part[a] = part[b];
    part[b] = moving;
  }
};

// The best K of `splits` lists [splits, B, K], each in order.
template <class T>
bool merge_topk(const T* part_scores, const int64_t* part_ids, const int64_t* part_lengths, int64_t splits, T* scores,
                int64_t* ids, int64_t* lengths, int64_t B, int64_t K) {
  int failed = 0;
  parallel_chunks(B, 16, [&](int64_t first, int64_t last, int) {
    int64_t* const heads = static_cast<int64_t*>(malloc(sizeof(int64_t) * static_cast<size_t>(splits)));
    if (!heads) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    for (int64_t b = first; heads && b < last; ++b) {
      for (int64_t s = 0; s < splits; ++s) heads[s] = 0;
      int64_t count = 0;
      for (; count < K; ++count) {
        int64_t best = -1, from = 0;
        for (int64_t s = 0; s < splits; ++s) {
          const int64_t at = (s * B + b) * K + heads[s];
          if (heads[s] == part_lengths[s * B + b]) continue;
          if (best >= 0 && (part_scores[at] < part_scores[from] ||
                            (part_scores[at] == part_scores[from] && part_ids[at] > part_ids[from])))
            continue;
          best = s;
          from = at;
        }
        if (best < 0) break;
        ++heads[best];
        scores[b * K + count] = part_scores[from];
        ids[b * K + count] = part_ids[from];
      }
      lengths[b] = count;
      for (; count < K; ++count) {
        scores[b * K + count] = static_cast<T>(-__builtin_inf());
        ids[b * K + count] = -1;
      }
    }
    free(heads);
  });
  return !failed;
}

}  // namespace
