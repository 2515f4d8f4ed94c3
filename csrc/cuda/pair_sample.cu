#include "csrc/cuda/launchers.h"
#include "kernels/cuda/pair_sample.cuh"

int launch_pair_sample(const int64_t* users, const int64_t* positions, const int64_t* lengths, int64_t* pairs,
                       int64_t R, int64_t K, double temperature, bool distinct, uint64_t seed, uint32_t epoch,
                       uint32_t stream, void* cuda_stream) {
  if (K == 0) return 0;
  return launch(pair_sample_kernel, (R + 127) / 128, 128, 0, cuda_stream, users, positions, lengths, pairs, R, K,
                temperature, distinct, seed, epoch, stream);
}
