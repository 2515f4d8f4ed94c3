// Small kernels with known faults, and the words of wgmma.cuh one by one: tests of the emulation itself. Selection alone.
#include <vector>

#include "kernels/cuda/inner_product_topk.cuh"
#include "kernels/cuda/wgmma.cuh"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

__global__ void reversed_kernel(int* out, bool synchronised) {
  __shared__ int values[64];
  values[threadIdx.x] = threadIdx.x;
  if (synchronised) __syncthreads();
  out[threadIdx.x] = values[63 - threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = -1;
}

__global__ void stuck_kernel() {
  Barrier* const barrier = reinterpret_cast<Barrier*>(dynamic_shared());
  if (threadIdx.x == 0) barrier_init(barrier, 2);
  __syncthreads();
  if (threadIdx.x == 0) barrier_arrive(barrier);
  barrier_wait(barrier, 0);
}

__global__ void unwaited_kernel() {
  float c[64] = {};
  wgmma_fence();
  wgmma_m64n128k16(c, matrix_descriptor(dynamic_shared(), 128), matrix_descriptor(dynamic_shared(), 128));
  wgmma_commit();
}

__global__ void overrun_kernel() { dynamic_shared()[1024 + threadIdx.x] = 0; }

__global__ void descriptor_kernel(uint64_t* out, int offset, int row_bytes) {
  *out = matrix_descriptor(dynamic_shared() + offset, row_bytes);
}

}  // namespace

EXPORTED int probe_reversed(int* out, int synchronised) {
  return launch(reversed_kernel, 1, 64, 0, nullptr, out, synchronised != 0);
}
EXPORTED int probe_stuck() { return launch(stuck_kernel, 1, 32, 1024, nullptr); }
EXPORTED int probe_unwaited() { return launch(unwaited_kernel, 1, 128, 1024, nullptr); }
EXPORTED int probe_overrun() { return launch(overrun_kernel, 1, 32, 1024, nullptr); }
EXPORTED uint64_t probe_descriptor(int offset, int row_bytes) {
  uint64_t descriptor = 0;
  launch(descriptor_kernel, 1, 32, 1024, nullptr, &descriptor, offset, row_bytes);
  return descriptor;
}
EXPORTED uint32_t probe_swizzled(uint32_t offset, int row_bytes) { return swizzled(offset, row_bytes); }

namespace {

template <class K>
__global__ void best_kernel(const Ranked<K>* entries, int64_t size, int64_t k, int capacity, Ranked<K>* best, int64_t* found) {
  __shared__ SelectionScratch scratch;
  Ranked<K>* const sorted = reinterpret_cast<Ranked<K>*>(dynamic_shared());
  const int64_t done = emit_best(CandidateSource<K>{size, entries}, k, sorted, capacity, scratch,
                                 [&](int64_t j, const Ranked<K>& entry) { best[j] = entry; });
  if (threadIdx.x == 0) *found = done;
}

__global__ void kth_kernel(const uint32_t* keys, int64_t size, uint32_t wanted, uint32_t* key) {
  __shared__ SelectionScratch scratch;
  const uint32_t found = kth_key<uint32_t>(KeySource<uint32_t>{size, keys}, wanted, scratch);
  if (threadIdx.x == 0) *key = found;
}

template <class K>
int64_t best(const K* keys, const uint32_t* ids, int64_t size, int64_t k, int capacity, int threads, K* best_keys, uint32_t* best_ids) {
  std::vector<Ranked<K>> entries(size), out(k);
  for (int64_t i = 0; i < size; ++i) entries[i] = {keys[i], ids[i]};
  int64_t found = -1;
  launch(best_kernel<K>, 1, threads, capacity * sizeof(Ranked<K>), nullptr, entries.data(), size, k, capacity, out.data(), &found);
  for (int64_t j = 0; j < found; ++j) {
    best_keys[j] = out[j].key;
    best_ids[j] = out[j].id;
  }
  return found;
}

}  // namespace

EXPORTED int64_t probe_best32(const uint32_t* keys, const uint32_t* ids, int64_t size, int64_t k, int capacity, int threads,
                              uint32_t* best_keys, uint32_t* best_ids) {
  return best(keys, ids, size, k, capacity, threads, best_keys, best_ids);
}
EXPORTED int64_t probe_best64(const uint64_t* keys, const uint32_t* ids, int64_t size, int64_t k, int capacity, int threads,
                              uint64_t* best_keys, uint32_t* best_ids) {
  return best(keys, ids, size, k, capacity, threads, best_keys, best_ids);
}
EXPORTED uint32_t probe_kth(const uint32_t* keys, int64_t size, uint32_t wanted, int threads) {
  uint32_t key = kNoId;
  launch(kth_kernel, 1, threads, 0, nullptr, keys, size, wanted, &key);
  return key;
}
