/* The recording device, and the run. */
#include "model/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/blocks.h"
#include "base/error.h"
#include "base/threads.h"
#include "model/forward_internal.h"

enum { WINDOW = 512 }; /* columns */

/* What some matrices have as their input: sums of products of its elements, later what
 * follows from them. */
typedef struct input {
    int64_t width, window, windows;
    int64_t rows;      /* that were added */
    float *sums;       /* [width][window]: [j][k] of column j and column k >= j of its window; later
                          the carry of quantise_columns */
    float *importance; /* [width] */
    quantise_columns columns;
    xlstm_status status;
} input;

typedef struct matrix {
    const char *weights; /* in memory */
    int input;
} matrix;

struct calibration {
    input *inputs;
    int input_count, input_room;
    matrix *matrices;
    int matrix_count, matrix_room;
};

/* The device's own struct comes first, so that a stream's device is a recorder. */
typedef struct recorder {
    ops_device device;
    ops_device *original;
    calibration *found;
    ops_buffer scratch; /* [tokens][width] of normed inputs, then [WINDOW][most_rows] */
    ops_tensor columns; /* the latter */
    int64_t window;     /* columns of a window, at most */
    int64_t most_rows;  /* whose products are added at a time */
    xlstm_status status;
} recorder;

/* ---- Sums ---- */

/* One more of `size` bytes at the end of an array; NULL if memory is out. */
static void *grow(void *array, int *count, int *room, size_t size) {
    if (*count < *room)
        return array;
    int larger = *room ? 2 * *room : 64;
    void *moved = realloc(array, (size_t)larger * size);
    if (moved)
        *room = larger;
    return moved;
}

/* The input of a matrix, made if it is new; -1 if memory is out. */
static int input_of(calibration *c, const char *data, int64_t width, int64_t window) {
    for (int i = 0; i < c->matrix_count; i++)
        if (c->matrices[i].weights == data)
            return c->matrices[i].input;
    void *moved = grow(c->inputs, &c->input_count, &c->input_room, sizeof *c->inputs);
    if (!moved)
        return -1;
    c->inputs = moved;
    input *new = &c->inputs[c->input_count];
    *new = (input){.width = width, .window = width < window ? width : window};
    new->windows = (width + new->window - 1) / new->window;
    new->sums = calloc((size_t)(new->windows *new->window *new->window), sizeof *new->sums);
    return new->sums ? c->input_count++ : -1;
}

static bool know_matrix(calibration *c, const char *data, int index) {
    for (int i = 0; i < c->matrix_count; i++)
        if (c->matrices[i].weights == data)
            return true;
    void *moved = grow(c->matrices, &c->matrix_count, &c->matrix_room, sizeof *c->matrices);
    if (!moved)
        return false;
    c->matrices = moved;
    c->matrices[c->matrix_count++] = (matrix){.weights = data, .input = index};
    return true;
}

/* Adds X^T X of rows x [T][K], a window at a time: a projection of the device itself, with the
 * columns of the window as its inputs and as its weights. */
static void add_products(recorder *r, ops_stream *stream, const ops_tensor *x, input *to) {
    int64_t tokens = x->shape[0];
    float *columns = ops_data(&r->columns); /* [window][tokens] */
    for (int64_t begin = 0; begin < to->width; begin += to->window) {
        int64_t left = to->width - begin, n = left < to->window ? left : to->window;
        for (int64_t t = 0; t < tokens; t++) {
            const float *row = (const float *)ops_data(x) + t * x->stride[0] + begin;
            for (int64_t j = 0; j < n; j++)
                columns[j * tokens + t] = row[j];
        }
        ops_tensor both =
            ops_tensor_make(&r->scratch, r->columns.offset, DTYPE_F32, 2, (int64_t[]){n, tokens});
        ops_buffer host = r->scratch;
        host.host = to->sums + begin * to->window;
        host.size = (size_t)(n * to->window) * sizeof(float);
        ops_tensor sums = ops_tensor_make(&host, 0, DTYPE_F32, 2, (int64_t[]){n, n});
        sums.stride[0] = to->window;
        r->original->ops.project_add(
            stream, &(struct ops_project_add){
                        .x = both, .weight = both, .residual = sums, .sign = 1, .out = sums});
    }
    to->rows += tokens;
}

/* Rows of x [T][K], the input of these matrices. */
static void add_rows(recorder *r, ops_stream *stream, const ops_tensor *const *matrices, int count,
                     const ops_tensor *x) {
    calibration *c = r->found;
    if (r->status != XLSTM_OK)
        return;
    int index = input_of(c, ops_data(matrices[0]), x->shape[1], r->window);
    bool ok = index >= 0;
    for (int i = 0; i < count && ok; i++)
        ok = know_matrix(c, ops_data(matrices[i]), index);
    if (!ok) {
        r->status = error_memory((size_t)x->shape[1] * WINDOW * sizeof(float), "a calibration");
        return;
    }
    /* As many rows at a time as a projection may have columns. */
    for (int64_t t = 0; t < x->shape[0]; t += r->most_rows) {
        int64_t left = x->shape[0] - t;
        ops_tensor part = ops_tensor_rows(x, t, left < r->most_rows ? left : r->most_rows);
        add_products(r, stream, &part, &c->inputs[index]);
    }
}

/* norm(x), in the scratch memory. */
static ops_tensor normed(recorder *r, ops_stream *stream, const ops_tensor *x,
                         const ops_norm *norm) {
    int64_t shape[2] = {x->shape[0], x->shape[1]};
    if (norm->kind == OPS_NORM_NONE)
        return *x;
    ops_tensor out = ops_tensor_make(&r->scratch, 0, DTYPE_F32, 2, shape);
    r->original->ops.normalize(stream, &(struct ops_normalize){.x = *x, .norm = *norm, .out = out});
    return out;
}

/* ---- The ops ---- */

static void record_norm_project(ops_stream *stream, const struct ops_norm_project *op) {
    recorder *r = (recorder *)stream->device;
    ops_tensor x = normed(r, stream, &op->x, &op->norm);
    const ops_tensor *matrices[OPS_MAX_PROJECTIONS];
    for (int i = 0; i < op->count; i++)
        matrices[i] = &op->projection[i].weight;
    add_rows(r, stream, matrices, op->count, &x);
    r->original->ops.norm_project(stream, op);
}

static void record_norm_project_gated(ops_stream *stream, const struct ops_norm_project_gated *op) {
    recorder *r = (recorder *)stream->device;
    ops_tensor x = normed(r, stream, &op->x, &op->norm);
    add_rows(r, stream, (const ops_tensor *[]){&op->gate_weight, &op->up_weight}, 2, &x);
    r->original->ops.norm_project_gated(stream, op);
}

static void record_project_add(ops_stream *stream, const struct ops_project_add *op) {
    recorder *r = (recorder *)stream->device;
    add_rows(r, stream, (const ops_tensor *[]){&op->weight}, 1, &op->x);
    r->original->ops.project_add(stream, op);
}

/* act(o) * (norm(h) + skip * x), of which the norm is in `row`. */
static void gate_row(const struct ops_mlstm_output *op, int64_t token, int64_t width, float *row) {
    const float *o = (const float *)ops_data(&op->output_gate) + token * op->output_gate.stride[0];
    bool skips = ops_present(&op->skip);
    const float *skip = skips ? ops_data(&op->skip) : NULL;
    const float *x =
        skips ? (const float *)ops_data(&op->skip_input) + token * op->skip_input.stride[0] : NULL;
    for (int64_t j = 0; j < width; j++) {
        float sigmoid = 1 / (1 + expf(-o[j]));
        float gate = op->activation == OPS_SILU ? o[j] * sigmoid : sigmoid;
        row[j] = gate * (skips ? row[j] + skip[j] * x[j] : row[j]);
    }
}

static void record_mlstm_output(ops_stream *stream, const struct ops_mlstm_output *op) {
    recorder *r = (recorder *)stream->device;
    int64_t width = op->h.shape[1] * op->h.shape[2];
    ops_tensor h = {.buffer = op->h.buffer,
                    .offset = op->h.offset,
                    .dtype = op->h.dtype,
                    .rank = 2,
                    .shape = {op->h.shape[0], width},
                    .stride = {op->h.stride[0], 1}};
    ops_tensor x = normed(r, stream, &h, &op->norm);
    for (int64_t t = 0; t < x.shape[0]; t++)
        gate_row(op, t, width, (float *)ops_data(&x) + t * x.stride[0]);
    add_rows(r, stream, (const ops_tensor *[]){&op->weight}, 1, &x);
    r->original->ops.mlstm_output(stream, op);
}

/* ---- What follows from the sums ---- */

/* H = R R^T with R upper triangular, in place of H's upper triangle; `h` is [n][n]. */
static void factor(double *h, int64_t n) {
    for (int64_t j = n - 1; j >= 0; j--) {
        double *own = h + j * n;
        for (int64_t k = j + 1; k < n; k++)
            own[j] -= own[k] * own[k];
        own[j] = sqrt(own[j]);
        for (int64_t i = 0; i < j; i++) {
            double *other = h + i * n, sum = other[j];
            for (int64_t k = j + 1; k < n; k++)
                sum -= other[k] * own[k];
            other[j] = sum / own[j];
        }
    }
}

/* Row j of the inverse of R is, over its first element, how much of an error in column j each later
 * column makes good; what is left is R[j][j]^2 times the square of the error. `row` is [n]. */
static void carry_of_row(const double *r, int64_t n, int64_t j, double *row, float *carry,
                         float *importance) {
    memset(row, 0, (size_t)n * sizeof *row);
    *importance = (float)(r[j * n + j] * r[j * n + j]);
    for (int64_t l = j; l < n; l++) {
        row[l] = l == j ? 1 : -row[l] / r[l * n + l];
        carry[l] = l == j ? 0 : (float)row[l];
        for (int64_t k = l + 1; k < n; k++)
            row[k] += row[l] * r[l * n + k];
    }
}

/* Adds a hundredth of the mean square of all columns to each: what was measured on few tokens is
 * not relied upon too far, and columns that were always 0 do no harm. */
static bool load_window(const input *in, int64_t begin, int64_t n, double *h) {
    double trace = 0;
    for (int64_t j = 0; j < n; j++) {
        const float *sums = in->sums + (begin + j) * in->window;
        for (int64_t k = j; k < n; k++)
            h[j * n + k] = (double)sums[k] / (double)in->rows;
        trace += h[j * n + j];
    }
    double extra = trace > 0 ? trace / (double)n / 100 : 1;
    for (int64_t j = 0; j < n; j++)
        h[j * n + j] += extra;
    return isfinite(trace);
}

static void finish_input(void *context, int64_t task, int worker) {
    input *in = &((calibration *)context)->inputs[task];
    (void)worker;
    size_t most = (size_t)in->window;
    double *h = malloc((most * most + most) * sizeof *h);
    in->importance = malloc((size_t)in->width * sizeof *in->importance);
    in->status = h && in->importance ? XLSTM_OK : XLSTM_OUT_OF_MEMORY;
    for (int64_t begin = 0; begin < in->width && in->status == XLSTM_OK; begin += in->window) {
        int64_t left = in->width - begin, n = left < in->window ? left : in->window;
        if (!load_window(in, begin, n, h)) {
            in->status = XLSTM_DEVICE_ERROR;
            break;
        }
        factor(h, n);
        for (int64_t j = 0; j < n; j++) {
            float *carry = in->sums + (begin + j) * in->window;
            memset(carry, 0, most * sizeof *carry);
            carry_of_row(h, n, j, h + most * most, carry, &in->importance[begin + j]);
        }
    }
    in->columns =
        (quantise_columns){.window = in->window, .importance = in->importance, .carry = in->sums};
    free(h);
}

static xlstm_status finish_inputs(calibration *c, thread_pool *pool) {
    thread_pool_run(pool, c->input_count, finish_input, c);
    for (int i = 0; i < c->input_count; i++) {
        if (c->inputs[i].status == XLSTM_OUT_OF_MEMORY)
            return error_memory(WINDOW * WINDOW * sizeof(double), "a calibration");
        if (c->inputs[i].status != XLSTM_OK)
            return error_set(c->inputs[i].status,
                             "calibration: the activations of the model are not finite");
    }
    return XLSTM_OK;
}

/* ---- The run ---- */

/* All logits are made, and thrown away: the head has an input, too. */
static xlstm_status run_head(forward *f, int64_t tokens, float *logits) {
    xlstm_status status = XLSTM_OK;
    for (int64_t first = 0; first < tokens && status == XLSTM_OK; first += FORWARD_LOGIT_ROWS) {
        int32_t rows[FORWARD_LOGIT_ROWS];
        float *out[FORWARD_LOGIT_ROWS];
        int64_t left = tokens - first,
                count = left < FORWARD_LOGIT_ROWS ? left : FORWARD_LOGIT_ROWS;
        for (int64_t i = 0; i < count; i++)
            rows[i] = (int32_t)(first + i), out[i] = logits;
        status = forward_logits(f, rows, count, out);
    }
    return status;
}

static xlstm_status run_all(xlstm_model *model, recorder *r, const int32_t *ids, int64_t count,
                            int slot, float *logits, xlstm_progress progress, void *context) {
    forward *f = model->forward;
    xlstm_status status = XLSTM_OK;
    for (int64_t at = 0; at < count && status == XLSTM_OK;) {
        int64_t left = count - at, now = left < f->limits.tokens ? left : f->limits.tokens;
        forward_sequence piece = {.slot = slot, .position = at, .ids = ids + at, .count = now};
        status = forward_run(f, &piece, 1);
        if (status == XLSTM_OK)
            status = run_head(f, now, logits);
        if (status == XLSTM_OK)
            status = r->status;
        at += now;
        if (status == XLSTM_OK && progress && !progress(context, at, count))
            status = error_set(XLSTM_CANCELLED, "stopped while calibrating");
    }
    return status;
}

/* Puts the recorder in the place of the model's device while the text runs. */
static xlstm_status record_run(xlstm_model *model, recorder *r, const int32_t *ids, int64_t count,
                               int slot, xlstm_progress progress, void *context) {
    size_t size = (size_t)model->config.vocab_size * sizeof(float);
    float *logits = malloc(size);
    if (!logits)
        return error_memory(size, "logits");
    r->device = *r->original;
    r->device.ops.norm_project = record_norm_project;
    r->device.ops.norm_project_gated = record_norm_project_gated;
    r->device.ops.project_add = record_project_add;
    r->device.ops.mlstm_output = record_mlstm_output;
    model->stream->device = model->forward->device = &r->device;
    xlstm_status status = run_all(model, r, ids, count, slot, logits, progress, context);
    model->stream->device = model->forward->device = r->original;
    free(logits);
    return status;
}

static xlstm_status run(xlstm_model *model, recorder *r, const int32_t *ids, int64_t count,
                        xlstm_progress progress, void *context) {
    ops_limits limits = model->stream->options.limits;
    int64_t inputs = limits.tokens * limits.width;
    thread_pool *pool = NULL;
    int slot = -1;
    r->most_rows = limits.tokens < limits.width ? limits.tokens : limits.width;
    r->window = limits.tokens < WINDOW ? limits.tokens / BLOCK_ELEMENTS * BLOCK_ELEMENTS : WINDOW;
    size_t size = (size_t)(inputs + WINDOW * r->most_rows) * sizeof(float);
    xlstm_status status = thread_pool_create(model->threads, &pool);
    if (status == XLSTM_OK)
        status = model->device->buffer_create(model->device, size, &r->scratch);
    if (status == XLSTM_OK) {
        r->columns = ops_tensor_make(&r->scratch, (size_t)inputs * sizeof(float), DTYPE_F32, 2,
                                     (int64_t[]){WINDOW, r->most_rows});
        status = state_acquire(&model->pool, model->stream, &slot);
    }
    if (status == XLSTM_OK)
        status = record_run(model, r, ids, count, slot, progress, context);
    if (status == XLSTM_OK)
        status = finish_inputs(r->found, pool);
    if (slot >= 0)
        state_release(&model->pool, slot);
    if (r->scratch.device)
        model->device->buffer_free(&r->scratch);
    thread_pool_free(pool);
    return status;
}

xlstm_status calibration_run(xlstm_model *model, const int32_t *ids, int64_t count,
                             xlstm_progress progress, void *context, calibration **out) {
    *out = NULL;
    if (!model->forward->buffer.host || model->activation != DTYPE_F32)
        return error_set(XLSTM_UNSUPPORTED,
                         "calibration runs on a device of the host with f32 activations, not on %s",
                         model->device->name);
    calibration *c = calloc(1, sizeof *c);
    if (!c)
        return error_memory(sizeof *c, "a calibration");
    recorder r = {.original = model->device, .found = c};
    xlstm_status status = run(model, &r, ids, count, progress, context);
    if (status != XLSTM_OK) {
        calibration_free(c);
        return status;
    }
    *out = c;
    return XLSTM_OK;
}

void calibration_free(calibration *c) {
    for (int i = 0; c && i < c->input_count; i++) {
        free(c->inputs[i].sums);
        free(c->inputs[i].importance);
    }
    if (c) {
        free(c->inputs);
        free(c->matrices);
    }
    free(c);
}

const quantise_columns *calibration_find(const calibration *c, const stored_tensor *t) {
    const char *first = (const char *)t->data;
    int64_t width = t->rank > 0 ? t->shape[t->rank - 1] : 0;
    for (int i = 0; i < c->matrix_count; i++) {
        const matrix *m = &c->matrices[i];
        const input *in = &c->inputs[m->input];
        if (m->weights >= first && m->weights < first + t->size && in->width == width)
            return width % BLOCK_ELEMENTS == 0 ? &in->columns : NULL;
    }
    return NULL;
}
