// One row of each sampler: the same source on the processor and on CUDA.
#pragma once
#include "kernels/random.h"

namespace {

// Attempts by rejection before a draw enumerates what is left.
constexpr int kRejections = 64;

struct Complement {
  const int64_t* excluded;  // ascending
  int64_t excluded_count;
  const int32_t* listed;  // any order, -1 is no item
  int64_t listed_count;
  int64_t n_items;

  RANKDISTILL_HD bool has(int64_t item) const {
    // Without a branch per step: which way a search for a random item goes cannot be foreseen.
    if (excluded_count > 0) {
      const int64_t* at = excluded;
      for (int64_t left = excluded_count; left > 1; left -= left >> 1) at += at[(left >> 1) - 1] < item ? left >> 1 : 0;
      if (*at == item) return false;
    }
    int found = 0;
    const int32_t wanted = static_cast<int32_t>(item);
    for (int64_t i = 0; i < listed_count; ++i) found |= listed[i] == wanted;
    return !found;
  }
};

RANKDISTILL_HD bool contains(const int64_t* chosen, int64_t count, int64_t item) {
  int found = 0;
  for (int64_t i = 0; i < count; ++i) found |= chosen[i] == item;
  return found;
}

// Whether an item is still to be had, by the definition. The processor has a quicker one.
struct Free {
  RANKDISTILL_HD bool has(const Complement& complement, const int64_t* chosen, int64_t j, int64_t item) const {
    return complement.has(item) && !contains(chosen, j, item);
  }
};

// One more item of the complement, chosen[j], uniform over those that are not among the j before it; `block` is the
// draw's first. False, and -1, where nothing is left.
template <class Left>
RANKDISTILL_HD bool draw_from_complement(const Complement& complement, const Left& free, int64_t* chosen, int64_t j,
                                         PhiloxBlock block, uint32_t user, uint32_t position, uint32_t epoch,
                                         uint32_t stream, uint64_t seed) {
  int64_t left = -1;  // not counted yet
  chosen[j] = -1;
  for (uint32_t attempt = 0;; ++attempt) {
    if (attempt > 0 && (attempt & 3) == 0)
      block = philox4x32_10(user, position, epoch, stream << 24 | attempt >> 2, seed);
    const uint32_t word = block.word[attempt & 3];
    if (attempt < kRejections) {
      const int64_t item = bounded(word, static_cast<uint32_t>(complement.n_items));
      if (item < 0 || !free.has(complement, chosen, j, item)) continue;
      chosen[j] = item;
      return true;
    }
    if (left < 0) {
      left = 0;
      for (int64_t item = 0; item < complement.n_items; ++item)
        left += free.has(complement, chosen, j, item);
      if (left == 0) return false;
    }
    int64_t rank = bounded(word, static_cast<uint32_t>(left));
    if (rank < 0) continue;
    for (int64_t item = 0; item < complement.n_items; ++item) {
      if (!free.has(complement, chosen, j, item)) continue;
      if (rank-- > 0) continue;
      chosen[j] = item;
      return true;
    }
  }
}

// Uniform draws without replacement from the complement: chosen[0..count), -1 where nothing is left.
RANKDISTILL_HD void sample_complement(const Complement& complement, int64_t* chosen, int64_t count, uint32_t user,
                                      uint32_t first_position, uint32_t epoch, uint32_t stream, uint64_t seed) {
  bool exhausted = complement.n_items <= 0;
  for (int64_t j = 0; j < count; ++j) {
    chosen[j] = -1;
    if (exhausted) continue;
    const uint32_t position = first_position + static_cast<uint32_t>(j);
    const PhiloxBlock block = philox4x32_10(user, position, epoch, stream << 24, seed);
    exhausted = !draw_from_complement(complement, Free(), chosen, j, block, user, position, epoch, stream, seed);
  }
}

// The key whose `count` largest, over the positions of a row, are a draw without replacement with weights
// exp(−(position + 1)/temperature).
RANKDISTILL_HD double position_key(uint32_t word, int64_t position, double temperature) {
  return gumbel(word) - static_cast<double>(position + 1) / temperature;
}

// What no draw can choose: below every key.
constexpr double kNoKey = -1.7976931348623157e308;

// A weight that can be drawn: positive and normal as a double.
RANKDISTILL_HD bool drawable(double weight) { return weight >= 2.2250738585072014e-308; }

// The words of one draw, as many as it needs.
struct DrawWords {
  uint32_t user, position, epoch, stream;
  uint64_t seed;
  uint32_t used;
  PhiloxBlock block;

  RANKDISTILL_HD uint32_t next() {
    if ((used & 3) == 0) block = philox4x32_10(user, position, epoch, stream << 24 | used >> 2, seed);
    return block.word[used++ & 3];
  }
};

// A standard exponential variate, from the word that stands for u = (word + ½)/2³².
RANKDISTILL_HD double exponential(uint32_t word) {
  return -stated_log((static_cast<double>(word) + 0.5) * 2.3283064365386962890625e-10);
}

// A weight, kept where no quotient by an exponential variate overflows or is subnormal.
RANKDISTILL_HD double kept_weight(double weight) {
  constexpr double kLeast = 9.332636185032189e-302, kMost = 1.0463951242053392e298;  // 2^-1000, 2^990
  return weight < kLeast ? kLeast : weight > kMost ? kMost : weight;
}

// The key whose `count` largest are a draw without replacement in proportion to the weights: the rate of an exponential
// race over the time that it takes.
RANKDISTILL_HD double weighted_key(uint32_t word, double weight) {
  return drawable(weight) ? kept_weight(weight) / exponential(word) : kNoKey;
}

// A position in [0, length) with probability in proportion to exp(−position/temperature); length > 0. Short
// temperatures cut an exponential variate, long ones accept uniform positions: either keeps 63 % of its attempts.
RANKDISTILL_HD int64_t draw_position(DrawWords& words, int64_t length, double temperature) {
  for (;;) {
    if (temperature < static_cast<double>(length)) {
      const int64_t position = static_cast<int64_t>(temperature * exponential(words.next()));
      if (position < length) return position;
    } else {
      const int64_t position = bounded(words.next(), static_cast<uint32_t>(length));
      if (position >= 0 && temperature * exponential(words.next()) > static_cast<double>(position)) return position;
    }
  }
}

// Two positions, the better first: two independent draws, which may be one and the same, or two different ones with
// probability in proportion to the product of their weights (length > 1 then). The latter is drawn as the better
// position and the distance between them, so that steep weights, under which two draws would coincide, need no patience.
RANKDISTILL_HD void draw_pair(int64_t* pair, DrawWords& words, int64_t length, double temperature, bool distinct) {
  if (!distinct) {
    const int64_t a = draw_position(words, length, temperature), b = draw_position(words, length, temperature);
    pair[0] = a < b ? a : b;
    pair[1] = a < b ? b : a;
    return;
  }
  for (;;) {
    if (temperature < static_cast<double>(length)) {
      const int64_t better = static_cast<int64_t>(0.5 * temperature * exponential(words.next()));
      const int64_t worse = better + 1 + static_cast<int64_t>(temperature * exponential(words.next()));
      if (worse >= length) continue;
      pair[0] = better;
      pair[1] = worse;
      return;
    }
    const int64_t a = bounded(words.next(), static_cast<uint32_t>(length));
    int64_t b = bounded(words.next(), static_cast<uint32_t>(length - 1));
    if (a < 0 || b < 0) continue;
    b += b >= a;
    if (!(temperature * exponential(words.next()) > static_cast<double>(a + b))) continue;
    pair[0] = a < b ? a : b;
    pair[1] = a < b ? b : a;
    return;
  }
}

// pairs [count, 2] of a row; -1 where the list is too short for one.
RANKDISTILL_HD void sample_pairs(int64_t* pairs, int64_t count, int64_t length, double temperature, bool distinct,
                                 uint32_t user, uint32_t first_position, uint32_t epoch, uint32_t stream,
                                 uint64_t seed) {
  for (int64_t j = 0; j < count; ++j) {
    if (length < (distinct ? 2 : 1)) {
      pairs[2 * j] = pairs[2 * j + 1] = -1;
      continue;
    }
    DrawWords words = {user, first_position + static_cast<uint32_t>(j), epoch, stream, seed, 0, {}};
    draw_pair(pairs + 2 * j, words, length, temperature, distinct);
  }
}

}  // namespace
