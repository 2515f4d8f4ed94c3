#include "csrc/pair_sample.h"

#include "csrc/isa.h"
#include "kernels/cpu/pair_sample.h"

extern "C" const PairSampleTable RANKDISTILL_TABLE(pair_sample_table) = {pair_sample};
