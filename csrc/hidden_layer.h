#pragma once
#include <stdint.h>

struct HiddenLayerTable {
  // By dtype code, 0 or 1.
  void (*weighted_layer[2])(void* layer, const void* bias, const void* shares, void* weighted, int64_t rows, int64_t M,
                            int64_t H);
  void (*weighted_layer_backward[2])(void* slopes, const void* layer, const void* shares, void* weighted,
                                     void* grad_shares, void* grad_bias, int64_t rows, int64_t M, int64_t H);
  void (*keep_where[2])(void* x, const uint8_t* kept, int64_t n);
  void (*dropped_layer[2])(void* layer, uint8_t* kept, int64_t n);
};
