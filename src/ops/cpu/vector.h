/* Vectors of the widest kind that the instruction set of this compilation has, and the functions on
 * them that the kernels share. Included by kernels*.c, which are compiled once for each set, and by
 * real_*.c, which are compiled once for each set and element type: `real` is float, or double with
 * KERNEL_F64.
 *
 * Nothing is left to the compiler's taste: products are fused with sums where fused() stands and
 * nowhere else (the Makefile turns contraction off), and sums over lanes go through one fixed tree.
 */
#ifndef OPS_CPU_VECTOR_H
#define OPS_CPU_VECTOR_H

#include "ops/cpu/kernels.h"

#include <math.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define JOIN_NAMES(a, b) a##_##b
#define JOIN(a, b) JOIN_NAMES(a, b)
#define PER_ISA(name) JOIN(name, KERNEL_ISA) /* external names differ between the compilations */

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, REGISTERS = 32 };
#elif defined(__AVX2__)
enum { VECTOR_BYTES = 32, REGISTERS = 16 };
#elif defined(__aarch64__)
enum { VECTOR_BYTES = 16, REGISTERS = 32 };
#else
enum { VECTOR_BYTES = 16, REGISTERS = 16 };
#endif

#if defined(KERNEL_F64)
typedef double real;
typedef uint64_t real_bits;
#else
typedef float real;
typedef uint32_t real_bits;
#endif

enum { LANES = VECTOR_BYTES / (int)sizeof(real) };

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real_bits vec_bits __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));
typedef double vec_double __attribute__((vector_size(LANES * 8), aligned(1), may_alias));

ALWAYS_INLINE vec splat(real value) {
    return value - (vec){0}; /* x - 0 is x, also for -0 */
}

ALWAYS_INLINE vec load(const void *p) {
    return *(const vec_anywhere *)p;
}

ALWAYS_INLINE void store(void *p, vec value) {
    *(vec_anywhere *)p = value;
}

/* The first `count` lanes, zeros behind them. */
ALWAYS_INLINE vec load_part(const real *p, int64_t count) {
    vec value = {0};
    memcpy(&value, p, (size_t)count * sizeof(real));
    return value;
}

ALWAYS_INLINE void store_part(real *p, vec value, int64_t count) {
    memcpy(p, &value, (size_t)count * sizeof(real));
}

ALWAYS_INLINE vec choose(vec_bits mask, vec yes, vec no) {
    return (vec)((mask & (vec_bits)yes) | (~mask & (vec_bits)no));
}

#if defined(KERNEL_F64)
#include "ops/cpu/vector_f64.h"
#else
#include "ops/cpu/vector_f32.h"
#endif

ALWAYS_INLINE vec sigmoid_vec(vec x) {
    return splat(1) / (splat(1) + exp_vec(-x));
}

/* Up to LANES elements; an absent array is zeros. */
ALWAYS_INLINE vec load_optional(const real *p, int64_t i, int64_t count) {
    if (!p)
        return (vec){0};
    return count >= LANES ? load(p + i) : load_part(p + i, count);
}

ALWAYS_INLINE void store_some(real *p, vec value, int64_t count) {
    if (count >= LANES)
        store(p, value);
    else
        store_part(p, value, count);
}

/* function(type, …) with a type of blocks as a constant, so that it is inlined once for each. */
#define FOR_BLOCK_TYPE(type, function, ...)                                                        \
    switch (type) {                                                                                \
    case DTYPE_Q8_0:                                                                               \
        function(DTYPE_Q8_0, __VA_ARGS__);                                                         \
        break;                                                                                     \
    case DTYPE_Q5_0:                                                                               \
        function(DTYPE_Q5_0, __VA_ARGS__);                                                         \
        break;                                                                                     \
    case DTYPE_Q5_1:                                                                               \
        function(DTYPE_Q5_1, __VA_ARGS__);                                                         \
        break;                                                                                     \
    case DTYPE_Q4_0:                                                                               \
        function(DTYPE_Q4_0, __VA_ARGS__);                                                         \
        break;                                                                                     \
    case DTYPE_Q4_1:                                                                               \
        function(DTYPE_Q4_1, __VA_ARGS__);                                                         \
        break;                                                                                     \
    default:                                                                                       \
        function(DTYPE_IQ4_NL, __VA_ARGS__);                                                       \
    }

/* The same with any type of a matrix. */
#define FOR_WEIGHT_TYPE(type, function, ...)                                                       \
    switch (type) {                                                                                \
    case DTYPE_F32:                                                                                \
        function(DTYPE_F32, __VA_ARGS__);                                                          \
        break;                                                                                     \
    case DTYPE_BF16:                                                                               \
        function(DTYPE_BF16, __VA_ARGS__);                                                         \
        break;                                                                                     \
    case DTYPE_F16:                                                                                \
        function(DTYPE_F16, __VA_ARGS__);                                                          \
        break;                                                                                     \
    case DTYPE_F64:                                                                                \
        function(DTYPE_F64, __VA_ARGS__);                                                          \
        break;                                                                                     \
    default:                                                                                       \
        FOR_BLOCK_TYPE(type, function, __VA_ARGS__)                                                \
    }

/* The parts of the tables that have files of their own. */
extern const cpu_library PER_ISA(cpu_library);
vec PER_ISA(cpu_activate)(enum ops_activation, vec z);
void PER_ISA(cpu_gated)(enum ops_activation, const void *z, const void *bias, const void *u,
                        const void *u_bias, int64_t count, void *y);
void PER_ISA(cpu_gate)(enum ops_activation, const void *z, const void *skip, const void *x,
                       int64_t count, void *y);
void PER_ISA(cpu_combine)(const cpu_combine *);
void PER_ISA(cpu_convolve)(const cpu_convolution *);
void PER_ISA(cpu_convolve_gradient)(const cpu_convolution_gradient *);
void PER_ISA(cpu_cell)(const cpu_cell *);
void PER_ISA(cpu_cell_gradient)(const cpu_cell_gradient *);
void PER_ISA(cpu_bound)(double bound, int64_t count, void *y);
void PER_ISA(cpu_norm_row)(const cpu_norm_row *);
void PER_ISA(cpu_gate_row)(const cpu_gate_row *);
double PER_ISA(cpu_loss_row)(const cpu_loss_row *);

#if !defined(KERNEL_F64)
void PER_ISA(cpu_multiply)(const cpu_product *);
extern const cpu_tiles PER_ISA(cpu_tiles);
extern const cpu_dot PER_ISA(cpu_dot);
extern const cpu_kernels PER_ISA(cpu_kernels);
extern const cpu_library JOIN(PER_ISA(cpu_library), f64);
extern const struct cpu_compensated PER_ISA(cpu_compensated);
#endif

#endif
