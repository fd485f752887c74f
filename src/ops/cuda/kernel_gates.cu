/* Soft cap, SwiGLU and the GELU gate of the kernel library, forward and backward. With a(x) what the function makes of
 * x, and u = 1 for the soft cap,
 *   y = a(x) u,  dx = dy u a'(x),  du = dy a(x)
 * A thread has eight values of a row where all arrays can be taken by eights, else one. */
#include "ops/cuda/kernel_values.h"

enum { THREADS = 256 };

enum gate_function { SOFT_CAP, SILU, GELU };

struct gate_job {
    cuda_array x, u, y, dy, dx, du;
    int64_t rows, width; /* in eights where they are taken so */
    float cap;
};

/* a(x) and a'(x). */
struct activated {
    float value, slope;
};

template <int function> static __device__ __forceinline__ activated apply(float x, float cap) {
    if (function == SOFT_CAP) {
        float e = expf(-2.0f * fabsf(x / cap)), sum = 1.0f + e;
        return {soft_cap(x, cap), 4.0f * e / (sum * sum)};
    }
    if (function == SILU) {
        float e = expf(-fabsf(x)), larger = 1.0f / (1.0f + e), smaller = e * larger;
        float s = x < 0.0f ? smaller : larger, rest = x < 0.0f ? larger : smaller;
        return {x * s, s * fmaf(x, rest, 1.0f)};
    }
    float normal = normcdff(x), density = 0.39894228040143268f * expf(-0.5f * x * x);
    return {x * normal, fmaf(x, density, normal)};
}

/* The thread's row and column; false past the end. */
static __device__ __forceinline__ bool find_place(const gate_job &a, int64_t &row,
                                                  int64_t &column) {
    int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    row = a.rows == 1 ? 0 : index / a.width;
    column = index - row * a.width;
    return row < a.rows && column < a.width;
}

template <int function, int type>
static __global__ void __launch_bounds__(THREADS)
    gate_eights(const __grid_constant__ struct gate_job a) {
    int64_t row, column;
    cuda_release();
    cuda_wait();
    if (!find_place(a, row, column))
        return;
    column *= EIGHT;
    float x[EIGHT], u[EIGHT], dy[EIGHT], y[EIGHT];
    array_get_eight<type>(a.x, row * a.x.stride[0] + column, x);
    if (function != SOFT_CAP)
        array_get_eight<type>(a.u, row * a.u.stride[0] + column, u);
    array_get_eight<type>(a.dy, row * a.dy.stride[0] + column, dy);
#pragma unroll
    for (int j = 0; j < EIGHT; j++) {
        activated f = apply<function>(x[j], a.cap);
        float factor = function == SOFT_CAP ? 1.0f : u[j];
        y[j] = f.value * factor;
        x[j] = dy[j] * factor * f.slope;
        u[j] = dy[j] * f.value;
    }
    array_put_eight<type>(a.y, row * a.y.stride[0] + column, y);
    array_put_eight<type>(a.dx, row * a.dx.stride[0] + column, x);
    array_put_eight<type>(a.du, row * a.du.stride[0] + column, u);
}

template <int function>
static __global__ void __launch_bounds__(THREADS)
    gate_any(const __grid_constant__ struct gate_job a) {
    int64_t row, column;
    cuda_release();
    cuda_wait();
    if (!find_place(a, row, column))
        return;
    activated f = apply<function>(array_get(a.x, row, column), a.cap);
    float u = function == SOFT_CAP ? 1.0f : array_get(a.u, row, column),
          dy = array_get(a.dy, row, column);
    array_put(a.y, f.value * u, row, column);
    array_put(a.dx, dy * u * f.slope, row, column);
    array_put(a.du, dy * f.value, row, column);
}

/* ---- The kernels ---- */

typedef void gate_kernel(struct gate_job);

template <int function> static gate_kernel *kernel_of(bool wide, int type) {
    if (!wide)
        return gate_any<function>;
    return type == DTYPE_F32    ? gate_eights<function, DTYPE_F32>
           : type == DTYPE_BF16 ? gate_eights<function, DTYPE_BF16>
                                : gate_eights<function, DTYPE_F16>;
}

static gate_kernel *kernel_of(enum gate_function function, bool wide, int type) {
    return function == SOFT_CAP ? kernel_of<SOFT_CAP>(wide, type)
           : function == SILU   ? kernel_of<SILU>(wide, type)
                                : kernel_of<GELU>(wide, type);
}

static xlstm_status run(const kernel_call *call, enum gate_function function, const char *name) {
    struct gate_job a = {};
    cuda_array *const arrays[GATE_ARGUMENTS] = {&a.x, &a.u, &a.y, &a.dy, &a.dx, &a.du};
    a.rows = call->array[GATE_X].shape[0];
    a.width = call->array[GATE_X].shape[1];
    a.cap = (float)call->options.soft_cap;
    bool wide = true, flat = true;
    for (int i = 0; i < GATE_ARGUMENTS; i++)
        *arrays[i] = cuda_kernel_array(call, i);
    for (int i = 0; i < GATE_ARGUMENTS; i++) {
        flat = flat &&
               (!arrays[i]->data || (arrays[i]->stride[0] == a.width && arrays[i]->stride[1] == 1));
        wide = wide && array_is_wide(*arrays[i], a.x.type, 2, a.width);
    }
    if (flat) { /* one row */
        a.width *= a.rows;
        a.rows = 1;
    }
    if (wide)
        a.width /= EIGHT;
    xlstm_status status = XLSTM_OK;
    cuda_kernel_run(call, &status, name, kernel_of(function, wide, a.x.type),
                    dim3((unsigned)((a.rows * a.width + THREADS - 1) / THREADS)), THREADS, 0, a);
    return status;
}

extern "C" xlstm_status cuda_kernel_soft_cap(const kernel_call *call) {
    return run(call, SOFT_CAP, "soft_cap");
}

extern "C" xlstm_status cuda_kernel_swiglu(const kernel_call *call) {
    return run(call, SILU, "swiglu");
}

extern "C" xlstm_status cuda_kernel_gelu_gate(const kernel_call *call) {
    return run(call, GELU, "gelu_gate");
}
