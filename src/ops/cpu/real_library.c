/* The table of one instruction set and element type, and the functions that need no file of their
 * own. */
#include "ops/cpu/real_mlstm.h"

typedef vec vec_function(vec);

ALWAYS_INLINE void apply(vec_function *function, const real *x, int64_t count, real *y) {
    for (int64_t i = 0; i < count; i += LANES)
        store_some(y + i, function(load_optional(x, i, count - i)), count - i);
}

static void exponential(const void *x, int64_t count, void *y) {
    apply(exp_vec, x, count, y);
}

static void hyperbolic_tangent(const void *x, int64_t count, void *y) {
    apply(tanh_vec, x, count, y);
}

static void sigmoid(const void *x, int64_t count, void *y) {
    apply(sigmoid_vec, x, count, y);
}

const cpu_library PER_ISA(cpu_library) = {
    .lanes = LANES,
    .exponential = exponential,
    .hyperbolic_tangent = hyperbolic_tangent,
    .sigmoid = sigmoid,
    .gated = PER_ISA(cpu_gated),
    .gate = PER_ISA(cpu_gate),
    .combine = PER_ISA(cpu_combine),
    .convolve = PER_ISA(cpu_convolve),
    .convolve_gradient = PER_ISA(cpu_convolve_gradient),
    .cell = PER_ISA(cpu_cell),
    .cell_gradient = PER_ISA(cpu_cell_gradient),
    .bound = PER_ISA(cpu_bound),
    .norm_row = PER_ISA(cpu_norm_row),
    .gate_row = PER_ISA(cpu_gate_row),
    .loss_row = PER_ISA(cpu_loss_row),
    .mlstm_forward_scratch = PER_ISA(mlstm_forward_scratch),
    .mlstm_forward = PER_ISA(mlstm_forward),
    .mlstm_backward_scratch = PER_ISA(mlstm_backward_scratch),
    .mlstm_backward = PER_ISA(mlstm_backward),
};
