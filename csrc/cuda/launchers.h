// What csrc/cuda/<op>.cu offers to csrc/cuda/module.cpp. A launcher returns a CUDA error code, 0 for success;
// the caller has set the device.
#pragma once
#include <stdint.h>

int launch_position_sample(const int64_t* users, const int64_t* lengths, double* keys, int64_t* samples, int64_t R,
                           int64_t K, int64_t longest, double temperature, uint64_t seed, uint32_t epoch,
                           uint32_t stream, void* cuda_stream);

int launch_complement_sample(const int64_t* users, const int64_t* positions, const int64_t* indptr,
                             const int64_t* indices, int64_t nonzeros, const int32_t* listed, int64_t listed_count,
                             int64_t n_users, int64_t n_items, int64_t* samples, int64_t R, int64_t L, uint64_t seed,
                             uint32_t epoch, uint32_t stream, void* cuda_stream);
