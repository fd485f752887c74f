/* What kernels of products of bytes share: activations rounded to integers in groups of 32, and the
 * integers of weights in blocks. */
#ifndef OPS_CPU_VECTOR_DOT_H
#define OPS_CPU_VECTOR_DOT_H

#include "ops/cpu/vector_bytes.h"

enum { PART = BLOCKS * BLOCK_ELEMENTS }; /* columns of a vector of blocks */

typedef int8_t vec_narrow __attribute__((vector_size(LANES)));

ALWAYS_INLINE vec larger(vec a, vec b) {
    return choose((vec_bits)(a > b), a, b);
}

/* Thirty-two floats: rounded integers, their sum; returns the scale. */
static float quantise_group(const float *x, int8_t *q, int32_t *sum) {
    enum { VECTORS = BLOCK_ELEMENTS / LANES };
    const vec_bits magnitude = (vec_bits)((vec_integers){0} + 0x7FFFFFFF);
    vec largest = {0}, odd = {0};
    UNROLL
    for (int i = 0; i < VECTORS; i++) {
        vec value = load(x + i * LANES);
        largest = larger((vec)((vec_bits)value & magnitude), largest);
        odd += value * splat(0); /* NaN where a value is not finite */
    }
    const float most = fold_max(largest), factor = most > 0x1p-120f ? 127 / most : 0;
    vec_integers total = {0};
    UNROLL
    for (int i = 0; i < VECTORS; i++) {
        const vec magic = splat(0x1.8p23f); /* what is added to it lies in the low bits, rounded */
        vec_integers rounded =
            (vec_integers)(load(x + i * LANES) * splat(factor) + magic) - (vec_integers)magic;
        vec_narrow bytes = __builtin_convertvector(rounded, vec_narrow);
        memcpy(q + i * LANES, &bytes, sizeof bytes);
        total += rounded;
    }
    *sum = 0;
    for (int i = 0; i < LANES; i++)
        *sum += total[i];
    return most / 127 + fold(odd);
}

/* What is to be subtracted from an integer u of a block: a power of two, or nothing. */
ALWAYS_INLINE int offset_of(dtype type) {
    return type == DTYPE_Q4_0 ? 8 : type == DTYPE_Q5_0 ? 16 : 0;
}

ALWAYS_INLINE bool has_minimum(dtype type) {
    return type == DTYPE_Q4_1 || type == DTYPE_Q5_1;
}

/* Whether u is a signed byte; else it is one below 32. */
ALWAYS_INLINE bool has_sign(dtype type) {
    return type == DTYPE_Q8_0 || type == DTYPE_IQ4_NL;
}

/* The integers u of BLOCKS blocks: values 0 … 15, and 16 … 31, of each. Those with a sign are more
 * by `shift`, which is 0 or 128. */
ALWAYS_INLINE void load_weights(dtype type, const uint8_t shift, const char *p, vec_bytes u[2]) {
    if (type == DTYPE_Q8_0) {
        u[0] = load_sixteens(type, p, 2) ^ shift;
        u[1] = load_sixteens(type, p, 18) ^ shift;
        return;
    }
    vec_bytes pairs = load_sixteens(type, p, (int)block_bytes(type) - 16);
    u[0] = pairs & 15;
    u[1] = upper(pairs);
    if (type == DTYPE_IQ4_NL) {
        const vec_bytes levels = everywhere(block_levels) ^ shift;
        u[0] = look_up(levels, u[0]);
        u[1] = look_up(levels, u[1]);
    } else if (type == DTYPE_Q5_0 || type == DTYPE_Q5_1) {
        add_fifths(type, p, u);
    }
}

#endif
