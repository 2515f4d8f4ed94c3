#pragma once
#include <stdint.h>

// sums: one entry per DType; sums are float, or double where the storage is.
struct TouchedRowsTable {
  bool (*fit)(int64_t count, int64_t N);
  int64_t (*touched)(const int64_t* ids, int64_t count, int64_t N, uint64_t* keys, int64_t* order, int64_t* touched,
                     int64_t* starts);
  void (*sums[4])(const void* rows, const int64_t* order, const int64_t* starts, void* sums, int64_t M, int64_t D);
};
