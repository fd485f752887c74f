/* The tensors of an xlstm-neurips block, under the official package's names.
 *
 * Three things are not as the names suggest. Norms store what is added to 1. The sLSTM layer hands
 * its gates to the cell in another order than the cell takes them: `fgate` drives the input gate and
 * `igate` the forget gate. And the recurrent weights lie as the training backend wanted them,
 * [heads][4 d out][d in] ("vanilla", biases by gate, then head) or [heads][d in][4 d out] ("cuda",
 * biases by head, then gate): the shape tells. */
#include <stdio.h>

#include "model/weights_bind.h"

static ops_tensor headwise(weights_binder *b, const char *name, int64_t heads, int64_t width) {
    int64_t shape[3] = {heads, width, width};
    return weights_place(b, weights_need(b, NAMES(name), 3, shape), 3, shape);
}

/* Stored flat. */
static ops_tensor headwise_bias(weights_binder *b, const char *name, int64_t heads, int64_t width) {
    int64_t flat = heads * width, shape[2] = {heads, width};
    const stored_tensor *tensor =
        b->config->neurips.bias ? weights_need(b, NAMES(name), 1, &flat) : NULL;
    return tensor ? weights_copy(b, tensor, DTYPE_F32, 2, shape) : (ops_tensor){0};
}

static ops_tensor bias_of(weights_binder *b, bool wanted, const char *name, int64_t count) {
    return wanted ? weights_vector(b, NAMES(name), count) : (ops_tensor){0};
}

static void bind_conv(weights_binder *b, int64_t width, int64_t kernel, ops_tensor *conv,
                      ops_tensor *bias) {
    int64_t stored[3] = {width, 1, kernel}, shape[2] = {width, kernel};
    *conv =
        weights_place(b, weights_need(b, NAMES("xlstm.conv1d.conv.weight"), 3, stored), 2, shape);
    *bias = weights_vector(b, NAMES("xlstm.conv1d.conv.bias"), width);
}

/* The first and the second half of a projection's rows. */
static void bind_halves(weights_binder *b, const char *weight, const char *bias, bool has_bias,
                        int64_t half, ops_tensor *first, ops_tensor *first_bias, ops_tensor *second,
                        ops_tensor *second_bias) {
    ops_tensor both = weights_matrix(b, NAMES(weight), 2 * half, b->config->embedding_dim);
    ops_tensor biases = bias_of(b, has_bias, bias, 2 * half);
    if (ops_present(&both)) {
        *first = ops_tensor_rows(&both, 0, half);
        *second = ops_tensor_rows(&both, half, half);
    }
    if (ops_present(&biases)) {
        *first_bias = ops_tensor_rows(&biases, 0, half);
        *second_bias = ops_tensor_rows(&biases, half, half);
    }
}

static void bind_mlstm(weights_binder *b, mlstm_weights *w) {
    const neurips_config *c = &b->config->neurips;
    int64_t D = b->config->embedding_dim, E = c->mlstm.inner.width, heads = c->mlstm.num_heads;
    int64_t blocks = c->mlstm.qkv_heads, size = E / blocks;
    w->norm = weights_residual_norm(b, NAMES("xlstm_norm.weight"), D);
    bind_halves(b, "xlstm.proj_up.weight", "xlstm.proj_up.bias", c->bias, E, &w->inner,
                &w->inner_bias, &w->output_gate, &w->output_gate_bias);
    bind_conv(b, E, c->mlstm.conv1d_kernel_size, &w->conv, &w->conv_bias);
    w->q = headwise(b, "xlstm.q_proj.weight", blocks, size);
    w->q_bias = headwise_bias(b, "xlstm.q_proj.bias", blocks, size);
    w->k = headwise(b, "xlstm.k_proj.weight", blocks, size);
    w->k_bias = headwise_bias(b, "xlstm.k_proj.bias", blocks, size);
    w->v = headwise(b, "xlstm.v_proj.weight", blocks, size);
    w->v_bias = headwise_bias(b, "xlstm.v_proj.bias", blocks, size);
    w->input_gate = weights_matrix(b, NAMES("xlstm.mlstm_cell.igate.weight"), heads, 3 * E);
    w->input_gate_bias = weights_vector(b, NAMES("xlstm.mlstm_cell.igate.bias"), heads);
    w->forget_gate = weights_matrix(b, NAMES("xlstm.mlstm_cell.fgate.weight"), heads, 3 * E);
    w->forget_gate_bias = weights_vector(b, NAMES("xlstm.mlstm_cell.fgate.bias"), heads);
    w->head_norm = weights_residual_norm(b, NAMES("xlstm.mlstm_cell.outnorm.weight"), E);
    const stored_tensor *skip = weights_need(b, NAMES("xlstm.learnable_skip"), 1, &E);
    if (skip)
        w->skip = weights_copy(b, skip, b->real, 1, &E);
    w->out = weights_matrix(b, NAMES("xlstm.proj_down.weight"), D, E);
    w->out_bias = bias_of(b, c->bias, "xlstm.proj_down.bias", D);
}

/* ---- sLSTM ---- */

static const char recurrent_name[] = "xlstm.slstm_cell._recurrent_kernel_";
static const char bias_name[] = "xlstm.slstm_cell._bias_";

/* [heads][d in][4 d out], from either layout. */
static void bind_recurrent(weights_binder *b, slstm_weights *w, int64_t heads, int64_t d) {
    int64_t shape[3] = {heads, d, 4 * d}, vanilla_shape[3] = {heads, 4 * d, d};
    int64_t gates = 4 * heads * d, bias_shape[2] = {4, heads * d};
    const stored_tensor *found = weights_find(b, NAMES(recurrent_name));
    bool vanilla = found && found->rank == 3 && found->shape[1] == 4 * d && found->shape[2] == d;
    const stored_tensor *r =
        weights_need(b, NAMES(recurrent_name), 3, vanilla ? vanilla_shape : shape);
    const stored_tensor *bias = weights_need(b, NAMES(bias_name), 1, &gates);
    void *to = r ? weights_own(b, b->real, 3, shape, &w->recurrent) : NULL;
    for (int64_t i = 0; to && i < heads * d * 4 * d; i++) {
        int64_t head = i / (4 * d * d), in = i / (4 * d) % d, out = i % (4 * d);
        int64_t from = vanilla ? (head * 4 * d + out) * d + in : i;
        dtype_store(b->real, to, i, weights_element(r, from));
    }
    to = bias ? weights_own(b, b->real, 2, bias_shape, &w->bias) : NULL;
    for (int64_t i = 0; to && i < gates; i++) {
        int64_t gate = i / (heads * d), head = i / d % heads, unit = i % d;
        int64_t from = vanilla ? i : (head * 4 + gate) * d + unit;
        dtype_store(b->real, to, i, weights_element(bias, from));
    }
}

static void bind_slstm_norm(weights_binder *b, slstm_weights *w) {
    int64_t D = b->config->embedding_dim;
    w->norm_from_file = b->config->neurips.slstm.group_norm_weight;
    if (w->norm_from_file) {
        w->head_norm = weights_residual_norm(b, NAMES("xlstm.group_norm.weight"), D);
        return;
    }
    void *ones = weights_own(b, b->real, 1, &D, &w->head_norm);
    for (int64_t i = 0; ones && i < D; i++)
        dtype_store(b->real, ones, i, 1);
}

static void bind_slstm(weights_binder *b, slstm_weights *w) {
    const neurips_slstm_config *c = &b->config->neurips.slstm;
    /* In the order in which the cell takes them: i, f, z, o. */
    static const char *const driven_by[4] = {"xlstm.fgate.weight", "xlstm.igate.weight",
                                             "xlstm.zgate.weight", "xlstm.ogate.weight"};
    int64_t D = b->config->embedding_dim, heads = c->num_heads, d = D / heads;
    w->norm = weights_residual_norm(b, NAMES("xlstm_norm.weight"), D);
    if (c->conv1d_kernel_size > 0)
        bind_conv(b, D, c->conv1d_kernel_size, &w->conv, &w->conv_bias);
    for (int g = 0; g < 4; g++)
        w->gate[g] = headwise(b, driven_by[g], heads, d);
    bind_recurrent(b, w, heads, d);
    bind_slstm_norm(b, w);
}

/* ---- Blocks ---- */

static void bind_ffn(weights_binder *b, ffn_weights *w) {
    const neurips_ffn_config *c = &b->config->neurips.ffn;
    int64_t D = b->config->embedding_dim, F = c->hidden.width;
    w->norm = weights_residual_norm(b, NAMES("ffn_norm.weight"), D);
    bind_halves(b, "ffn.proj_up.weight", "ffn.proj_up.bias", c->bias, F, &w->gate, &w->gate_bias,
                &w->up, &w->up_bias);
    w->down = weights_matrix(b, NAMES("ffn.proj_down.weight"), D, F);
    w->down_bias = bias_of(b, c->bias, "ffn.proj_down.bias", D);
}

void weights_bind_neurips(weights_binder *b, int index, block_weights *w) {
    snprintf(b->prefix, sizeof b->prefix, "xlstm_block_stack.blocks.%d.", index);
    if (config_is_slstm(b->config, index))
        bind_slstm(b, &w->slstm);
    else
        bind_mlstm(b, &w->mlstm);
    if (config_has_ffn(b->config, index))
        bind_ffn(b, &w->ffn);
}

/* Halves of one tensor are visited by themselves, and what is computed with in another form than it
 * is stored is visited in that form. */
void weights_visit_neurips(const weights_visitor *v, const block_weights *w) {
    const mlstm_weights *m = &w->mlstm;
    const slstm_weights *s = &w->slstm;
    const ffn_weights *f = &w->ffn;
    const ops_tensor none = {0};
    const struct {
        const char *name;
        const ops_tensor *tensor;
    } table[] = {
        {"xlstm_norm.weight", &m->norm},
        {"xlstm.proj_up.weight:inner", &m->inner},
        {"xlstm.proj_up.bias:inner", &m->inner_bias},
        {"xlstm.proj_up.weight:gate", &m->output_gate},
        {"xlstm.proj_up.bias:gate", &m->output_gate_bias},
        {"xlstm.conv1d.conv.weight", &m->conv},
        {"xlstm.conv1d.conv.bias", &m->conv_bias},
        {"xlstm.q_proj.weight", &m->q},
        {"xlstm.q_proj.bias", &m->q_bias},
        {"xlstm.k_proj.weight", &m->k},
        {"xlstm.k_proj.bias", &m->k_bias},
        {"xlstm.v_proj.weight", &m->v},
        {"xlstm.v_proj.bias", &m->v_bias},
        {"xlstm.mlstm_cell.igate.weight", &m->input_gate},
        {"xlstm.mlstm_cell.igate.bias", &m->input_gate_bias},
        {"xlstm.mlstm_cell.fgate.weight", &m->forget_gate},
        {"xlstm.mlstm_cell.fgate.bias", &m->forget_gate_bias},
        {"xlstm.mlstm_cell.outnorm.weight", &m->head_norm},
        {"xlstm.learnable_skip", &m->skip},
        {"xlstm.proj_down.weight", &m->out},
        {"xlstm.proj_down.bias", &m->out_bias},
        {"xlstm_norm.weight", &s->norm},
        {"xlstm.conv1d.conv.weight", &s->conv},
        {"xlstm.conv1d.conv.bias", &s->conv_bias},
        {"xlstm.fgate.weight", &s->gate[0]},
        {"xlstm.igate.weight", &s->gate[1]},
        {"xlstm.zgate.weight", &s->gate[2]},
        {"xlstm.ogate.weight", &s->gate[3]},
        {recurrent_name, &s->recurrent},
        {bias_name, &s->bias},
        {"xlstm.group_norm.weight", s->norm_from_file ? &s->head_norm : &none},
        {"ffn_norm.weight", &f->norm},
        {"ffn.proj_up.weight:gate", &f->gate},
        {"ffn.proj_up.bias:gate", &f->gate_bias},
        {"ffn.proj_up.weight:up", &f->up},
        {"ffn.proj_up.bias:up", &f->up_bias},
        {"ffn.proj_down.weight", &f->down},
        {"ffn.proj_down.bias", &f->down_bias},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        weights_visit_one(v, table[i].name, table[i].tensor);
}
