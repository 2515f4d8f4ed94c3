// Selection by one block: the best k of a source in the contract's order, by digits from the most significant down.
//
// A source has `size`, `get(i, entry)`, which says whether its i-th entry counts and fills it in, and `ids()`, above all
// ids.
#pragma once
#include "kernels/cuda/order.cuh"

namespace {

constexpr int kMostWarps = 8;  // of a block that selects

struct SelectionScratch {
  uint32_t histogram[256];
  uint64_t lowest[kMostWarps], highest[kMostWarps];
  uint32_t before_bin;  // entries in better bins than the chosen one
  uint32_t in_bin;
  int bin;
  uint32_t gathered;
};

// Calls use(entry) for the entries that count, in no order. Two are read before the first is used; four
// cost finish_kernel registers that it has not.
template <class K, class Source, class Use>
__device__ __forceinline__ void for_each_entry(const Source& source, const Use& use) {
  constexpr int kBatch = 2;
  for (int64_t first = threadIdx.x; first < source.size; first += kBatch * blockDim.x) {
    Ranked<K> entries[kBatch];
    bool counts[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int64_t i = first + u * blockDim.x;
      counts[u] = i < source.size && source.get(i, entries[u]);
    }
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (counts[u]) use(entries[u]);
  }
}

// An entry is the number (key, ~id), of which the better one has the larger; a digit is eight of its bits from `shift`
// on, all of them the key's or all the id's.
template <class K>
__device__ __forceinline__ uint32_t digit(const Ranked<K>& entry, int shift) {
  return static_cast<uint32_t>(shift >= 32 ? entry.key >> (shift - 32) : static_cast<K>(~entry.id >> shift)) & 255u;
}

template <class K>
__device__ __forceinline__ void set_digit(Ranked<K>& entry, int shift, uint32_t value) {
  if (shift >= 32) entry.key |= static_cast<K>(value) << (shift - 32);
  else entry.id &= ~(value << shift);
}

// Whether all bits from `shift` on agree.
template <class K>
__device__ __forceinline__ bool same_prefix(const Ranked<K>& a, const Ranked<K>& b, int shift) {
  if (shift >= 32) return shift == 32 + 8 * static_cast<int>(sizeof(K)) || ((a.key ^ b.key) >> (shift - 32)) == 0;
  return a.key == b.key && ((a.id ^ b.id) >> shift) == 0;
}

// Makes each thread's least and largest key the block's.
template <class K>
__device__ __forceinline__ void block_extremes(K& low, K& high, SelectionScratch& scratch) {
  for (int lanes = 16; lanes > 0; lanes >>= 1) {
    const K other_low = __shfl_xor_sync(kWholeWarp, low, lanes), other_high = __shfl_xor_sync(kWholeWarp, high, lanes);
    if (other_low < low) low = other_low;
    if (other_high > high) high = other_high;
  }
  if (lane_index() == 0) {
    scratch.lowest[warp_index()] = low;
    scratch.highest[warp_index()] = high;
  }
  __syncthreads();
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / 32; ++warp) {
    const K other_low = static_cast<K>(scratch.lowest[warp]), other_high = static_cast<K>(scratch.highest[warp]);
    if (other_low < low) low = other_low;
    if (other_high > high) high = other_high;
  }
}

// The bin, counted from the largest digit, that holds the `wanted`-th entry; bin -1 where there are fewer.
__device__ __forceinline__ void choose_bin(SelectionScratch& scratch, uint32_t wanted) {
  if (warp_index() == 0) {
    const int first_bin = 255 - 8 * lane_index();
    uint32_t counts[8], mine = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      counts[i] = scratch.histogram[first_bin - i];
      mine += counts[i];
    }
    uint32_t through = mine;
    for (int step = 1; step < 32; step <<= 1) {
      const uint32_t other = __shfl_up_sync(kWholeWarp, through, step);
      if (lane_index() >= step) through += other;
    }
    uint32_t earlier = through - mine;
    const bool here = earlier < wanted && wanted <= through;
    if (!__any_sync(kWholeWarp, here) && lane_index() == 0) scratch.bin = -1;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (here && earlier < wanted && wanted <= earlier + counts[i]) {
        scratch.bin = first_bin - i;
        scratch.in_bin = counts[i];
        scratch.before_bin = earlier;
      }
      earlier += counts[i];
    }
  }
  __syncthreads();
}

// An entry such that of those behind `last` (behind {~0, 0}: of all) at least `wanted` and at most `most`, the best, are
// not behind it; where there are fewer than `wanted`, the one behind all. Every thread of the block calls this and
// gets the same. Digits begin where keys, and ids of equal keys, may differ.
template <class K, class Source>
__device__ __forceinline__ Ranked<K> selection_bound(const Source& source, uint32_t wanted, uint32_t most, Ranked<K> last,
                                                     SelectionScratch& scratch) {
  K low = static_cast<K>(~K{0}), high = 0;
  for_each_entry<K>(source, [&](const Ranked<K>& entry) {
    if (!before(last, entry)) return;
    if (entry.key < low) low = entry.key;
    if (entry.key > high) high = entry.key;
  });
  block_extremes(low, high, scratch);
  if (high < low) return {0, kNoId};
  int shift = 32;
  while (shift < 32 + 8 * static_cast<int>(sizeof(K)) && (low ^ high) >> (shift - 32) != 0) ++shift;
  // All common bits, and no others.
  Ranked<K> bound = {0, kNoId};
  if (shift < 32 + 8 * static_cast<int>(sizeof(K))) bound.key = high >> (shift - 32) << (shift - 32);
  for (uint32_t better = 0; shift > 0;) {
    const int prefix = shift;
    shift = prefix > 32 && prefix < 40 ? 32 : prefix < 8 ? 0 : prefix - 8;
    if (prefix == 32) {  // from here on equal keys: ids, from the first bit that can differ
      while (shift > 0 && (source.ids() - 1) >> (shift + 7) == 0) --shift;
      bound.id >>= 24 - shift;
    }
    for (int i = threadIdx.x; i < 256; i += blockDim.x) scratch.histogram[i] = 0;
    __syncthreads();
    for_each_entry<K>(source, [&](const Ranked<K>& entry) {
      if (same_prefix(entry, bound, prefix) && before(last, entry)) atomicAdd(&scratch.histogram[digit(entry, shift)], 1u);
    });
    __syncthreads();
    choose_bin(scratch, wanted - better);
    if (scratch.bin < 0) return {0, kNoId};
    better += scratch.before_bin;
    set_digit(bound, shift, static_cast<uint32_t>(scratch.bin));
    if (better + scratch.in_bin <= most) break;
  }
  if (bound.key < low) bound.key = low;  // of an entry, where digits are left open
  return bound;
}

// A key that at least `wanted` entries reach, and where keys differ enough hardly more; 0 where there are fewer.
template <class K, class Source>
__device__ __forceinline__ K kth_key(const Source& source, uint32_t wanted, SelectionScratch& scratch) {
  return selection_bound<K>(source, wanted, wanted + wanted / 8, {static_cast<K>(~K{0}), 0}, scratch).key;
}

// A warp sorts 128 entries in registers: entry 32 e + l of them is own[e] of lane l.
constexpr int kLaneEntries = 4, kWarpEntries = 32 * kLaneEntries;

// Compares each entry with the one whose number differs by the bits 32 REGISTERS + lanes: the better one comes first.
template <int REGISTERS, class K>
__device__ __forceinline__ void order_entries(Ranked<K> (&own)[kLaneEntries], int lanes) {
  Ranked<K> other[kLaneEntries];
#pragma unroll
  for (int e = 0; e < kLaneEntries; ++e) {
    const Ranked<K> given = own[e ^ REGISTERS];
    other[e] = {__shfl_xor_sync(kWholeWarp, given.key, lanes), __shfl_xor_sync(kWholeWarp, given.id, lanes)};
  }
#pragma unroll
  for (int e = 0; e < kLaneEntries; ++e) {
    const bool first = REGISTERS == 0 ? lane_index() < (lane_index() ^ lanes) : e < (e ^ REGISTERS);
    if (before(other[e], own[e]) == first) own[e] = other[e];
  }
}

template <class K>
__device__ __forceinline__ void order_pair(Ranked<K>& first, Ranked<K>& second) {
  const Ranked<K> a = first, b = second;
  const bool swap = before(b, a);
  first = swap ? b : a;
  second = swap ? a : b;
}

// The steps of a merge from stride `lanes` down, at most 16.
template <class K>
__device__ __forceinline__ void merge_lanes(Ranked<K> (&own)[kLaneEntries], int lanes) {
  for (; lanes > 0; lanes >>= 1) order_entries<0>(own, lanes);
}

template <class K>
__device__ __forceinline__ void merge_warp(Ranked<K> (&own)[kLaneEntries]) {
  order_pair(own[0], own[2]);
  order_pair(own[1], own[3]);
  order_pair(own[0], own[1]);
  order_pair(own[2], own[3]);
  merge_lanes(own, 16);
}

template <class K>
__device__ __forceinline__ void sort_warp(Ranked<K> (&own)[kLaneEntries]) {
  for (int size = 2; size <= 32; size <<= 1) {
    order_entries<0>(own, size - 1);
    merge_lanes(own, size / 4);
  }
  order_entries<1>(own, 31);
  merge_lanes(own, 16);
  order_entries<3>(own, 31);
  order_pair(own[0], own[1]);
  order_pair(own[2], own[3]);
  merge_lanes(own, 16);
}

// Calls use(own) for every 128 of the entries, with {0, kNoId} behind the last.
template <class K, class Use>
__device__ __forceinline__ void for_each_warp(Ranked<K>* entries, int count, const Use& use) {
  for (int first = kWarpEntries * warp_index(); first < count; first += kLaneEntries * blockDim.x) {
    Ranked<K> own[kLaneEntries];
#pragma unroll
    for (int e = 0; e < kLaneEntries; ++e) {
      const int i = first + 32 * e + lane_index();
      own[e] = i < count ? entries[i] : Ranked<K>{0, kNoId};
    }
    use(own);
#pragma unroll
    for (int e = 0; e < kLaneEntries; ++e) {
      const int i = first + 32 * e + lane_index();
      if (i < count) entries[i] = own[e];
    }
  }
  __syncthreads();
}

// Sorts the first `count` of `entries`, best first. Merges begin by comparing with the mirror image, so that the better
// entry always goes first and what stands behind the last can be left out.
template <class K>
__device__ __forceinline__ void sort_block(Ranked<K>* entries, int count) {
  for_each_warp<K>(entries, count, [](Ranked<K>(&own)[kLaneEntries]) { sort_warp(own); });
  for (int size = 2 * kWarpEntries; size < 2 * count; size <<= 1) {
    for (int i = threadIdx.x;; i += blockDim.x) {
      const int low = 2 * i - (i & (size / 2 - 1)), high = low ^ (size - 1);
      if (low >= count) break;
      if (high < count) order_pair(entries[low], entries[high]);
    }
    __syncthreads();
    for (int stride = size / 4; stride >= kWarpEntries; stride >>= 1) {
      for (int i = threadIdx.x;; i += blockDim.x) {
        const int low = 2 * i - (i & (stride - 1)), high = low + stride;
        if (high >= count) break;
        order_pair(entries[low], entries[high]);
      }
      __syncthreads();
    }
    for_each_warp<K>(entries, count, [](Ranked<K>(&own)[kLaneEntries]) { merge_warp(own); });
  }
}

// Calls emit(j, entry) for the best k entries, j from 0; returns how many there were. `sorted` holds `capacity`
// entries; longer lists come out in rounds of that many, each behind the last of the round before.
template <class K, class Source, class Emit>
__device__ __forceinline__ int64_t emit_best(const Source& source, int64_t k, Ranked<K>* sorted, int capacity,
                                             SelectionScratch& scratch, const Emit& emit) {
  int64_t done = 0;
  Ranked<K> last = {static_cast<K>(~K{0}), 0};  // no score has this key
  const bool all_fit = source.size <= capacity;
  while (done < k) {
    const int64_t take = k - done < capacity ? k - done : capacity;
    Ranked<K> bound = {0, kNoId};
    if (!all_fit)
      bound = selection_bound<K>(source, static_cast<uint32_t>(take), static_cast<uint32_t>(capacity), last, scratch);
    __syncthreads();
    if (threadIdx.x == 0) scratch.gathered = 0;
    __syncthreads();
    for_each_entry<K>(source, [&](const Ranked<K>& entry) {
      if (before(bound, entry) || !before(last, entry)) return;
      const uint32_t slot = atomicAdd(&scratch.gathered, 1u);
      if (slot < static_cast<uint32_t>(capacity)) sorted[slot] = entry;
    });
    __syncthreads();
    const int count = scratch.gathered < static_cast<uint32_t>(capacity) ? static_cast<int>(scratch.gathered) : capacity;
    sort_block(sorted, count);
    const int64_t emitted = count < take ? count : take;
    for (int64_t j = threadIdx.x; j < emitted; j += blockDim.x) emit(done + j, sorted[j]);
    done += emitted;
    if (all_fit || count < take) break;
    last = sorted[take - 1];
    __syncthreads();
  }
  return done;
}

// Room to sort k entries at a time.
template <class K>
inline int sorting_capacity(int64_t k) {
  int capacity = 512;
  while (capacity < 4096 && capacity < k) capacity <<= 1;
  return capacity;
}

// What stands behind a row's last entry, and the whole of a row whose exclusions are malformed.
template <class T>
__device__ __forceinline__ void finish_row(T* scores, int64_t* indices, int64_t* length, int64_t k, int64_t done, T fill) {
  for (int64_t j = done + threadIdx.x; j < k; j += blockDim.x) {
    scores[j] = fill;
    indices[j] = -1;
  }
  if (threadIdx.x == 0) *length = done;
}

}  // namespace
