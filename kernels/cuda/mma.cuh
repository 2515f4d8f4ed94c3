// The words of sm_80: asynchronous copies, ldmatrix and the bf16 product of one warp.
//
// Fragments (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"), with g = lane / 4, t = lane % 4:
//   A [16 rows, 16 k]   a[0]: row g, k 2t..2t+1   a[1]: row g + 8   a[2]: row g, k 2t+8..2t+9   a[3]: row g + 8, idem
//   B [16 k, 8 columns] b[0]: column g, k 2t..2t+1   b[1]: column g, k 2t+8..2t+9
//   C [16 rows, 8 columns] c[0], c[1]: row g, columns 2t, 2t+1   c[2], c[3]: row g + 8
// wgmma's accumulators (wgmma.cuh) repeat C along the columns, for the 16 rows of each warp.
#pragma once
#include "kernels/cuda/launch.cuh"

namespace {

#if defined(RANKDISTILL_EMULATED)
inline void copy_async_16(void* shared, const void* global) { emulation::copy_async_16(shared, global); }
inline void copy_async_commit() { emulation::copy_async_commit(); }
template <int PENDING>
inline void copy_async_wait() { emulation::copy_async_wait(PENDING); }
inline void load_matrices(uint32_t (&r)[4], const void* shared_row) { emulation::load_matrices(r, shared_row); }
inline void mma_m16n8k16(float* c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::mma_m16n8k16(c, a, b0, b1);
}
#else
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most PENDING of this thread's latest groups are under way; others see the data after a barrier.
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// Four 8x8 matrices of 16-bit elements; lanes 8i..8i+7 name the rows of matrix i. Lane l gets row l / 4, elements
// 2 (l % 4) and the next, of each.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

__device__ __forceinline__ void mma_m16n8k16(float* c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

}  // namespace
