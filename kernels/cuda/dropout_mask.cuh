// Which elements dropout keeps, 16 bits of a Philox word each: a thread draws the eight of a block.
#pragma once
#include "kernels/cuda/launch.cuh"
#include "kernels/random.h"

namespace {

constexpr int kDropoutThreads = 128;

// kept [M, n, W]
__global__ void dropout_mask_kernel(const int64_t* __restrict__ ids, uint8_t* __restrict__ kept, int64_t n, int64_t M,
                                    int64_t W, uint32_t least, uint64_t seed, uint32_t epoch, uint32_t last_word) {
  const int64_t blocks = (W + 7) >> 3;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= M * n * blocks) return;
  const int64_t line = at / blocks, block = at % blocks;
  const PhiloxBlock drawn = philox4x32_10(static_cast<uint32_t>(ids[line % n]),
                                          dropout_position(line / n, block, blocks), epoch, last_word, seed);
  for (int half = 0; half < 8; ++half)
    if (8 * block + half < W)
      kept[line * W + 8 * block + half] = (drawn.word[half >> 1] >> (16 * (half & 1)) & 0xffff) >= least;
}

}  // namespace
