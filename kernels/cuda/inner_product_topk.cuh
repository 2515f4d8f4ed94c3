// Exact top-K of inner products around the filter: a threshold from a sample, then exact scores of what passed it.
//
// A row's answer stands once its K-th exact score reaches the threshold: what the filter dropped was below it. Every
// other row, also one whose buffer was too short or that bf16 cannot hold, goes on a list of rows to be done again.
#pragma once
#include "kernels/cuda/score_filter.cuh"
#include "kernels/cuda/selection.cuh"

namespace {

template <class K>
struct KeySource {
  int64_t size;
  const K* keys;  // 0: does not count
  __device__ bool get(int64_t i, Ranked<K>& entry) const {
    entry = {keys[i], static_cast<uint32_t>(i)};
    return entry.key != 0;
  }
  __device__ int64_t ids() const { return size; }
};

template <class K>
struct CandidateSource {
  int64_t size;
  const Ranked<K>* candidates;
  __device__ bool get(int64_t i, Ranked<K>& entry) const {
    entry = candidates[i];
    return true;
  }
  __device__ int64_t ids() const { return int64_t{1} << 32; }
};

// One block per row: the `rank`-th largest of the sample's groups, without those of excluded items.
__global__ void __launch_bounds__(128) threshold_kernel(SampleGroups sample, int64_t count, int64_t stride, int64_t rank,
                                                        Exclusion exclude, uint8_t* __restrict__ states,
                                                        float* __restrict__ thresholds) {
  __shared__ SelectionScratch scratch;
  uint32_t* const keys = reinterpret_cast<uint32_t*>(dynamic_shared());
  const int64_t row = blockIdx.x;
  const uint8_t state = states[row];
  if (state >= kExact) {
    if (threadIdx.x == 0) thresholds[row] = positive_infinity(0.0f);
    return;
  }
  for (int64_t i = threadIdx.x; i < sample.groups; i += blockDim.x) {
    const float largest = sample.largest[row * sample.groups + i];
    keys[i] = rankable(largest) ? order_key(largest) : 0;
  }
  __syncthreads();
  if (exclude.indptr != nullptr)
    for (int64_t i = exclude.indptr[row] + threadIdx.x; i < exclude.indptr[row + 1]; i += blockDim.x) {
      const int64_t item = exclude.indices[i], window = item / stride;
      if (window < count && sampled_item(window, stride) == item) keys[group_of(window, sample.size)] = 0;
    }
  __syncthreads();
  const uint32_t key = kth_key<uint32_t>(KeySource<uint32_t>{sample.groups, keys}, static_cast<uint32_t>(rank), scratch);
  if (threadIdx.x == 0) {
    if (key == 0) states[row] = kExact;
    thresholds[row] = key == 0 ? positive_infinity(0.0f) : score_of_key(key);
  }
}

template <class Storage>
__device__ __forceinline__ double add_product(double sum, double user, double item) {
  return __fma_rn(user, item, sum);  // the product is exact
}
template <>
__device__ __forceinline__ double add_product<double>(double sum, double user, double item) {
  return __dadd_rn(sum, __dmul_rn(user, item));
}

template <class Storage>
__device__ __forceinline__ Score<Storage> rounded_score(double sum, const Storage* bias, int64_t item) {
  if (bias != nullptr) sum = __dadd_rn(sum, static_cast<double>(load_wide(bias + item)));
  return static_cast<Score<Storage>>(sum);
}

template <class Storage>
struct Tables {
  const Storage* users;
  const Storage* items;
  const Storage* bias;  // or null
  int64_t D;
  bool aligned;
};

constexpr int kStagedWidth = 1024;

// By CONTRACT 4: the sum in index order, the bias, one rounding. The user's first values are in shared memory.
template <class Storage>
__device__ Score<Storage> exact_score(const Tables<Storage>& tables, const double* staged, int64_t row, int64_t item) {
  const Storage* const user_row = tables.users + row * tables.D;
  const Storage* const item_row = tables.items + item * tables.D;
  constexpr int kEights = sizeof(Storage) == 8 ? 1 : 2;  // asked for at a time
  double sum = 0;
  for (int64_t begin = 0; begin < tables.D; begin += 8 * kEights) {
    Score<Storage> values[kEights][8];
#pragma unroll
    for (int e = 0; e < kEights; ++e) load_eight(item_row, begin + 8 * e, tables.D, tables.aligned, values[e]);
#pragma unroll
    for (int i = 0; i < 8 * kEights; ++i) {
      const int64_t d = begin + i;
      if (d >= tables.D) break;
      const double user = d < kStagedWidth ? staged[d] : static_cast<double>(load_wide(user_row + d));
      sum = add_product<Storage>(sum, user, values[i / 8][i % 8]);
    }
  }
  return rounded_score(sum, tables.bias, item);
}

struct RedoList {
  unsigned long long* count;
  int64_t* rows;
  int64_t first_row;  // of this launch in the whole batch
  __device__ void add(int64_t row) const { rows[atomicAdd(count, 1ull)] = first_row + row; }
};

template <class T>
struct TopK {
  T* scores;         // [rows, k]
  int64_t* indices;  // [rows, k]
  int64_t* lengths;  // [rows]
  int64_t k;
};

// Survivors whose bounds from below are ranked first, to spare exact scores.
constexpr int kPruned = 4096;

template <class K>
inline size_t finish_shared(int sorting, int64_t capacity) {
  const int64_t pruned = capacity < kPruned ? capacity : kPruned;
  return kStagedWidth * sizeof(double) + sorting * sizeof(Ranked<K>) + static_cast<size_t>(pruned) * sizeof(uint32_t);
}

__device__ __forceinline__ float bound_below(const Survivor& survivor, const ItemTerms& item, float norm, float rounding) {
  const double margin = norm * (item.margin + static_cast<double>(rounding) * item.norm) + item.bias_margin;
  return __double2float_rd(survivor.bound - 2 * margin * (1 + 0x1p-20));
}

// One block per row. `candidates` [rows, capacity] may be the survivors' own memory.
template <class Storage>
__global__ void __launch_bounds__(256, sizeof(Storage) == 8 ? 2 : 4)
    finish_kernel(Tables<Storage> tables, const ItemTerms* __restrict__ terms, FilterRows rows, Survivors survivors,
                  Ranked<Key<Storage>>* candidates, TopK<Score<Storage>> top, RedoList redo, int sorting) {
  typedef Ranked<Key<Storage>> Candidate;
  __shared__ SelectionScratch scratch;
  __shared__ Key<Storage> last_key;
  __shared__ uint32_t chosen, found;
  const int64_t row = blockIdx.x;
  Score<Storage>* const scores = top.scores + row * top.k;
  int64_t* const indices = top.indices + row * top.k;
  const uint8_t state = rows.states[row];
  const int64_t count = survivors.counts[row];
  const float norm = rows.norms[row], rounding = *rows.rounding;
  if (state == kMalformed) {
    finish_row(scores, indices, top.lengths + row, top.k, 0, not_a_number(Score<Storage>()));
    return;
  }
  if (state == kExact || count > survivors.capacity) {
    if (threadIdx.x == 0) redo.add(row);
    return;
  }
  double* const staged = reinterpret_cast<double*>(dynamic_shared());
  Candidate* const sorted = reinterpret_cast<Candidate*>(staged + kStagedWidth);
  uint32_t* const lower = reinterpret_cast<uint32_t*>(sorted + sorting);
  const Survivor* const own = survivors.entries + row * survivors.capacity;
  Candidate* const kept = candidates + row * survivors.capacity;
  for (int64_t d = threadIdx.x; d < tables.D && d < kStagedWidth; d += blockDim.x)
    staged[d] = load_wide(tables.users + row * tables.D + d);

  // The K-th largest bound from below: no item whose bound from above is less can be among the K best.
  uint32_t least = 0;
  const bool prune = count <= kPruned && count > top.k;
  if (prune) {
    constexpr int kBatch = 2;  // terms asked for at a time
    const int last = static_cast<int>(count) - 1;
    for (int first = threadIdx.x; first <= last; first += kBatch * blockDim.x) {
      Survivor survivor[kBatch];
      ItemTerms item[kBatch];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        const int i = first + u * static_cast<int>(blockDim.x);
        survivor[u] = own[i < last ? i : last];
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) item[u] = terms[survivor[u].item];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        const int i = first + u * static_cast<int>(blockDim.x);
        if (i > last) break;
        const float below = bound_below(survivor[u], item[u], norm, rounding);
        const bool counts = rankable(below) && !rows.exclude.contains(row, survivor[u].item);
        lower[i] = counts ? order_key(below) : 0;
      }
    }
    __syncthreads();
    least = kth_key<uint32_t>(KeySource<uint32_t>{count, lower}, static_cast<uint32_t>(top.k), scratch);
  }
  if (threadIdx.x == 0) found = 0;

  // In rounds: ids first, so that whole warps score, and then what a round keeps is written over survivors that this
  // round and earlier ones have read.
  uint32_t* const ids = lower;
  for (int64_t begin = 0; begin < count; begin += kPruned) {
    const int64_t end = begin + kPruned < count ? begin + kPruned : count;
    __syncthreads();
    if (threadIdx.x == 0) chosen = 0;
    __syncthreads();
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
      const Survivor survivor = own[i];
      // An infinite bound has no bound from below, but its item may rank.
      if (order_key(survivor.bound) >= least && !rows.exclude.contains(row, survivor.item))
        ids[atomicAdd(&chosen, 1u)] = survivor.item;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < chosen; i += blockDim.x) {
      const Score<Storage> score = exact_score(tables, staged, row, ids[i]);
      if (rankable(score)) kept[atomicAdd(&found, 1u)] = {order_key(score), ids[i]};
    }
  }
  __syncthreads();

  const int64_t done = emit_best(CandidateSource<Key<Storage>>{found, kept}, top.k, sorted, sorting, scratch,
                                 [&](int64_t j, const Candidate& best) {
                                   Score<Storage> score = score_of_key(best.key);
                                   if (score == 0) score = exact_score(tables, staged, row, best.id);  // its sign
                                   scores[j] = score;
                                   indices[j] = best.id;
                                   if (j == top.k - 1) last_key = best.key;
                                 });
  __syncthreads();
  if (done < top.k || last_key < order_key(static_cast<Score<Storage>>(rows.thresholds[row]))) {
    if (threadIdx.x == 0) redo.add(row);
    return;
  }
  finish_row(scores, indices, top.lengths + row, top.k, done, -positive_infinity(Score<Storage>()));
}

// Exact scores [R, count] of the listed users (null: the first R) and the items from `first` on, NaN where excluded.
// A block has 64 users by 128 items, a thread 8 by 4.
constexpr int kExactUsers = 64, kExactItems = 128, kExactDepth = 16;

template <class Storage>
__global__ void __launch_bounds__(256) exact_scores_kernel(Tables<Storage> tables, const int64_t* __restrict__ listed,
                                                           int64_t R, int64_t first, int64_t count,
                                                           Score<Storage>* __restrict__ scores) {
  __shared__ double users[kExactUsers][kExactDepth];
  __shared__ double items[kExactDepth][kExactItems];
  const int64_t user_tiles = tiles_of(R, kExactUsers);
  const int64_t row0 = blockIdx.x % user_tiles * kExactUsers, item0 = blockIdx.x / user_tiles * kExactItems;
  const int lane = lane_index(), warp = warp_index();
  double sums[8][4] = {};
  for (int64_t depth = 0; depth < tables.D; depth += kExactDepth) {
    __syncthreads();
    for (int half = threadIdx.x; half < 2 * (kExactItems + kExactUsers); half += blockDim.x) {
      const int line = half / 2, shift = half % 2 * 8;
      const bool is_item = line < kExactItems;
      const int64_t row = row0 + line - kExactItems, item = item0 + line;
      const Storage* from = nullptr;
      if (is_item && item < count) from = tables.items + (first + item) * tables.D;
      if (!is_item && row < R) from = tables.users + (listed == nullptr ? row : listed[row]) * tables.D;
      Score<Storage> values[8] = {};
      if (from != nullptr) load_eight(from, depth + shift, tables.D, tables.aligned, values);
      for (int i = 0; i < 8; ++i) {
        if (is_item) items[shift + i][line] = values[i];
        else users[line - kExactItems][shift + i] = values[i];
      }
    }
    __syncthreads();
    const int64_t left = tables.D - depth;
    for (int d = 0; d < (left < kExactDepth ? left : kExactDepth); ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const double item = items[d][lane + 32 * i];
#pragma unroll
        for (int u = 0; u < 8; ++u) sums[u][i] = add_product<Storage>(sums[u][i], users[8 * warp + u][d], item);
      }
  }
#pragma unroll
  for (int u = 0; u < 8; ++u)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t row = row0 + 8 * warp + u, item = item0 + lane + 32 * i;
      if (row < R && item < count) scores[row * count + item] = rounded_score(sums[u][i], tables.bias, first + item);
    }
}

// By one warp per row: NaN for what the row excludes; whether its exclusions are malformed.
template <class T>
__global__ void __launch_bounds__(256) exclude_scores_kernel(Exclusion exclude, int64_t nonzeros, int64_t N,
                                                             const int64_t* __restrict__ listed, int64_t R, int64_t first,
                                                             int64_t count, T* __restrict__ scores,
                                                             uint8_t* __restrict__ malformed) {
  const int64_t r = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (r >= R) return;
  const int64_t row = listed == nullptr ? r : listed[r];
  const bool valid = valid_exclusions(exclude, nonzeros, row, N);
  if (lane_index() == 0) malformed[r] = !valid;
  if (!valid) return;
  for (int64_t i = exclude.indptr[row] + lane_index(); i < exclude.indptr[row + 1]; i += 32) {
    const int64_t item = exclude.indices[i] - first;
    if (item >= 0 && item < count) scores[r * count + item] = not_a_number(T());
  }
}

}  // namespace
