/* Chains with floating-point weights. */
#include "ops/cuda/chain_kernel.h"

chain_variant chain_of_floats(int type) {
    switch (type) {
    case DTYPE_F32:
        return chain_variant_of<chain_single<f32_weights>>();
    case DTYPE_BF16:
        return chain_variant_of<chain_single<bf16_weights>>();
    case DTYPE_F16:
        return chain_variant_of<chain_single<f16_weights>>();
    default:
        return {};
    }
}
