/* Memory for one run, taken once; then the steps of the program as calls of ops. */
#include "model/forward_internal.h"

#include <stdlib.h>
#include <string.h>

enum { BUFFER_ALIGNMENT = 64 };

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

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* What the layers of xlstm-large need between their ops. */
static void place_large(forward *f, const model_config *config, arena *a) {
    const large_config *c = &config->large;
    int64_t T = f->limits.tokens;
    dtype real = f->limits.activation;
    f->q = place(a, real, T, c->qk_dim);
    f->k = place(a, real, T, c->qk_dim);
    f->v = place(a, real, T, c->v_dim);
    f->h = place(a, real, T, c->v_dim);
    f->output_gate = place(a, real, T, c->v_dim);
    f->input_gate = place(a, real, T, c->num_heads);
    f->forget_gate = place(a, real, T, c->num_heads);
    f->hidden = place(a, real, T, c->ffn_dim);
}

static void place_neurips(forward *f, const model_config *config, arena *a) {
    const neurips_config *c = &config->neurips;
    int64_t T = f->limits.tokens, D = config->embedding_dim, E = c->mlstm.inner.width;
    dtype real = f->limits.activation;
    if (c->mlstm.present) {
        f->qkv = place(a, real, T, 3 * E);
        f->q = forward_columns(&f->qkv, 0, E);
        f->k = forward_columns(&f->qkv, E, E);
        f->v = forward_columns(&f->qkv, 2 * E, E);
        f->inner = place(a, real, T, E);
        f->output_gate = place(a, real, T, E);
        f->input_gate = place(a, real, T, c->mlstm.num_heads);
        f->forget_gate = place(a, real, T, c->mlstm.num_heads);
    }
    if (c->slstm.present) {
        f->normed = place(a, real, T, D);
        f->gates = place(a, real, T, 4 * D);
    }
    if (c->ffn.present)
        f->hidden = place(a, real, T, c->ffn.hidden.width);
    f->conv = place(a, real, T, larger(D, E));
    f->h = place(a, real, T, larger(D, E));
}

/* Rows that the head has room for. */
static int64_t logit_rows(const forward_limits *limits) {
    if (limits->sequences <= FORWARD_LOGIT_ROWS)
        return FORWARD_LOGIT_ROWS;
    return limits->sequences < FORWARD_CHOICES ? limits->sequences : FORWARD_CHOICES;
}

static void place_all(forward *f, const model_config *c, arena *a) {
    int64_t T = f->limits.tokens, R = logit_rows(&f->limits), D = c->embedding_dim;
    dtype real = f->limits.activation;
    for (int i = 0; i < f->program.values; i++) {
        ops_tensor value = place(a, real, T, D);
        if (f->values)
            f->values[i] = value;
    }
    (c->family == FAMILY_LARGE ? place_large : place_neurips)(f, c, a);
    f->ids = place(a, DTYPE_I32, T, 0);
    f->slot = place(a, DTYPE_I32, f->limits.sequences, 0);
    f->start = place(a, DTYPE_I32, f->limits.sequences + 1, 0);
    f->position = place(a, DTYPE_I64, f->limits.sequences, 0);
    f->rows = place(a, DTYPE_I32, R, 0);
    f->row_values = place(a, real, R, D);
    f->logits = place(a, real, R, c->vocab_size);
    f->penalised = place(a, DTYPE_I32, c->vocab_size, 0);
    f->sampled = place(a, DTYPE_I32, 1, 0);
    f->chosen = place(a, DTYPE_I32, f->limits.sequences, 0);
    f->ahead.slot = place(a, DTYPE_I32, 1, 0);
    f->ahead.start = place(a, DTYPE_I32, 2, 0);
    f->ahead.ends = place(a, DTYPE_I32, FORWARD_MOST_ENDS, 0);
    for (int i = 0; i < 2; i++) {
        f->ahead.position[i] = place(a, DTYPE_I64, 1, 0);
        f->ahead.id[i] = place(a, DTYPE_I32, 1, 0);
    }
}

ops_limits forward_ops_limits(const model_config *c, const forward_limits *limits) {
    ops_limits out = {.tokens = limits->tokens,
                      .sequences = limits->sequences,
                      .vocab = c->vocab_size,
                      .activation = limits->activation,
                      .deferred = limits->deferred};
    if (c->family == FAMILY_LARGE) {
        const large_config *l = &c->large;
        out.width = larger(larger(c->embedding_dim, l->v_dim), l->ffn_dim);
        out.heads = l->num_heads;
        out.head_dim_qk = l->qk_dim / l->num_heads;
        out.head_dim_v = l->v_dim / l->num_heads;
        return out;
    }
    const neurips_config *n = &c->neurips;
    /* The gates of an sLSTM are a width too, and so are q, k and v together. */
    out.width = larger(larger(4 * (int64_t)c->embedding_dim, 3 * (int64_t)n->mlstm.inner.width),
                       n->ffn.hidden.width);
    int32_t slstm_heads = n->slstm.present ? n->slstm.num_heads : 0;
    out.heads =
        n->mlstm.present && n->mlstm.num_heads > slstm_heads ? n->mlstm.num_heads : slstm_heads;
    int64_t mlstm_dim = n->mlstm.present ? n->mlstm.inner.width / n->mlstm.num_heads : 1;
    int64_t slstm_dim = slstm_heads > 0 ? c->embedding_dim / slstm_heads : 1;
    out.head_dim_qk = out.head_dim_v = larger(mlstm_dim, slstm_dim);
    return out;
}

int64_t forward_bytes(const model_config *config, const wiring *graph,
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

/* Ops that only some models call; every model needs the others. */
static bool needs_op(const forward *f, const char *op) {
    const program *p = &f->program;
    bool mlstm = has_step(p, STEP_MLSTM), slstm = has_step(p, STEP_SLSTM);
    bool ffn = has_step(p, STEP_FFN), neurips = f->config->family == FAMILY_NEURIPS;
    bool slstm_conv = slstm && f->config->neurips.slstm.conv1d_kernel_size > 0;
    const struct {
        const char *op;
        bool needed;
    } some[] = {
        {"mlstm", mlstm},
        {"mlstm_output", mlstm},
        {"project_add", ffn},
        {"norm_project_gated", ffn},
        {"sum", has_step(p, STEP_SUM) || slstm},
        {"normalize", has_step(p, STEP_NORM) || slstm},
        {"causal_conv", (mlstm && neurips) || slstm_conv},
        {"headwise", (mlstm && neurips) || slstm},
        {"slstm", slstm},
        {"retire", f->device->ahead},
    };
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        if (strcmp(some[i].op, op) == 0)
            return some[i].needed;
    return true;
}

/* Every op that the program will call must be there. */
static xlstm_status check_ops(const forward *f) {
    error_list missing = {0};
    for (int op = 0; ops_name(op); op++)
        if (needs_op(f, ops_name(op)) && !ops_device_has(f->device, op))
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
    if (status != XLSTM_OK)
        return error_prefix(status, "activations of %lld tokens (max_batch_tokens)",
                            (long long)f->limits.tokens);
    place_all(f, f->config, &real);
    return XLSTM_OK;
}

xlstm_status forward_create(const model_config *config, const wiring *graph, const weights *w,
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
    /* What lies between ops of xlstm-neurips is made and read by ops that have f32 only. */
    if (stream->options.profile == OPS_FAST && config->family == FAMILY_LARGE)
        f->narrow_from = stream->device->narrow_from;
    xlstm_status status = program_compile(graph, config, &f->program);
    if (status == XLSTM_OK)
        status = check_ops(f);
    if (status == XLSTM_OK)
        status = take_memory(f);
    if (status == XLSTM_OK)
        status = forward_rehearse(f);
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

/* ---- Running ---- */

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
    forward_send(f, &f->ids, f->host_ids, (size_t)tokens * sizeof *f->host_ids);
    forward_send(f, &f->slot, f->host_slot, (size_t)count * sizeof *f->host_slot);
    forward_send(f, &f->start, f->host_start, ((size_t)count + 1) * sizeof *f->host_start);
    forward_send(f, &f->position, f->host_position, (size_t)count * sizeof *f->host_position);
    f->batch = (ops_batch){.sequences = count,
                           .tokens = tokens,
                           .longest = longest,
                           .slot = ops_tensor_rows(&f->slot, 0, count),
                           .start = ops_tensor_rows(&f->start, 0, count + 1),
                           .position = ops_tensor_rows(&f->position, 0, count)};
    f->batch_ids = forward_rows(f, &f->ids);
}

void forward_run(forward *f, const forward_sequence *sequences, int count) {
    send_batch(f, sequences, count);
    for (int i = 0; i < f->program.count; i++)
        forward_step(f, &f->program.steps[i]);
}

xlstm_status forward_wait(forward *f) {
    return f->device->wait(f->stream);
}

void forward_head(forward *f, const ops_tensor *x, const ops_tensor *logits) {
    struct ops_norm_project head = {
        .x = *x,
        .norm = {.kind = OPS_NORM_NONE, .groups = 1},
        .count = 1,
        .projection = {{.weight = f->weights->head,
                        .soft_cap = f->config->large.output_logit_soft_cap,
                        .out = *logits}},
    };
    if (f->program.head_norm)
        head.norm = forward_norm(f, &f->weights->out_norm, &f->weights->out_norm_bias);
    f->device->ops.norm_project(f->stream, &head);
}

/* Whether `rows` are those of the last run, each once and in their order. */
static bool are_all(const forward *f, const int32_t *rows, int64_t count) {
    bool all = count == f->batch.tokens;
    for (int64_t i = 0; i < count && all; i++)
        all = rows[i] == i;
    return all;
}

/* Logits of selected rows, on the device. */
static ops_tensor make_logits(forward *f, const int32_t *rows, int64_t count) {
    ops_tensor x = forward_rows(f, &f->values[f->program.head_input]);
    ops_tensor logits = ops_tensor_rows(&f->logits, 0, count);
    if (!are_all(f, rows, count)) {
        ops_tensor selected = ops_tensor_rows(&f->row_values, 0, count);
        forward_send(f, &f->rows, rows, (size_t)count * sizeof *rows);
        f->device->ops.take_rows(
            f->stream, &(struct ops_take_rows){
                           .x = x, .rows = ops_tensor_rows(&f->rows, 0, count), .out = selected});
        x = selected;
    }
    forward_head(f, &x, &logits);
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

void forward_penalise(forward *f, const struct ops_sample_row *options, const int32_t *penalised) {
    if (options->penalised_count > 0)
        forward_send(f, &f->penalised, penalised,
                     (size_t)options->penalised_count * sizeof *penalised);
}

void forward_choose(forward *f, const ops_tensor *logits, const struct ops_sample_row *options,
                    const ops_tensor *id) {
    struct ops_sample sample = {.logits = *logits, .rows = options, .out = *id};
    if (options->penalised_count > 0)
        sample.penalised = ops_tensor_rows(&f->penalised, 0, options->penalised_count);
    f->device->ops.sample(f->stream, &sample);
}

static xlstm_status choose(forward *f, const ops_tensor *logits,
                           const struct ops_sample_row *options, const int32_t *penalised,
                           int32_t *id) {
    forward_penalise(f, options, penalised);
    forward_choose(f, logits, options, &f->sampled);
    return f->device->read(f->stream, f->sampled.buffer, f->sampled.offset, id, sizeof *id);
}

xlstm_status forward_sample(forward *f, int32_t row, const struct ops_sample_row *options,
                            const int32_t *penalised, int32_t *id) {
    ops_tensor logits = make_logits(f, &row, 1);
    return choose(f, &logits, options, penalised, id);
}

void forward_choose_rows(forward *f, const int32_t *rows, int64_t count,
                         const struct ops_sample_row *options, int64_t first) {
    ops_tensor logits = make_logits(f, rows, count);
    const ops_tensor ids = ops_tensor_rows(&f->chosen, first, count);
    forward_choose(f, &logits, options, &ids);
}

xlstm_status forward_chosen(forward *f, int64_t count, int32_t *ids) {
    return f->device->read(f->stream, f->chosen.buffer, f->chosen.offset, ids,
                           (size_t)count * sizeof *ids);
}

xlstm_status forward_sample_from(forward *f, const float *logits,
                                 const struct ops_sample_row *options, const int32_t *penalised,
                                 int32_t *id) {
    ops_tensor row = ops_tensor_rows(&f->logits, 0, 1);
    size_t vocab = (size_t)f->config->vocab_size;
    if (f->limits.activation == DTYPE_F64) {
        dtype_convert(DTYPE_F32, logits, DTYPE_F64, f->wide, (int64_t)vocab);
        forward_send(f, &row, f->wide, vocab * sizeof *f->wide);
    } else {
        forward_send(f, &row, logits, vocab * sizeof *logits);
    }
    return choose(f, &row, options, penalised, id);
}
