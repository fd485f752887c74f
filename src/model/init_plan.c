/* The list of tensors, each made of parts (one, or the ones that the fused layout puts in one
 * tensor), and the shards, filled greedily in that order. */
#include "model/init_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"

/* A tensor of `rows` rows ([rows] if columns is 0); its parts are added next, their rows adding up.
 */
static init_tensor *add_tensor(init_plan *p, const char *prefix, const char *name,
                               int64_t columns) {
    if (p->status == XLSTM_OK && p->count == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 64;
        init_tensor *grown = realloc(p->tensors, capacity * sizeof *grown);
        if (grown) {
            p->tensors = grown;
            p->capacity = capacity;
        } else {
            p->status = error_memory(capacity * sizeof *grown, "the list of tensors");
        }
    }
    if (p->status != XLSTM_OK)
        return NULL;
    init_tensor *t = &p->tensors[p->count++];
    *t = (init_tensor){.rank = columns ? 2 : 1, .shape = {0, columns}};
    snprintf(t->name, sizeof t->name, "%s%s", prefix, name);
    return t;
}

static void add_part(init_plan *p, init_tensor *t, const char *prefix, const char *name,
                     int64_t rows, enum init_kind kind, double a, double b) {
    if (!t)
        return;
    char full[INIT_NAME_SIZE];
    int length = snprintf(full, sizeof full, "%s%s", prefix, name);
    int64_t count = rows, bytes;
    size_t size = dtype_size(p->options->dtype);
    if ((t->rank == 2 && __builtin_mul_overflow(rows, t->shape[1], &count)) ||
        __builtin_mul_overflow(count, (int64_t)size, &bytes) ||
        __builtin_add_overflow(p->bytes, bytes, &p->bytes)) {
        p->status =
            error_set(XLSTM_INVALID_ARGUMENT, "%s has more bytes than a file can have", full);
        return;
    }
    t->parts[t->part_count++] = (init_part){
        .stream = hash64_of(full, (size_t)length, 0), .count = count, .kind = kind, .a = a, .b = b};
    t->shape[0] += rows;
    t->bytes += bytes;
}

static void add_single(init_plan *p, const char *prefix, const char *name, int64_t rows,
                       int64_t columns, enum init_kind kind, double a, double b) {
    add_part(p, add_tensor(p, prefix, name, columns), prefix, name, rows, kind, a, b);
}

void init_plan_add(init_plan *p, const char *prefix, const char *name, int rank,
                   const int64_t *shape, init_part part) {
    init_tensor *t = add_tensor(p, prefix, name, 0);
    int64_t bytes = (int64_t)dtype_size(p->options->dtype);
    if (!t)
        return;
    t->rank = rank;
    part.count = 1;
    for (int i = 0; i < rank; i++) {
        t->shape[i] = shape[i];
        part.count *= shape[i]; /* each below 2^24, and two of them at most are not small */
    }
    if (__builtin_mul_overflow(part.count, bytes, &bytes) ||
        __builtin_add_overflow(p->bytes, bytes, &p->bytes)) {
        p->status =
            error_set(XLSTM_INVALID_ARGUMENT, "%s has more bytes than a file can have", t->name);
        return;
    }
    part.stream = hash64_of(t->name, strlen(t->name), 0);
    t->parts[t->part_count++] = part;
    t->bytes = bytes;
}

typedef struct row_group {
    const char *name;
    int64_t rows;
} row_group;

/* Linear layers over the same input: single tensors, or one under the fused name. Biases are 0. */
static void add_linears(init_plan *p, const char *prefix, const char *fused_name,
                        const row_group *groups, int count, int64_t columns, double deviation) {
    for (int bias = 0; bias <= (p->config->large.use_bias ? 1 : 0); bias++) {
        const char *suffix = bias ? "bias" : "weight";
        char name[INIT_NAME_SIZE];
        init_tensor *t = NULL;
        for (int i = 0; i < count; i++) {
            if (!p->options->fused || i == 0) {
                snprintf(name, sizeof name, "%s.%s",
                         p->options->fused ? fused_name : groups[i].name, suffix);
                t = add_tensor(p, prefix, name, bias ? 0 : columns);
            }
            snprintf(name, sizeof name, "%s.%s", groups[i].name, suffix);
            add_part(p, t, prefix, name, groups[i].rows, bias ? INIT_CONSTANT : INIT_NORMAL,
                     bias ? 0 : deviation, 0);
        }
    }
}

static void add_gates(init_plan *p, const char *prefix) {
    int64_t heads = p->config->large.num_heads, width = p->config->embedding_dim;
    static const char *const names[2] = {"mlstm_layer.igate_preact", "mlstm_layer.fgate_preact"};
    for (int bias = 0; bias < 2; bias++) {
        const char *suffix = bias ? "bias" : "weight";
        init_tensor *t = NULL;
        for (int gate = 0; gate < 2; gate++) {
            char name[INIT_NAME_SIZE];
            if (!p->options->fused || gate == 0) {
                snprintf(name, sizeof name, "%s.%s",
                         p->options->fused ? "mlstm_layer.ifgate_preact" : names[gate], suffix);
                t = add_tensor(p, prefix, name, bias ? 0 : width);
            }
            snprintf(name, sizeof name, "%s.%s", names[gate], suffix);
            bool forget = bias && gate == 1;
            add_part(p, t, prefix, name, heads, forget ? INIT_LINEAR : INIT_CONSTANT,
                     !bias    ? 0
                     : forget ? 3
                              : -10,
                     6);
        }
    }
}

static void add_norm(init_plan *p, const char *prefix, const char *name, int64_t width) {
    char full[INIT_NAME_SIZE];
    snprintf(full, sizeof full, "%s.weight", name);
    add_single(p, prefix, full, width, 0, INIT_CONSTANT, 1, 0);
    if (!p->config->large.use_bias)
        return;
    snprintf(full, sizeof full, "%s.bias", name);
    add_single(p, prefix, full, width, 0, INIT_CONSTANT, 0, 0);
}

/* Output projections: N(0, 2 / (blocks sqrt(inputs))). */
static void add_output(init_plan *p, const char *prefix, const char *name, int64_t inputs) {
    row_group group = {name, p->config->embedding_dim};
    add_linears(p, prefix, name, &group, 1, inputs,
                2 / ((double)p->config->num_blocks * sqrt((double)inputs)));
}

static void add_block(init_plan *p, int block) {
    const model_config *config = p->config;
    const large_config *c = &config->large;
    char prefix[48];
    snprintf(prefix, sizeof prefix, "backbone.blocks.%d.", block);
    double deviation = sqrt(2.0 / (5.0 * config->embedding_dim));
    add_norm(p, prefix, "norm_mlstm", config->embedding_dim);
    row_group qkvo[4] = {{"mlstm_layer.q", c->qk_dim},
                         {"mlstm_layer.k", c->qk_dim},
                         {"mlstm_layer.v", c->v_dim},
                         {"mlstm_layer.ogate_preact", c->v_dim}};
    add_linears(p, prefix, "mlstm_layer.qkv_opreact", qkvo, 4, config->embedding_dim, deviation);
    add_gates(p, prefix);
    add_norm(p, prefix, "mlstm_layer.multihead_norm", c->v_dim);
    add_output(p, prefix, "mlstm_layer.out_proj", c->v_dim);
    add_norm(p, prefix, "norm_ffn", config->embedding_dim);
    row_group up[2] = {{"ffn.proj_up_gate", c->ffn_dim}, {"ffn.proj_up", c->ffn_dim}};
    add_linears(p, prefix, "ffn.proj_up_gate_z", up, 2, config->embedding_dim, deviation);
    add_output(p, prefix, "ffn.proj_down", c->ffn_dim);
}

xlstm_status init_plan_make(init_plan *p) {
    const model_config *c = p->config;
    bool neurips = c->family == FAMILY_NEURIPS;
    double deviation = sqrt(2.0 / (5.0 * c->embedding_dim));
    add_single(p, "", neurips ? "token_embedding.weight" : "backbone.embeddings.weight",
               c->vocab_size, c->embedding_dim, INIT_NORMAL, deviation, 0);
    for (int block = 0; block < c->num_blocks && p->status == XLSTM_OK; block++)
        (neurips ? init_neurips_block : add_block)(p, block);
    if (c->add_out_norm && neurips)
        add_single(p, "", "xlstm_block_stack.post_blocks_norm.weight", c->embedding_dim, 0,
                   INIT_CONSTANT, 0, 0);
    else if (c->add_out_norm)
        add_norm(p, "", "backbone.out_norm", c->embedding_dim);
    if (!c->tie_word_embeddings)
        add_single(p, "", "lm_head.weight", c->vocab_size, c->embedding_dim, INIT_NORMAL, deviation,
                   0);
    int64_t limit = p->options->shard_bytes ? p->options->shard_bytes : INT64_C(5000000000),
            used = 0;
    p->shards = 1;
    for (size_t i = 0; i < p->count && p->status == XLSTM_OK; i++) {
        if (used > 0 && p->tensors[i].bytes > limit - used) {
            p->shards++;
            used = 0;
        }
        p->tensors[i].shard = p->shards - 1;
        used += p->tensors[i].bytes;
    }
    return p->status;
}
