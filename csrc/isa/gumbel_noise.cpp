#include "csrc/gumbel_noise.h"

#include "csrc/isa.h"
#include "kernels/cpu/gumbel_noise.h"

extern "C" const GumbelNoiseTable RANKDISTILL_TABLE(gumbel_noise_table) = {gumbel_noise};
