#include "csrc/index_check.h"

#include "csrc/isa.h"
#include "kernels/cpu/index_check.h"

extern "C" const IndexCheckTable RANKDISTILL_TABLE(index_check_table) = {first_out_of_range};
