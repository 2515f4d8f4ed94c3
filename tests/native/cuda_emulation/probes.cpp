// Small kernels with known faults, and the words of wgmma.cuh one by one: tests of the emulation itself.
#include "kernels/cuda/table_image.cuh"
#include "kernels/cuda/wgmma.cuh"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

__global__ void reversed_kernel(int* out, bool synchronised) {
  __shared__ int values[64];
  values[threadIdx.x] = threadIdx.x;
  if (synchronised) __syncthreads();
  out[threadIdx.x] = values[63 - threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = -1;
}

__global__ void stuck_kernel() {
  Barrier* const barrier = reinterpret_cast<Barrier*>(dynamic_shared());
  if (threadIdx.x == 0) barrier_init(barrier, 2);
  __syncthreads();
  if (threadIdx.x == 0) barrier_arrive(barrier);
  barrier_wait(barrier, 0);
}

__global__ void unwaited_kernel() {
  float c[64] = {};
  wgmma_fence();
  wgmma_m64n128k16(c, matrix_descriptor(dynamic_shared(), 128), matrix_descriptor(dynamic_shared(), 128));
  wgmma_commit();
}

__global__ void overrun_kernel() { dynamic_shared()[1024 + threadIdx.x] = 0; }

__global__ void descriptor_kernel(uint64_t* out, int offset, int row_bytes) {
  *out = matrix_descriptor(dynamic_shared() + offset, row_bytes);
}

}  // namespace

EXPORTED int probe_reversed(int* out, int synchronised) {
  return launch(reversed_kernel, 1, 64, 0, nullptr, out, synchronised != 0);
}
EXPORTED int probe_stuck() { return launch(stuck_kernel, 1, 32, 1024, nullptr); }
EXPORTED int probe_unwaited() { return launch(unwaited_kernel, 1, 128, 1024, nullptr); }
EXPORTED int probe_overrun() { return launch(overrun_kernel, 1, 32, 1024, nullptr); }
EXPORTED uint64_t probe_descriptor(int offset, int row_bytes) {
  uint64_t descriptor = 0;
  launch(descriptor_kernel, 1, 32, 1024, nullptr, &descriptor, offset, row_bytes);
  return descriptor;
}
EXPORTED uint32_t probe_swizzled(uint32_t offset, int row_bytes) { return swizzled(offset, row_bytes); }
