#include "csrc/cuda/launchers.h"
#include "kernels/cuda/position_sample.cuh"

int launch_position_sample(const int64_t* users, const int64_t* lengths, double* keys, int64_t* samples, int64_t R,
                           int64_t K, int64_t longest, double temperature, uint64_t seed, uint32_t epoch,
                           uint32_t stream, void* cuda_stream) {
  if (K == 0) return 0;
  return launch(position_sample_kernel, R, kPositionThreads, 0, cuda_stream, users, lengths, keys, samples, K, longest,
                temperature, seed, epoch, stream);
}
