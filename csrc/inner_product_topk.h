#pragma once
#include <stdint.h>

// The arguments of a call, every table by its address. `prepared` may be null.
struct InnerProductTopKCall {
  const void *users, *items, *biases;
  const int64_t *indptr, *indices;
  void* scores;  // float, or double where the storage is
  int64_t *ids, *lengths;
  int64_t B, N, K, D;
  const void* prepared;
  int filter;
};

// One entry per DType. 0, or 1 when memory ran out.
struct InnerProductTopKTable {
  int (*forward[4])(const InnerProductTopKCall& call);
  int64_t (*prepared_bytes[4])(int64_t N, int64_t D, bool has_bias, int dtype);
  int (*prepare[4])(const void* items, const void* biases, const int64_t* order, int64_t N, int64_t D, int dtype,
                    void* out);
  // Why a buffer of that size was not prepared for this table on this processor, or null.
  const char* (*unusable[4])(const void* prepared, int64_t bytes, int64_t N, int64_t D, bool has_bias, int dtype);
};
