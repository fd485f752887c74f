/* Chains with weights of four bits. */
#include "ops/cuda/chain_kernel.h"

chain_variant chain_of_four_bits(int type, bool integers) {
    switch (type) {
    case DTYPE_Q4_0:
        return integers ? chain_variant_of<q4_0_integers>() : chain_variant_of<q4_0_weights>();
    case DTYPE_Q4_1:
        return integers ? chain_variant_of<q4_1_integers>() : chain_variant_of<q4_1_weights>();
    case DTYPE_IQ4_NL:
        return integers ? chain_variant_of<iq4_nl_integers>() : chain_variant_of<iq4_nl_weights>();
    default:
        return {};
    }
}
