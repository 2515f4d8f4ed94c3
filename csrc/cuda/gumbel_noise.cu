#include "csrc/cuda/launchers.h"
#include "kernels/cuda/gumbel_noise.cuh"

int launch_gumbel_noise(const int64_t* ids, const int64_t* parts, double* noise, int64_t B, int64_t count,
                        uint64_t seed, uint32_t epoch, uint32_t last_word, void* stream) {
  const int64_t blocks = B * ((count + 3) >> 2);
  return launch(gumbel_noise_kernel, (blocks + kGumbelThreads - 1) / kGumbelThreads, kGumbelThreads, 0, stream, ids,
                parts, noise, B, count, seed, epoch, last_word);
}
