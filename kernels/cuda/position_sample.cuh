// One block per row: every thread computes keys, ranks its own among all, and writes the chosen in order.
#pragma once
#include "kernels/cuda/launch.cuh"
#include "kernels/sampling.h"

namespace {

constexpr int kPositionThreads = 128;

// The positions of the K largest of a row's keys, ascending, by the whole block; without `every` kNoKey is never taken.
// Returns how many.
__device__ inline int64_t take_largest(const double* row_keys, int64_t length, int64_t K, int64_t* out, bool every) {
  // In rounds of one position per thread, so that the chosen ones of a round can be numbered in order.
  __shared__ int chosen_before[kPositionThreads / 32];
  int64_t written = 0;
  for (int64_t begin = 0; begin < length; begin += blockDim.x) {
    const int64_t i = begin + threadIdx.x;
    bool chosen = false;
    if (i < length) {
      const double key = row_keys[i];
      int64_t better = 0;
      for (int64_t j = 0; j < length; ++j) better += row_keys[j] > key || (row_keys[j] == key && j < i);
      chosen = better < K && (every || key > kNoKey);
    }
    const unsigned votes = __ballot_sync(0xffffffffu, chosen);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    if (lane == 0) chosen_before[warp] = __popc(votes);
    __syncthreads();
    int64_t slot = written + __popc(votes & ((1u << lane) - 1u));
    int round_total = 0;
    for (int w = 0; w < kPositionThreads / 32; ++w) {
      if (w < warp) slot += chosen_before[w];
      round_total += chosen_before[w];
    }
    if (chosen) out[slot] = i;
    written += round_total;
    __syncthreads();
  }
  return written;
}

__global__ void position_sample_kernel(const int64_t* __restrict__ users, const int64_t* __restrict__ lengths,
                                       double* __restrict__ keys, int64_t* __restrict__ samples, int64_t K,
                                       int64_t longest, double temperature, uint64_t seed, uint32_t epoch,
                                       uint32_t stream) {
  const int64_t row = blockIdx.x;
  int64_t* out = samples + row * K;
  const int64_t length = lengths[row];
  if (length < 0 || length > longest || length <= K) {
    const int64_t kept = length < 0 || length > longest ? 0 : length;
    for (int64_t i = threadIdx.x; i < K; i += blockDim.x) out[i] = i < kept ? i : -1;
    return;
  }
  double* row_keys = keys + row * longest;
  const uint32_t user = static_cast<uint32_t>(users[row]);
  for (int64_t block = threadIdx.x; block < (length + 3) >> 2; block += blockDim.x) {
    const PhiloxBlock drawn = philox4x32_10(user, static_cast<uint32_t>(block), epoch, stream << 24, seed);
    for (int w = 0; w < 4; ++w)
      if (4 * block + w < length) row_keys[4 * block + w] = position_key(drawn.word[w], 4 * block + w, temperature);
  }
  __syncthreads();
  take_largest(row_keys, length, K, out, true);  // a tiny temperature gives keys of -inf
}

}  // namespace
