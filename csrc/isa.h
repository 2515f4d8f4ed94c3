// How a kernel compiled once per instruction set is found at run time.
//
// csrc/isa/<op>.cpp is compiled once per set with RANKDISTILL_ISA = baseline, avx2 or avx512 and defines one
// constant function table through RANKDISTILL_TABLE; csrc/<op>.cpp reads the copy in use through RANKDISTILL_DECLARE.
#pragma once

#define RANKDISTILL_JOIN_(a, b) a##_##b
#define RANKDISTILL_JOIN(a, b) RANKDISTILL_JOIN_(a, b)
// The name of this instruction set's copy of `table`.
#define RANKDISTILL_TABLE(table) RANKDISTILL_JOIN(table, RANKDISTILL_ISA)

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

// Whose copy is in use: the best the processor has, or the one RANKDISTILL_ISA names. avx512vnni and avx512bf16 are
// avx512 with more instructions, which the kernels that know them ask for by themselves (kernels/cpu/score_tile.h).
Isa active_isa();

#ifdef RANKDISTILL_X86
#define RANKDISTILL_DECLARE(Type, table)  \
  extern "C" const Type table##_baseline; \
  extern "C" const Type table##_avx2;     \
  extern "C" const Type table##_avx512;   \
  static const Type& table() {            \
    switch (active_isa()) {               \
      case Isa::avx512: return table##_avx512; \
      case Isa::avx2: return table##_avx2;     \
      default: return table##_baseline;        \
    }                                     \
  }
#else
#define RANKDISTILL_DECLARE(Type, table)  \
  extern "C" const Type table##_baseline; \
  static const Type& table() { return table##_baseline; }
#endif
