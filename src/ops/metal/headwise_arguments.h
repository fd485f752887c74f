/* Arguments of the linear map of each head. Counts and places are in elements. */
#ifndef OPS_METAL_HEADWISE_ARGUMENTS_H
#define OPS_METAL_HEADWISE_ARGUMENTS_H

#if !defined(__METAL_VERSION__)
#include <stdint.h>
typedef uint32_t uint;
#endif

enum { HEADWISE_TOKENS = 8 /* that share a weight once it is read */ };

typedef struct headwise_arguments {
    uint x_first, x_stride, x_head_stride;
    uint weight_first, weight_head_stride, weight_row_stride;
    uint bias_first, bias_head_stride;
    uint out_first, out_stride, out_head_stride;
    uint tokens, heads, outputs, inputs;
    uint bias_type; /* enum metal_type; METAL_TYPES: no bias */
    uint lanes;     /* that share a row of weights: a power of 2, 32 at most */
    uint unused[3];
} headwise_arguments;

#endif
