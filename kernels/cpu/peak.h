// Multiply-add loops on registers alone: what one core can reach at most, for benchmarks to compare with.
//
// Each loop keeps enough independent chains to hide the latency of an addition (at most 5 cycles, two instructions
// a cycle) and few enough to stay in registers. A function returns the operations it did (a multiply-add is two),
// 0 where the processor or this build lacks the instruction.
#pragma once
#include <stdint.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"

namespace {

// Products of fp32, or of 16-bit and 8-bit numbers that one instruction adds in pairs and fours.
enum class PeakOf : int { fp32 = 0, bf16 = 1, int8 = 2 };

#if defined(__AVX512F__)
constexpr int kPeakChains = 24;
#else
constexpr int kPeakChains = 12;
#endif

// The compiler must take the value as unknown (equal chains would be merged) and as used.
template <class V>
inline void keep(V& v) {
  asm volatile("" : "+m"(v));
}

int64_t fp32_chains(int64_t steps) {
  using V = Vector<float, kLanes<float>>;
  V chains[kPeakChains];
  V factor = splat<V>(0.5f), summand = splat<V>(1.0f);
  keep(factor);
  keep(summand);
#pragma GCC unroll 24
  for (int c = 0; c < kPeakChains; ++c) {
    chains[c] = V{};
    keep(chains[c]);
  }
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int c = 0; c < kPeakChains; ++c) chains[c] = chains[c] * factor + summand;
  }
  V sum = chains[0];
#pragma GCC unroll 24
  for (int c = 1; c < kPeakChains; ++c) sum += chains[c];
  keep(sum);
  return steps * kPeakChains * kLanes<float> * 2;
}

#if defined(__AVX512F__)
__attribute__((target("avx512bf16"))) int64_t bf16_chains(int64_t steps) {
  __m512i bits = _mm512_set1_epi16(0x3C00);  // 2^-7
  keep(bits);
  const __m512bh factor = reinterpret_cast<__m512bh>(bits);
  __m512 chains[kPeakChains];
#pragma GCC unroll 24
  for (int c = 0; c < kPeakChains; ++c) {
    chains[c] = _mm512_setzero_ps();
    keep(chains[c]);
  }
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int c = 0; c < kPeakChains; ++c) chains[c] = _mm512_dpbf16_ps(chains[c], factor, factor);
  }
  __m512 sum = chains[0];
#pragma GCC unroll 24
  for (int c = 1; c < kPeakChains; ++c) sum += chains[c];
  keep(sum);
  return steps * kPeakChains * 32 * 2;
}

__attribute__((target("avx512vnni"))) int64_t int8_chains(int64_t steps) {
  __m512i factor = _mm512_set1_epi8(1);
  keep(factor);
  __m512i chains[kPeakChains];
#pragma GCC unroll 24
  for (int c = 0; c < kPeakChains; ++c) {
    chains[c] = _mm512_setzero_si512();
    keep(chains[c]);
  }
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int c = 0; c < kPeakChains; ++c) chains[c] = _mm512_dpbusd_epi32(chains[c], factor, factor);
  }
  __m512i sum = chains[0];
#pragma GCC unroll 24
  for (int c = 1; c < kPeakChains; ++c) sum = _mm512_add_epi32(sum, chains[c]);
  keep(sum);
  return steps * kPeakChains * 64 * 2;
}
#endif

int64_t chains_of(PeakOf what, int64_t steps) {
  if (what == PeakOf::fp32) return fp32_chains(steps);
#if defined(__AVX512F__)
  if (what == PeakOf::bf16 && __builtin_cpu_supports("avx512bf16")) return bf16_chains(steps);
  if (what == PeakOf::int8 && __builtin_cpu_supports("avx512vnni")) return int8_chains(steps);
#endif
  return 0;
}

// `steps` steps on every thread that a kernel would use.
int64_t multiply_adds(int what, int64_t steps) {
  const int threads = max_threads();
  parallel_chunks(threads, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) chains_of(static_cast<PeakOf>(what), steps);
  });
  return threads * chains_of(static_cast<PeakOf>(what), 1) * steps;
}

}  // namespace
