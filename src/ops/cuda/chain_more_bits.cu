/* Chains with weights of five and eight bits. */
#include "ops/cuda/chain_kernel.h"

chain_variant chain_of_more_bits(int type, bool integers) {
    switch (type) {
    case DTYPE_Q8_0:
        return integers ? chain_variant_of<chain_single<q8_0_integers>>()
                        : chain_variant_of<chain_single<q8_0_weights>>();
    case DTYPE_Q5_0:
        return integers ? chain_variant_of<chain_single<q5_0_integers>>()
                        : chain_variant_of<chain_single<q5_0_weights>>();
    case DTYPE_Q5_1:
        return integers ? chain_variant_of<chain_single<q5_1_integers>>()
                        : chain_variant_of<chain_single<q5_1_weights>>();
    default:
        return {};
    }
}
