// Fibers, barriers and the matrix units of cuda_runtime.h beside this.
#include "cuda_runtime.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

uint3 threadIdx, blockIdx;
Dim3 blockDim, gridDim;

namespace {

constexpr size_t kStackBytes = 128 * 1024, kSharedBytes = 256 * 1024;
size_t own_shared = 0;
size_t largest_dynamic_shared = 227 * 1024;
std::map<const void*, int> allowed_shared;  // by kernel, where more than 48 KiB was asked for

struct Copy {
  void* to;
  const void* from;
  uint32_t bytes;
};

struct Fiber {
  jmp_buf jump;
  std::unique_ptr<char[]> stack;
  uint3 index = {};
  bool done = false;
  std::vector<std::vector<Copy>> copies{1};  // groups of cp.async, the last one open
};

// 32 lanes, or the 128 threads of a warpgroup, that meet.
struct Meeting {
  uint64_t values[128], seen[128];
  int arrived = 0;
  uint64_t generation = 0;
};

// What the lanes of a warp bring to a product, and a copy for those who read it late.
struct Fragments {
  uint32_t given[32][6], seen[32][6];
};

struct Product {
  float* c[128];
  uint64_t a, b;
};

// Products that a group of four warps asked for: committed groups, the last one open.
struct ProductQueue {
  std::vector<std::vector<Product>> groups{1};
  int filled = 0;
  bool fenced = false;
};

struct BulkCopy {
  Copy copy;
  uint64_t* barrier;
};

std::vector<Fiber> fibers;
std::vector<Meeting> warps, warpgroups;
std::vector<ProductQueue> queues;
std::vector<Fragments> fragments;
std::vector<BulkCopy> bulk_copies;
Meeting block;
Fiber* current = nullptr;
jmp_buf scheduler;
uint64_t progress = 0;
const std::function<void()>* body = nullptr;
std::string failure, last_failure;
alignas(1024) unsigned char shared_bytes[kSharedBytes];

int thread() { return static_cast<int>(current - fibers.data()); }

// Back to the scheduler, until it is this fiber's turn again.
void hand_over() {
  if (_setjmp(current->jump) == 0) _longjmp(scheduler, 1);
  threadIdx = current->index;
}

template <class Condition>
void wait_until(const Condition& condition) {
  while (!condition()) hand_over();
  ++progress;
}

// All of `count` threads have come; `last` is run by the last of them, before anybody goes on.
template <class Last>
void meet(Meeting& meeting, int count, const Last& last) {
  const uint64_t generation = meeting.generation;
  if (++meeting.arrived == count) {
    last();
    meeting.arrived = 0;
    ++meeting.generation;
  }
  wait_until([&] { return meeting.generation != generation; });
}

void start_fiber() {
  if (_setjmp(current->jump) == 0) _longjmp(scheduler, 1);
  threadIdx = current->index;
  (*body)();
  current->done = true;
  ++progress;
  _longjmp(scheduler, 1);
}

void run_block(int threads, bool backwards) {
  ucontext_t here;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.done = false;
    fiber.copies.assign(1, {});
    fiber.index = {static_cast<unsigned>(i), 0, 0};
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, start_fiber, 0);
    current = &fiber;
    if (_setjmp(scheduler) == 0) swapcontext(&here, &context);
  }
  for (bool alive = true; alive && failure.empty();) {
    alive = false;
    const uint64_t before = progress;
    for (int i = 0; i < threads && failure.empty(); ++i) {
      current = &fibers[backwards ? threads - 1 - i : i];
      if (current->done) continue;
      alive = true;
      if (_setjmp(scheduler) == 0) _longjmp(current->jump, 1);
    }
    if (alive && before == progress && failure.empty()) failure = "every thread waits";
  }
}

float bfloat16(uint16_t bits) { return emulation::value_of<float>(static_cast<uint64_t>(bits) << 16); }

// Towards zero, as the matrix units round: the margin must hold for that.
float truncated(double x) {
  const float near = static_cast<float>(x);
  return fabs(static_cast<double>(near)) > fabs(x) ? nextafterf(near, 0.0f) : near;
}

// The bf16 number at row `row`, position k of an operand of wgmma, as its descriptor says (wgmma.cuh).
float operand(uint64_t descriptor, int row, int k) {
  const uint32_t start = (descriptor & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  const int mode = static_cast<int>(descriptor >> 62);
  if (mode == 0 || (descriptor >> 49 & 7) != 0) emulation::fail("wgmma: expected a swizzled, aligned operand");
  const uint32_t row_bytes = 256u >> mode, mask = row_bytes / 16 - 1;
  uint32_t address = start + row / 8 * stride + row % 8 * row_bytes + 2 * k;
  address ^= (address >> 7 & mask) << 4;
  uint16_t bits;
  if (address + 2 > kSharedBytes) emulation::fail("wgmma: expected an operand in shared memory");
  memcpy(&bits, shared_bytes + address, 2);
  return bfloat16(bits);
}

void multiply(const Product& product) {
  float a[64][16], b[128][16];
  for (int k = 0; k < 16; ++k) {
    for (int row = 0; row < 64; ++row) a[row][k] = operand(product.a, row, k);
    for (int row = 0; row < 128; ++row) b[row][k] = operand(product.b, row, k);
  }
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < 64; ++i) {
      // PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16", matrix D.
      const int lane = t % 32, row = t / 32 * 16 + lane / 4 + 8 * (i / 2 % 2), column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      double sum = 0;
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[row][k]) * b[column][k];
      product.c[t][i] = truncated(product.c[t][i] + sum);
    }
}

// A barrier's word: pending arrivals, arrivals of a phase, bytes still to come, and the phase's parity.
struct Word {
  uint16_t pending, arrivals;
  int32_t bytes : 31;
  uint32_t parity : 1;
};
static_assert(sizeof(Word) == 8);

Word& word(uint64_t* barrier) { return *reinterpret_cast<Word*>(barrier); }

void complete_if_due(uint64_t* barrier) {
  Word& w = word(barrier);
  if (w.pending != 0 || w.bytes != 0) return;
  w.pending = w.arrivals;
  w.parity ^= 1;
  ++progress;
}

ProductQueue& own_queue() { return queues[thread() / 128]; }
Meeting& own_warpgroup() { return warpgroups[thread() / 128]; }

}  // namespace

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? last_failure.c_str() : error == cudaSuccess ? "no error" : "invalid argument";
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? 3
           : attribute == cudaDevAttrComputeCapabilityMajor ? 9
           : attribute == cudaDevAttrComputeCapabilityMinor ? 0
                                                            : static_cast<int>(largest_dynamic_shared);
  return cudaSuccess;
}

// 227 KiB on the large devices, 99 on others.
extern "C" __attribute__((visibility("default"))) void probe_limit_shared(int kibibytes) {
  largest_dynamic_shared = static_cast<size_t>(kibibytes) * 1024;
  allowed_shared.clear();
}

// What a kernel has of its own is not known here: a test says for all of them.
extern "C" __attribute__((visibility("default"))) void probe_own_shared(int bytes) {
  own_shared = static_cast<size_t>(bytes);
  allowed_shared.clear();
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  const auto found = allowed_shared.find(kernel);
  const int allowed = found == allowed_shared.end() ? static_cast<int>(48 * 1024 - own_shared) : found->second;
  *attributes = {own_shared, allowed};
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, int, int value) {
  if (value < 0 || value + own_shared > largest_dynamic_shared) return cudaErrorInvalidValue;
  allowed_shared[kernel] = value;
  return cudaSuccess;
}

void __syncthreads() {
  int alive = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x); ++i) alive += !fibers[i].done;
  meet(block, alive, [] {});
}

namespace emulation {

void fail(const char* why) {
  failure = why;
  _longjmp(scheduler, 1);
}

unsigned char* dynamic_shared() { return shared_bytes; }

uint32_t shared_address(const void* shared) {
  const ptrdiff_t offset = static_cast<const unsigned char*>(shared) - shared_bytes;
  if (offset < 0 || offset >= static_cast<ptrdiff_t>(kSharedBytes)) fail("expected an address in dynamic shared memory");
  return static_cast<uint32_t>(offset);
}

int run(const void* called, unsigned blocks, int threads, size_t shared, const std::function<void()>& kernel) {
  cudaFuncAttributes own;
  cudaFuncGetAttributes(&own, called);
  if (static_cast<int>(shared) > own.maxDynamicSharedSizeBytes) return cudaErrorInvalidValue;
  static unsigned launches = 0;
  const bool backwards = ++launches % 2 == 0;  // both orders, turn by turn
  while (fibers.size() < static_cast<size_t>(threads)) {
    fibers.emplace_back();
    fibers.back().stack.reset(new char[kStackBytes]);
  }
  failure.clear();
  body = &kernel;
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  gridDim = {blocks, 1, 1};
  for (unsigned b = 0; b < blocks && failure.empty(); ++b) {
    blockIdx = {b, 0, 0};
    warps.assign(threads / 32, {});
    warpgroups.assign((threads + 127) / 128, {});
    queues.assign((threads + 127) / 128, {});
    fragments.resize(threads / 32);
    bulk_copies.clear();
    block = {};
    memset(shared_bytes, 0xff, kSharedBytes);
    run_block(threads, backwards);
    for (size_t i = shared; i < kSharedBytes && failure.empty(); ++i)
      if (shared_bytes[i] != 0xff) failure = "shared memory was written behind its end";
    for (const auto& queue : queues)
      if (failure.empty() && (queue.groups.size() > 1 || !queue.groups[0].empty())) failure = "nobody waited for a product";
    if (failure.empty() && !bulk_copies.empty()) failure = "nobody waited for a copy";
  }
  last_failure = failure;
  return failure.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

void exchange(uint64_t value, uint64_t (&all)[32]) {
  Meeting& warp = warps[thread() / 32];
  warp.values[thread() % 32] = value;
  meet(warp, 32, [&] { memcpy(warp.seen, warp.values, sizeof(all)); });
  memcpy(all, warp.seen, sizeof(all));
}

void copy_async_16(void* shared, const void* global) {
  if (shared_address(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0) fail("cp.async: misaligned");
  current->copies.back().push_back({shared, global, 16});
}
void copy_async_commit() { current->copies.emplace_back(); }
void copy_async_wait(int pending) {
  auto& groups = current->copies;
  while (static_cast<int>(groups.size()) - 1 > pending) {
    for (const Copy& copy : groups.front()) memcpy(copy.to, copy.from, copy.bytes);
    groups.erase(groups.begin());
  }
}

void load_matrices(uint32_t (&r)[4], const void* shared_row) {
  if (shared_address(shared_row) % 16 != 0) fail("ldmatrix: misaligned");
  uint64_t rows[32];
  exchange(reinterpret_cast<uintptr_t>(shared_row), rows);
  const int lane = thread() % 32;
  for (int i = 0; i < 4; ++i) memcpy(&r[i], reinterpret_cast<const char*>(rows[8 * i + lane / 4]) + 4 * (lane % 4), 4);
  __syncwarp();
}

void mma_m16n8k16(float* c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  // Fragments as mma.cuh states them.
  Fragments& warp = fragments[thread() / 32];
  const uint32_t own[6] = {a[0], a[1], a[2], a[3], b0, b1};
  memcpy(warp.given[thread() % 32], own, sizeof(own));
  meet(warps[thread() / 32], 32, [&] { memcpy(warp.seen, warp.given, sizeof(warp.seen)); });
  const int lane = thread() % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    double sum = 0;
    for (int k = 0; k < 16; ++k) {
      const uint32_t from_a = warp.seen[4 * (row % 8) + k % 8 / 2][2 * (k / 8) + row / 8] >> (16 * (k % 2));
      const uint32_t from_b = warp.seen[4 * column + k % 8 / 2][4 + k / 8] >> (16 * (k % 2));
      sum += static_cast<double>(bfloat16(static_cast<uint16_t>(from_a))) * bfloat16(static_cast<uint16_t>(from_b));
    }
    c[i] = truncated(c[i] + sum);
  }
}

void barrier_init(uint64_t* barrier, int arrivals) {
  shared_address(barrier);
  word(barrier) = {static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals), 0, 0};
}
void barrier_arrive(uint64_t* barrier, uint32_t expected_bytes) {
  if (word(barrier).pending == 0) fail("mbarrier: more arrivals than it was made for");
  word(barrier).bytes += expected_bytes;
  --word(barrier).pending;
  complete_if_due(barrier);
}
void barrier_wait(uint64_t* barrier, uint32_t parity) {
  wait_until([&] {
    if (word(barrier).parity != parity) return true;
    for (size_t i = 0; i < bulk_copies.size();) {
      const BulkCopy bulk = bulk_copies[i];
      if (bulk.barrier != barrier) {
        ++i;
        continue;
      }
      bulk_copies.erase(bulk_copies.begin() + i);
      memcpy(bulk.copy.to, bulk.copy.from, bulk.copy.bytes);
      word(barrier).bytes -= bulk.copy.bytes;
      complete_if_due(barrier);
    }
    return word(barrier).parity != parity;
  });
}
void copy_bulk(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  if (shared_address(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0 || bytes % 16 != 0)
    fail("cp.async.bulk: misaligned");
  bulk_copies.push_back({{shared, global, bytes}, barrier});
}

void wgmma_fence() { meet(own_warpgroup(), 128, [] { own_queue().fenced = true; }); }
void wgmma_m64n128k16(float (&c)[64], uint64_t a, uint64_t b) {
  Meeting& warpgroup = own_warpgroup();
  ProductQueue& queue = own_queue();
  if (!queue.fenced) fail("wgmma: expected a fence before the first product of a group");
  warpgroup.values[thread() % 128] = reinterpret_cast<uintptr_t>(c);
  warpgroup.seen[thread() % 128] = a ^ b;
  meet(warpgroup, 128, [&] {
    Product product = {{}, a, b};
    for (int t = 0; t < 128; ++t) {
      product.c[t] = reinterpret_cast<float*>(warpgroup.values[t]);
      if (warpgroup.seen[t] != (a ^ b)) fail("wgmma: expected the same operands from four warps");
    }
    queue.groups.back().push_back(product);
  });
}
void wgmma_commit() {
  meet(own_warpgroup(), 128, [] {
    own_queue().groups.emplace_back();
    own_queue().fenced = false;
  });
}
void wgmma_wait(int pending) {
  meet(own_warpgroup(), 128, [&] {
    auto& groups = own_queue().groups;
    while (static_cast<int>(groups.size()) - 1 > pending) {
      for (const Product& product : groups.front()) multiply(product);
      groups.erase(groups.begin());
    }
  });
}

}  // namespace emulation
