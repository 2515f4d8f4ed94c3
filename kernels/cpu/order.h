// The one comparator: descending score, +0.0 = -0.0, ties to the one that stands first. NaN must not get here.
// Selection counts keys instead of comparing them, so no order of the input is slow.
#pragma once
#include "kernels/cpu/simd.h"

namespace {

// A signed integer that orders as the score does.
template <class T> struct OrderKey { typedef int32_t type; typedef uint32_t bits; };
template <> struct OrderKey<double> { typedef int64_t type; typedef uint64_t bits; };

template <class T>
inline typename OrderKey<T>::type order_key(T score) {
  typedef typename OrderKey<T>::type Key;
  score += 0;  // -0.0 becomes +0.0
  Key key;
  memcpy(&key, &score, sizeof(T));
  return key < 0 ? key ^ static_cast<Key>(~static_cast<typename OrderKey<T>::bits>(0) >> 1) : key;
}

template <class T>
inline T score_of_key(typename OrderKey<T>::type key) {
  typedef typename OrderKey<T>::type Key;
  if (key < 0) key ^= static_cast<Key>(~static_cast<typename OrderKey<T>::bits>(0) >> 1);
  T score;
  memcpy(&score, &key, sizeof(T));
  return score;
}

template <class Key>
inline int64_t count_at_least(const Key* keys, int64_t count, Key bound) {
  constexpr int W = kLanes<Key>;
  typedef Vector<Key, W> V;
  int64_t i = 0, total = 0;
  const V bounds = splat<V>(bound);
  V counts = {};
  for (; i + W <= count; i += W) counts -= static_cast<V>(load<V>(keys + i) >= bounds);
  for (int lane = 0; lane < W; ++lane) total += counts[lane];
  for (; i < count; ++i) total += keys[i] >= bound;
  return total;
}

// The rank-th largest (1 is the largest) of count < 2^31 keys; 1 <= rank <= count. Not Exact: any bound that rank keys
// reach and no more, which takes fewer steps, or the rank-th largest where equal ones leave no such bound.
template <class T, bool Exact = true>
inline typename OrderKey<T>::type kth_largest(const typename OrderKey<T>::type* keys, int64_t count, int64_t rank) {
  typedef typename OrderKey<T>::type Key;
  typedef typename OrderKey<T>::bits Bits;
  const Bits sign = static_cast<Bits>(1) << (sizeof(Bits) * 8 - 1);
  Key low = keys[0], high = keys[0];
  for (int64_t i = 1; i < count; ++i) {
    low = keys[i] < low ? keys[i] : low;
    high = keys[i] > high ? keys[i] : high;
  }
  // Built from the first bit in which the keys differ downwards: the largest bound that `rank` keys reach.
  const Bits differing = static_cast<Bits>(low) ^ static_cast<Bits>(high);
  if (differing == 0) return low;
  int bit = 63 - __builtin_clzll(static_cast<uint64_t>(differing));
  Bits bound = (static_cast<Bits>(high) ^ sign) & ~((static_cast<Bits>(2) << bit) - 1);
  for (; bit >= 0; --bit) {
    const Bits tried = bound | (static_cast<Bits>(1) << bit);
    const int64_t reached = count_at_least(keys, count, static_cast<Key>(tried ^ sign));
    if (!Exact && reached == rank) return static_cast<Key>(tried ^ sign);
    if (reached >= rank) bound = tried;
  }
  return static_cast<Key>(bound ^ sign);
}

// Sorts (key, position) pairs by descending key, equal keys in their present order. `spare` has room for as many.
template <class Key>
struct Ranked {
  Key key;
  uint32_t position;
};

template <class Key>
inline void sort_ranked(Ranked<Key>* ranked, Ranked<Key>* spare, int64_t count) {
  if (count <= 24) {
    for (int64_t i = 1; i < count; ++i) {
      const Ranked<Key> moving = ranked[i];
      int64_t j = i;
      for (; j > 0 && ranked[j - 1].key < moving.key; --j) ranked[j] = ranked[j - 1];
      ranked[j] = moving;
    }
    return;
  }
  Ranked<Key>* from = ranked;
  Ranked<Key>* to = spare;
  const uint64_t flip = (static_cast<uint64_t>(1) << (sizeof(Key) * 8 - 1)) - 1;  // descending, signed
  for (int byte = 0; byte < static_cast<int>(sizeof(Key)); ++byte) {
    int64_t starts[256] = {};
    for (int64_t i = 0; i < count; ++i) ++starts[((static_cast<uint64_t>(from[i].key) ^ flip) >> (8 * byte)) & 255];
    int64_t next = 0, most = 0;
    for (int value = 0; value < 256; ++value) {
      const int64_t here = starts[value];
      most = here > most ? here : most;
      starts[value] = next;
      next += here;
    }
    if (most == count) continue;
    for (int64_t i = 0; i < count; ++i)
      to[starts[((static_cast<uint64_t>(from[i].key) ^ flip) >> (8 * byte)) & 255]++] = from[i];
    Ranked<Key>* const swapped = from;
    from = to;
    to = swapped;
  }
  if (from != ranked) memcpy(ranked, from, sizeof(Ranked<Key>) * static_cast<size_t>(count));
}

}  // namespace
