#pragma once
#include <stdint.h>

struct GumbelNoiseTable {
  // parts may be null; last_word: the stream in the top 8 bits, the step in the low 24
  void (*draw)(const int64_t* ids, const int64_t* parts, double* noise, int64_t B, int64_t count, uint64_t seed,
               uint32_t epoch, uint32_t last_word);
};
