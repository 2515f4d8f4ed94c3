// The one source that is compiled for sm_90a alone.
#include "csrc/cuda/filter_arguments.h"
#include "kernels/cuda/score_filter_sm90a.cuh"

namespace {

template <int BLOCKS, int STEPS>
int launch_tiles(const TopKFilter& f, const HopperMemory& memory, void* stream) {
  const int64_t blocks = device_attribute(cudaDevAttrMultiProcessorCount);
  FilterWork work = filter_work(f);
  work.user_tiles = tiles_of(f.B, BLOCKS * kTileRows);
  work.tiles_per_unit = run_of_tiles(work.item_tiles, work.user_tiles, blocks);
  return launch(hopper_filter_kernel<BLOCKS, STEPS>, work.units() < blocks ? work.units() : blocks, kHopperThreads, memory.total,
                stream, work, filter_rows(f), survivors_of(f), memory);
}

template <int BLOCKS>
int launch_blocks(const TopKFilter& f, const HopperMemory& memory, void* stream) {
  switch (image_shape(f.D).row_bytes) {
    case 32: return launch_tiles<BLOCKS, 1>(f, memory, stream);
    case 64: return launch_tiles<BLOCKS, 2>(f, memory, stream);
    default: return launch_tiles<BLOCKS, 4>(f, memory, stream);
  }
}

}  // namespace

int launch_hopper_filter(const TopKFilter& f, void* stream) {
  // Taller tiles read the items' image half as often, as long as they stay in shared memory.
  const HopperMemory one = hopper_memory(image_shape(f.D), 1), two = hopper_memory(image_shape(f.D), 2);
  if (f.B > kTileRows && (two.user_slots > 0 || one.user_slots == 0)) return launch_blocks<2>(f, two, stream);
  return launch_blocks<1>(f, one, stream);
}
