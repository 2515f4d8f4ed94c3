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

  __device__ bool excluded(int64_t row, int64_t item) const {
    return (mask != nullptr && mask[row * N + item] != 0) || exclude.contains(row, item);
  }
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
};

// Ids that the pass kept; none is excluded.
template <class Storage>
struct KeptSource {
  int64_t size;
  const MaskedScores<Storage>& table;
  int64_t row;
  const uint32_t* kept;
  __device__ bool get(int64_t i, Ranked<Key<Storage>>& entry) const {
    entry = {order_key(table.score(row, kept[i])), kept[i]};
    return true;
  }
};

struct Kept {
  uint32_t* ids;     // [rows, capacity]
  uint32_t* counts;  // [rows]; kNoId: select from the whole row
  int64_t capacity;
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

// One block per row: the `rank`-th largest of the pieces' best scores. Without one the row keeps nothing.
template <class Storage>
__global__ void __launch_bounds__(256) masked_threshold_kernel(MaskedScores<Storage> table, int64_t windows, int64_t stride,
                                                               int64_t rank, Kept kept,
                                                               Score<Storage>* __restrict__ thresholds,
                                                               uint8_t* __restrict__ malformed) {
  typedef Ranked<Key<Storage>> Entry;
  __shared__ SelectionScratch scratch;
  Entry* const best = reinterpret_cast<Entry*>(dynamic_shared());
  const int64_t row = blockIdx.x;
  const bool valid = valid_in_block(table.exclude, table.nonzeros, row, table.N);
  if (threadIdx.x == 0) malformed[row] = !valid;
  if (!valid) {
    if (threadIdx.x == 0) thresholds[row] = not_a_number(Score<Storage>());
    return;
  }
  for (int64_t window = threadIdx.x; window < windows; window += blockDim.x) {
    const int64_t begin = sampled_item(window, stride) * kPiece<Storage>;
    Score<Storage> values[kPiece<Storage>];
#pragma unroll
    for (int i = 0; i < kPiece<Storage>; ++i) values[i] = table.score(row, begin + i);
    Score<Storage> largest = -positive_infinity(Score<Storage>());
#pragma unroll
    for (int i = 0; i < kPiece<Storage>; ++i)
      if (values[i] > largest && !table.excluded(row, begin + i)) largest = values[i];
    best[window] = {rankable(largest) ? order_key(largest) : 0, static_cast<uint32_t>(window)};
  }
  __syncthreads();
  const Key<Storage> key = kth_key<Key<Storage>>(CandidateSource<Key<Storage>>{windows, best}, rank, scratch);
  if (threadIdx.x == 0) {
    if (key == 0) kept.counts[row] = kNoId;
    thresholds[row] = key == 0 ? not_a_number(Score<Storage>()) : score_of_key(key);
  }
}

// A block reads 64 KiB of a row, 16 bytes at a time. Comparisons with a threshold of NaN keep nothing.
constexpr int kStreamBytes = 64 * 1024, kStreamHits = 1024;

template <class Storage>
inline int64_t stream_blocks(int64_t N) { return tiles_of(N, kStreamBytes / static_cast<int>(sizeof(Storage))); }

template <class Storage>
__global__ void __launch_bounds__(256, 4) masked_stream_kernel(MaskedScores<Storage> table, Kept kept,
                                                            const Score<Storage>* __restrict__ thresholds) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(Storage)), kUnroll = 4;
  constexpr int64_t kElements = kStreamBytes / static_cast<int>(sizeof(Storage));
  __shared__ uint32_t hits[kStreamHits];
  __shared__ uint32_t count;
  const int64_t blocks_of_row = tiles_of(table.N, kElements);
  const int64_t row = blockIdx.x / blocks_of_row, begin = blockIdx.x % blocks_of_row * kElements;
  const int64_t end = begin + kElements < table.N ? begin + kElements : table.N;
  const Storage* const scores = table.scores + row * table.stride;
  const Score<Storage> threshold = thresholds[row];
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  const auto keep = [&](uint32_t item) {
    if (table.excluded(row, item)) return;
    const uint32_t slot = atomicAdd(&kept.counts[row], 1u);
    if (slot < kept.capacity) kept.ids[row * kept.capacity + slot] = item;
  };
  const auto log = [&](int64_t item) {
    const uint32_t slot = atomicAdd(&count, 1u);
    if (slot < kStreamHits) hits[slot] = static_cast<uint32_t>(item);
    else keep(static_cast<uint32_t>(item));
  };
  // Up to the first multiple of 16 bytes one by one, and behind the last.
  const int64_t misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(scores + begin) % 16 / sizeof(Storage));
  int64_t body = begin + (misaligned == 0 ? 0 : kVector - misaligned);
  if (body > end) body = end;
  const int64_t vectors = (end - body) / kVector;
  for (int64_t i = begin + threadIdx.x; i < body; i += blockDim.x)
    if (load_wide(scores + i) >= threshold) log(i);
  for (int64_t i = body + vectors * kVector + threadIdx.x; i < end; i += blockDim.x)
    if (load_wide(scores + i) >= threshold) log(i);
  const uint4* const lines = reinterpret_cast<const uint4*>(scores + body);
  for (int64_t v = threadIdx.x; v < vectors; v += kUnroll * blockDim.x) {
    union {
      uint4 line;
      Storage elements[kVector];
    } loaded[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (v + u * blockDim.x < vectors) loaded[u].line = lines[v + u * blockDim.x];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (v + u * blockDim.x >= vectors) continue;
      bool any = false;
#pragma unroll
      for (int e = 0; e < kVector; ++e) any = any || load_wide(&loaded[u].elements[e]) >= threshold;
      if (!any) continue;
#pragma unroll
      for (int e = 0; e < kVector; ++e)
        if (load_wide(&loaded[u].elements[e]) >= threshold) log(body + (v + u * blockDim.x) * kVector + e);
    }
  }
  __syncthreads();
  const uint32_t logged = count < kStreamHits ? count : kStreamHits;
  for (uint32_t i = threadIdx.x; i < logged; i += blockDim.x) keep(hits[i]);
}

// Writes a row's best; returns how many there were.
template <class Storage, class Source>
__device__ int64_t emit_row(const MaskedScores<Storage>& table, const Source& source, const TopK<Storage>& top, int64_t row,
                            int sorting, SelectionScratch& scratch) {
  Ranked<Key<Storage>>* const sorted = reinterpret_cast<Ranked<Key<Storage>>*>(dynamic_shared());
  Storage* const scores = top.scores + row * top.k;
  int64_t* const indices = top.indices + row * top.k;
  const int64_t done = emit_best(source, top.k, sorted, sorting, scratch, [&](int64_t j, const Ranked<Key<Storage>>& best) {
    scores[j] = table.scores[row * table.stride + best.id];
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
__global__ void __launch_bounds__(256) masked_finish_kernel(MaskedScores<Storage> table, Kept kept,
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
  const uint32_t* const ids = kept.ids + row * kept.capacity;
  emit_row(table, KeptSource<Storage>{count, table, row, ids}, top, row, sorting, scratch);
}

// From whole rows: those of the list, or all where there is none.
template <class Storage>
__global__ void __launch_bounds__(256) masked_rows_kernel(MaskedScores<Storage> table, int64_t B, bool listed, RedoList redo,
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
