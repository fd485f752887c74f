/* Arguments of the causal convolution. Counts and places are in elements. */
#ifndef OPS_METAL_CAUSAL_CONV_ARGUMENTS_H
#define OPS_METAL_CAUSAL_CONV_ARGUMENTS_H

#if !defined(__METAL_VERSION__)
#include <stdint.h>
typedef uint32_t uint;
#endif

enum { CONV_TOKENS = 64 /* of a thread; as many as there may be taps, or more */ };

typedef struct causal_conv_arguments {
    uint x_first, x_stride, weight_first, weight_stride;
    uint bias_first, state_first, slot_stride, state_stride;
    uint slot_first, start_first, out_first, out_stride;
    uint width, taps, activation;
    uint bias_type; /* enum metal_type; METAL_TYPES: no bias */
} causal_conv_arguments;

#endif
