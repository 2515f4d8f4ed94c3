// The words of sm_90a: barriers in shared memory, the bulk copy engine and the bf16 product of four warps.
//
// Operands of wgmma lie in shared memory, K-major, in rows of 32, 64 or 128 bytes under the swizzle of that width:
// within eight rows the 16-byte unit of an address is XORed with address bits 7 and up (one, two or three of them),
// so eight rows make an atom that starts at a multiple of its own size. A step of 16 along K is 32 bytes more in the
// start address. The descriptor (PTX ISA, "Matrix Descriptor" of wgmma; addresses and offsets in units of 16 bytes):
//   bits 0-13 start address   16-29 leading dimension offset, unused here (1)   32-45 offset between atoms of 8 rows
//   49-51 base offset, 0 for aligned atoms   62-63 swizzle: 1 is 128 bytes, 2 is 64, 3 is 32
#pragma once
#include "kernels/cuda/launch.cuh"

namespace {

typedef uint64_t Barrier;

__device__ __forceinline__ uint64_t matrix_descriptor(const void* shared, int row_bytes) {
  const uint64_t swizzle = row_bytes == 128 ? 1 : row_bytes == 64 ? 2 : 3;
  const uint64_t start = (shared_address(shared) & 0x3ffffu) >> 4;
  return start | uint64_t{1} << 16 | static_cast<uint64_t>(8 * row_bytes >> 4) << 32 | swizzle << 62;
}

#if defined(RANKDISTILL_EMULATED)
inline void barrier_init(Barrier* b, int arrivals) { emulation::barrier_init(b, arrivals); }
inline void barrier_init_fence() {}
inline void barrier_arrive(Barrier* b) { emulation::barrier_arrive(b, 0); }
inline void barrier_arrive_expect(Barrier* b, uint32_t bytes) { emulation::barrier_arrive(b, bytes); }
inline void barrier_wait(Barrier* b, uint32_t parity) { emulation::barrier_wait(b, parity); }
inline void copy_bulk(void* shared, const void* global, uint32_t bytes, Barrier* b) {
  emulation::copy_bulk(shared, global, bytes, b);
}
inline void wgmma_fence() { emulation::wgmma_fence(); }
inline void wgmma_commit() { emulation::wgmma_commit(); }
template <int PENDING>
inline void wgmma_wait() { emulation::wgmma_wait(PENDING); }
inline void wgmma_settle(float (&)[64]) {}
inline void wgmma_m64n128k16(float (&c)[64], uint64_t a, uint64_t b) { emulation::wgmma_m64n128k16(c, a, b); }
template <int REGISTERS>
inline void give_registers() {}
template <int REGISTERS>
inline void take_registers() {}
#elif defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma.cuh: expected compilation for sm_90a alone"
#else
__device__ __forceinline__ void barrier_init(Barrier* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
// Before the copy engine may meet a fresh barrier; a block barrier follows.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(Barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// Arrives, and lets the phase also wait for so many bytes of copies.
__device__ __forceinline__ void barrier_arrive_expect(Barrier* b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
// Until the phase of this parity is complete; a fresh barrier is in phase 0 and has completed parity 1.
__device__ __forceinline__ void barrier_wait(Barrier* b, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(b)), "r"(parity)
      : "memory");
}
// Bytes and addresses are multiples of 16. One thread asks; the barrier hears of the bytes.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, uint32_t bytes, Barrier* b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(b))
               : "memory");
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Keeps the compiler from moving uses of accumulators across a wait.
__device__ __forceinline__ void wgmma_settle(float (&c)[64]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(c[i])::"memory");
}
// c [64, 128] += a [64, 16] · b [128, 16]ᵀ; warp w of the four holds rows 16w to 16w + 15, as mma.cuh says.
__device__ __forceinline__ void wgmma_m64n128k16(float (&c)[64], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, 1, 1, 1, 0, 0;"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]),
        "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]),
        "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]),
        "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]),
        "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]),
        "+f"(c[40]), "+f"(c[41]), "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]),
        "+f"(c[48]), "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]),
        "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])
      : "l"(a), "l"(b));
}
template <int REGISTERS>
__device__ __forceinline__ void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS>
__device__ __forceinline__ void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
#endif

}  // namespace
