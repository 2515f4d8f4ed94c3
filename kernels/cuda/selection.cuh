// Selection by one block: the best k of a source in the contract's order, by digits from the most significant down.
//
// A source has `size` and `get(i, entry)`, which says whether its i-th entry counts and fills it in.
#pragma once
#include "kernels/cuda/order.cuh"

namespace {

struct SelectionScratch {
  uint32_t histogram[256];
  unsigned long long before_bin;  // entries in better bins than the chosen one
  uint32_t in_bin;
  int bin;
  uint32_t gathered;
};

template <class K>
constexpr int kDigits = static_cast<int>(sizeof(K)) + 4;

// Digits of (key, ~id): of two entries the better one has the larger digit where they first differ.
template <class K>
__device__ __forceinline__ uint32_t digit(const Ranked<K>& entry, int position) {
  constexpr int kKeyDigits = static_cast<int>(sizeof(K));
  if (position < kKeyDigits) return static_cast<uint32_t>(entry.key >> (8 * (kKeyDigits - 1 - position))) & 255u;
  return (~entry.id >> (8 * (kDigits<K> - 1 - position))) & 255u;
}

template <class K>
__device__ __forceinline__ void set_digit(Ranked<K>& entry, int position, uint32_t value) {
  constexpr int kKeyDigits = static_cast<int>(sizeof(K));
  if (position < kKeyDigits) entry.key |= static_cast<K>(value) << (8 * (kKeyDigits - 1 - position));
  else entry.id = ~(~entry.id | (value << (8 * (kDigits<K> - 1 - position))));
}

// Whether the digits before `position` agree.
template <class K>
__device__ __forceinline__ bool same_prefix(const Ranked<K>& a, const Ranked<K>& b, int position) {
  constexpr int kKeyDigits = static_cast<int>(sizeof(K));
  if (position == 0) return true;
  if (position <= kKeyDigits) return ((a.key ^ b.key) >> (8 * (kKeyDigits - position))) == 0;
  return a.key == b.key && ((a.id ^ b.id) >> (8 * (kDigits<K> - position))) == 0;
}

// The bin, counted from the largest digit, that holds the `wanted`-th entry; bin -1 where there are fewer.
__device__ __forceinline__ void choose_bin(SelectionScratch& scratch, unsigned long long wanted) {
  if (warp_index() == 0) {
    const int first_bin = 255 - 8 * lane_index();
    unsigned long long mine = 0;
    for (int i = 0; i < 8; ++i) mine += scratch.histogram[first_bin - i];
    unsigned long long through = mine;
    for (int step = 1; step < 32; step <<= 1) {
      const unsigned long long other = __shfl_up_sync(kWholeWarp, through, step);
      if (lane_index() >= step) through += other;
    }
    unsigned long long earlier = through - mine;
    const bool here = earlier < wanted && wanted <= through;
    if (!__any_sync(kWholeWarp, here) && lane_index() == 0) scratch.bin = -1;
    if (here) {
      int bin = first_bin;
      for (; earlier + scratch.histogram[bin] < wanted; --bin) earlier += scratch.histogram[bin];
      scratch.bin = bin;
      scratch.in_bin = scratch.histogram[bin];
      scratch.before_bin = earlier;
    }
  }
  __syncthreads();
}

// An entry such that exactly the best `wanted` entries of those behind `last` (behind {~0, 0}: of all) are not behind
// it; where there are fewer, the one behind all. Every thread of the block calls this and gets the same.
template <class K, class Source>
__device__ __forceinline__ Ranked<K> selection_bound(const Source& source, unsigned long long wanted, Ranked<K> last,
                                                     SelectionScratch& scratch) {
  Ranked<K> bound = {0, kNoId};
  for (int position = 0; position < kDigits<K>; ++position) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) scratch.histogram[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < source.size; i += blockDim.x) {
      Ranked<K> entry;
      if (!source.get(i, entry) || !same_prefix(entry, bound, position)) continue;
      if (before(last, entry)) atomicAdd(&scratch.histogram[digit(entry, position)], 1u);
    }
    __syncthreads();
    choose_bin(scratch, wanted);
    const int bin = scratch.bin;
    if (bin < 0) return bound;
    wanted -= scratch.before_bin;
    const bool whole_bin = scratch.in_bin == wanted;
    __syncthreads();
    set_digit(bound, position, static_cast<uint32_t>(bin));
    if (whole_bin) break;
  }
  return bound;
}

// The key of the `wanted`-th best entry; 0 where there are fewer.
template <class K, class Source>
__device__ __forceinline__ K kth_key(const Source& source, unsigned long long wanted, SelectionScratch& scratch) {
  const Ranked<K> bound = selection_bound<K>(source, wanted, {static_cast<K>(~K{0}), 0}, scratch);
  if (bound.key == 0) return 0;
  // A bound may lie below the entry itself: the bin was taken whole.
  unsigned long long* least = &scratch.before_bin;
  __syncthreads();
  if (threadIdx.x == 0) *least = ~0ull;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < source.size; i += blockDim.x) {
    Ranked<K> entry;
    if (source.get(i, entry) && entry.key >= bound.key) atomicMin(least, static_cast<unsigned long long>(entry.key));
  }
  __syncthreads();
  const K key = static_cast<K>(*least);
  __syncthreads();
  return key;
}

// Sorts the first `count` of `entries`, best first; there is room for the next power of two.
template <class K>
__device__ __forceinline__ void sort_block(Ranked<K>* entries, int count) {
  int padded = 1;
  while (padded < count) padded <<= 1;
  for (int i = count + threadIdx.x; i < padded; i += blockDim.x) entries[i] = {0, kNoId};
  __syncthreads();
  for (int size = 2; size <= padded; size <<= 1)
    for (int stride = size >> 1; stride > 0; stride >>= 1) {
      for (int i = threadIdx.x; i < padded >> 1; i += blockDim.x) {
        const int low = 2 * i - (i & (stride - 1)), high = low + stride;
        const Ranked<K> a = entries[low], b = entries[high];
        if ((low & size) == 0 ? before(b, a) : before(a, b)) {
          entries[low] = b;
          entries[high] = a;
        }
      }
      __syncthreads();
    }
}

// Calls emit(j, entry) for the best k entries, j from 0; returns how many there were. `sorted` holds `capacity`
// entries, a power of two; longer lists come out in rounds of that many, each behind the last of the round before.
template <class K, class Source, class Emit>
__device__ __forceinline__ int64_t emit_best(const Source& source, int64_t k, Ranked<K>* sorted, int capacity,
                                             SelectionScratch& scratch, const Emit& emit) {
  int64_t done = 0;
  Ranked<K> last = {static_cast<K>(~K{0}), 0};  // no score has this key
  const bool all_fit = source.size <= capacity;
  while (done < k) {
    const int64_t take = k - done < capacity ? k - done : capacity;
    Ranked<K> bound = {0, kNoId};
    if (!all_fit) bound = selection_bound<K>(source, take, last, scratch);
    __syncthreads();
    if (threadIdx.x == 0) scratch.gathered = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < source.size; i += blockDim.x) {
      Ranked<K> entry;
      if (!source.get(i, entry) || before(bound, entry) || !before(last, entry)) continue;
      const uint32_t slot = atomicAdd(&scratch.gathered, 1u);
      if (slot < static_cast<uint32_t>(capacity)) sorted[slot] = entry;
    }
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
