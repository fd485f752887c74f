/* The causal convolution of each channel, forward and backward. With e, the inputs of a channel after
 * the K - 1 inputs of the state,
 *   y[t]  = b + sum over j < K of w[j] e[t + j]
 *   s[j]  = e[S + j]
 * and so
 *   de[i] = sum over j of w[j] dy[i - j], where 0 <= i - j < S,  + ds[i - S] where i >= S
 *   dw[j] = sum over t of dy[t] e[t + j],  db = sum over t of dy[t] */
#include "ops/reference/internal.h"
#include "ops/reference/kernel_array.h"

#include <stdlib.h>

typedef struct channel {
    const kernel_call *call;
    int64_t batch, index;
    int64_t tokens, taps;
    double *e, *de; /* [taps - 1 + tokens] */
    double *y, *dy; /* [tokens] */
    double *w, *dw; /* [taps] */
    double b, db;
} channel;

static void load(channel *a, int argument, int64_t count, double *values) {
    const xlstm_array *array = &a->call->array[argument];
    for (int64_t t = 0; t < count; t++)
        array_read(a->call, argument, array_at(array, a->batch, t, 0, 0) + a->index, 1, values + t);
}

static void store(const channel *a, int argument, int64_t count, const double *values) {
    const xlstm_array *array = &a->call->array[argument];
    for (int64_t t = 0; t < count; t++)
        array_write(a->call, argument, array_at(array, a->batch, t, 0, 0) + a->index, 1,
                    values + t);
}

static void forward(channel *a) {
    for (int64_t t = 0; t < a->tokens; t++) {
        a->y[t] = a->b;
        for (int64_t j = 0; j < a->taps; j++)
            a->y[t] += a->w[j] * a->e[t + j];
    }
    store(a, CONV1D_Y, a->tokens, a->y);
}

static void backward(channel *a) {
    int64_t past = a->taps - 1;
    load(a, CONV1D_DY, a->tokens, a->dy);
    for (int64_t i = 0; i < past + a->tokens; i++)
        a->de[i] = 0;
    load(a, CONV1D_DS, past, a->de + a->tokens);
    for (int64_t t = 0; t < a->tokens; t++) {
        for (int64_t j = 0; j < a->taps; j++) {
            a->de[t + j] += a->w[j] * a->dy[t];
            a->dw[j] += a->dy[t] * a->e[t + j];
        }
        a->db += a->dy[t];
    }
    store(a, CONV1D_DX, a->tokens, a->de + past);
    store(a, CONV1D_DS0, past, a->de);
}

xlstm_status reference_kernel_conv1d(const kernel_call *call) {
    const xlstm_array *x = &call->array[CONV1D_X], *w = &call->array[CONV1D_W];
    int64_t taps = w->shape[1], tokens = x->shape[1], length = taps - 1 + tokens;
    double *memory = array_scratch("conv1d--reference", 4, length + 1);
    double *weights = memory ? array_scratch("conv1d--reference", 2, taps) : NULL;
    if (!weights) {
        free(memory);
        return XLSTM_OUT_OF_MEMORY;
    }
    channel a = {.call = call, .tokens = tokens, .taps = taps};
    a.e = memory;
    a.de = a.e + length;
    a.y = a.de + length;
    a.dy = a.y + length;
    a.w = weights;
    a.dw = a.w + taps;
    for (a.index = 0; a.index < x->shape[2]; a.index++) {
        array_read(call, CONV1D_W, a.index * w->stride[0], taps, a.w);
        array_read(call, CONV1D_B, a.index, 1, &a.b);
        a.db = 0;
        for (int64_t j = 0; j < taps; j++)
            a.dw[j] = 0;
        for (a.batch = 0; a.batch < x->shape[0]; a.batch++) {
            load(&a, CONV1D_S0, taps - 1, a.e);
            load(&a, CONV1D_X, tokens, a.e + taps - 1);
            forward(&a);
            if (call->options.backward != XLSTM_FORWARD)
                backward(&a);
            store(&a, CONV1D_S, taps - 1, a.e + tokens);
        }
        array_write(call, CONV1D_DW, a.index * call->array[CONV1D_DW].stride[0], taps, a.dw);
        array_write(call, CONV1D_DB, a.index, 1, &a.db);
    }
    free(memory);
    free(weights);
    return XLSTM_OK;
}
