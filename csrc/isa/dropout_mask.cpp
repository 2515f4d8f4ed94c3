#include "csrc/dropout_mask.h"

#include "csrc/isa.h"
#include "kernels/cpu/dropout_mask.h"

extern "C" const DropoutMaskTable RANKDISTILL_TABLE(dropout_mask_table) = {dropout_mask};
