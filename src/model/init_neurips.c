/* The initial values of an xlstm-neurips block, those of the official package's reset_parameters:
 * small(d) is N(0, sqrt(2 / (5 d))), wang(d) is N(0, 2 / (blocks sqrt(d))), both with the embedding's
 * width; convolutions as torch has them; norms 0, since 1 is added. The sLSTM's recurrent weights
 * and biases lie as the config's backend wants them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/init_plan.h"

static void add(init_plan *p, const char *prefix, const char *name, int64_t a, int64_t b, int64_t c,
                init_part part) {
    int64_t shape[3] = {a, b, c};
    init_plan_add(p, prefix, name, c ? 3 : b ? 2 : 1, shape, part);
}

static init_part constant(double value) {
    return (init_part){.kind = INIT_CONSTANT, .a = value};
}

static init_part small(const init_plan *p) {
    return (init_part){.kind = INIT_NORMAL, .a = sqrt(2.0 / (5.0 * p->config->embedding_dim))};
}

static init_part wang(const init_plan *p) {
    return (init_part){.kind = INIT_NORMAL,
                       .a = 2 / (p->config->num_blocks * sqrt((double)p->config->embedding_dim))};
}

static void add_conv(init_plan *p, const char *prefix, int64_t width, int64_t kernel) {
    init_part part = {.kind = INIT_UNIFORM, .a = 1 / sqrt((double)kernel)};
    add(p, prefix, "xlstm.conv1d.conv.weight", width, 1, kernel, part);
    add(p, prefix, "xlstm.conv1d.conv.bias", width, 0, 0, part);
}

static void add_mlstm(init_plan *p, const char *prefix) {
    const neurips_config *n = &p->config->neurips;
    const neurips_mlstm_config *c = &n->mlstm;
    int64_t D = p->config->embedding_dim, E = c->inner.width, heads = c->num_heads;
    int64_t size = E / c->qkv_heads;
    static const char *const qkv[] = {"q", "k", "v"};
    add(p, prefix, "xlstm.learnable_skip", E, 0, 0, constant(1));
    add(p, prefix, "xlstm.proj_up.weight", 2 * E, D, 0, small(p));
    for (int i = 0; i < 3; i++) {
        char name[48];
        snprintf(name, sizeof name, "xlstm.%s_proj.weight", qkv[i]);
        add(p, prefix, name, c->qkv_heads, size, size, small(p));
        snprintf(name, sizeof name, "xlstm.%s_proj.bias", qkv[i]);
        if (n->bias)
            add(p, prefix, name, E, 0, 0, constant(0));
    }
    add_conv(p, prefix, E, c->conv1d_kernel_size);
    add(p, prefix, "xlstm.mlstm_cell.igate.weight", heads, 3 * E, 0, constant(0));
    add(p, prefix, "xlstm.mlstm_cell.igate.bias", heads, 0, 0,
        (init_part){.kind = INIT_NORMAL, .a = 0.1});
    add(p, prefix, "xlstm.mlstm_cell.fgate.weight", heads, 3 * E, 0, constant(0));
    add(p, prefix, "xlstm.mlstm_cell.fgate.bias", heads, 0, 0,
        (init_part){.kind = INIT_LINEAR, .a = 3, .b = 6});
    add(p, prefix, "xlstm.mlstm_cell.outnorm.weight", E, 0, 0, constant(0));
    add(p, prefix, "xlstm.proj_down.weight", D, E, 0, wang(p));
    if (n->bias) {
        add(p, prefix, "xlstm.proj_up.bias", 2 * E, 0, 0, constant(0));
        add(p, prefix, "xlstm.proj_down.bias", D, 0, 0, constant(0));
    }
}

/* Forget gates that remember for very different times: biases from +5 down to -7 over the units of a
 * head, the more of them low the further down the block is ("powerlaw_blockdependent"), or from 3
 * to 6 ("small_init"). */
static init_part slstm_bias(const init_plan *p, int block) {
    const neurips_slstm_config *c = &p->config->neurips.slstm;
    int64_t D = p->config->embedding_dim, d = D / c->num_heads;
    double depth = p->config->num_blocks > 1 ? (double)block / (p->config->num_blocks - 1) : 0;
    init_part part = {
        .kind = INIT_FORGET_BIAS, .units = d, .gate_stride = c->vanilla ? D : d, .exponent = 1};
    switch (c->bias_init) {
    case SLSTM_BIAS_POWERLAW:
        part.a = 5;
        part.b = 12;
        part.exponent = 0.3 + 1.3 * depth;
        break;
    case SLSTM_BIAS_SMALL:
        part.a = 3;
        part.b = -3;
        break;
    case SLSTM_BIAS_STANDARD:
        return (init_part){.kind = INIT_UNIFORM, .a = 1 / sqrt((double)D)};
    case SLSTM_BIAS_ZEROS:
        return constant(0);
    }
    return part;
}

static void add_slstm(init_plan *p, const char *prefix, int block) {
    const neurips_slstm_config *c = &p->config->neurips.slstm;
    int64_t D = p->config->embedding_dim, heads = c->num_heads, d = D / heads;
    static const char *const gates[] = {"igate", "fgate", "zgate", "ogate"};
    if (c->conv1d_kernel_size > 0)
        add_conv(p, prefix, D, c->conv1d_kernel_size);
    for (int i = 0; i < 4; i++) {
        char name[48];
        snprintf(name, sizeof name, "xlstm.%s.weight", gates[i]);
        add(p, prefix, name, heads, d, d, small(p));
    }
    init_part recurrent = c->standard_recurrent_init
                              ? (init_part){.kind = INIT_UNIFORM, .a = 1 / sqrt((double)D)}
                              : constant(0);
    add(p, prefix, "xlstm.slstm_cell._recurrent_kernel_", heads, c->vanilla ? 4 * d : d,
        c->vanilla ? d : 4 * d, recurrent);
    add(p, prefix, "xlstm.slstm_cell._bias_", 4 * D, 0, 0, slstm_bias(p, block));
    if (c->group_norm_weight)
        add(p, prefix, "xlstm.group_norm.weight", D, 0, 0, constant(0));
}

static void add_ffn(init_plan *p, const char *prefix) {
    const neurips_ffn_config *c = &p->config->neurips.ffn;
    int64_t D = p->config->embedding_dim, F = c->hidden.width;
    add(p, prefix, "ffn_norm.weight", D, 0, 0, constant(0));
    add(p, prefix, "ffn.proj_up.weight", 2 * F, D, 0, small(p));
    add(p, prefix, "ffn.proj_down.weight", D, F, 0, wang(p));
    if (c->bias) {
        add(p, prefix, "ffn.proj_up.bias", 2 * F, 0, 0, constant(0));
        add(p, prefix, "ffn.proj_down.bias", D, 0, 0, constant(0));
    }
}

void init_neurips_block(init_plan *p, int block) {
    char prefix[48];
    snprintf(prefix, sizeof prefix, "xlstm_block_stack.blocks.%d.", block);
    add(p, prefix, "xlstm_norm.weight", p->config->embedding_dim, 0, 0, constant(0));
    if (config_is_slstm(p->config, block))
        add_slstm(p, prefix, block);
    else
        add_mlstm(p, prefix);
    if (config_has_ffn(p->config, block))
        add_ffn(p, prefix);
}
