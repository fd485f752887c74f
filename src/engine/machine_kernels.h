/* The loops that machine.c times: what each does a call is counted there. */
#ifndef ENGINE_MACHINE_KERNELS_H
#define ENGINE_MACHINE_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

enum {
    MACHINE_STREAMS = 16, /* addresses that a thread reads at once */
    MACHINE_LANES = 16    /* floats of one step of a stream: 64 bytes */
};

typedef struct machine_kernels {
    /* count: floats of one stream, a multiple of MACHINE_LANES; streams follow each other. What
     * comes out depends on all that was done, so that no compiler can leave it out. */
    float (*read)(const float *data, size_t count);
    void (*update)(float *data, size_t count);
    float (*multiply)(int steps);
    double multiply_flops; /* of a step */
    /* Products of tiles with the operands loaded on the way; NULL where the processor has none. */
    float (*amx_bf16)(int steps);
    float (*amx_int8)(int steps);
    double amx_bf16_flops, amx_int8_flops; /* of a step */
} machine_kernels;

/* The widest vectors, and tiles where they are. */
machine_kernels machine_kernels_choose(void);
/* Adds the tiles, if this processor and this system let us use them. */
void machine_amx_add(machine_kernels *kernels);

#endif
