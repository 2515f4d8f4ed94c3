// The filter (score_filter.cuh) on Hopper: one warp feeds a ring of tiles through the copy engine, two groups of four
// warps multiply, one while the other collects.
#pragma once
#include "kernels/cuda/score_filter.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace {

constexpr int kHopperThreads = 384, kHopperStages = 4, kHopperLargestShared = 227 * 1024;

// The block's users: 128 for each of `groups_rows` blocks of 64 rows that a group of warps holds. They lie in one or
// two slots and stay there for a unit, or stream with the items where they are too wide.
struct HopperMemory {
  int user_bytes, user_slots, users_in_stage, stage_bytes, stages;
  size_t total;
};

constexpr size_t kHopperFixedBytes = 8 * sizeof(WarpLog) + 128;

inline HopperMemory hopper_memory(const ImageShape& shape, int blocks_of_64) {
  HopperMemory m = {};
  const int64_t users = blocks_of_64 * shape.tile_bytes();
  const int64_t room = kHopperLargestShared - static_cast<int64_t>(kHopperFixedBytes);
  const int64_t stage = shape.chunk_bytes() + kTileRows * static_cast<int64_t>(sizeof(ItemTerms));
  m.user_slots = 2 * users + 3 * stage <= room ? 2 : users + 3 * stage <= room ? 1 : 0;
  m.user_bytes = m.user_slots > 0 ? static_cast<int>(users) : 0;
  m.users_in_stage = m.user_slots > 0 ? 0 : blocks_of_64 * shape.chunk_bytes();
  m.stage_bytes = static_cast<int>(stage) + m.users_in_stage;
  const int64_t stages = (room - static_cast<int64_t>(m.user_slots) * m.user_bytes) / m.stage_bytes;
  m.stages = stages < kHopperStages ? static_cast<int>(stages) : kHopperStages;
  m.total = static_cast<size_t>(m.user_slots) * m.user_bytes + static_cast<size_t>(m.stages) * m.stage_bytes + kHopperFixedBytes;
  return m;
}

// A place in a ring of `slots`, and the parity of the phase that its barriers are in.
struct RingPlace {
  int slot = 0;
  uint32_t parity = 0;
  __device__ void step(int slots) {
    if (++slot == slots) {
      slot = 0;
      parity ^= 1u;
    }
  }
};

struct HopperBarriers {
  Barrier full[kHopperStages], empty[kHopperStages], users_full[2], users_empty[2];
};

template <int BLOCKS>
__device__ __forceinline__ void feed(const FilterWork& work, const HopperMemory& memory, unsigned char* users,
                                     unsigned char* stages, HopperBarriers& barriers) {
  const ImageShape shape = work.shape;
  const uint32_t chunk_bytes = shape.chunk_bytes(), terms_bytes = kTileRows * sizeof(ItemTerms);
  RingPlace place, user_place;
  for (int64_t unit = blockIdx.x; unit < work.units(); unit += gridDim.x) {
    const uint8_t* user_image = work.users + work.user_tile(unit) * BLOCKS * shape.tile_bytes();
    if (memory.user_slots > 0) {
      barrier_wait(&barriers.users_empty[user_place.slot], user_place.parity ^ 1u);
      barrier_arrive_expect(&barriers.users_full[user_place.slot], memory.user_bytes);
      copy_bulk(users + user_place.slot * memory.user_bytes, user_image, memory.user_bytes,
                &barriers.users_full[user_place.slot]);
      user_place.step(memory.user_slots);
    }
    for (int64_t tile = work.first_tile(unit); tile < work.end_tile(unit); ++tile)
      for (int chunk = 0; chunk < shape.chunks; ++chunk) {
        Barrier* const full = &barriers.full[place.slot];
        unsigned char* const stage = stages + place.slot * memory.stage_bytes;
        barrier_wait(&barriers.empty[place.slot], place.parity ^ 1u);
        barrier_arrive_expect(full, chunk_bytes + (chunk == 0 ? terms_bytes : 0) + memory.users_in_stage);
        copy_bulk(stage, work.items + tile * shape.tile_bytes() + static_cast<int64_t>(chunk) * chunk_bytes, chunk_bytes, full);
        if (memory.users_in_stage > 0)
          for (int i = 0; i < BLOCKS; ++i)
            copy_bulk(stage + (1 + i) * chunk_bytes,
                      user_image + i * shape.tile_bytes() + static_cast<int64_t>(chunk) * chunk_bytes, chunk_bytes, full);
        if (chunk == 0) copy_bulk(stage + memory.stage_bytes - terms_bytes, work.terms + tile * kTileRows, terms_bytes, full);
        place.step(memory.stages);
      }
  }
}

// BLOCKS blocks of 64 users for each of the two groups of warps, by 128 items. A chunk is always STEPS steps along K,
// of zeros where it is not full: a count known at run time alone, or accumulators set within a branch, and the compiler
// waits for each product before the next.
template <int BLOCKS, int STEPS>
__device__ __forceinline__ void multiply(const FilterWork& work, const HopperMemory& memory, const FilterRows& rows,
                                         const Survivors& survivors, unsigned char* users, unsigned char* stages,
                                         HopperBarriers& barriers, WarpLog& log, int group) {
  const ImageShape shape = work.shape;
  const int chunk_bytes = shape.chunk_bytes(), row_bytes = shape.row_bytes, lane = lane_index();
  const float rounding = *rows.rounding;
  RingPlace place, user_place;
  begin_log(log);
  const auto release = [&](Barrier* barrier) {
    __syncwarp();
    if (lane == 0) barrier_arrive(barrier);
  };
  for (int64_t unit = blockIdx.x; unit < work.units(); unit += gridDim.x) {
    // Block q of this group is rows 64 (group * BLOCKS + q) of the block's users.
    ThreadRows<BLOCKS> own;
    int64_t first_rows[BLOCKS];
    int user_offsets[BLOCKS];
#pragma unroll
    for (int q = 0; q < BLOCKS; ++q) {
      const int block = group * BLOCKS + q;
      first_rows[q] = work.user_tile(unit) * BLOCKS * kTileRows + 64 * block + 16 * (warp_index() % 4);
      user_offsets[q] = block % 2 * 64 * row_bytes;
    }
    load_rows<BLOCKS>(own, rows, first_rows);
    if (memory.user_slots > 0) barrier_wait(&barriers.users_full[user_place.slot], user_place.parity);
    for (int64_t tile = work.first_tile(unit); tile < work.end_tile(unit); ++tile) {
      float acc[BLOCKS][64];
      barrier_wait(&barriers.full[place.slot], place.parity);
      const unsigned char* stage = stages + place.slot * memory.stage_bytes;
      begin_tile<true, BLOCKS, 16>(
          acc, reinterpret_cast<const ItemTerms*>(stage + memory.stage_bytes - kTileRows * sizeof(ItemTerms)), own, rounding);
#pragma unroll
      for (int q = 0; q < BLOCKS; ++q) wgmma_settle(acc[q]);
      Barrier* previous = nullptr;
      for (int chunk = 0;; ) {
        uint64_t a[BLOCKS];
#pragma unroll
        for (int q = 0; q < BLOCKS; ++q) {
          const int image = (group * BLOCKS + q) / 2;  // which of the block's images of 128 rows
          const unsigned char* chunk_users = stage + (1 + image) * chunk_bytes;
          if (memory.user_slots > 0)
            chunk_users = users + user_place.slot * memory.user_bytes + (image * shape.chunks + chunk) * chunk_bytes;
          a[q] = matrix_descriptor(chunk_users + user_offsets[q], row_bytes);
        }
        const uint64_t b = matrix_descriptor(stage, row_bytes);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < STEPS; ++k)
#pragma unroll
          for (int q = 0; q < BLOCKS; ++q) wgmma_m64n128k16(acc[q], a[q] + 2 * k, b + 2 * k);
        wgmma_commit();
        if (previous != nullptr) {
          wgmma_wait<1>();
          release(previous);
        }
        previous = &barriers.empty[place.slot];
        place.step(memory.stages);
        if (++chunk == shape.chunks) break;
        barrier_wait(&barriers.full[place.slot], place.parity);
        stage = stages + place.slot * memory.stage_bytes;
      }
      wgmma_wait<0>();
#pragma unroll
      for (int q = 0; q < BLOCKS; ++q) wgmma_settle(acc[q]);
      release(previous);
      collect<BLOCKS, 16>(acc, own, tile * kTileRows, rows, survivors, log);
    }
    if (memory.user_slots > 0) {
      release(&barriers.users_empty[user_place.slot]);
      user_place.step(memory.user_slots);
    }
  }
  empty_log(log, rows, survivors);
}

template <int BLOCKS, int STEPS>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_filter_kernel(FilterWork work, FilterRows rows, Survivors survivors, HopperMemory memory) {
  unsigned char* const users = dynamic_shared();
  unsigned char* const stages = users + memory.user_slots * memory.user_bytes;
  WarpLog* const logs = reinterpret_cast<WarpLog*>(stages + memory.stages * memory.stage_bytes);
  HopperBarriers& barriers = *reinterpret_cast<HopperBarriers*>(logs + 8);
  static_assert(sizeof(HopperBarriers) <= 128, "kHopperFixedBytes");
  if (threadIdx.x == 0) {
    for (int i = 0; i < memory.stages; ++i) {
      barrier_init(&barriers.full[i], 1);
      barrier_init(&barriers.empty[i], 8);  // one arrival of each multiplying warp
    }
    for (int i = 0; i < 2; ++i) {
      barrier_init(&barriers.users_full[i], 1);
      barrier_init(&barriers.users_empty[i], 8);
    }
    barrier_init_fence();
  }
  __syncthreads();
  // Said this way the compiler knows that a warp does not part here, which wgmma depends on.
  const int warp = __shfl_sync(kWholeWarp, warp_index(), 0);
  if (warp < 4) {
    give_registers<40>();
    if (threadIdx.x == 0) feed<BLOCKS>(work, memory, users, stages, barriers);
  } else {
    take_registers<232>();
    multiply<BLOCKS, STEPS>(work, memory, rows, survivors, users, stages, barriers, logs[warp - 4], warp / 4 - 1);
  }
}

}  // namespace
