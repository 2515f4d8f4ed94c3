// How a kernel is started, and the words of a warp that more than one kernel uses.
//
// RANKDISTILL_EMULATED compiles the same sources for the processor (tests/native/cuda_emulation): whatever cannot be
// said in C++ stands in small functions with an alternative, here and in mma.cuh and wgmma.cuh, and nowhere else.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

namespace {

constexpr unsigned kWholeWarp = 0xffffffffu;

#if defined(RANKDISTILL_EMULATED)
inline unsigned char* dynamic_shared() { return emulation::dynamic_shared(); }
// The address that PTX knows a shared object by.
inline uint32_t shared_address(const void* shared) { return emulation::shared_address(shared); }
#else
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared_bytes[];
  return dynamic_shared_bytes;
}
__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x & 31u); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x >> 5); }

// Of the lanes in `votes`, how many stand before this one.
__device__ __forceinline__ int votes_before(unsigned votes) {
  return __popc(votes & ((1u << (threadIdx.x & 31u)) - 1u));
}

// Static shared memory included, a block has 48 KiB unless more is asked for. Always all that the device has: of two threads
// that launch one kernel, neither takes from the other what it has asked for.
inline cudaError_t allow_shared(const void* kernel, size_t dynamic) {
  constexpr size_t kLargestOwn = 16 * 1024;  // no kernel here has more of its own
  if (dynamic <= 48 * 1024 - kLargestOwn) return cudaSuccess;
  cudaFuncAttributes own;
  cudaError_t error = cudaFuncGetAttributes(&own, kernel);
  if (error != cudaSuccess || dynamic + own.sharedSizeBytes <= 48 * 1024) return error;
  int device = 0, most = 0;
  error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  const int allowed = most - static_cast<int>(own.sharedSizeBytes);
  if (own.maxDynamicSharedSizeBytes >= allowed) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, allowed);
}

// A CUDA error code, 0 for success.
template <class... Parameters, class... Arguments>
inline int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared, void* stream,
                  Arguments... arguments) {
  if (blocks <= 0) return 0;
  if (blocks > 0x7fffffff) return static_cast<int>(cudaErrorInvalidConfiguration);
  const void* const address = reinterpret_cast<const void*>(kernel);
  const cudaError_t error = allow_shared(address, shared);
  if (error != cudaSuccess) return static_cast<int>(error);
#if defined(RANKDISTILL_EMULATED)
  (void)stream;
  return emulation::run(address, static_cast<unsigned>(blocks), threads, shared, [&] { kernel(arguments...); });
#else
  kernel<<<static_cast<unsigned>(blocks), threads, shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return static_cast<int>(cudaGetLastError());
#endif
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) return 0;
  return value;
}

}  // namespace
