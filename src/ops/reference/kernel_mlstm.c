/* The mLSTM kernels of the reference: heads one after the other, each loaded into double, computed
 * by the file of its form, and stored; and the pieces of the equations that all forms use. */
#include "ops/reference/kernel_mlstm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "ops/kernel_shape.h"

/* ---- Pieces of the equations ---- */

double mlstm_larger(double a, double b) {
    if (isnan(a) || isnan(b))
        return (double)NAN;
    return a > b ? a : b;
}

double mlstm_weight(double exponent, double maximum) {
    return maximum == -INFINITY ? 0 : exp(exponent - maximum);
}

void mlstm_add(double *y, double weight, const double *x, int64_t count) {
    if (weight == 0)
        return;
    for (int64_t i = 0; i < count; i++)
        y[i] += weight * x[i];
}

double mlstm_dot(const double *a, const double *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

void mlstm_begin(mlstm_head *a) {
    memcpy(a->state.c, a->initial.c, (size_t)(a->d_qk * a->d_v) * sizeof(double));
    memcpy(a->state.n, a->initial.n, (size_t)a->d_qk * sizeof(double));
    a->state.m = a->initial.m;
}

void mlstm_forget(const mlstm_head *a, mlstm_state *s, double weight) {
    for (int64_t i = 0; i < a->d_qk * a->d_v; i++)
        s->c[i] *= weight;
    for (int64_t d = 0; d < a->d_qk; d++)
        s->n[d] *= weight;
}

void mlstm_insert(const mlstm_head *a, double *c, double weight, const double *x, const double *y) {
    if (weight == 0)
        return;
    for (int64_t d = 0; d < a->d_qk; d++)
        for (int64_t e = 0; e < a->d_v; e++)
            c[d * a->d_v + e] += weight * x[d] * y[e];
}

void mlstm_read_values(const mlstm_head *a, const double *c, double weight, const double *x,
                       double *out) {
    for (int64_t d = 0; d < a->d_qk; d++)
        for (int64_t e = 0; e < a->d_v; e++)
            out[e] += weight * x[d] * c[d * a->d_v + e];
}

void mlstm_read_keys(const mlstm_head *a, const double *c, double weight, const double *y,
                     double *out) {
    for (int64_t d = 0; d < a->d_qk; d++)
        out[d] += weight * mlstm_dot(c + d * a->d_v, y, a->d_v);
}

double mlstm_divisor(const mlstm_head *a, double qn, double m) {
    return a->normalize ? mlstm_larger(fabs(qn), exp(-m)) + a->eps : 1;
}

void mlstm_divide(mlstm_head *a, int64_t t, const double *numerator, double qn, double m) {
    for (int64_t e = 0; e < a->d_v; e++)
        a->h[t * a->d_v + e] = numerator[e] / mlstm_divisor(a, qn, m);
}

/* ---- Loading and storing ---- */

static const xlstm_array *array_of(const mlstm_head *a, int argument) {
    return &a->call->array[argument];
}

/* Address of row `row` of this head: [B, NH, rows, width], or [B, NH, width], which is one row. */
static char *row_of(const mlstm_head *a, int argument, int64_t row) {
    const xlstm_array *x = array_of(a, argument);
    int64_t offset = kernel_offset(x, a->batch, a->head) + (x->rank == 4 ? row * x->stride[2] : 0);
    return (char *)x->data + (size_t)offset * dtype_size(a->call->real);
}

static void load(const mlstm_head *a, int argument, int64_t first, int64_t rows, int64_t width,
                 double *values) {
    if (!kernel_has(a->call, argument))
        memset(values, 0, (size_t)(rows * width) * sizeof *values);
    else
        for (int64_t r = 0; r < rows; r++)
            dtype_convert(a->call->real, row_of(a, argument, first + r), DTYPE_F64,
                          values + r * width, width);
}

static void store(const mlstm_head *a, int argument, int64_t first, int64_t rows, int64_t width,
                  const double *values) {
    for (int64_t r = 0; kernel_has(a->call, argument) && r < rows; r++)
        dtype_convert(DTYPE_F64, values + r * width, a->call->real, row_of(a, argument, first + r),
                      width);
}

/* Elements [first, first + width) of an array that is one row a head. */
static void *span_of(const mlstm_head *a, int argument, int64_t first) {
    return row_of(a, argument, 0) + (size_t)first * dtype_size(a->call->real);
}

/* The work state where C, n and m are (border `index` of the arrays). m is rounded first and C and n
 * are scaled by what is then stored, so that its rounding is no error of theirs. */
static void store_state(const mlstm_head *a, int c, int n, int m, int64_t index) {
    const mlstm_state *s = &a->state;
    double stored_m = a->call->real == DTYPE_F32 ? (double)(float)s->m : s->m;
    double weight = stored_m == s->m || isnan(s->m) ? 1 : exp(s->m - stored_m);
    for (int64_t d = 0; d < a->d_qk; d++) {
        for (int64_t e = 0; kernel_has(a->call, c) && e < a->d_v; e++)
            dtype_store(a->call->real, row_of(a, c, index * a->d_qk + d), e,
                        weight * s->c[d * a->d_v + e]);
        if (kernel_has(a->call, n))
            dtype_store(a->call->real, span_of(a, n, index * a->d_qk), d, weight * s->n[d]);
    }
    if (kernel_has(a->call, m))
        dtype_store(a->call->real, span_of(a, m, index), 0, stored_m);
}

void mlstm_store_border(const mlstm_head *a, int64_t chunk) {
    if (!a->call->options.stored_states)
        store_state(a, MLSTM_ALL_C, MLSTM_ALL_N, MLSTM_ALL_M, chunk);
}

void mlstm_load_border(mlstm_head *a, int64_t chunk) {
    dtype real = a->call->real;
    load(a, MLSTM_ALL_C, chunk * a->d_qk, a->d_qk, a->d_v, a->state.c);
    dtype_convert(real, span_of(a, MLSTM_ALL_N, chunk * a->d_qk), DTYPE_F64, a->state.n, a->d_qk);
    a->state.m = a->sigmoid ? 0 : dtype_load(real, span_of(a, MLSTM_ALL_M, chunk), 0);
}

/* log(1 / (1 + exp(-x))), in the form that neither overflows nor cancels on either side. */
static double log_sigmoid(double x) {
    return x >= 0 ? -log1p(exp(-x)) : x - log1p(exp(x));
}

static void load_head(mlstm_head *a) {
    load(a, MLSTM_Q, 0, a->tokens, a->d_qk, a->q);
    load(a, MLSTM_K, 0, a->tokens, a->d_qk, a->k);
    load(a, MLSTM_V, 0, a->tokens, a->d_v, a->v);
    load(a, MLSTM_I, 0, 1, a->tokens, a->log_i);
    load(a, MLSTM_F, 0, 1, a->tokens, a->log_f);
    for (int64_t i = 0; i < a->tokens * a->d_qk; i++)
        a->q[i] *= a->scale;
    for (int64_t t = 0; t < a->tokens; t++) {
        a->log_f[t] = log_sigmoid(a->log_f[t]);
        a->log_i[t] = a->sigmoid ? log_sigmoid(a->log_i[t]) : a->log_i[t];
    }
    load(a, MLSTM_C0, 0, a->d_qk, a->d_v, a->initial.c);
    load(a, MLSTM_N0, 0, 1, a->d_qk, a->initial.n);
    load(a, MLSTM_M0, 0, 1, 1, &a->initial.m);
}

/* The gradients that come in, and zeros for those that are sums. */
static void load_gradients(mlstm_head *a) {
    load(a, MLSTM_DH, 0, a->tokens, a->d_v, a->dh);
    load(a, MLSTM_DC, 0, a->d_qk, a->d_v, a->dstate.c);
    load(a, MLSTM_DN, 0, 1, a->d_qk, a->dstate.n);
    load(a, MLSTM_DM, 0, 1, 1, &a->dstate.m);
    if (!a->exact) {
        memset(a->dstate.n, 0, (size_t)a->d_qk * sizeof(double));
        a->dstate.m = 0;
    }
    memset(a->dq, 0, (size_t)(a->tokens * a->d_qk) * sizeof(double));
    memset(a->dk, 0, (size_t)(a->tokens * a->d_qk) * sizeof(double));
    memset(a->dv, 0, (size_t)(a->tokens * a->d_v) * sizeof(double));
    memset(a->dlog_i, 0, (size_t)a->tokens * sizeof(double));
    memset(a->dlog_f, 0, (size_t)a->tokens * sizeof(double));
}

/* d log(sigmoid(x)) / dx = sigmoid(-x) */
static void times_log_sigmoid_slope(const mlstm_head *a, int argument, double *gradient) {
    for (int64_t t = 0; t < a->tokens; t++) {
        double x = dtype_load(a->call->real, row_of(a, argument, 0), t);
        gradient[t] *= 1 / (1 + exp(x));
    }
}

static void store_gradients(mlstm_head *a) {
    times_log_sigmoid_slope(a, MLSTM_F, a->dlog_f);
    if (a->sigmoid)
        times_log_sigmoid_slope(a, MLSTM_I, a->dlog_i);
    store(a, MLSTM_DQ, 0, a->tokens, a->d_qk, a->dq);
    store(a, MLSTM_DK, 0, a->tokens, a->d_qk, a->dk);
    store(a, MLSTM_DV, 0, a->tokens, a->d_v, a->dv);
    store(a, MLSTM_DI, 0, 1, a->tokens, a->dlog_i);
    store(a, MLSTM_DF, 0, 1, a->tokens, a->dlog_f);
    store(a, MLSTM_DC0, 0, a->d_qk, a->d_v, a->dstate.c);
    store(a, MLSTM_DN0, 0, 1, a->d_qk, a->dstate.n);
    store(a, MLSTM_DM0, 0, 1, 1, &a->dstate.m);
}

/* ---- A call ---- */

static void forward(mlstm_head *a) {
    switch (a->call->form) {
    case KERNEL_PARALLEL:
    case KERNEL_PARALLEL_STABLE:
        mlstm_parallel_forward(a);
        break;
    case KERNEL_CHUNKWISE:
        mlstm_chunkwise_forward(a);
        break;
    case KERNEL_SEQUENCE:
    case KERNEL_STEP:
        mlstm_recurrent_forward(a);
        break;
    }
    store(a, MLSTM_H, 0, a->tokens, a->d_v, a->h);
    store_state(a, MLSTM_C, MLSTM_N, MLSTM_M, 0);
}

static void backward(mlstm_head *a) {
    load_gradients(a);
    switch (a->call->form) {
    case KERNEL_PARALLEL:
    case KERNEL_PARALLEL_STABLE:
        mlstm_parallel_backward(a);
        break;
    case KERNEL_CHUNKWISE:
        mlstm_chunkwise_backward(a);
        break;
    case KERNEL_SEQUENCE:
    case KERNEL_STEP:
        mlstm_recurrent_backward(a);
        break;
    }
    store_gradients(a);
}

/* Hands out `count` elements of 8 bytes; with no memory yet it only counts them. */
typedef struct arena {
    double *memory;
    int64_t used;
    bool overflow;
} arena;

static double *take(arena *m, int64_t rows, int64_t width) {
    int64_t count, first = m->used;
    if (__builtin_mul_overflow(rows, width, &count) ||
        __builtin_add_overflow(m->used, count, &m->used) || m->used > INT64_MAX / 16)
        m->overflow = true;
    return m->memory && !m->overflow ? m->memory + first : NULL;
}

static mlstm_state take_state(arena *m, const mlstm_head *a) {
    return (mlstm_state){.c = take(m, a->d_qk, a->d_v), .n = take(m, a->d_qk, 1)};
}

static void take_all(arena *m, mlstm_head *a) {
    int64_t s = a->tokens;
    a->q = take(m, s, a->d_qk);
    a->k = take(m, s, a->d_qk);
    a->v = take(m, s, a->d_v);
    a->log_i = take(m, s, 1);
    a->log_f = take(m, s, 1);
    a->initial = take_state(m, a);
    a->state = take_state(m, a);
    a->h = take(m, s, a->d_v);
    a->exponent = take(m, s, 1);
    a->b = take(m, s, 1);
    a->b_rest = take(m, s, 1);
    a->blocked = (int64_t *)(void *)take(m, s, 1);
    a->numerator = take(m, 1, a->d_v);
    if (a->call->options.backward == XLSTM_FORWARD)
        return;
    a->dh = take(m, s, a->d_v);
    a->dq = take(m, s, a->d_qk);
    a->dk = take(m, s, a->d_qk);
    a->dv = take(m, s, a->d_v);
    a->dlog_i = take(m, s, 1);
    a->dlog_f = take(m, s, 1);
    a->dstate = take_state(m, a);
    a->m = take(m, s, 1);
    a->rho = take(m, s, 1);
    a->e = take(m, s, 1);
    a->dm = take(m, s, 1);
    a->weight_of_state = take(m, s, 1);
    a->border_m = take(m, (s - 1) / a->chunk_size + 2, 1);
    a->numerator_rho = take(m, 1, a->d_v);
}

xlstm_status reference_kernel_mlstm(const kernel_call *call) {
    const int64_t *shape = call->array[MLSTM_Q].shape;
    enum xlstm_backward mode = call->options.backward;
    int64_t chunk_size = call->options.chunk_size;
    mlstm_head a = {
        .call = call,
        .tokens = shape[2],
        .d_qk = shape[3],
        .d_v = call->array[MLSTM_V].shape[3],
        .chunk_size = chunk_size ? chunk_size : KERNEL_DEFAULT_CHUNK,
        .sigmoid = call->sigmoid,
        .normalize = !call->sigmoid || call->options.normalize,
        .exact = mode == XLSTM_BACKWARD_EXACT,
        .eps = call->options.eps,
        .scale = 1 / sqrt((double)shape[3]),
    };
    arena m = {0};
    take_all(&m, &a);
    if (m.overflow)
        return error_set(XLSTM_OUT_OF_MEMORY, "the mLSTM of the reference: sizes too large");
    size_t bytes = (size_t)m.used * sizeof *m.memory;
    m = (arena){.memory = malloc(bytes)};
    if (!m.memory)
        return error_memory(bytes, "the mLSTM of the reference");
    take_all(&m, &a);
    for (a.batch = 0; a.batch < shape[0]; a.batch++)
        for (a.head = 0; a.head < shape[1]; a.head++) {
            load_head(&a);
            forward(&a);
            if (mode != XLSTM_FORWARD)
                backward(&a);
        }
    free(m.memory);
    return XLSTM_OK;
}
