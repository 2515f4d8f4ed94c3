#include "csrc/peak.h"

#include "csrc/isa.h"
#include "kernels/cpu/peak.h"

extern "C" const PeakTable RANKDISTILL_TABLE(peak_table) = {multiply_adds};
