/* Arguments of the sLSTM. Counts and places are in elements. */
#ifndef OPS_METAL_SLSTM_ARGUMENTS_H
#define OPS_METAL_SLSTM_ARGUMENTS_H

#if !defined(__METAL_VERSION__)
#include <stdint.h>
typedef uint32_t uint;
#endif

enum {
    SLSTM_SMALL = 64,    /* units of a head that one threadgroup takes through time */
    SLSTM_UNITS = 32,    /* of a threadgroup of a step */
    SLSTM_SEQUENCES = 4, /* that share the recurrent weights there */
    SLSTM_PARTS = 8      /* that a sum over units is cut into there */
};

typedef struct slstm_arguments {
    uint input_first[4], input_stride[4], input_head_stride[4]; /* i, f, z, o */
    uint state_first[4], state_stride[4], state_head_stride[4]; /* y, c, n, m */
    uint recurrent_first, recurrent_head_stride, recurrent_stride;
    uint bias_first, bias_stride;
    uint out_first, out_stride, out_head_stride;
    uint slot_first, start_first;
    uint sequences, size;
    uint lstm;
    uint time;  /* of a step: the token of each sequence, counted from its first */
    float clip; /* 0: none */
    uint zero;  /* 0, which no compiler knows (gates.h) */
} slstm_arguments;

#endif
