#include "csrc/cuda/launchers.h"
#include "kernels/cuda/complement_sample.cuh"

int launch_complement_sample(const int64_t* users, const int64_t* positions, const int64_t* indptr,
                             const int64_t* indices, int64_t nonzeros, const int32_t* listed, int64_t listed_count,
                             int64_t n_users, int64_t n_items, int64_t* samples, int64_t R, int64_t L, uint64_t seed,
                             uint32_t epoch, uint32_t stream, void* cuda_stream) {
  if (L == 0) return 0;
  return launch(complement_sample_kernel, (R + 127) / 128, 128, 0, cuda_stream, users, positions, indptr, indices,
                nonzeros, listed, listed_count, n_users, n_items, samples, R, L, seed, epoch, stream);
}
