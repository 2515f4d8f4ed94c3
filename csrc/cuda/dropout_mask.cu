#include "csrc/cuda/launchers.h"
#include "kernels/cuda/dropout_mask.cuh"

int launch_dropout_mask(const int64_t* ids, uint8_t* kept, int64_t n, int64_t M, int64_t W, uint32_t least,
                        uint64_t seed, uint32_t epoch, uint32_t last_word, void* stream) {
  const int64_t blocks = M * n * ((W + 7) >> 3);
  return launch(dropout_mask_kernel, (blocks + kDropoutThreads - 1) / kDropoutThreads, kDropoutThreads, 0, stream, ids,
                kept, n, M, W, least, seed, epoch, last_word);
}
