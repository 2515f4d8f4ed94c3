// One thread per row, the same steps as on the processor. A length below 0 or of 2^31 and more gives -1.
#pragma once
#include "kernels/cuda/launch.cuh"
#include "kernels/sampling.h"

namespace {

__global__ void pair_sample_kernel(const int64_t* __restrict__ users, const int64_t* __restrict__ positions,
                                   const int64_t* __restrict__ lengths, int64_t* __restrict__ pairs, int64_t R,
                                   int64_t K, double temperature, bool distinct, uint64_t seed, uint32_t epoch,
                                   uint32_t stream) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= R) return;
  const int64_t length = lengths[row] < (static_cast<int64_t>(1) << 31) ? lengths[row] : 0;
  sample_pairs(pairs + 2 * row * K, K, length, temperature, distinct, static_cast<uint32_t>(users[row]),
               static_cast<uint32_t>(positions ? positions[row] : 0), epoch, stream, seed);
}

}  // namespace
