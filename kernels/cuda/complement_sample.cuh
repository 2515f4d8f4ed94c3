// One thread per row, the same steps as on the processor. A row with an index out of range becomes all -1.
#pragma once
#include "kernels/cuda/launch.cuh"
#include "kernels/sampling.h"

namespace {

__global__ void complement_sample_kernel(const int64_t* __restrict__ users, const int64_t* __restrict__ positions,
                                         const int64_t* __restrict__ indptr, const int64_t* __restrict__ indices,
                                         int64_t nonzeros, const int32_t* __restrict__ listed, int64_t listed_count,
                                         int64_t n_users, int64_t n_items, int64_t* __restrict__ samples, int64_t R,
                                         int64_t L, uint64_t seed, uint32_t epoch, uint32_t stream) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= R) return;
  const int64_t user = users[row];
  bool valid = user >= 0 && user < n_users;
  int64_t first = 0, last = 0;
  if (valid && indptr != nullptr) {
    first = indptr[user];
    last = indptr[user + 1];
    valid = first >= 0 && first <= last && last <= nonzeros;
  }
  int64_t* out = samples + row * L;
  if (!valid) {
    for (int64_t j = 0; j < L; ++j) out[j] = -1;
    return;
  }
  const Complement complement = {indices + first, last - first, listed + user * listed_count, listed_count, n_items};
  sample_complement(complement, out, L, static_cast<uint32_t>(user),
                    static_cast<uint32_t>(positions ? positions[row] : 0), epoch, stream, seed);
}

}  // namespace
