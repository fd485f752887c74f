/* Memory for one run, taken once; then the steps of the program as calls of ops. */
#include "model/forward.h"

#include <stdlib.h>
#include <string.h>

enum { BUFFER_ALIGNMENT = 64 };

/* Activations; T = limits.tokens. */
struct forward {
    const xlstm_large_config *config;
    const weights *weights;
    const state_pool *pool;
    ops_device *device;
    ops_stream *stream;
    forward_limits limits;
    program program;

    ops_buffer buffer;                   /* holds everything below */
    ops_tensor *values;                  /* [program.values], each [T][D] */
    ops_tensor q, k;                     /* [T][qk_dim] */
    ops_tensor v, output_gate, h;        /* [T][v_dim] */
    ops_tensor input_gate, forget_gate;  /* [T][heads] */
    ops_tensor hidden;                   /* [T][F] */
    ops_tensor ids;                      /* i32 [T] */
    ops_tensor slot, start, position;    /* of the batch */
    ops_tensor rows, row_values, logits; /* i32 [R], [R][D], [R][vocab] */
    ops_tensor penalised, sampled;       /* i32 [vocab], i32 [1] */
    ops_batch batch;

    /* Host copies of what is sent to the device. */
    int32_t *host_ids, *host_slot, *host_start;
    int64_t *host_position;
    double *wide; /* one row of logits, where activations are f64 */
};

/* ---- Memory ---- */

/* Hands out tensors of one buffer; with buffer NULL it only counts. */
typedef struct arena {
    ops_buffer *buffer;
    size_t used;
} arena;

static ops_tensor place(arena *a, dtype type, int64_t outer, int64_t inner) {
    int64_t shape[2] = {outer, inner};
    ops_tensor t = ops_tensor_make(a->buffer, a->used, type, inner ? 2 : 1, shape);
    size_t bytes = (size_t)(outer * (inner ? inner : 1)) * dtype_size(type);
    a->used += (bytes + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
    return t;
}

static void place_all(forward *f, const xlstm_large_config *c, arena *a) {
    int64_t T = f->limits.tokens, R = FORWARD_LOGIT_ROWS, D = c->embedding_dim;
    dtype real = f->limits.activation;
    for (int i = 0; i < f->program.values; i++) {
        ops_tensor value = place(a, real, T, D);
        if (f->values)
            f->values[i] = value;
    }
    f->q = place(a, real, T, c->qk_dim);
    f->k = place(a, real, T, c->qk_dim);
    f->v = place(a, real, T, c->v_dim);
    f->h = place(a, real, T, c->v_dim);
    f->output_gate = place(a, real, T, c->v_dim);
    f->input_gate = place(a, real, T, c->num_heads);
    f->forget_gate = place(a, real, T, c->num_heads);
    f->hidden = place(a, real, T, c->ffn_dim);
    f->ids = place(a, DTYPE_I32, T, 0);
    f->slot = place(a, DTYPE_I32, f->limits.sequences, 0);
    f->start = place(a, DTYPE_I32, f->limits.sequences + 1, 0);
    f->position = place(a, DTYPE_I64, f->limits.sequences, 0);
    f->rows = place(a, DTYPE_I32, R, 0);
    f->row_values = place(a, real, R, D);
    f->logits = place(a, real, R, c->vocab_size);
    f->penalised = place(a, DTYPE_I32, c->vocab_size, 0);
    f->sampled = place(a, DTYPE_I32, 1, 0);
}

ops_limits forward_ops_limits(const xlstm_large_config *c, const forward_limits *limits) {
    int64_t width = c->embedding_dim > c->v_dim ? c->embedding_dim : c->v_dim;
    return (ops_limits){
        .tokens = limits->tokens,
        .sequences = limits->sequences,
        .width = width > c->ffn_dim ? width : c->ffn_dim,
        .heads = c->num_heads,
        .head_dim_qk = c->qk_dim / c->num_heads,
        .head_dim_v = c->v_dim / c->num_heads,
        .vocab = c->vocab_size,
        .activation = limits->activation,
    };
}

int64_t forward_bytes(const xlstm_large_config *config, const wiring *graph,
                      const forward_limits *limits) {
    forward f = {.limits = *limits};
    arena a = {0};
    if (program_compile(graph, config, &f.program) != XLSTM_OK)
        return 0;
    place_all(&f, config, &a);
    program_free(&f.program);
    return (int64_t)a.used;
}

/* ---- Creation ---- */

static bool has_step(const program *p, enum step_kind kind) {
    for (int i = 0; i < p->count; i++)
        if (p->steps[i].kind == kind)
            return true;
    return false;
}

/* Ops that are called for steps of one kind; every model needs the others. */
static bool needs_op(const program *p, const char *op) {
    static const struct {
        const char *op;
        enum step_kind step;
    } called[] = {
        {"mlstm", STEP_MLSTM},     {"mlstm_output", STEP_MLSTM},
        {"project_add", STEP_FFN}, {"norm_project_gated", STEP_FFN},
        {"sum", STEP_SUM},         {"normalize", STEP_NORM},
    };
    for (size_t i = 0; i < sizeof called / sizeof *called; i++)
        if (strcmp(called[i].op, op) == 0)
            return has_step(p, called[i].step);
    return true;
}

/* Every op that the program will call must be there. */
static xlstm_status check_ops(const forward *f) {
    error_list missing = {0};
    for (int op = 0; ops_name(op); op++)
        if (needs_op(&f->program, ops_name(op)) && !ops_device_has(f->device, op))
            error_list_add(&missing, "device %s lacks the op %s, which this model needs",
                           f->device->name, ops_name(op));
    return error_list_finish(&missing, XLSTM_UNSUPPORTED);
}

static xlstm_status take_memory(forward *f) {
    arena counting = {0}, real = {.buffer = &f->buffer};
    size_t sequences = (size_t)f->limits.sequences;
    f->values = calloc((size_t)f->program.values, sizeof *f->values);
    f->host_ids = malloc((size_t)f->limits.tokens * sizeof *f->host_ids);
    f->host_slot = malloc(sequences * sizeof *f->host_slot);
    f->host_start = malloc((sequences + 1) * sizeof *f->host_start);
    f->host_position = malloc(sequences * sizeof *f->host_position);
    bool ok = f->values && f->host_ids && f->host_slot && f->host_start && f->host_position;
    if (ok && f->limits.activation == DTYPE_F64)
        ok = (f->wide = malloc((size_t)f->config->vocab_size * sizeof *f->wide)) != NULL;
    if (!ok)
        return error_memory((size_t)f->limits.tokens * sizeof *f->host_ids, "the forward program");
    place_all(f, f->config, &counting);
    xlstm_status status = f->device->buffer_create(f->device, counting.used, &f->buffer);
    if (status == XLSTM_OK)
        place_all(f, f->config, &real);
    return status;
}

xlstm_status forward_create(const xlstm_large_config *config, const wiring *graph, const weights *w,
                            const state_pool *pool, ops_stream *stream,
                            const forward_limits *limits, forward **out) {
    *out = NULL;
    forward *f = calloc(1, sizeof *f);
    if (!f)
        return error_memory(sizeof *f, "the forward program");
    f->config = config;
    f->weights = w;
    f->pool = pool;
    f->stream = stream;
    f->device = stream->device;
    f->limits = *limits;
    xlstm_status status = program_compile(graph, config, &f->program);
    if (status == XLSTM_OK)
        status = check_ops(f);
    if (status == XLSTM_OK)
        status = take_memory(f);
    if (status != XLSTM_OK) {
        forward_free(f);
        return status;
    }
    *out = f;
    return XLSTM_OK;
}

void forward_free(forward *f) {
    if (!f)
        return;
    if (f->buffer.device)
        f->device->buffer_free(&f->buffer);
    program_free(&f->program);
    free(f->values);
    free(f->host_ids);
    free(f->host_slot);
    free(f->host_start);
    free(f->host_position);
    free(f->wide);
    free(f);
}

/* ---- Steps ---- */

/* The first T rows, T being the tokens of this run. */
static ops_tensor head_rows(const forward *f, const ops_tensor *t) {
    return ops_tensor_rows(t, 0, f->batch.tokens);
}

static ops_norm block_norm(const forward *f, const ops_tensor *weight, const ops_tensor *bias) {
    return (ops_norm){.kind = OPS_NORM_RMS,
                      .groups = 1,
                      .eps = f->config->norm_eps,
                      .weight = *weight,
                      .bias = *bias};
}

static ops_tensor residual_of(const forward *f, const step *s) {
    return s->residual >= 0 ? head_rows(f, &f->values[s->residual]) : (ops_tensor){0};
}

/* mLSTM layer: projections and gates, the recurrence, then head norm, output gate and output
 * projection. */
static void run_mlstm(forward *f, const step *s) {
    const xlstm_large_config *c = f->config;
    const mlstm_weights *w = &f->weights->blocks[s->block].mlstm;
    int64_t heads = c->num_heads, qk = c->qk_dim / heads, v = c->v_dim / heads;
    ops_tensor q = head_rows(f, &f->q), k = head_rows(f, &f->k), values = head_rows(f, &f->v);
    ops_tensor o = head_rows(f, &f->output_gate), h = head_rows(f, &f->h);
    ops_tensor i = head_rows(f, &f->input_gate), forget = head_rows(f, &f->forget_gate);

    struct ops_norm_project project = {
        .x = head_rows(f, &f->values[s->input[0]]),
        .norm = block_norm(f, &w->norm, &w->norm_bias),
        .count = 6,
        .projection = {{w->q, w->q_bias, 0, q},
                       {w->k, w->k_bias, 0, k},
                       {w->v, w->v_bias, 0, values},
                       {w->output_gate, w->output_gate_bias, 0, o},
                       {w->input_gate, w->input_gate_bias, c->gate_soft_cap, i},
                       {w->forget_gate, w->forget_gate_bias, c->gate_soft_cap, forget}},
    };
    f->device->ops.norm_project(f->stream, &project);

    struct ops_mlstm recurrence = {
        .batch = f->batch,
        .q = ops_tensor_split(&q, heads, qk),
        .k = ops_tensor_split(&k, heads, qk),
        .v = ops_tensor_split(&values, heads, v),
        .input_gate = i,
        .forget_gate = forget,
        .c = state_find(f->pool, s->node, "c")->pool,
        .n = state_find(f->pool, s->node, "n")->pool,
        .m = state_find(f->pool, s->node, "m")->pool,
        .eps = c->eps,
        .h = ops_tensor_split(&h, heads, v),
    };
    f->device->ops.mlstm(f->stream, &recurrence);

    struct ops_mlstm_output output = {
        .h = recurrence.h,
        .output_gate = o,
        .activation = OPS_SIGMOID,
        .norm = {.kind = OPS_NORM_LAYER,
                 .groups = c->num_heads,
                 .eps = c->norm_eps,
                 .weight = w->head_norm,
                 .bias = w->head_norm_bias},
        .weight = w->out,
        .bias = w->out_bias,
        .residual = residual_of(f, s),
        .sign = s->branch_sign,
        .out = head_rows(f, &f->values[s->output]),
    };
    f->device->ops.mlstm_output(f->stream, &output);
}

static void run_ffn(forward *f, const step *s) {
    const ffn_weights *w = &f->weights->blocks[s->block].ffn;
    struct ops_norm_project_gated gated = {
        .x = head_rows(f, &f->values[s->input[0]]),
        .norm = block_norm(f, &w->norm, &w->norm_bias),
        .activation = OPS_SILU,
        .gate_weight = w->gate,
        .gate_bias = w->gate_bias,
        .up_weight = w->up,
        .up_bias = w->up_bias,
        .out = head_rows(f, &f->hidden),
    };
    f->device->ops.norm_project_gated(f->stream, &gated);

    struct ops_project_add down = {
        .x = gated.out,
        .weight = w->down,
        .bias = w->down_bias,
        .residual = residual_of(f, s),
        .sign = s->branch_sign,
        .out = head_rows(f, &f->values[s->output]),
    };
    f->device->ops.project_add(f->stream, &down);
}

static void run_sum(forward *f, const step *s) {
    struct ops_sum sum = {.count = s->input_count, .out = head_rows(f, &f->values[s->output])};
    for (int i = 0; i < s->input_count; i++) {
        sum.input[i] = head_rows(f, &f->values[s->input[i]]);
        sum.sign[i] = s->sign[i];
    }
    f->device->ops.sum(f->stream, &sum);
}

static void run_step(forward *f, const step *s) {
    ops_tensor output = head_rows(f, &f->values[s->output]);
    switch (s->kind) {
    case STEP_EMBED:
        f->device->ops.embed(f->stream, &(struct ops_embed){.table = f->weights->embedding,
                                                            .ids = head_rows(f, &f->ids),
                                                            .out = output});
        break;
    case STEP_MLSTM:
        run_mlstm(f, s);
        break;
    case STEP_FFN:
        run_ffn(f, s);
        break;
    case STEP_SUM:
        run_sum(f, s);
        break;
    case STEP_NORM:
        f->device->ops.normalize(
            f->stream, &(struct ops_normalize){
                           .x = head_rows(f, &f->values[s->input[0]]),
                           .norm = block_norm(f, &f->weights->out_norm, &f->weights->out_norm_bias),
                           .out = output});
        break;
    }
}

/* ---- Running ---- */

static void send(forward *f, const ops_tensor *to, const void *from, size_t bytes) {
    f->device->write(f->stream, to->buffer, to->offset, from, bytes);
}

static void send_batch(forward *f, const forward_sequence *sequences, int count) {
    int64_t tokens = 0, longest = 0;
    for (int s = 0; s < count; s++) {
        f->host_slot[s] = sequences[s].slot;
        f->host_start[s] = (int32_t)tokens;
        f->host_position[s] = sequences[s].position;
        memcpy(f->host_ids + tokens, sequences[s].ids,
               (size_t)sequences[s].count * sizeof *f->host_ids);
        tokens += sequences[s].count;
        longest = sequences[s].count > longest ? sequences[s].count : longest;
    }
    f->host_start[count] = (int32_t)tokens;
    send(f, &f->ids, f->host_ids, (size_t)tokens * sizeof *f->host_ids);
    send(f, &f->slot, f->host_slot, (size_t)count * sizeof *f->host_slot);
    send(f, &f->start, f->host_start, ((size_t)count + 1) * sizeof *f->host_start);
    send(f, &f->position, f->host_position, (size_t)count * sizeof *f->host_position);
    f->batch = (ops_batch){.sequences = count,
                           .tokens = tokens,
                           .longest = longest,
                           .slot = ops_tensor_rows(&f->slot, 0, count),
                           .start = ops_tensor_rows(&f->start, 0, count + 1),
                           .position = ops_tensor_rows(&f->position, 0, count)};
}

xlstm_status forward_run(forward *f, const forward_sequence *sequences, int count) {
    send_batch(f, sequences, count);
    for (int i = 0; i < f->program.count; i++)
        run_step(f, &f->program.steps[i]);
    return f->device->wait(f->stream);
}

/* Logits of selected rows, on the device. */
static ops_tensor make_logits(forward *f, const int32_t *rows, int64_t count) {
    ops_tensor selected = ops_tensor_rows(&f->row_values, 0, count);
    ops_tensor logits = ops_tensor_rows(&f->logits, 0, count);
    send(f, &f->rows, rows, (size_t)count * sizeof *rows);
    f->device->ops.take_rows(
        f->stream, &(struct ops_take_rows){.x = head_rows(f, &f->values[f->program.head_input]),
                                           .rows = ops_tensor_rows(&f->rows, 0, count),
                                           .out = selected});
    struct ops_norm_project head = {
        .x = selected,
        .norm = {.kind = OPS_NORM_NONE, .groups = 1},
        .count = 1,
        .projection = {{.weight = f->weights->head,
                        .soft_cap = f->config->output_logit_soft_cap,
                        .out = logits}},
    };
    if (f->program.head_norm)
        head.norm = block_norm(f, &f->weights->out_norm, &f->weights->out_norm_bias);
    f->device->ops.norm_project(f->stream, &head);
    return logits;
}

static xlstm_status read_row(forward *f, const ops_tensor *logits, int64_t row, float *out) {
    size_t vocab = (size_t)f->config->vocab_size, size = dtype_size(logits->dtype);
    size_t offset = logits->offset + (size_t)row * vocab * size;
    bool wide = logits->dtype == DTYPE_F64;
    void *target = wide ? (void *)f->wide : (void *)out;
    xlstm_status status = f->device->read(f->stream, logits->buffer, offset, target, vocab * size);
    if (status == XLSTM_OK && wide)
        dtype_convert(DTYPE_F64, f->wide, DTYPE_F32, out, (int64_t)vocab);
    return status;
}

xlstm_status forward_logits(forward *f, const int32_t *rows, int64_t count, float *const *out) {
    ops_tensor logits = make_logits(f, rows, count);
    xlstm_status status = XLSTM_OK;
    for (int64_t i = 0; status == XLSTM_OK && i < count; i++)
        status = read_row(f, &logits, i, out[i]);
    return status;
}

static xlstm_status choose(forward *f, const ops_tensor *logits,
                           const struct ops_sample_row *options, const int32_t *penalised,
                           int32_t *id) {
    struct ops_sample sample = {.logits = *logits, .rows = options, .out = f->sampled};
    if (options->penalised_count > 0) {
        send(f, &f->penalised, penalised, (size_t)options->penalised_count * sizeof *penalised);
        sample.penalised = ops_tensor_rows(&f->penalised, 0, options->penalised_count);
    }
    f->device->ops.sample(f->stream, &sample);
    return f->device->read(f->stream, f->sampled.buffer, f->sampled.offset, id, sizeof *id);
}

xlstm_status forward_sample(forward *f, int32_t row, const struct ops_sample_row *options,
                            const int32_t *penalised, int32_t *id) {
    ops_tensor logits = make_logits(f, &row, 1);
    return choose(f, &logits, options, penalised, id);
}

xlstm_status forward_sample_from(forward *f, const float *logits,
                                 const struct ops_sample_row *options, const int32_t *penalised,
                                 int32_t *id) {
    ops_tensor row = ops_tensor_rows(&f->logits, 0, 1);
    size_t vocab = (size_t)f->config->vocab_size;
    if (f->limits.activation == DTYPE_F64) {
        dtype_convert(DTYPE_F32, logits, DTYPE_F64, f->wide, (int64_t)vocab);
        send(f, &row, f->wide, vocab * sizeof *f->wide);
    } else {
        send(f, &row, logits, vocab * sizeof *logits);
    }
    return choose(f, &row, options, penalised, id);
}
