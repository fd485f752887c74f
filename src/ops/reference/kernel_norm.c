/* RMSNorm and LayerNorm of every group of a row, forward and backward. For a group of D values,
 *   a = 1 / sqrt(mean((x - mu)^2) + eps),  mu = mean(x) or, for RMSNorm, 0
 *   x^ = (x - mu) a,  y = x^ w + b
 * and with g = dy w
 *   dx = a (g - mean(g) - x^ mean(g x^)),  without mean(g) for RMSNorm
 *   dw = sum over rows of dy x^,  db = sum over rows of dy */
#include "ops/reference/internal.h"
#include "ops/reference/kernel_array.h"

#include <math.h>
#include <stdlib.h>

typedef struct norm {
    const kernel_call *call;
    bool centred;
    int64_t width, size;                  /* of a row, of a group */
    double *w, *b, *dw, *db, *x, *y, *dy; /* [width] */
} norm;

static double mean(const double *x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += x[i];
    return sum / (double)count;
}

/* x becomes x^; returns a. */
static double normalize(const norm *a, double *x) {
    double mu = a->centred ? mean(x, a->size) : 0, square = 0;
    for (int64_t i = 0; i < a->size; i++) {
        x[i] -= mu;
        square += x[i] * x[i];
    }
    double scale = 1 / sqrt(square / (double)a->size + a->call->options.eps);
    for (int64_t i = 0; i < a->size; i++)
        x[i] *= scale;
    return scale;
}

/* The group that begins at `first`; dy becomes dx. */
static void backward(const norm *a, int64_t first, double scale) {
    double *x = a->x + first, *dy = a->dy + first, product = 0;
    for (int64_t i = 0; i < a->size; i++) {
        a->dw[first + i] += dy[i] * x[i];
        a->db[first + i] += dy[i];
        dy[i] *= a->w[first + i];
        product += dy[i] * x[i];
    }
    double mu = a->centred ? mean(dy, a->size) : 0;
    product /= (double)a->size;
    for (int64_t i = 0; i < a->size; i++)
        dy[i] = scale * (dy[i] - mu - x[i] * product);
}

static void run_row(const norm *a, int64_t row) {
    const kernel_call *call = a->call;
    const xlstm_array *array = call->array;
    array_read(call, AFFINE_X, row * array[AFFINE_X].stride[0], a->width, a->x);
    array_read(call, AFFINE_DY, array_at(&array[AFFINE_DY], row, 0, 0, 0), a->width, a->dy);
    for (int64_t first = 0; first < a->width; first += a->size) {
        double scale = normalize(a, a->x + first);
        for (int64_t i = first; i < first + a->size; i++)
            a->y[i] = a->x[i] * a->w[i] + a->b[i];
        if (call->options.backward != XLSTM_FORWARD)
            backward(a, first, scale);
    }
    array_write(call, AFFINE_Y, array_at(&array[AFFINE_Y], row, 0, 0, 0), a->width, a->y);
    array_write(call, AFFINE_DX, array_at(&array[AFFINE_DX], row, 0, 0, 0), a->width, a->dy);
}

static xlstm_status run(const kernel_call *call, const char *name, bool centred) {
    const xlstm_array *x = &call->array[AFFINE_X];
    int64_t width = x->shape[1];
    norm a = {.call = call, .centred = centred, .width = width};
    a.size = width / call->options.groups;
    double *memory = array_scratch(name, 7, width);
    if (!memory)
        return XLSTM_OUT_OF_MEMORY;
    double **parts[] = {&a.w, &a.b, &a.dw, &a.db, &a.x, &a.y, &a.dy};
    for (int i = 0; i < 7; i++)
        *parts[i] = memory + i * width;
    array_read(call, AFFINE_W, 0, width, a.w);
    if (!kernel_has(call, AFFINE_W))
        for (int64_t i = 0; i < width; i++)
            a.w[i] = 1;
    array_read(call, AFFINE_B, 0, width, a.b);
    for (int64_t row = 0; row < x->shape[0]; row++)
        run_row(&a, row);
    array_write(call, AFFINE_DW, 0, width, a.dw);
    array_write(call, AFFINE_DB, 0, width, a.db);
    free(memory);
    return XLSTM_OK;
}

xlstm_status reference_kernel_rms_norm(const kernel_call *call) {
    return run(call, "rms_norm--reference", false);
}

xlstm_status reference_kernel_layer_norm(const kernel_call *call) {
    return run(call, "layer_norm--reference", true);
}
