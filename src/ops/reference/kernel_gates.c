/* Soft cap, SwiGLU and GELU gate, forward and backward, element by element:
 *   soft cap:  y = a tanh(x / a),       dx = dy / cosh(x / a)^2
 *   SwiGLU:    y = x sigmoid(x) u,      dx = dy u s (1 + x (1 - s)),  s = sigmoid(x)
 *   GELU gate: y = x Phi(x) u,          dx = dy u (Phi(x) + x phi(x))
 *   both:      du = dy act(x) */
#include "ops/reference/internal.h"
#include "ops/reference/kernel_array.h"

#include <math.h>

/* An activation and its derivative. */
typedef struct activated {
    double value, slope;
} activated;

static activated soft_cap(const kernel_call *call, double x) {
    double cap = call->options.soft_cap, slope = 1 / cosh(x / cap);
    return (activated){cap * tanh(x / cap), slope * slope};
}

static activated silu(const kernel_call *call, double x) {
    (void)call;
    double s = reference_sigmoid(x), rest = reference_sigmoid(-x);
    return (activated){x * s, s * (1 + x * rest)};
}

static activated gelu(const kernel_call *call, double x) {
    (void)call;
    double normal = 0.5 * erfc(-x / sqrt(2)), density = exp(-0.5 * x * x) / sqrt(2 * acos(-1));
    return (activated){x * normal, normal + x * density};
}

typedef activated activation(const kernel_call *call, double x);

static double value_at(const kernel_call *call, int argument, int64_t row, int64_t column) {
    double value;
    array_read(call, argument, array_at(&call->array[argument], row, 0, 0, 0) + column, 1, &value);
    return value;
}

static void put(const kernel_call *call, int argument, int64_t row, int64_t column, double value) {
    array_write(call, argument, array_at(&call->array[argument], row, 0, 0, 0) + column, 1, &value);
}

static xlstm_status run(const kernel_call *call, activation *function, bool gated) {
    const xlstm_array *x = &call->array[GATE_X];
    for (int64_t row = 0; row < x->shape[0]; row++)
        for (int64_t d = 0; d < x->shape[1]; d++) {
            activated a = function(call, value_at(call, GATE_X, row, d));
            double u = gated ? value_at(call, GATE_U, row, d) : 1;
            put(call, GATE_Y, row, d, a.value * u);
            double dy = value_at(call, GATE_DY, row, d);
            put(call, GATE_DX, row, d, dy * u * a.slope);
            if (gated)
                put(call, GATE_DU, row, d, dy * a.value);
        }
    return XLSTM_OK;
}

xlstm_status reference_kernel_soft_cap(const kernel_call *call) {
    return run(call, soft_cap, false);
}

xlstm_status reference_kernel_swiglu(const kernel_call *call) {
    return run(call, silu, true);
}

xlstm_status reference_kernel_gelu_gate(const kernel_call *call) {
    return run(call, gelu, true);
}
