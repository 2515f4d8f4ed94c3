// A stand-in for CUDA's header that runs kernels on the processor, for tests of everything but the hardware: blocks
// one after another, the threads of a block as fibers that hand over wherever a real thread would wait. What waits
// for nothing may run arbitrarily far ahead, so that a missing barrier shows. Shared memory is static, and dynamic
// shared memory is filled with NaN before each block.
//
// Asynchronous copies and products take effect as late as they may: when somebody waits for them.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct uint4 { unsigned x, y, z, w; };
struct float4 { float x, y, z, w; };
struct Dim3 { unsigned x = 1, y = 1, z = 1; };

extern uint3 threadIdx, blockIdx;
extern Dim3 blockDim, gridDim;

typedef int cudaError_t;
typedef void* cudaStream_t;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9, cudaErrorNoKernelImageForDevice = 209,
       cudaErrorLaunchFailure = 719 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75,
                      cudaDevAttrComputeCapabilityMinor = 76, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
#define CUDART_VERSION 13000
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncSetAttribute(const void* kernel, int attribute, int value);
struct cudaFuncAttributes { size_t sharedSizeBytes; int maxDynamicSharedSizeBytes; };
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace emulation {

int run(const void* called, unsigned blocks, int threads, size_t shared, const std::function<void()>& kernel);
unsigned char* dynamic_shared();
uint32_t shared_address(const void* shared);

// Every lane of the warp gives a value; each gets all 32.
void exchange(uint64_t value, uint64_t (&all)[32]);

void copy_async_16(void* shared, const void* global);
void copy_async_commit();
void copy_async_wait(int pending);
void load_matrices(uint32_t (&r)[4], const void* shared_row);
void mma_m16n8k16(float* c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

void barrier_init(uint64_t* barrier, int arrivals);
void barrier_arrive(uint64_t* barrier, uint32_t expected_bytes);
void barrier_wait(uint64_t* barrier, uint32_t parity);
void copy_bulk(void* shared, const void* global, uint32_t bytes, uint64_t* barrier);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);
void wgmma_m64n128k16(float (&c)[64], uint64_t a, uint64_t b);

[[noreturn]] void fail(const char* why);

template <class T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T value_of(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulation

void __syncthreads();

inline void check_whole_warp(unsigned mask) {
  if (mask != 0xffffffffu) emulation::fail("expected the whole warp to take part");
}
inline void __syncwarp() {
  uint64_t all[32];
  emulation::exchange(0, all);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  check_whole_warp(mask);
  uint64_t all[32];
  emulation::exchange(emulation::bits_of(value), all);
  return emulation::value_of<T>(all[lane & 31]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return __shfl_sync(mask, value, static_cast<int>((threadIdx.x & 31u) ^ lanes));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int lanes) {
  const int lane = threadIdx.x & 31u;
  return __shfl_sync(mask, value, lane >= lanes ? lane - lanes : lane);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  check_whole_warp(mask);
  uint64_t all[32];
  emulation::exchange(vote, all);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= static_cast<unsigned>(all[i]) << i;
  return votes;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == 0xffffffffu; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

inline float __uint_as_float(uint32_t bits) { return emulation::value_of<float>(bits); }
inline uint32_t __float_as_uint(float x) { return static_cast<uint32_t>(emulation::bits_of(x)); }
inline double __longlong_as_double(long long bits) { return emulation::value_of<double>(static_cast<uint64_t>(bits)); }
inline long long __double_as_longlong(double x) { return static_cast<long long>(emulation::bits_of(x)); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float __double2float_rd(double x) {
  const float near = static_cast<float>(x);
  return static_cast<double>(near) > x ? nextafterf(near, -INFINITY) : near;
}

template <class T, class V>
T atomicAdd(T* address, V value) {
  const T old = *address;
  *address = old + static_cast<T>(value);
  return old;
}
template <class T>
T atomicMax(T* address, T value) {
  const T old = *address;
  if (value > old) *address = value;
  return old;
}
template <class T>
T atomicMin(T* address, T value) {
  const T old = *address;
  if (value < old) *address = value;
  return old;
}
