#pragma once
#include <stdint.h>

// One entry per DType. Both return 0, or 1 when memory ran out.
struct CatalogueLogMassTable {
  int (*forward[4])(const void* users, const void* items, const void* bias, const int64_t* indptr,
                    const int64_t* indices, void* log_masses, void* tops, void* sums, void* kept, void* kept_tops,
                    int64_t B, int64_t N, int64_t D, double log_share);
  int (*backward[4])(const void* grad, const void* users, const void* items, const void* bias, const int64_t* indptr,
                     const int64_t* indices, const void* tops, const void* sums, const void* kept,
                     const void* kept_tops, void* grad_users, void* grad_items, void* grad_bias, int64_t B, int64_t N,
                     int64_t D, double log_share, bool fresh);
  int64_t block_items;
};
