#pragma once
#include <stdint.h>

struct DropoutMaskTable {
  // last_word: the stream in the top 8 bits, the step in the low 24
  void (*draw)(const int64_t* ids, uint8_t* kept, int64_t n, int64_t M, int64_t W, uint32_t least, uint64_t seed,
               uint32_t epoch, uint32_t last_word);
};
