// Row-parallel loops on the process's OpenMP runtime (torch's, when torch was imported first), so that
// torch.set_num_threads governs the kernels too.
#pragma once
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

// Set in a forked child: an OpenMP team that existed before fork() is gone, and waiting for it hangs.
extern "C" int rankdistill_forked;

namespace {

// Default rounding, no flush-to-zero, no denormals-are-zero: the caller's settings must not change results.
struct FloatEnvironment {
#if defined(__x86_64__)
  unsigned saved = _mm_getcsr();
  FloatEnvironment() { _mm_setcsr(0x1F80); }
  ~FloatEnvironment() { _mm_setcsr(saved); }
#else
  FloatEnvironment() {}
  ~FloatEnvironment() {}
#endif
};

inline int max_threads() {
#ifdef _OPENMP
  return rankdistill_forked ? 1 : omp_get_max_threads();
#else
  return 1;
#endif
}

// body(begin, end, thread) over [0, count) in contiguous chunks of at least `grain`, at most one per thread.
// Results must not depend on how the range is cut.
template <class Body>
inline void parallel_chunks(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  int64_t chunks = (count + grain - 1) / (grain > 0 ? grain : 1);
  const int threads = max_threads();
  if (chunks > threads) chunks = threads;
  if (chunks <= 1) {
    FloatEnvironment environment;
    body(static_cast<int64_t>(0), count, 0);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel for schedule(static, 1) num_threads(static_cast<int>(chunks))
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    FloatEnvironment environment;
    body(count * chunk / chunks, count * (chunk + 1) / chunks, static_cast<int>(chunk));
  }
#endif
}

}  // namespace
