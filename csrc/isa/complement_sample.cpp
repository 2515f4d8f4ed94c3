#include "csrc/complement_sample.h"

#include "csrc/isa.h"
#include "kernels/cpu/complement_sample.h"

extern "C" const ComplementSampleTable RANKDISTILL_TABLE(complement_sample_table) = {complement_sample};
