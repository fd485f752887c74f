/* The layers as calls of ops, one function a kind of step; those of both families, whose equations
 * are in docs/MODEL.md. */
#include "model/forward_internal.h"

/* The layer norms of xlstm-neurips, and the floor of its mLSTM's denominator. */
static const double neurips_norm_eps = 1e-5, neurips_eps = 1e-6;

ops_norm forward_norm(const forward *f, const ops_tensor *weight, const ops_tensor *bias) {
    bool large = f->config->family == FAMILY_LARGE;
    return (ops_norm){.kind = large ? OPS_NORM_RMS : OPS_NORM_LAYER,
                      .groups = 1,
                      .eps = large ? f->config->large.norm_eps : neurips_norm_eps,
                      .weight = *weight,
                      .bias = *bias};
}

/* Without a bias, each head by itself. */
static ops_norm head_norm(const ops_tensor *weight, int heads) {
    return (ops_norm){
        .kind = OPS_NORM_LAYER, .groups = heads, .eps = neurips_norm_eps, .weight = *weight};
}

static ops_tensor residual_of(const forward *f, const step *s) {
    return s->residual >= 0 ? forward_rows(f, &f->values[s->residual]) : (ops_tensor){0};
}

static ops_tensor input_of(const forward *f, const step *s) {
    return forward_rows(f, &f->values[s->input[0]]);
}

static ops_tensor state_of(const forward *f, const step *s, const char *kind) {
    const state_tensor *found = state_find(f->pool, s->node, kind);
    return found ? found->pool : (ops_tensor){0};
}

/* ---- mLSTM ---- */

static void set_states(const forward *f, const step *s, struct ops_mlstm *op) {
    op->c = state_of(f, s, "c");
    op->n = state_of(f, s, "n");
    op->m = state_of(f, s, "m");
    op->deferred = f->pool->options.deferred;
    op->ring_k = state_of(f, s, "ring_k");
    op->ring_v = state_of(f, s, "ring_v");
    op->ring_i = state_of(f, s, "ring_i");
    op->ring_f = state_of(f, s, "ring_f");
}

/* Tokens of a sequence for which the mLSTM is so much work that the output gate may as well be made beside it. */
enum { PROMPT = 64 };

/* xlstm-large: projections and gates, the recurrence, then head norm, output gate and output
 * projection. */
static void run_large_mlstm(forward *f, const step *s) {
    const large_config *c = &f->config->large;
    const mlstm_weights *w = &f->weights->blocks[s->block].mlstm;
    int64_t heads = c->num_heads, qk = c->qk_dim / heads, v = c->v_dim / heads;
    ops_tensor q = forward_between(f, &f->q), k = forward_between(f, &f->k),
               values = forward_between(f, &f->v);
    ops_tensor o = forward_between(f, &f->output_gate), h = forward_between(f, &f->h);
    ops_tensor i = forward_rows(f, &f->input_gate), forget = forward_rows(f, &f->forget_gate);

    struct ops_norm_project project = {
        .x = input_of(f, s),
        .norm = forward_norm(f, &w->norm, &w->norm_bias),
        .count = 6,
        .projection = {{w->q, w->q_bias, 0, q, false},
                       {w->k, w->k_bias, 0, k, false},
                       {w->v, w->v_bias, 0, values, false},
                       {w->output_gate, w->output_gate_bias, 0, o, f->batch.longest >= PROMPT},
                       {w->input_gate, w->input_gate_bias, c->gate_soft_cap, i, false},
                       {w->forget_gate, w->forget_gate_bias, c->gate_soft_cap, forget, false}},
    };
    f->device->ops.norm_project(f->stream, &project);

    struct ops_mlstm recurrence = {
        .batch = f->batch,
        .q = ops_tensor_split(&q, heads, qk),
        .k = ops_tensor_split(&k, heads, qk),
        .v = ops_tensor_split(&values, heads, v),
        .input_gate = i,
        .forget_gate = forget,
        .eps = c->eps,
        .h = ops_tensor_split(&h, heads, v),
    };
    set_states(f, s, &recurrence);
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
        .out = forward_rows(f, &f->values[s->output]),
    };
    f->device->ops.mlstm_output(f->stream, &output);
}

/* y [T][blocks * size] = x by blocks. */
static void run_headwise(forward *f, const ops_tensor *x, const ops_tensor *weight,
                         const ops_tensor *bias, const ops_tensor *out) {
    int64_t blocks = weight->shape[0], size = weight->shape[1];
    f->device->ops.headwise(f->stream,
                            &(struct ops_headwise){.x = ops_tensor_split(x, blocks, size),
                                                   .weight = *weight,
                                                   .bias = *bias,
                                                   .out = ops_tensor_split(out, blocks, size)});
}

/* The last inputs of a node's convolution are its state. */
static void run_conv(forward *f, const step *s, const ops_tensor *x, const ops_tensor *weight,
                     const ops_tensor *bias, const ops_tensor *out) {
    f->device->ops.causal_conv(f->stream, &(struct ops_causal_conv){.batch = f->batch,
                                                                    .x = *x,
                                                                    .weight = *weight,
                                                                    .bias = *bias,
                                                                    .activation = OPS_SILU,
                                                                    .state = state_of(f, s, "conv"),
                                                                    .out = *out});
}

/* From the norm to q, k, v and the gates of xlstm-neurips: two branches; q and k come out of the
 * convolution of the first, v does not; the gates read all three. */
static void project_neurips(forward *f, const step *s, const mlstm_weights *w,
                            const ops_tensor *conv) {
    ops_tensor inner = forward_rows(f, &f->inner), qkv = forward_rows(f, &f->qkv);
    ops_tensor q = forward_rows(f, &f->q), k = forward_rows(f, &f->k), v = forward_rows(f, &f->v);
    struct ops_norm_project up = {
        .x = input_of(f, s),
        .norm = forward_norm(f, &w->norm, &w->norm_bias),
        .count = 2,
        .projection = {{w->inner, w->inner_bias, 0, inner, false},
                       {w->output_gate, w->output_gate_bias, 0, forward_rows(f, &f->output_gate),
                        false}},
    };
    f->device->ops.norm_project(f->stream, &up);
    run_conv(f, s, &inner, &w->conv, &w->conv_bias, conv);
    run_headwise(f, conv, &w->q, &w->q_bias, &q);
    run_headwise(f, conv, &w->k, &w->k_bias, &k);
    run_headwise(f, &inner, &w->v, &w->v_bias, &v);
    struct ops_norm_project gates = {
        .x = qkv,
        .norm = {.kind = OPS_NORM_NONE, .groups = 1},
        .count = 2,
        .projection = {{w->input_gate, w->input_gate_bias, 0, forward_rows(f, &f->input_gate),
                        false},
                       {w->forget_gate, w->forget_gate_bias, 0, forward_rows(f, &f->forget_gate),
                        false}},
    };
    f->device->ops.norm_project(f->stream, &gates);
}

/* xlstm-neurips: the same recurrence in an inner width, with a learnable skip around it. */
static void run_neurips_mlstm(forward *f, const step *s) {
    const neurips_mlstm_config *c = &f->config->neurips.mlstm;
    const mlstm_weights *w = &f->weights->blocks[s->block].mlstm;
    int64_t E = c->inner.width, heads = c->num_heads, d = E / heads;
    ops_tensor conv_rows = forward_rows(f, &f->conv), conv = forward_columns(&conv_rows, 0, E);
    ops_tensor q = forward_rows(f, &f->q), k = forward_rows(f, &f->k), v = forward_rows(f, &f->v);
    ops_tensor h = forward_rows(f, &f->h);
    project_neurips(f, s, w, &conv);
    struct ops_mlstm recurrence = {
        .batch = f->batch,
        .q = ops_tensor_split(&q, heads, d),
        .k = ops_tensor_split(&k, heads, d),
        .v = ops_tensor_split(&v, heads, d),
        .input_gate = forward_rows(f, &f->input_gate),
        .forget_gate = forward_rows(f, &f->forget_gate),
        .eps = neurips_eps,
        .h = ops_tensor_split(&h, heads, d),
    };
    set_states(f, s, &recurrence);
    f->device->ops.mlstm(f->stream, &recurrence);
    struct ops_mlstm_output output = {
        .h = recurrence.h,
        .output_gate = forward_rows(f, &f->output_gate),
        .activation = OPS_SILU,
        .skip = w->skip,
        .skip_input = conv,
        .norm = head_norm(&w->head_norm, c->num_heads),
        .weight = w->out,
        .bias = w->out_bias,
        .residual = residual_of(f, s),
        .sign = s->branch_sign,
        .out = forward_rows(f, &f->values[s->output]),
    };
    f->device->ops.mlstm_output(f->stream, &output);
}

/* ---- sLSTM ---- */

/* The gates' inputs: i and f see the convolution, z and o do not. */
static void project_slstm(forward *f, const step *s, const slstm_weights *w, ops_tensor gates[4]) {
    int64_t D = f->config->embedding_dim;
    ops_tensor x = forward_rows(f, &f->normed), conv = x, all = forward_rows(f, &f->gates);
    const ops_tensor no_bias = {0};
    f->device->ops.normalize(
        f->stream, &(struct ops_normalize){
                       .x = input_of(f, s), .norm = forward_norm(f, &w->norm, &no_bias), .out = x});
    if (ops_present(&w->conv)) {
        ops_tensor rows = forward_rows(f, &f->conv);
        conv = forward_columns(&rows, 0, D);
        run_conv(f, s, &x, &w->conv, &w->conv_bias, &conv);
    }
    for (int g = 0; g < 4; g++) {
        gates[g] = forward_columns(&all, g * D, D);
        run_headwise(f, g < 2 ? &conv : &x, &w->gate[g], &no_bias, &gates[g]);
    }
}

static void run_slstm(forward *f, const step *s) {
    const neurips_slstm_config *c = &f->config->neurips.slstm;
    const slstm_weights *w = &f->weights->blocks[s->block].slstm;
    int64_t D = f->config->embedding_dim, heads = c->num_heads, d = D / heads;
    ops_tensor gates[4], rows = forward_rows(f, &f->h), h = forward_columns(&rows, 0, D);
    project_slstm(f, s, w, gates);
    struct ops_slstm cell = {
        .batch = f->batch,
        .lstm = c->lstm,
        .recurrent = w->recurrent,
        .bias = w->bias,
        .clip = c->forward_clipval,
        .y = state_of(f, s, "y"),
        .c = state_of(f, s, "c"),
        .n = state_of(f, s, "n"),
        .m = state_of(f, s, "m"),
        .out = ops_tensor_split(&h, heads, d),
    };
    for (int g = 0; g < 4; g++)
        cell.input[g] = ops_tensor_split(&gates[g], heads, d);
    f->device->ops.slstm(f->stream, &cell);
    /* There is no output projection: the norm is the branch. */
    bool alone = s->residual < 0;
    ops_tensor out = forward_rows(f, &f->values[s->output]);
    f->device->ops.normalize(f->stream,
                             &(struct ops_normalize){.x = h,
                                                     .norm = head_norm(&w->head_norm, c->num_heads),
                                                     .out = alone ? out : h});
    if (!alone)
        f->device->ops.sum(f->stream, &(struct ops_sum){.count = 2,
                                                        .input = {residual_of(f, s), h},
                                                        .sign = {1, s->branch_sign},
                                                        .out = out});
}

/* ---- The other steps ---- */

static enum ops_activation activation_of(const model_config *config) {
    static const enum ops_activation activations[] = {
        [FFN_GELU] = OPS_GELU,       [FFN_RELU] = OPS_RELU,  [FFN_RELU_SQUARED] = OPS_RELU_SQUARED,
        [FFN_SIGMOID] = OPS_SIGMOID, [FFN_SWISH] = OPS_SILU, [FFN_SELU] = OPS_SELU};
    return config->family == FAMILY_LARGE ? OPS_SILU : activations[config->neurips.ffn.activation];
}

static void run_ffn(forward *f, const step *s) {
    const ffn_weights *w = &f->weights->blocks[s->block].ffn;
    struct ops_norm_project_gated gated = {
        .x = input_of(f, s),
        .norm = forward_norm(f, &w->norm, &w->norm_bias),
        .activation = activation_of(f->config),
        .gate_weight = w->gate,
        .gate_bias = w->gate_bias,
        .up_weight = w->up,
        .up_bias = w->up_bias,
        .out = forward_between(f, &f->hidden),
    };
    f->device->ops.norm_project_gated(f->stream, &gated);

    struct ops_project_add down = {
        .x = gated.out,
        .weight = w->down,
        .bias = w->down_bias,
        .residual = residual_of(f, s),
        .sign = s->branch_sign,
        .out = forward_rows(f, &f->values[s->output]),
    };
    f->device->ops.project_add(f->stream, &down);
}

static void run_sum(forward *f, const step *s) {
    struct ops_sum sum = {.count = s->input_count, .out = forward_rows(f, &f->values[s->output])};
    for (int i = 0; i < s->input_count; i++) {
        sum.input[i] = forward_rows(f, &f->values[s->input[i]]);
        sum.sign[i] = s->sign[i];
    }
    f->device->ops.sum(f->stream, &sum);
}

void forward_step(forward *f, const step *s) {
    ops_tensor output = forward_rows(f, &f->values[s->output]);
    switch (s->kind) {
    case STEP_EMBED:
        f->device->ops.embed(f->stream, &(struct ops_embed){.table = f->weights->embedding,
                                                            .ids = f->batch_ids,
                                                            .out = output});
        break;
    case STEP_MLSTM:
        (f->config->family == FAMILY_LARGE ? run_large_mlstm : run_neurips_mlstm)(f, s);
        break;
    case STEP_SLSTM:
        run_slstm(f, s);
        break;
    case STEP_FFN:
        run_ffn(f, s);
        break;
    case STEP_SUM:
        run_sum(f, s);
        break;
    case STEP_NORM:
        f->device->ops.normalize(
            f->stream, &(struct ops_normalize){.x = input_of(f, s),
                                               .norm = forward_norm(f, &f->weights->out_norm,
                                                                    &f->weights->out_norm_bias),
                                               .out = output});
        break;
    }
}
