/* The linear map of each head, y = W x + b, forward and backward:
 *   dx = W^T dy,  dW = sum over rows of dy x^T,  db = sum over rows of dy */
#include "ops/reference/internal.h"
#include "ops/reference/kernel_array.h"

#include <stdlib.h>

typedef struct head {
    const kernel_call *call;
    int64_t index, inputs, outputs;
    double *w, *dw;          /* [outputs][inputs] */
    double *b, *db;          /* [outputs] */
    double *x, *y, *dx, *dy; /* a row */
} head;

static void clear(double *values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        values[i] = 0;
}

static void run_row(head *a, int64_t row) {
    const kernel_call *call = a->call;
    const xlstm_array *array = call->array;
    array_read(call, AFFINE_X, array_at(&array[AFFINE_X], row, a->index, 0, 0), a->inputs, a->x);
    for (int64_t o = 0; o < a->outputs; o++)
        a->y[o] = a->b[o] + reference_dot(a->w + o * a->inputs, a->x, a->inputs);
    array_write(call, AFFINE_Y, array_at(&array[AFFINE_Y], row, a->index, 0, 0), a->outputs, a->y);
    if (call->options.backward == XLSTM_FORWARD)
        return;
    array_read(call, AFFINE_DY, array_at(&array[AFFINE_DY], row, a->index, 0, 0), a->outputs,
               a->dy);
    clear(a->dx, a->inputs);
    for (int64_t o = 0; o < a->outputs; o++) {
        for (int64_t i = 0; i < a->inputs; i++) {
            a->dx[i] += a->w[o * a->inputs + i] * a->dy[o];
            a->dw[o * a->inputs + i] += a->dy[o] * a->x[i];
        }
        a->db[o] += a->dy[o];
    }
    array_write(call, AFFINE_DX, array_at(&array[AFFINE_DX], row, a->index, 0, 0), a->inputs,
                a->dx);
}

static void run_head(head *a) {
    const kernel_call *call = a->call;
    const xlstm_array *array = call->array;
    for (int64_t o = 0; o < a->outputs; o++)
        array_read(call, AFFINE_W, array_at(&array[AFFINE_W], a->index, o, 0, 0), a->inputs,
                   a->w + o * a->inputs);
    array_read(call, AFFINE_B, array_at(&array[AFFINE_B], a->index, 0, 0, 0), a->outputs, a->b);
    clear(a->dw, a->outputs * a->inputs);
    clear(a->db, a->outputs);
    for (int64_t row = 0; row < array[AFFINE_X].shape[0]; row++)
        run_row(a, row);
    for (int64_t o = 0; o < a->outputs; o++)
        array_write(call, AFFINE_DW, array_at(&array[AFFINE_DW], a->index, o, 0, 0), a->inputs,
                    a->dw + o * a->inputs);
    array_write(call, AFFINE_DB, array_at(&array[AFFINE_DB], a->index, 0, 0, 0), a->outputs, a->db);
}

xlstm_status reference_kernel_headwise(const kernel_call *call) {
    const xlstm_array *w = &call->array[AFFINE_W];
    int64_t outputs = w->shape[1], inputs = w->shape[2];
    head a = {.call = call, .inputs = inputs, .outputs = outputs};
    double *matrices = array_scratch("headwise_linear--reference", 2 * outputs, inputs);
    double *rows =
        matrices ? array_scratch("headwise_linear--reference", 4, inputs + outputs) : NULL;
    if (!rows) {
        free(matrices);
        return XLSTM_OUT_OF_MEMORY;
    }
    a.w = matrices;
    a.dw = matrices + outputs * inputs;
    a.x = rows;
    a.dx = a.x + inputs;
    a.y = a.dx + inputs;
    a.dy = a.y + outputs;
    a.b = a.dy + outputs;
    a.db = a.b + outputs;
    for (a.index = 0; a.index < w->shape[0]; a.index++)
        run_head(&a);
    free(rows);
    free(matrices);
    return XLSTM_OK;
}
