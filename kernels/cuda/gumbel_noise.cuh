// Standard Gumbel variates of ids, as many for each: a thread draws the four of a block.
#pragma once
#include "kernels/cuda/launch.cuh"
#include "kernels/random.h"

namespace {

constexpr int kGumbelThreads = 128;

__global__ void gumbel_noise_kernel(const int64_t* __restrict__ ids, const int64_t* __restrict__ parts,
                                    double* __restrict__ noise, int64_t B, int64_t count, uint64_t seed,
                                    uint32_t epoch, uint32_t last_word) {
  const int64_t blocks = (count + 3) >> 2;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= B * blocks) return;
  const int64_t row = at / blocks, block = at % blocks;
  const uint32_t position = gumbel_position(block, parts == nullptr ? 0 : parts[row]);
  const PhiloxBlock drawn = philox4x32_10(static_cast<uint32_t>(ids[row]), position, epoch, last_word, seed);
  for (int w = 0; w < 4; ++w)
    if (4 * block + w < count) noise[row * count + 4 * block + w] = gumbel(drawn.word[w]);
}

}  // namespace
