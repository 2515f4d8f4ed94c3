#include "csrc/position_sample.h"

#include "csrc/isa.h"
#include "kernels/cpu/position_sample.h"

extern "C" const PositionSampleTable RANKDISTILL_TABLE(position_sample_table) = {position_sample};
