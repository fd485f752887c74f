/* The kernel library of the device "cpu". */
#include "ops/cpu/internal.h"

const kernel_table cpu_kernel_table = {0};
