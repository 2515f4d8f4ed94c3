#include "csrc/cuda/launchers.h"
#include "csrc/dtypes.h"
#include "kernels/cuda/weighted_sample.cuh"

int launch_weighted_sample(int dtype, const int64_t* users, const void* weights, double* keys, int64_t* samples,
                           int64_t R, int64_t K, int64_t M, uint64_t seed, uint32_t epoch, uint32_t stream,
                           void* cuda_stream) {
  if (K == 0) return 0;
  if (dtype == static_cast<int>(DType::f64))
    return launch(weighted_sample_kernel<double>, R, kPositionThreads, 0, cuda_stream, users,
                  static_cast<const double*>(weights), keys, samples, K, M, seed, epoch, stream);
  return launch(weighted_sample_kernel<float>, R, kPositionThreads, 0, cuda_stream, users,
                static_cast<const float*>(weights), keys, samples, K, M, seed, epoch, stream);
}
