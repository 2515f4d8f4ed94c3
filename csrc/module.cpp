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

extern "C" {
int rankdistill_forked_after_parallel = 0;
int rankdistill_used_parallel = 0;
}

namespace py = pybind11;

namespace {

const char* const kIsaNames[] = {"baseline", "avx2", "avx512"};

bool supported(Isa isa) {
  if (isa == Isa::baseline) return true;
#ifdef RANKDISTILL_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

Isa choose_isa() {
  const char* forced = getenv("RANKDISTILL_ISA");
  if (forced != nullptr && *forced != '\0') {
    for (int i = 0; i < 3; ++i) {
      if (strcmp(forced, kIsaNames[i]) != 0) continue;
      if (supported(static_cast<Isa>(i))) return static_cast<Isa>(i);
      throw py::import_error(std::string("RANKDISTILL_ISA: expected an instruction set that this processor has; got ") +
                             forced + "; unset it, or choose a lower one of baseline, avx2, avx512");
    }
    throw py::import_error(std::string("RANKDISTILL_ISA: expected baseline, avx2 or avx512; got ") + forced);
  }
  for (int i = 2; i > 0; --i)
    if (supported(static_cast<Isa>(i))) return static_cast<Isa>(i);
  return Isa::baseline;
}

Isa g_isa = Isa::baseline;

void after_fork_in_child() { rankdistill_forked_after_parallel = rankdistill_used_parallel; }

}  // namespace

Isa active_isa() { return g_isa; }

PYBIND11_MODULE(_native, m) {
  m.doc() = "CPU kernels of rankdistill. Pointers and sizes only; rankdistill.ops checks everything first.";
  g_isa = choose_isa();
  pthread_atfork(nullptr, nullptr, after_fork_in_child);

  m.def("isa", [] { return std::string(kIsaNames[static_cast<int>(g_isa)]); }, "The instruction set in use.");
  m.def("supported_isas", [] {
    py::list names;
    for (int i = 0; i < 3; ++i)
      if (supported(static_cast<Isa>(i))) names.append(kIsaNames[i]);
    return names;
  }, "The instruction sets this processor can run.");
  m.def("openmp", [] {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
  }, "Whether the kernels were built with OpenMP.");
  m.def("max_threads", [] {
#ifdef _OPENMP
    return rankdistill_forked_after_parallel ? 1 : omp_get_max_threads();
#else
    return 1;
#endif
  }, "Threads that the next call may use.");
  m.def("compiler", [] { return std::string(__VERSION__); }, "The compiler that built this module.");

  bind_ops(m);
}
