/* Chains with floating-point weights. */
#include "ops/cuda/chain_kernel.h"

/* Two rows at a time. */
template <class W> struct chain_pairs : W {
    enum { rows = 2 };
};

chain_variant chain_of_floats(int type) {
    switch (type) {
    case DTYPE_F32:
        return chain_variant_of<chain_pairs<f32_weights>>();
    case DTYPE_BF16:
        return chain_variant_of<chain_pairs<bf16_weights>>();
    case DTYPE_F16:
        return chain_variant_of<chain_pairs<f16_weights>>();
    default:
        return {};
    }
}
