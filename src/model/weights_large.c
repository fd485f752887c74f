/* The tensors of an xlstm-large block: Hugging Face and official names, q or query, single or fused.
 */
#include <stdio.h>

#include "model/weights_bind.h"

/* Rows of a fused matrix, elements of a fused bias. */
static ops_tensor part(const ops_tensor *whole, int64_t *first, int64_t count) {
    ops_tensor rows = ops_present(whole) ? ops_tensor_rows(whole, *first, count) : *whole;
    *first += count;
    return rows;
}

static ops_tensor optional_vector(weights_binder *b, bool wanted, const char *const *names,
                                  int64_t count) {
    return wanted ? weights_vector(b, names, count) : (ops_tensor){0};
}

static void bind_projections(weights_binder *b, mlstm_weights *w) {
    const large_config *c = &b->config->large;
    int64_t D = b->config->embedding_dim, qk = c->qk_dim, v = c->v_dim;
    const char *const *fused = NAMES("mlstm_layer.qkv_opreact.weight");
    const char *const *fused_bias = NAMES("mlstm_layer.qkv_opreact.bias");
    if (weights_find(b, fused)) {
        b->out->fused = true;
        ops_tensor all = weights_matrix(b, fused, 2 * qk + 2 * v, D);
        ops_tensor bias = optional_vector(b, c->use_bias, fused_bias, 2 * qk + 2 * v);
        int64_t row = 0, element = 0;
        w->q = part(&all, &row, qk), w->q_bias = part(&bias, &element, qk);
        w->k = part(&all, &row, qk), w->k_bias = part(&bias, &element, qk);
        w->v = part(&all, &row, v), w->v_bias = part(&bias, &element, v);
        w->output_gate = part(&all, &row, v), w->output_gate_bias = part(&bias, &element, v);
        return;
    }
    w->q = weights_matrix(b, NAMES("mlstm_layer.q.weight", "mlstm_layer.query.weight"), qk, D);
    w->k = weights_matrix(b, NAMES("mlstm_layer.k.weight", "mlstm_layer.key.weight"), qk, D);
    w->v = weights_matrix(b, NAMES("mlstm_layer.v.weight", "mlstm_layer.value.weight"), v, D);
    w->output_gate = weights_matrix(b, NAMES("mlstm_layer.ogate_preact.weight"), v, D);
    w->q_bias =
        optional_vector(b, c->use_bias, NAMES("mlstm_layer.q.bias", "mlstm_layer.query.bias"), qk);
    w->k_bias =
        optional_vector(b, c->use_bias, NAMES("mlstm_layer.k.bias", "mlstm_layer.key.bias"), qk);
    w->v_bias =
        optional_vector(b, c->use_bias, NAMES("mlstm_layer.v.bias", "mlstm_layer.value.bias"), v);
    w->output_gate_bias =
        optional_vector(b, c->use_bias, NAMES("mlstm_layer.ogate_preact.bias"), v);
}

/* The gates always have a bias. */
static void bind_gates(weights_binder *b, mlstm_weights *w) {
    int64_t D = b->config->embedding_dim, heads = b->config->large.num_heads;
    const char *const *fused = NAMES("mlstm_layer.ifgate_preact.weight");
    if (weights_find(b, fused)) {
        b->out->fused = true;
        ops_tensor all = weights_matrix(b, fused, 2 * heads, D);
        ops_tensor bias = weights_vector(b, NAMES("mlstm_layer.ifgate_preact.bias"), 2 * heads);
        int64_t row = 0, element = 0;
        w->input_gate = part(&all, &row, heads), w->input_gate_bias = part(&bias, &element, heads);
        w->forget_gate = part(&all, &row, heads),
        w->forget_gate_bias = part(&bias, &element, heads);
        return;
    }
    w->input_gate = weights_matrix(b, NAMES("mlstm_layer.igate_preact.weight"), heads, D);
    w->input_gate_bias = weights_vector(b, NAMES("mlstm_layer.igate_preact.bias"), heads);
    w->forget_gate = weights_matrix(b, NAMES("mlstm_layer.fgate_preact.weight"), heads, D);
    w->forget_gate_bias = weights_vector(b, NAMES("mlstm_layer.fgate_preact.bias"), heads);
}

static void bind_ffn(weights_binder *b, ffn_weights *w) {
    const large_config *c = &b->config->large;
    int64_t D = b->config->embedding_dim, F = c->ffn_dim;
    w->norm = weights_vector(b, NAMES("norm_ffn.weight"), D);
    w->norm_bias = optional_vector(b, c->use_bias, NAMES("norm_ffn.bias"), D);
    const char *const *fused = NAMES("ffn.proj_up_gate_z.weight");
    if (weights_find(b, fused)) {
        b->out->fused = true;
        ops_tensor all = weights_matrix(b, fused, 2 * F, D);
        ops_tensor bias = optional_vector(b, c->use_bias, NAMES("ffn.proj_up_gate_z.bias"), 2 * F);
        int64_t row = 0, element = 0;
        w->gate = part(&all, &row, F), w->gate_bias = part(&bias, &element, F);
        w->up = part(&all, &row, F), w->up_bias = part(&bias, &element, F);
    } else {
        w->gate = weights_matrix(b, NAMES("ffn.proj_up_gate.weight"), F, D);
        w->gate_bias = optional_vector(b, c->use_bias, NAMES("ffn.proj_up_gate.bias"), F);
        w->up = weights_matrix(b, NAMES("ffn.proj_up.weight"), F, D);
        w->up_bias = optional_vector(b, c->use_bias, NAMES("ffn.proj_up.bias"), F);
    }
    w->down = weights_matrix(b, NAMES("ffn.proj_down.weight"), D, F);
    w->down_bias = optional_vector(b, c->use_bias, NAMES("ffn.proj_down.bias"), D);
}

void weights_bind_large(weights_binder *b, int index, block_weights *w) {
    const large_config *c = &b->config->large;
    int64_t D = b->config->embedding_dim, v = c->v_dim;
    snprintf(b->prefix, sizeof b->prefix, "backbone.blocks.%d.", index);
    w->mlstm.norm = weights_vector(b, NAMES("norm_mlstm.weight"), D);
    w->mlstm.norm_bias = optional_vector(b, c->use_bias, NAMES("norm_mlstm.bias"), D);
    bind_projections(b, &w->mlstm);
    bind_gates(b, &w->mlstm);
    w->mlstm.head_norm = weights_vector(b, NAMES("mlstm_layer.multihead_norm.weight"), v);
    w->mlstm.head_norm_bias =
        optional_vector(b, c->use_bias, NAMES("mlstm_layer.multihead_norm.bias"), v);
    w->mlstm.out = weights_matrix(b, NAMES("mlstm_layer.out_proj.weight"), D, v);
    w->mlstm.out_bias = optional_vector(b, c->use_bias, NAMES("mlstm_layer.out_proj.bias"), D);
    bind_ffn(b, &w->ffn);
}

void weights_visit_large(const weights_visitor *v, const block_weights *w) {
    const mlstm_weights *m = &w->mlstm;
    const ffn_weights *f = &w->ffn;
    const struct {
        const char *name;
        const ops_tensor *tensor;
    } table[] = {
        {"norm_mlstm.weight", &m->norm},
        {"norm_mlstm.bias", &m->norm_bias},
        {"mlstm_layer.q.weight", &m->q},
        {"mlstm_layer.q.bias", &m->q_bias},
        {"mlstm_layer.k.weight", &m->k},
        {"mlstm_layer.k.bias", &m->k_bias},
        {"mlstm_layer.v.weight", &m->v},
        {"mlstm_layer.v.bias", &m->v_bias},
        {"mlstm_layer.ogate_preact.weight", &m->output_gate},
        {"mlstm_layer.ogate_preact.bias", &m->output_gate_bias},
        {"mlstm_layer.igate_preact.weight", &m->input_gate},
        {"mlstm_layer.igate_preact.bias", &m->input_gate_bias},
        {"mlstm_layer.fgate_preact.weight", &m->forget_gate},
        {"mlstm_layer.fgate_preact.bias", &m->forget_gate_bias},
        {"mlstm_layer.multihead_norm.weight", &m->head_norm},
        {"mlstm_layer.multihead_norm.bias", &m->head_norm_bias},
        {"mlstm_layer.out_proj.weight", &m->out},
        {"mlstm_layer.out_proj.bias", &m->out_bias},
        {"norm_ffn.weight", &f->norm},
        {"norm_ffn.bias", &f->norm_bias},
        {"ffn.proj_up_gate.weight", &f->gate},
        {"ffn.proj_up_gate.bias", &f->gate_bias},
        {"ffn.proj_up.weight", &f->up},
        {"ffn.proj_up.bias", &f->up_bias},
        {"ffn.proj_down.weight", &f->down},
        {"ffn.proj_down.bias", &f->down_bias},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        weights_visit_one(v, table[i].name, table[i].tensor);
}
