// The CPU module: build facts, the instruction set in use, fork safety. Each csrc/<op>.cpp binds its own op.
#include <pthread.h>
#include <pybind11/pybind11.h>
#include <stdlib.h>
#include <string.h>

#include "csrc/bind.h"
#include "csrc/isa.h"
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

extern "C" {
int rankdistill_forked = 0;
int rankdistill_filters = 0;  // FilterBit of kernels/cpu/score_tile.h
}

namespace py = pybind11;

namespace {

// Each has all that the ones before it have.
const char* const kIsaNames[] = {"baseline", "avx2", "avx512", "avx512vnni", "avx512bf16"};
constexpr int kIsas = 5;

bool supported(int isa) {
  if (isa == 0) return true;
#ifdef RANKDISTILL_X86
  __builtin_cpu_init();
  switch (isa) {
    case 1: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case 2: return supported(1) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case 3: return supported(2) && __builtin_cpu_supports("avx512vnni");
    default: return supported(3) && __builtin_cpu_supports("avx512bf16");
  }
#else
  return false;
#endif
}

int choose_isa() {
  const char* forced = getenv("RANKDISTILL_ISA");
  if (forced != nullptr && *forced != '\0') {
    for (int i = 0; i < kIsas; ++i) {
      if (strcmp(forced, kIsaNames[i]) != 0) continue;
      if (supported(i)) return i;
      throw py::import_error(std::string("RANKDISTILL_ISA: expected an instruction set that this processor has; got ") +
                             forced + "; unset it, or choose a lower one of baseline, avx2, avx512, avx512vnni, avx512bf16");
    }
    throw py::import_error(std::string("RANKDISTILL_ISA: expected baseline, avx2, avx512, avx512vnni or avx512bf16; got ") + forced);
  }
  for (int i = kIsas - 1; i > 0; --i)
    if (supported(i)) return i;
  return 0;
}

int g_isa = 0;

int team_size() {
#ifdef _OPENMP
  return rankdistill_forked ? 1 : omp_get_max_threads();
#else
  return 1;
#endif
}

void flush_in_this_thread(bool on) {
#if defined(__x86_64__)
  constexpr unsigned kFlush = 0x8040;  // results to zero, operands as zero
  _mm_setcsr(on ? _mm_getcsr() | kFlush : _mm_getcsr() & ~kFlush);
#else
  (void)on;
#endif
}

// Threads keep what they were given; those that the team gets later take over what their creator has.
void flush_denormals(bool on) {
  flush_in_this_thread(on);
#ifdef _OPENMP
  const int threads = team_size();
  if (threads == 1) return;
#pragma omp parallel num_threads(threads)
  flush_in_this_thread(on);
#endif
}

// Whoever used threads before the fork: libgomp is torch's too, and a team that the child inherits never comes.
void after_fork_in_child() { rankdistill_forked = 1; }

}  // namespace

Isa active_isa() { return static_cast<Isa>(g_isa < 2 ? g_isa : 2); }

PYBIND11_MODULE(_native, m) {
  m.doc() = "CPU kernels of rankdistill. Pointers and sizes only; rankdistill.ops checks everything first.";
  g_isa = choose_isa();
  rankdistill_filters = (g_isa >= 3 ? 1 : 0) | (g_isa >= 4 ? 2 : 0);
  pthread_atfork(nullptr, nullptr, after_fork_in_child);

  m.def("isa", [] { return std::string(kIsaNames[g_isa]); }, "The instruction set in use.");
  m.def("supported_isas", [] {
    py::list names;
    for (int i = 0; i < kIsas; ++i)
      if (supported(i)) names.append(kIsaNames[i]);
    return names;
  }, "The instruction sets this processor can run.");
  m.def("openmp", [] {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
  }, "Whether the kernels were built with OpenMP.");
  m.def("max_threads", team_size, "Threads that the next call may use.");
  m.def("flush_denormals", flush_denormals,
        "Lets the processor take denormal numbers as 0, or not, in the calling thread and its OpenMP team.");
  m.def("compiler", [] { return std::string(__VERSION__); }, "The compiler that built this module.");

  bind_ops(m);
}
