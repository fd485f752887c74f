/* The recording device, and the run. */
#include "model/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/forward_internal.h"

/* One input: what the matrices that read it have in common. */
typedef struct record {
    const char *weights; /* the first of them, in memory */
    int64_t width;
    int64_t rows; /* of inputs, so far */
    double *sum;  /* [width], of squares */
    float *mean;  /* [width] */
} record;

struct calibration {
    record *records;
    int count, room;
};

/* The device's own struct comes first, so that a stream's device is a recorder. */
typedef struct recorder {
    ops_device device;
    ops_device *original;
    calibration *found;
    ops_buffer scratch; /* [tokens][width] of normed inputs */
    xlstm_status status;
} recorder;

/* ---- Sums ---- */

/* The record of a matrix; NULL if memory is out. */
static record *record_of(recorder *r, const ops_tensor *weight, int64_t width) {
    calibration *c = r->found;
    const char *data = ops_data(weight);
    for (int i = 0; i < c->count; i++)
        if (c->records[i].weights == data)
            return &c->records[i];
    if (c->count == c->room) {
        int room = c->room ? 2 * c->room : 64;
        record *larger = realloc(c->records, (size_t)room * sizeof *larger);
        if (!larger)
            return NULL;
        c->records = larger, c->room = room;
    }
    record *new = &c->records[c->count];
    *new = (record){.weights = data, .width = width};
    new->sum = calloc((size_t)width, sizeof *new->sum);
    if (!new->sum)
        return NULL;
    c->count++;
    return new;
}

/* Rows of x [T][K] as the inputs of a matrix. */
static void add_rows(recorder *r, const ops_tensor *weight, const ops_tensor *x) {
    record *to = r->status == XLSTM_OK ? record_of(r, weight, x->shape[1]) : NULL;
    if (!to) {
        if (r->status == XLSTM_OK)
            r->status = error_memory((size_t)x->shape[1] * sizeof(double), "a calibration");
        return;
    }
    for (int64_t t = 0; t < x->shape[0]; t++) {
        const float *row = (const float *)ops_data(x) + t * x->stride[0];
        for (int64_t j = 0; j < to->width; j++)
            to->sum[j] += (double)row[j] * (double)row[j];
    }
    to->rows += x->shape[0];
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
    for (int i = 0; i < op->count; i++)
        add_rows(r, &op->projection[i].weight, &x);
    r->original->ops.norm_project(stream, op);
}

static void record_norm_project_gated(ops_stream *stream, const struct ops_norm_project_gated *op) {
    recorder *r = (recorder *)stream->device;
    ops_tensor x = normed(r, stream, &op->x, &op->norm);
    add_rows(r, &op->gate_weight, &x);
    add_rows(r, &op->up_weight, &x);
    r->original->ops.norm_project_gated(stream, op);
}

static void record_project_add(ops_stream *stream, const struct ops_project_add *op) {
    add_rows((recorder *)stream->device, &op->weight, &op->x);
    ((recorder *)stream->device)->original->ops.project_add(stream, op);
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
    add_rows(r, &op->weight, &x);
    r->original->ops.mlstm_output(stream, op);
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

static xlstm_status take_means(calibration *c) {
    for (int i = 0; i < c->count; i++) {
        record *r = &c->records[i];
        r->mean = malloc((size_t)r->width * sizeof *r->mean);
        if (!r->mean)
            return error_memory((size_t)r->width * sizeof *r->mean, "a calibration");
        for (int64_t j = 0; j < r->width; j++) {
            r->mean[j] = (float)(r->sum[j] / (double)r->rows);
            if (!isfinite(r->mean[j]))
                return error_set(XLSTM_DEVICE_ERROR,
                                 "calibration: the activations of the model are not finite");
        }
    }
    return XLSTM_OK;
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
    forward_limits limits = model->forward->limits;
    int64_t width = forward_ops_limits(&model->config, &limits).width;
    recorder r = {.original = model->device, .found = c};
    int slot = -1;
    xlstm_status status = model->device->buffer_create(
        model->device, (size_t)(limits.tokens * width) * sizeof(float), &r.scratch);
    if (status == XLSTM_OK)
        status = state_acquire(&model->pool, model->stream, &slot);
    if (status == XLSTM_OK)
        status = record_run(model, &r, ids, count, slot, progress, context);
    if (status == XLSTM_OK)
        status = take_means(c);
    if (slot >= 0)
        state_release(&model->pool, slot);
    if (r.scratch.device)
        model->device->buffer_free(&r.scratch);
    if (status != XLSTM_OK) {
        calibration_free(c);
        return status;
    }
    *out = c;
    return XLSTM_OK;
}

void calibration_free(calibration *c) {
    for (int i = 0; c && i < c->count; i++) {
        free(c->records[i].sum);
        free(c->records[i].mean);
    }
    if (c)
        free(c->records);
    free(c);
}

const float *calibration_find(const calibration *c, const stored_tensor *t) {
    const char *first = (const char *)t->data;
    int64_t width = t->rank > 0 ? t->shape[t->rank - 1] : 0;
    for (int i = 0; i < c->count; i++) {
        const record *r = &c->records[i];
        if (r->weights >= first && r->weights < first + t->size && r->width == width)
            return r->mean;
    }
    return NULL;
}
