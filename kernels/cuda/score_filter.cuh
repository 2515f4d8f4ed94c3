// The filter: bounds from above of all scores, as one product on the matrix units, of which those that reach their
// row's threshold are kept. What both kernels, for mma.sync here and for wgmma in score_filter_sm90a.cuh, share.
//
// A tile's accumulators begin at norm * margin + bias, so that the finished sum is the bound. A warp logs what
// reaches its threshold in shared memory and empties the log into the rows' buffers now and then; a row's counter goes
// on counting when its buffer is full, so that none is lost unseen.
#pragma once
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/table_image.cuh"

namespace {

// Work is cut into units of one tile of users and a run of tiles of items. Neighbouring blocks take neighbouring
// units, with users running fastest, so that a run of items is read from memory once and then from cache.
struct FilterWork {
  const uint8_t* users;
  const uint8_t* items;
  const ItemTerms* terms;
  ImageShape shape;
  int64_t item_tiles;
  int64_t user_tiles;
  int64_t tiles_per_unit;

  __host__ __device__ int64_t units() const {
    return user_tiles * tiles_of(item_tiles, tiles_per_unit);
  }
  __device__ int64_t user_tile(int64_t unit) const { return unit % user_tiles; }
  __device__ int64_t first_tile(int64_t unit) const { return unit / user_tiles * tiles_per_unit; }
  __device__ int64_t end_tile(int64_t unit) const {
    const int64_t end = first_tile(unit) + tiles_per_unit;
    return end < item_tiles ? end : item_tiles;
  }
};

// Long runs, but some eight units for each block where there is work for that.
inline int64_t run_of_tiles(int64_t item_tiles, int64_t user_tiles, int64_t blocks) {
  const int64_t run = item_tiles * user_tiles / (8 * blocks);
  return run < 1 ? 1 : run > 64 ? 64 : run;
}

struct FilterRows {
  int64_t count;
  int64_t N;
  const float* norms;
  const float* thresholds;
  const float* rounding;  // the users' largest relative rounding to bf16
  const uint8_t* states;
  Exclusion exclude;
};

struct Survivor {
  float bound;
  uint32_t item;
};

struct Survivors {
  Survivor* entries;  // [rows, capacity]
  uint32_t* counts;   // [rows]
  int64_t capacity;
};

constexpr int kLogEntries = 320, kLogStep = 256;  // a step is one group of eight accumulators of a warp

struct WarpLog {
  Survivor survivors[kLogEntries];
  uint32_t rows[kLogEntries];
  uint32_t count, unused;
};

__device__ __forceinline__ void begin_log(WarpLog& log) {
  if (lane_index() == 0) log.count = 0;
  __syncwarp();
}

__device__ __forceinline__ void empty_log(WarpLog& log, const FilterRows& rows, const Survivors& survivors) {
  __syncwarp();
  const int logged = static_cast<int>(log.count);
  for (int i = lane_index(); i < logged; i += 32) {
    const Survivor survivor = log.survivors[i];
    const uint32_t row = log.rows[i];
    // Elsewhere exclusions wait for the end, when fewer items are left.
    if (rows.states[row] == kFilteredManyExcluded && rows.exclude.contains(row, survivor.item)) continue;
    const uint32_t slot = atomicAdd(&survivors.counts[row], 1u);
    if (slot < survivors.capacity) survivors.entries[row * survivors.capacity + slot] = survivor;
  }
  __syncwarp();
  begin_log(log);
}

// The rows and columns of C fragments, RB blocks of 16 rows and CB of 8 columns, that a thread holds (mma.cuh):
// acc[q][4 j + 2 h + c] is row 16 q + 8 h + lane / 4, column 8 j + 2 (lane % 4) + c.
template <int RB>
struct ThreadRows {
  uint32_t first[RB];  // row of h = 0
  float norms[RB][2], thresholds[RB][2];
  __device__ uint32_t row(int q, int h) const { return first[q] + 8 * h; }
};

template <int RB>
__device__ __forceinline__ void load_rows(ThreadRows<RB>& own, const FilterRows& rows, const int64_t (&first_rows)[RB]) {
#pragma unroll
  for (int q = 0; q < RB; ++q) {
    own.first[q] = static_cast<uint32_t>(first_rows[q]) + lane_index() / 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = own.row(q, h);
      own.norms[q][h] = rows.norms[row];
      own.thresholds[q][h] = row < rows.count && rows.thresholds != nullptr ? rows.thresholds[row] : positive_infinity(0.0f);
    }
  }
}

template <bool BOUNDS, int RB, int CB>
__device__ __forceinline__ void begin_tile(float (&acc)[RB][4 * CB], const ItemTerms* terms, const ThreadRows<RB>& own,
                                           float rounding) {
#pragma unroll
  for (int j = 0; j < CB; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float4 item = reinterpret_cast<const float4*>(terms)[8 * j + 2 * (lane_index() % 4) + c];
      const float margin = fmaf(rounding, item.y, item.x);
#pragma unroll
      for (int q = 0; q < RB; ++q)
#pragma unroll
        for (int h = 0; h < 2; ++h) acc[q][4 * j + 2 * h + c] = BOUNDS ? fmaf(own.norms[q][h], margin, item.z) : item.z;
    }
  }
}

// Logs what is not below its threshold. No bound is NaN: an item or user that bf16 cannot hold has zeros for values.
// All groups of eight are looked at before any is taken up, by maxima rather than a chain of predicates, so that nothing
// waits for the one before (DESIGN.md TK-8).
template <int RB, int CB>
__device__ __forceinline__ void collect(const float (&acc)[RB][4 * CB], const ThreadRows<RB>& own, int64_t first_item,
                                        const FilterRows& rows, const Survivors& survivors, WarpLog& log) {
  constexpr int kGroups = CB / 2;
  unsigned flagged = 0;
#pragma unroll
  for (int q = 0; q < RB; ++q)
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const float* const bounds = acc[q] + 8 * group;
      const float top0 = fmaxf(fmaxf(bounds[0], bounds[1]), fmaxf(bounds[4], bounds[5]));
      const float top1 = fmaxf(fmaxf(bounds[2], bounds[3]), fmaxf(bounds[6], bounds[7]));
      const bool any = !(top0 < own.thresholds[q][0]) || !(top1 < own.thresholds[q][1]);
      flagged |= __any_sync(kWholeWarp, any) ? 1u << (q * kGroups + group) : 0u;
    }
  if (flagged == 0) return;
  const int64_t left = rows.N - first_item;
  const int columns = left < 8 * CB ? static_cast<int>(left) : 8 * CB;
#pragma unroll
  for (int q = 0; q < RB; ++q)
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if ((flagged >> (q * kGroups + group) & 1u) == 0) continue;
      const int column0 = 16 * group + 2 * (lane_index() % 4);
      unsigned hits = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int h = (i >> 1) & 1;
        if (!(acc[q][8 * group + i] < own.thresholds[q][h]) && own.row(q, h) < rows.count &&
            column0 + 8 * (i >> 2) + (i & 1) < columns)
          hits |= 1u << i;
      }
      if (hits != 0) {
        uint32_t slot = atomicAdd(&log.count, static_cast<uint32_t>(__popc(hits)));
#pragma unroll
        for (int i = 0; i < 8; ++i)
          if (hits >> i & 1u) {
            const uint32_t column = column0 + 8 * (i >> 2) + (i & 1);
            log.survivors[slot] = {acc[q][8 * group + i], static_cast<uint32_t>(first_item) + column};
            log.rows[slot++] = own.row(q, (i >> 1) & 1);
          }
      }
      __syncwarp();
      // One lane's reading, so that all decide alike.
      if (__shfl_sync(kWholeWarp, log.count, 0) > kLogEntries - kLogStep) empty_log(log, rows, survivors);
    }
}

// The sample's scores: the largest of each group of 1, 16 or 64 columns (DESIGN.md TK-7), [rows, groups].
struct SampleGroups {
  float* largest;
  int64_t groups;
  int size;
};

__host__ __device__ __forceinline__ int64_t group_of(int64_t column, int size) {
  if (size == 1) return column;
  const int64_t half = column / 64;  // the 64 columns of one warp's tile
  return size == 64 ? half : 4 * half + (column % 8) / 2;
}

template <int RB, int CB>
__device__ __forceinline__ void store_groups(const float (&acc)[RB][4 * CB], const ThreadRows<RB>& own,
                                             int64_t first_column, int64_t count, const SampleGroups& sample) {
#pragma unroll
  for (int q = 0; q < RB; ++q)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bool present = own.row(q, h) < count;
      float* out = sample.largest + own.row(q, h) * sample.groups;
      float largest = -positive_infinity(0.0f);
#pragma unroll
      for (int j = 0; j < CB; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const float score = acc[q][4 * j + 2 * h + c];
          const int64_t column = first_column + 8 * j + 2 * (lane_index() % 4) + c;
          if (sample.size == 1 && present && column < sample.groups) out[column] = score;
          largest = fmaxf(largest, score);
        }
      if (sample.size == 64) {
        largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
      }
      const int64_t group = group_of(first_column + 2 * (lane_index() % 4), sample.size);
      if (sample.size > 1 && present && group < sample.groups && (sample.size == 16 || lane_index() % 4 == 0))
        out[group] = largest;
    }
}

// 128 users by 128 items for each block of eight warps, a warp 32 by 64. Users stay in shared memory where they are
// narrow enough, else they stream along with the items.
constexpr int kMmaThreads = 256;

struct MmaMemory {
  int user_bytes, stage_bytes, users_in_stage, stages;
  size_t total;
};

// Three stages where there is room, and users that stay where they leave room for two.
inline MmaMemory mma_memory(const ImageShape& shape, bool logs, size_t room) {
  const size_t log_bytes = logs ? 8 * sizeof(WarpLog) : 0;
  const int stage_bytes = shape.chunk_bytes() + kTileRows * static_cast<int>(sizeof(ItemTerms));
  const auto total = [&](int64_t users, int64_t stage, int stages) { return users + stages * stage + log_bytes; };
  if (total(shape.tile_bytes(), stage_bytes, 2) <= room) {
    const int stages = total(shape.tile_bytes(), stage_bytes, 3) <= room ? 3 : 2, users = static_cast<int>(shape.tile_bytes());
    return {users, stage_bytes, 0, stages, total(users, stage_bytes, stages)};
  }
  const int wide = stage_bytes + shape.chunk_bytes(), stages = total(0, wide, 3) <= room ? 3 : 2;
  return {0, wide, shape.chunk_bytes(), stages, total(0, wide, stages)};
}

__device__ __forceinline__ void copy_block(unsigned char* shared, const void* global, int bytes) {
  for (int offset = 16 * threadIdx.x; offset < bytes; offset += 16 * blockDim.x)
    copy_async_16(shared + offset, static_cast<const unsigned char*>(global) + offset);
}

template <bool SAMPLE>
__global__ void __launch_bounds__(kMmaThreads, SAMPLE ? 2 : 1)
    mma_filter_kernel(FilterWork work, FilterRows rows, Survivors survivors, SampleGroups sample, MmaMemory memory) {
  constexpr int RB = 2, CB = 8;
  unsigned char* const users = dynamic_shared();
  unsigned char* const stages = users + memory.user_bytes;
  WarpLog& log = reinterpret_cast<WarpLog*>(stages + memory.stages * memory.stage_bytes)[warp_index()];
  const ImageShape shape = work.shape;
  const int chunk_bytes = shape.chunk_bytes(), lane = lane_index();
  const int row0 = 32 * (warp_index() >> 1), column0 = 64 * (warp_index() & 1);
  if constexpr (!SAMPLE) begin_log(log);
  // What this lane names to ldmatrix: A by rows, then the other half of k; B by the other half of k, then columns.
  const uint32_t a_row = (row0 + lane % 16) * shape.row_bytes + 16 * (lane / 16);
  const uint32_t b_row = (column0 + lane % 8 + 8 * (lane / 16)) * shape.row_bytes + 16 * (lane / 8 % 2);

  for (int64_t unit = blockIdx.x; unit < work.units(); unit += gridDim.x) {
    const int64_t user_tile = work.user_tile(unit);
    const int64_t first = work.first_tile(unit);
    const int passes = static_cast<int>(work.end_tile(unit) - first) * shape.chunks;
    const auto request = [&](int pass) {
      if (pass < passes) {
        const int chunk = pass % shape.chunks;
        unsigned char* stage = stages + pass % memory.stages * memory.stage_bytes;
        // A tile's chunks lie one behind the other, and so do tiles.
        copy_block(stage, work.items + first * shape.tile_bytes() + static_cast<int64_t>(pass) * chunk_bytes, chunk_bytes);
        if (chunk == 0)
          copy_block(stage + chunk_bytes, work.terms + (first + pass / shape.chunks) * kTileRows,
                     kTileRows * sizeof(ItemTerms));
        if (memory.users_in_stage > 0)
          copy_block(stage + memory.stage_bytes - chunk_bytes, work.users + (user_tile * shape.chunks + chunk) * chunk_bytes, chunk_bytes);
      }
      copy_async_commit();
    };
    __syncthreads();
    copy_block(users, work.users + user_tile * shape.tile_bytes(), memory.user_bytes);
    for (int pass = 0; pass < memory.stages - 1; ++pass) request(pass);
    ThreadRows<RB> own;
    const int64_t row = user_tile * kTileRows + row0;
    load_rows<RB>(own, rows, {row, row + 16});
    float acc[RB][4 * CB];
    int64_t column = first * kTileRows + column0;
    for (int pass = 0, chunk = 0; pass < passes; ++pass) {
      if (memory.stages == 3) copy_async_wait<1>();
      else copy_async_wait<0>();
      __syncthreads();
      request(pass + memory.stages - 1);
      const unsigned char* stage = stages + pass % memory.stages * memory.stage_bytes;
      if (chunk == 0)
        begin_tile<!SAMPLE, RB, CB>(acc, reinterpret_cast<const ItemTerms*>(stage + chunk_bytes) + column0, own, *rows.rounding);
      const unsigned char* user_chunk =
          memory.users_in_stage > 0 ? stage + memory.stage_bytes - chunk_bytes : users + chunk * chunk_bytes;
#pragma unroll 1
      for (int k = 0; k < shape.steps_of_chunk(chunk); ++k) {
        uint32_t a[RB][4];
#pragma unroll
        for (int q = 0; q < RB; ++q)
          load_matrices(a[q], user_chunk + swizzled(a_row + 16 * q * shape.row_bytes + 32 * k, shape.row_bytes));
#pragma unroll
        for (int pair = 0; pair < CB / 2; ++pair) {
          uint32_t b[4];
          load_matrices(b, stage + swizzled(b_row + 16 * pair * shape.row_bytes + 32 * k, shape.row_bytes));
#pragma unroll
          for (int q = 0; q < RB; ++q) {
            mma_m16n8k16(acc[q] + 8 * pair, a[q], b[0], b[1]);
            mma_m16n8k16(acc[q] + 8 * pair + 4, a[q], b[2], b[3]);
          }
        }
      }
      if (++chunk == shape.chunks) {
        chunk = 0;
        if constexpr (SAMPLE) store_groups<RB, CB>(acc, own, column, rows.count, sample);
        else collect<RB, CB>(acc, own, column, rows, survivors, log);
        column += kTileRows;
      }
    }
    copy_async_wait<0>();
  }
  if constexpr (!SAMPLE) empty_log(log, rows, survivors);
}

}  // namespace
