/* Types of tensors as the kernels number them. */
#include "ops/metal/types.h"

#include "ops/metal/internal.h"

uint32_t metal_type_of(dtype type) {
    switch (type) {
    case DTYPE_F32:
        return METAL_F32;
    case DTYPE_F16:
        return METAL_F16;
    case DTYPE_BF16:
        return METAL_BF16;
    case DTYPE_Q8_0:
        return METAL_Q8_0;
    case DTYPE_Q5_0:
        return METAL_Q5_0;
    case DTYPE_Q5_1:
        return METAL_Q5_1;
    case DTYPE_Q4_0:
        return METAL_Q4_0;
    case DTYPE_Q4_1:
        return METAL_Q4_1;
    case DTYPE_IQ4_NL:
        return METAL_IQ4_NL;
    default:
        return METAL_TYPES;
    }
}
