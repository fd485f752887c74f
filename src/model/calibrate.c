/* The recording device, and the run. */
#include "model/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/blocks.h"
#include "base/error.h"
#include "base/threads.h"
#include "model/calibrate_columns.h"
#include "model/forward_internal.h"

/* What some matrices have as their input: sums of products of its elements, later what
 * follows from them. */
typedef struct input {
    int64_t width, window, windows;
    int64_t rows;      /* that were added */
    float *sums;       /* [width][window]: [j][k] of column j and column k >= j of its window; later
                          the carry of quantise_columns. NULL while inputs are only counted, and
                          where rows are not whole blocks */
    float *importance; /* [width] */
    int32_t *order;    /* [width] */
    quantise_columns columns;
    xlstm_status status;
} input;

typedef struct matrix {
    const char *weights; /* in memory */
    int input;
} matrix;

struct calibration {
    int64_t memory; /* bytes for sums */
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
    ops_buffer scratch; /* [tokens][width] of normed inputs, then [width][most_rows] */
    ops_tensor columns; /* the latter */
    int64_t most_rows;  /* whose products are added at a time */
    int64_t most_strip; /* columns whose products with the others are */
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
static int input_of(calibration *c, const char *data, int64_t width) {
    for (int i = 0; i < c->matrix_count; i++)
        if (c->matrices[i].weights == data)
            return c->matrices[i].input;
    void *moved = grow(c->inputs, &c->input_count, &c->input_room, sizeof *c->inputs);
    if (!moved)
        return -1;
    c->inputs = moved;
    c->inputs[c->input_count] = (input){.width = width};
    return c->input_count++;
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

/* Adds to the sums of a window [n][n], from the diagonal on, the products of its columns
 * [n][tokens]: projections of the device itself, with some columns as its inputs and all that do not
 * come before them as its weights. */
static void add_window(recorder *r, ops_stream *stream, const ops_tensor *columns, int64_t n,
                       int64_t tokens, float *sums, int64_t stride) {
    for (int64_t first = 0; first < n; first += r->most_strip) {
        int64_t after = n - first, height = after < r->most_strip ? after : r->most_strip;
        ops_tensor all =
            ops_tensor_make(&r->scratch, columns->offset + (size_t)(first * tokens) * sizeof(float),
                            DTYPE_F32, 2, (int64_t[]){after, tokens});
        ops_tensor strip = ops_tensor_rows(&all, 0, height);
        ops_buffer host = r->scratch;
        host.host = sums + first * stride + first;
        host.size = (size_t)((height - 1) * stride + after) * sizeof(float);
        ops_tensor out = ops_tensor_make(&host, 0, DTYPE_F32, 2, (int64_t[]){1, after});
        out.shape[0] = height;
        out.stride[0] = stride;
        r->original->ops.project_add(
            stream, &(struct ops_project_add){
                        .x = strip, .weight = all, .residual = out, .sign = 1, .out = out});
    }
}

/* Adds X^T X of rows x [T][K]. */
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
        add_window(r, stream, &r->columns, n, tokens, to->sums + begin * to->window, to->window);
    }
    to->rows += tokens;
}

/* Rows of x [T][K], the input of these matrices. */
static void add_rows(recorder *r, ops_stream *stream, const ops_tensor *const *matrices, int count,
                     const ops_tensor *x) {
    calibration *c = r->found;
    if (r->status != XLSTM_OK)
        return;
    int index = input_of(c, ops_data(matrices[0]), x->shape[1]);
    bool ok = index >= 0;
    for (int i = 0; i < count && ok; i++)
        ok = know_matrix(c, ops_data(matrices[i]), index);
    if (!ok)
        r->status = error_memory(sizeof(input), "a calibration");
    /* As many rows at a time as a projection may have columns. */
    for (int64_t t = 0; ok && c->inputs[index].sums && t < x->shape[0]; t += r->most_rows) {
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

/* ---- Memory for the sums, and what follows from them ---- */

/* Windows as wide as memory allows, of about the same width. */
static bool take_memory(input *in, int64_t most_window) {
    in->windows = (in->width + most_window - 1) / most_window;
    int64_t blocks = in->width / BLOCK_ELEMENTS;
    in->window = (blocks + in->windows - 1) / in->windows * BLOCK_ELEMENTS;
    in->windows = (in->width + in->window - 1) / in->window;
    in->sums = calloc((size_t)(in->width * in->window), sizeof *in->sums);
    in->importance = malloc((size_t)in->width * sizeof *in->importance);
    in->order = malloc((size_t)in->width * sizeof *in->order);
    return in->sums && in->importance && in->order;
}

static xlstm_status take_all_memory(calibration *c) {
    int64_t widths = 0;
    for (int i = 0; i < c->input_count; i++)
        widths += c->inputs[i].width % BLOCK_ELEMENTS == 0 ? c->inputs[i].width : 0;
    if (widths == 0)
        return XLSTM_OK;
    int64_t window = c->memory / ((int64_t)sizeof(float) * widths);
    window = window / BLOCK_ELEMENTS * BLOCK_ELEMENTS;
    window = window > BLOCK_ELEMENTS ? window : BLOCK_ELEMENTS;
    for (int i = 0; i < c->input_count; i++)
        if (c->inputs[i].width % BLOCK_ELEMENTS == 0 && !take_memory(&c->inputs[i], window))
            return error_memory((size_t)(window * widths) * sizeof(float), "a calibration");
    return XLSTM_OK;
}

static void finish_input(void *context, int64_t task, int worker) {
    input *in = &((calibration *)context)->inputs[task];
    (void)worker;
    if (!in->sums)
        return;
    double *work = malloc(calibrate_work_size(in->window));
    in->status = work ? XLSTM_OK : XLSTM_OUT_OF_MEMORY;
    for (int64_t begin = 0; begin < in->width && in->status == XLSTM_OK; begin += in->window) {
        int64_t left = in->width - begin;
        calibrate_window window = {.first = begin,
                                   .columns = left < in->window ? left : in->window,
                                   .stride = in->window,
                                   .sums = in->sums + begin * in->window,
                                   .rows = in->rows,
                                   .order = in->order + begin,
                                   .importance = in->importance + begin};
        in->status = calibrate_columns(&window, work) ? XLSTM_OK : XLSTM_DEVICE_ERROR;
    }
    in->columns = (quantise_columns){.window = in->window,
                                     .order = in->order,
                                     .importance = in->importance,
                                     .carry = in->sums,
                                     .h = in->sums};
    free(work);
}

static xlstm_status finish_inputs(calibration *c, thread_pool *pool) {
    thread_pool_run(pool, c->input_count, finish_input, c);
    for (int i = 0; i < c->input_count; i++) {
        if (c->inputs[i].status == XLSTM_OUT_OF_MEMORY)
            return error_memory(calibrate_work_size(c->inputs[i].window), "a calibration");
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

static xlstm_status run_piece(xlstm_model *model, const recorder *r, const forward_sequence *piece,
                              float *logits) {
    forward_run(model->forward, piece, 1);
    xlstm_status status = forward_wait(model->forward);
    if (status == XLSTM_OK)
        status = run_head(model->forward, piece->count, logits);
    return status == XLSTM_OK ? r->status : status;
}

/* The first token alone shows which inputs there are. A piece begins with a fresh state: what a model
 * holds after many times the length that it was trained with is like nothing it will be used for. */
static xlstm_status run_all(xlstm_model *model, recorder *r, const int32_t *ids, int64_t count,
                            int slot, float *logits, xlstm_progress progress, void *context) {
    int64_t most = model->forward->limits.tokens;
    xlstm_status status =
        run_piece(model, r, &(forward_sequence){.slot = slot, .ids = ids, .count = 1}, logits);
    if (status == XLSTM_OK)
        status = take_all_memory(r->found);
    for (int64_t at = 0; at < count && status == XLSTM_OK;) {
        int64_t position = at % CALIBRATION_PIECE, left = CALIBRATION_PIECE - position;
        int64_t now = left < most ? left : most;
        now = now < count - at ? now : count - at;
        if (position == 0)
            state_zero(&model->pool, model->stream, slot);
        forward_sequence piece = {
            .slot = slot, .position = position, .ids = ids + at, .count = now};
        status = run_piece(model, r, &piece, logits);
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
    r->most_strip = limits.tokens;
    size_t size = (size_t)(inputs + limits.width * r->most_rows) * sizeof(float);
    xlstm_status status = thread_pool_create(model->threads, &pool);
    if (status == XLSTM_OK)
        status = model->device->buffer_create(model->device, size, &r->scratch);
    if (status == XLSTM_OK) {
        r->columns = ops_tensor_make(&r->scratch, (size_t)inputs * sizeof(float), DTYPE_F32, 2,
                                     (int64_t[]){limits.width, r->most_rows});
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

xlstm_status calibration_run(xlstm_model *model, const int32_t *ids, int64_t count, int64_t memory,
                             xlstm_progress progress, void *context, calibration **out) {
    *out = NULL;
    if (!model->forward->buffer.host || model->device->ahead || model->activation != DTYPE_F32)
        return error_set(XLSTM_UNSUPPORTED,
                         "calibration reads activations between ops, which the device cpu can with "
                         "activations in f32, not %s in %s",
                         model->device->name, dtype_name(model->activation));
    calibration *c = calloc(1, sizeof *c);
    if (!c)
        return error_memory(sizeof *c, "a calibration");
    c->memory = memory * 1000000;
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
        free(c->inputs[i].order);
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
            return in->sums ? &in->columns : NULL;
    }
    return NULL;
}
