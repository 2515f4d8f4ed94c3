// Items whose rank is asked for, in the one order: descending key, equal keys to the lower id.
#pragma once
#include "kernels/cpu/order.h"

namespace {

template <class Key>
struct Target {
  Key key;
  int64_t id;
  int64_t place;   // in the caller's list
  int64_t better;  // how many items stand before it
};

// From whatever order, for count < 2^32. All have room for `count`; the result is in `sorted`.
template <class Key>
inline void sort_targets(const Target<Key>* targets, int64_t count, Target<Key>* sorted, Ranked<int64_t>* ranked,
                         Ranked<int64_t>* spare) {
  for (int64_t j = 0; j < count; ++j) ranked[j] = {-targets[j].id, static_cast<uint32_t>(j)};
  sort_ranked(ranked, spare, count);
  for (int64_t j = 0; j < count; ++j) ranked[j].key = targets[ranked[j].position].key;
  sort_ranked(ranked, spare, count);  // keeps equal keys by id
  for (int64_t j = 0; j < count; ++j) sorted[j] = targets[ranked[j].position];
}

// How many of the sorted targets stand before an item, or are it.
template <class Key>
inline int64_t targets_before(const Target<Key>* sorted, int64_t count, Key key, int64_t id) {
  int64_t low = 0;
  while (count > 0) {
    const int64_t half = (count + 1) / 2;
    const Target<Key>& middle = sorted[low + half - 1];
    low += half & -static_cast<int64_t>((middle.key > key) | ((middle.key == key) & (middle.id <= id)));
    count -= half;
  }
  return low;
}

// reached[i]: how many of `count` descending numbers reach x[i]. Several searches at once, and no branch to predict.
template <int Searches, class X>
inline void count_reaching(const X* descending, int64_t count, const X (&x)[Searches], int32_t (&reached)[Searches]) {
  for (int i = 0; i < Searches; ++i) reached[i] = 0;
  int32_t left = static_cast<int32_t>(count);
  while (left > 0) {
    const int32_t half = (left + 1) / 2;
    for (int i = 0; i < Searches; ++i)
      reached[i] += half & -static_cast<int32_t>(descending[reached[i] + half - 1] >= x[i]);
    left -= half;
  }
}

}  // namespace
