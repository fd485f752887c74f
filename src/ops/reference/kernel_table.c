/* The kernel library of the device "reference". */
#include "ops/reference/internal.h"

const kernel_table reference_kernel_table = {
    .mlstm = reference_kernel_mlstm,
};
