// Exact top-K of given scores: a threshold from a sample of each row, one pass at the speed of a copy that keeps what
// reaches it, and a selection among those. A row of which too few or too many reached it is selected from whole.
#pragma once
#include "kernels/cuda/inner_product_topk.cuh"

namespace {

template <class T>
__device__ __forceinline__ T storage_infinity_below() { return -positive_infinity(T()); }
template <>
__device__ __forceinline__ Half storage_infinity_below<Half>() { return {0xfc00u}; }
template <>
__device__ __forceinline__ BFloat16 storage_infinity_below<BFloat16>() { return {0xff80u}; }
template <class T>
__device__ __forceinline__ T storage_nan() { return not_a_number(T()); }
template <>
__device__ __forceinline__ Half storage_nan<Half>() { return {0x7e00u}; }
template <>
__device__ __forceinline__ BFloat16 storage_nan<BFloat16>() { return {0x7fc0u}; }

template <class Storage>
struct MaskedScores {
  const Storage* scores;  // [rows, N], rows `stride` apart
  int64_t stride;
  int64_t N;
  Exclusion exclude;
  int64_t nonzeros;
  const uint8_t* mask;  // [rows, N] bool, or null

  __device__ bool masked(int64_t row, int64_t item) const { return mask != nullptr && mask[row * N + item] != 0; }
  __device__ bool excluded(int64_t row, int64_t item) const { return masked(row, item) || exclude.contains(row, item); }
  __device__ Score<Storage> score(int64_t row, int64_t item) const { return load_wide(scores + row * stride + item); }
};

template <class Storage>
struct RowSource {
  int64_t size;
  const MaskedScores<Storage>& table;
  int64_t row;
  __device__ bool get(int64_t i, Ranked<Key<Storage>>& entry) const {
    const Score<Storage> score = table.score(row, i);
    if (!rankable(score) || table.excluded(row, i)) return false;
    entry = {order_key(score), static_cast<uint32_t>(i)};
    return true;
  }
  __device__ int64_t ids() const { return size; }
};

// What the pass kept; none is excluded.
template <class Storage>
struct Kept {
  Ranked<Key<Storage>>* entries;  // [rows, capacity]
  uint32_t* counts;               // [rows]; kNoId: select from the whole row
  int64_t capacity;

  __device__ void put(int64_t row, uint32_t slot, Score<Storage> score, int64_t item) const {
    if (slot < capacity) entries[row * capacity + slot] = {order_key(score), static_cast<uint32_t>(item)};
  }
};

// A sample is a piece of 32 bytes from every window of `stride` pieces.
template <class Storage>
constexpr int kPiece = 32 / static_cast<int>(sizeof(Storage));

__device__ __forceinline__ bool valid_in_block(const Exclusion& exclude, int64_t nonzeros, int64_t row, int64_t N) {
  __shared__ bool valid;
  if (warp_index() == 0) {
    const bool fine = valid_exclusions(exclude, nonzeros, row, N);
    if (threadIdx.x == 0) valid = fine;
  }
  __syncthreads();
  return valid;
}

// One block per row: the `rank`-th largest of the pieces' best scores. Without one the row keeps nothing. Neighbouring
// lanes have a piece's elements.
template <class Storage>
__global__ void __launch_bounds__(256, 4) masked_threshold_kernel(MaskedScores<Storage> table, int64_t windows, int64_t stride,
                                                               int64_t rank, Kept<Storage> kept,
                                                               Score<Storage>* __restrict__ thresholds,
                                                               uint8_t* __restrict__ malformed, RedoList redo) {
  constexpr int kUnroll = 8;
  __shared__ SelectionScratch scratch;
  Key<Storage>* const best = reinterpret_cast<Key<Storage>*>(dynamic_shared());
  const int64_t row = blockIdx.x;
  const bool valid = valid_in_block(table.exclude, table.nonzeros, row, table.N);
  if (threadIdx.x == 0) {
    malformed[row] = !valid;
    kept.counts[row] = 0;
    if (row == 0) *redo.count = 0;
  }
  if (!valid) {
    if (threadIdx.x == 0) thresholds[row] = not_a_number(Score<Storage>());
    return;
  }
  const Score<Storage> nothing = -positive_infinity(Score<Storage>());
  const int64_t elements = windows * kPiece<Storage>;
  const auto item_of = [&](int64_t i) { return sampled_item(i / kPiece<Storage>, stride) * kPiece<Storage> + i % kPiece<Storage>; };
  for (int64_t first = threadIdx.x; first - threadIdx.x < elements; first += kUnroll * blockDim.x) {
    Storage read[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = first + u * blockDim.x;
      if (i < elements) read[u] = table.scores[row * table.stride + item_of(i)];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = first + u * blockDim.x, item = i < elements ? item_of(i) : 0;
      Score<Storage> score = load_wide(&read[u]);
      if (i >= elements || !rankable(score) || table.masked(row, item)) score = nothing;
      Score<Storage> largest;
      for (bool again = true; again;) {  // until the best of each piece is not excluded
        largest = score;
        for (int lanes = kPiece<Storage> / 2; lanes > 0; lanes >>= 1) {
          const Score<Storage> other = __shfl_xor_sync(kWholeWarp, largest, lanes);
          if (other > largest) largest = other;
        }
        const bool excluded = score == largest && rankable(score) && table.exclude.contains(row, item);
        if (excluded) score = nothing;
        again = __any_sync(kWholeWarp, excluded);
      }
      if (i < elements && i % kPiece<Storage> == 0)
        best[i / kPiece<Storage>] = rankable(largest) ? order_key(largest) : 0;
    }
  }
  __syncthreads();
  const Key<Storage> key = kth_key<Key<Storage>>(KeySource<Key<Storage>>{windows, best}, static_cast<uint32_t>(rank), scratch);
  if (threadIdx.x == 0) {
    if (key == 0) kept.counts[row] = kNoId;
    thresholds[row] = key == 0 ? not_a_number(Score<Storage>()) : score_of_key(key);
  }
}

// Blocks share a row evenly, at most 128 KiB each: few enough that beginning and end hardly count, and as many bytes
// asked for at a time as registers hold (DESIGN.md TK-9).
constexpr int kStreamBytes = 128 * 1024, kStreamHits = 1024, kStreamThreads = 256;

template <class Storage>
inline int64_t stream_blocks(int64_t N) { return tiles_of(N, kStreamBytes / static_cast<int>(sizeof(Storage))); }

template <class Storage>
__global__ void __launch_bounds__(kStreamThreads, 4)
    masked_stream_kernel(MaskedScores<Storage> table, Kept<Storage> kept, uint32_t blocks_of_row,
                         const Score<Storage>* __restrict__ thresholds) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(Storage)), kUnroll = kVector < 4 ? 8 : 32 / kVector;
  __shared__ uint32_t hits[kStreamHits];  // by their distance from the block's first element
  __shared__ uint32_t logged, passed, start;
  const int64_t row = blockIdx.x / blocks_of_row, share = tiles_of(table.N, 64 * int64_t{blocks_of_row}) * 64;
  const int64_t begin = blockIdx.x % blocks_of_row * share, left = table.N - begin;
  const Score<Storage> threshold = thresholds[row];
  if (left <= 0 || threshold != threshold) return;  // the whole block
  const int size = static_cast<int>(left < share ? left : share);
  const Storage* const scores = table.scores + row * table.stride + begin;
  if (threadIdx.x == 0) logged = passed = 0;
  __syncthreads();
  bool full = false;  // the row's buffer, as far as this thread knows: an addition for every equal score would take long
  const auto log = [&](uint32_t slot, int at) {
    if (slot < kStreamHits) {
      hits[slot] = static_cast<uint32_t>(at);
    } else if (!full && !table.excluded(row, begin + at)) {
      const uint32_t place = atomicAdd(&kept.counts[row], 1u);
      kept.put(row, place, load_wide(scores + at), begin + at);
      full = place >= kept.capacity;
    }
  };
  // Up to the first multiple of 16 bytes one by one, and behind the last.
  const int misaligned = static_cast<int>(reinterpret_cast<uintptr_t>(scores) % 16 / sizeof(Storage));
  const int to_aligned = misaligned == 0 ? 0 : kVector - misaligned, head = to_aligned < size ? to_aligned : size;
  const int vectors = (size - head) / kVector;
  const int lone = static_cast<int>(threadIdx.x), at_end = lone < head ? lone : lone + vectors * kVector;
  if (at_end < size && lone < 2 * kVector && load_wide(scores + at_end) >= threshold) log(atomicAdd(&logged, 1u), at_end);
  const uint4* const lines = reinterpret_cast<const uint4*>(scores + head);
  for (int first = threadIdx.x; first < vectors; first += kUnroll * kStreamThreads) {
    union {
      uint4 line;
      Storage elements[kVector];
    } loaded[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = first + u * kStreamThreads;
      loaded[u].line = lines[at < vectors ? at : vectors - 1];
    }
    uint32_t found = 0;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int e = 0; e < kVector; ++e)
        if (load_wide(&loaded[u].elements[e]) >= threshold) found |= 1u << (u * kVector + e);
    // Not the last vector again.
    const int present = (vectors - first + kStreamThreads - 1) / kStreamThreads;
    if (present < kUnroll) found &= (1u << (present * kVector)) - 1;
    if (found == 0) continue;
    uint32_t slot = atomicAdd(&logged, static_cast<uint32_t>(__popc(found)));
    for (; found != 0; found &= found - 1) {
      const int bit = __ffs(static_cast<int>(found)) - 1;
      log(slot++, head + (first + bit / kVector * kStreamThreads) * kVector + bit % kVector);
    }
  }
  __syncthreads();
  // What is not excluded takes one stretch of the row's buffer.
  const int count = static_cast<int>(logged < kStreamHits ? logged : kStreamHits);
  constexpr int kOwn = kStreamHits / kStreamThreads;
  uint32_t slots[kOwn];
  Score<Storage> values[kOwn];
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kStreamThreads;
    slots[j] = kNoId;
    if (i >= count) continue;
    values[j] = load_wide(scores + hits[i]);
    if (!table.excluded(row, begin + hits[i])) slots[j] = atomicAdd(&passed, 1u);
  }
  __syncthreads();
  if (threadIdx.x == 0 && passed > 0) start = atomicAdd(&kept.counts[row], passed);
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kOwn; ++j)
    if (slots[j] != kNoId) kept.put(row, start + slots[j], values[j], begin + hits[threadIdx.x + j * kStreamThreads]);
}

// A score in the table's own bits: from its key where that has them all, save for the sign of zero.
template <class Storage>
__device__ __forceinline__ Storage stored_score(const MaskedScores<Storage>& table, int64_t row, const Ranked<Key<Storage>>& entry) {
  if constexpr (sizeof(Storage) == sizeof(Score<Storage>)) {
    const Score<Storage> score = score_of_key(entry.key);
    if (score != 0) return score;
  }
  return table.scores[row * table.stride + entry.id];
}

// Writes a row's best; returns how many there were.
template <class Storage, class Source>
__device__ int64_t emit_row(const MaskedScores<Storage>& table, const Source& source, const TopK<Storage>& top, int64_t row,
                            int sorting, SelectionScratch& scratch) {
  Ranked<Key<Storage>>* const sorted = reinterpret_cast<Ranked<Key<Storage>>*>(dynamic_shared());
  Storage* const scores = top.scores + row * top.k;
  int64_t* const indices = top.indices + row * top.k;
  const int64_t done = emit_best(source, top.k, sorted, sorting, scratch, [&](int64_t j, const Ranked<Key<Storage>>& best) {
    scores[j] = stored_score(table, row, best);
    indices[j] = best.id;
  });
  finish_row(scores, indices, top.lengths + row, top.k, done, storage_infinity_below<Storage>());
  return done;
}

template <class Storage>
__device__ __forceinline__ void write_malformed(const TopK<Storage>& top, int64_t row) {
  finish_row(top.scores + row * top.k, top.indices + row * top.k, top.lengths + row, top.k, 0, storage_nan<Storage>());
}

// One block per row, from what the pass kept.
template <class Storage>
__global__ void __launch_bounds__(256, sizeof(Storage) == 8 ? 2 : 4) masked_finish_kernel(MaskedScores<Storage> table, Kept<Storage> kept,
                                                            const uint8_t* __restrict__ malformed, TopK<Storage> top,
                                                            RedoList redo, int sorting) {
  __shared__ SelectionScratch scratch;
  const int64_t row = blockIdx.x;
  if (malformed[row]) {
    write_malformed(top, row);
    return;
  }
  const int64_t count = kept.counts[row];
  if (count < top.k || count > kept.capacity) {
    if (threadIdx.x == 0) redo.add(row);
    return;
  }
  emit_row(table, CandidateSource<Key<Storage>>{count, kept.entries + row * kept.capacity}, top, row, sorting, scratch);
}

// From whole rows: those of the list, or all where there is none.
template <class Storage>
__global__ void __launch_bounds__(256, sizeof(Storage) == 8 ? 2 : 4) masked_rows_kernel(MaskedScores<Storage> table, int64_t B, bool listed, RedoList redo,
                                                          TopK<Storage> top, int sorting) {
  __shared__ SelectionScratch scratch;
  const int64_t rows = listed ? static_cast<int64_t>(*redo.count) : B;
  for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    const int64_t row = listed ? redo.rows[i] : i;
    __syncthreads();
    if (!valid_in_block(table.exclude, table.nonzeros, row, table.N)) write_malformed(top, row);
    else emit_row(table, RowSource<Storage>{table.N, table, row}, top, row, sorting, scratch);
  }
}

}  // namespace
