// One block per row: keys of all weights, then the largest. A row with a weight below 0, or not finite, becomes all -1.
#pragma once
#include "kernels/cuda/position_sample.cuh"

namespace {

template <class T>
__global__ void weighted_sample_kernel(const int64_t* __restrict__ users, const T* __restrict__ weights,
                                       double* __restrict__ keys, int64_t* __restrict__ samples, int64_t K, int64_t M,
                                       uint64_t seed, uint32_t epoch, uint32_t stream) {
  const int64_t row = blockIdx.x;
  const T* row_weights = weights + row * M;
  double* row_keys = keys + row * M;
  int64_t* out = samples + row * K;
  const uint32_t user = static_cast<uint32_t>(users[row]);
  __shared__ int malformed;
  if (threadIdx.x == 0) malformed = 0;
  __syncthreads();
  for (int64_t block = threadIdx.x; block < (M + 3) >> 2; block += blockDim.x) {
    const PhiloxBlock drawn = philox4x32_10(user, static_cast<uint32_t>(block), epoch, stream << 24, seed);
    for (int w = 0; w < 4; ++w) {
      const int64_t i = 4 * block + w;
      if (i >= M) break;
      const double weight = static_cast<double>(row_weights[i]);
      if (!(weight >= 0 && weight <= -kNoKey)) malformed = 1;
      row_keys[i] = weighted_key(drawn.word[w], weight);
    }
  }
  __syncthreads();
  const int64_t written = malformed ? 0 : take_largest(row_keys, M, K, out, false);
  for (int64_t k = written + threadIdx.x; k < K; k += blockDim.x) out[k] = -1;
}

}  // namespace
