/* Binding: which tensors the config calls for, under which names, and where they are. */
#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The state of one binding. Faults are collected; only memory and device errors stop it. */
typedef struct binder {
    const xlstm_large_config *config;
    const safetensors *files;
    ops_device *device;
    weights *out;
    bool *used; /* [files->count] */
    error_list faults;
    xlstm_status status;
    char prefix[96]; /* of the block at hand, "backbone.blocks.3." */
} binder;

static void fail(binder *b, xlstm_status status) {
    if (b->status == XLSTM_OK)
        b->status = status;
}

/* ---- Finding ---- */

/* "[384, 1024]" */
static void print_shape(const int64_t *shape, int rank, char *text, size_t size) {
    size_t at = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (at < size)
        snprintf(text + at, size - at, "]");
}

/* The tensor called prefix + one of `names` (NULL ends them), or NULL. Given twice is a fault. */
static const safetensor *find(binder *b, const char *const *names) {
    const safetensor *found = NULL;
    for (; *names; names++) {
        char full[192];
        snprintf(full, sizeof full, "%s%s", b->prefix, *names);
        const safetensor *tensor = safetensors_find(b->files, full);
        if (!tensor)
            continue;
        b->used[tensor - b->files->tensors] = true;
        if (found)
            error_list_add(&b->faults, "tensors %s and %s are the same weight; one of them must go",
                           found->name, tensor->name);
        found = tensor;
    }
    return found;
}

/* As find; absence, a wrong shape and a wrong dtype are faults. columns 0: a vector; the weight of
 * the head norm may also be stored by heads, with any shape of as many elements. */
static const safetensor *need(binder *b, const char *const *names, int64_t rows, int64_t columns) {
    const safetensor *tensor = find(b, names);
    int64_t want[2] = {rows, columns};
    int rank = columns ? 2 : 1;
    char expected[64];
    print_shape(want, rank, expected, sizeof expected);
    if (!tensor) {
        error_list_add(&b->faults, "tensor %s%s %s is missing", b->prefix, names[0], expected);
        return NULL;
    }
    int64_t elements = 1;
    for (int i = 0; i < tensor->rank; i++)
        elements *= tensor->shape[i];
    bool by_heads = rank == 1 && strstr(names[0], "multihead_norm") != NULL;
    bool fits = rank == 1
                    ? elements == rows && (tensor->rank == 1 || by_heads)
                    : tensor->rank == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns;
    bool right_type =
        tensor->dtype == DTYPE_F32 || tensor->dtype == DTYPE_BF16 || tensor->dtype == DTYPE_F16;
    if (!fits) {
        char actual[256];
        print_shape(tensor->shape, tensor->rank, actual, sizeof actual);
        error_list_add(&b->faults, "tensor %s has shape %s; the config calls for %s", tensor->name,
                       actual, expected);
    }
    if (!right_type)
        error_list_add(&b->faults, "tensor %s has dtype %s; weights are f32, bf16 or f16",
                       tensor->name, dtype_name(tensor->dtype));
    if (!fits || !right_type)
        return NULL;
    b->out->parameters += elements;
    b->out->bytes += (int64_t)tensor->size;
    b->out->dtype_bytes[tensor->dtype] += (int64_t)tensor->size;
    return tensor;
}

/* ---- Placing ---- */

/* Hands host memory to the device and remembers the buffer; the first file_count buffers are the
 * files. */
static ops_buffer *wrap(binder *b, void *host, size_t size) {
    ops_buffer *span = &b->out->buffers[b->out->buffer_count];
    xlstm_status status = b->device->buffer_wrap(b->device, host, size, span);
    if (status != XLSTM_OK) {
        fail(b, status);
        return NULL;
    }
    b->out->hosts[b->out->buffer_count++] = host;
    return span;
}

/* A copy in memory of ours, as `type`. */
static ops_tensor copied(binder *b, const safetensor *tensor, dtype type, int rank,
                         const int64_t *shape) {
    int64_t count = (int64_t)(tensor->size / dtype_size(tensor->dtype));
    size_t size = (size_t)count * dtype_size(type);
    size_t rounded = (size + 63) / 64 * 64;
    void *memory = aligned_alloc(64, rounded ? rounded : 64);
    if (!memory) {
        fail(b, error_memory(size, tensor->name));
        return (ops_tensor){0};
    }
    if (type == tensor->dtype) {
        memcpy(memory, tensor->data, size);
    } else {
        uint8_t element[8]; /* the source may be misaligned */
        size_t width = dtype_size(tensor->dtype);
        for (int64_t i = 0; i < count; i++) {
            memcpy(element, tensor->data + (size_t)i * width, width);
            dtype_store(type, memory, i, dtype_load(tensor->dtype, element, 0));
        }
    }
    ops_buffer *span = wrap(b, memory, rounded ? rounded : 64);
    if (!span) {
        free(memory);
        return (ops_tensor){0};
    }
    return ops_tensor_make(span, 0, type, rank, shape);
}

/* Matrices stay where the file has them, unless their address does not suit the type. */
static ops_tensor matrix(binder *b, const char *const *names, int64_t rows, int64_t columns) {
    const safetensor *tensor = need(b, names, rows, columns);
    if (!tensor || b->status != XLSTM_OK)
        return (ops_tensor){0};
    int64_t shape[2] = {rows, columns};
    if ((uintptr_t)tensor->data % dtype_size(tensor->dtype) != 0)
        return copied(b, tensor, tensor->dtype, 2, shape);
    size_t offset = (size_t)(tensor->data - b->files->maps[tensor->file].data);
    return ops_tensor_make(&b->out->buffers[tensor->file], offset, tensor->dtype, 2, shape);
}

static ops_tensor vector(binder *b, const char *const *names, int64_t count) {
    const safetensor *tensor = need(b, names, count, 0);
    if (!tensor || b->status != XLSTM_OK)
        return (ops_tensor){0};
    return copied(b, tensor, DTYPE_F32, 1, &count);
}

static ops_tensor optional_vector(binder *b, bool wanted, const char *const *names, int64_t count) {
    return wanted ? vector(b, names, count) : (ops_tensor){0};
}

/* Rows of a fused matrix, elements of a fused bias. */
static ops_tensor part(const ops_tensor *whole, int64_t *first, int64_t count) {
    ops_tensor rows = ops_present(whole) ? ops_tensor_rows(whole, *first, count) : *whole;
    *first += count;
    return rows;
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

/* ---- One block ---- */

static void bind_projections(binder *b, mlstm_weights *w) {
    const xlstm_large_config *c = b->config;
    int64_t D = c->embedding_dim, qk = c->qk_dim, v = c->v_dim;
    const char *const *fused = NAMES("mlstm_layer.qkv_opreact.weight");
    const char *const *fused_bias = NAMES("mlstm_layer.qkv_opreact.bias");
    if (find(b, fused)) {
        b->out->fused = true;
        ops_tensor all = matrix(b, fused, 2 * qk + 2 * v, D);
        ops_tensor bias = optional_vector(b, c->use_bias, fused_bias, 2 * qk + 2 * v);
        int64_t row = 0, element = 0;
        w->q = part(&all, &row, qk), w->q_bias = part(&bias, &element, qk);
        w->k = part(&all, &row, qk), w->k_bias = part(&bias, &element, qk);
        w->v = part(&all, &row, v), w->v_bias = part(&bias, &element, v);
        w->output_gate = part(&all, &row, v), w->output_gate_bias = part(&bias, &element, v);
        return;
    }
    w->q = matrix(b, NAMES("mlstm_layer.q.weight", "mlstm_layer.query.weight"), qk, D);
    w->k = matrix(b, NAMES("mlstm_layer.k.weight", "mlstm_layer.key.weight"), qk, D);
    w->v = matrix(b, NAMES("mlstm_layer.v.weight", "mlstm_layer.value.weight"), v, D);
    w->output_gate = matrix(b, NAMES("mlstm_layer.ogate_preact.weight"), v, D);
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
static void bind_gates(binder *b, mlstm_weights *w) {
    int64_t D = b->config->embedding_dim, heads = b->config->num_heads;
    const char *const *fused = NAMES("mlstm_layer.ifgate_preact.weight");
    if (find(b, fused)) {
        b->out->fused = true;
        ops_tensor all = matrix(b, fused, 2 * heads, D);
        ops_tensor bias = vector(b, NAMES("mlstm_layer.ifgate_preact.bias"), 2 * heads);
        int64_t row = 0, element = 0;
        w->input_gate = part(&all, &row, heads), w->input_gate_bias = part(&bias, &element, heads);
        w->forget_gate = part(&all, &row, heads),
        w->forget_gate_bias = part(&bias, &element, heads);
        return;
    }
    w->input_gate = matrix(b, NAMES("mlstm_layer.igate_preact.weight"), heads, D);
    w->input_gate_bias = vector(b, NAMES("mlstm_layer.igate_preact.bias"), heads);
    w->forget_gate = matrix(b, NAMES("mlstm_layer.fgate_preact.weight"), heads, D);
    w->forget_gate_bias = vector(b, NAMES("mlstm_layer.fgate_preact.bias"), heads);
}

static void bind_ffn(binder *b, ffn_weights *w) {
    const xlstm_large_config *c = b->config;
    int64_t D = c->embedding_dim, F = c->ffn_dim;
    w->norm = vector(b, NAMES("norm_ffn.weight"), D);
    w->norm_bias = optional_vector(b, c->use_bias, NAMES("norm_ffn.bias"), D);
    const char *const *fused = NAMES("ffn.proj_up_gate_z.weight");
    if (find(b, fused)) {
        b->out->fused = true;
        ops_tensor all = matrix(b, fused, 2 * F, D);
        ops_tensor bias = optional_vector(b, c->use_bias, NAMES("ffn.proj_up_gate_z.bias"), 2 * F);
        int64_t row = 0, element = 0;
        w->gate = part(&all, &row, F), w->gate_bias = part(&bias, &element, F);
        w->up = part(&all, &row, F), w->up_bias = part(&bias, &element, F);
    } else {
        w->gate = matrix(b, NAMES("ffn.proj_up_gate.weight"), F, D);
        w->gate_bias = optional_vector(b, c->use_bias, NAMES("ffn.proj_up_gate.bias"), F);
        w->up = matrix(b, NAMES("ffn.proj_up.weight"), F, D);
        w->up_bias = optional_vector(b, c->use_bias, NAMES("ffn.proj_up.bias"), F);
    }
    w->down = matrix(b, NAMES("ffn.proj_down.weight"), D, F);
    w->down_bias = optional_vector(b, c->use_bias, NAMES("ffn.proj_down.bias"), D);
}

static void bind_block(binder *b, int index, block_weights *w) {
    const xlstm_large_config *c = b->config;
    int64_t D = c->embedding_dim, v = c->v_dim;
    snprintf(b->prefix, sizeof b->prefix, "backbone.blocks.%d.", index);
    w->mlstm.norm = vector(b, NAMES("norm_mlstm.weight"), D);
    w->mlstm.norm_bias = optional_vector(b, c->use_bias, NAMES("norm_mlstm.bias"), D);
    bind_projections(b, &w->mlstm);
    bind_gates(b, &w->mlstm);
    w->mlstm.head_norm = vector(b, NAMES("mlstm_layer.multihead_norm.weight"), v);
    w->mlstm.head_norm_bias =
        optional_vector(b, c->use_bias, NAMES("mlstm_layer.multihead_norm.bias"), v);
    w->mlstm.out = matrix(b, NAMES("mlstm_layer.out_proj.weight"), D, v);
    w->mlstm.out_bias = optional_vector(b, c->use_bias, NAMES("mlstm_layer.out_proj.bias"), D);
    bind_ffn(b, &w->ffn);
}

/* ---- The model ---- */

/* By type, shape, and a little of the content: reading all of it would cost a pass over the
 * weights. */
static bool look_equal(const safetensor *a, const safetensor *b) {
    if (a->dtype != b->dtype || a->size != b->size || a->rank != b->rank)
        return false;
    size_t part = a->size < 4096 ? a->size : 4096, last = a->size - part;
    return memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0 &&
           memcmp(a->data, b->data, part) == 0 && memcmp(a->data + last, b->data + last, part) == 0;
}

static void bind_ends(binder *b) {
    const xlstm_large_config *c = b->config;
    int64_t D = c->embedding_dim;
    b->prefix[0] = 0;
    const char *const *embedding = NAMES("backbone.embeddings.weight", "embedding.weight");
    b->out->embedding = matrix(b, embedding, c->vocab_size, D);
    if (c->add_out_norm)
        b->out->out_norm = vector(b, NAMES("backbone.out_norm.weight"), D);
    b->out->out_norm_bias =
        optional_vector(b, c->add_out_norm && c->use_bias, NAMES("backbone.out_norm.bias"), D);
    const char *const *head = NAMES("lm_head.weight");
    if (c->tie_word_embeddings) {
        const safetensor *own = find(b, head), *table = find(b, embedding);
        if (own && table && !look_equal(own, table))
            error_list_add(&b->faults,
                           "tensor %s differs from %s, but the config has tie_word_embeddings true",
                           own->name, table->name);
        b->out->head = b->out->embedding;
        return;
    }
    b->out->head = matrix(b, head, c->vocab_size, D);
    if (ops_present(&b->out->embedding))
        b->out->embedding_bytes =
            ops_tensor_elements(&b->out->embedding) * (int64_t)dtype_size(b->out->embedding.dtype);
}

/* Buffers that training code stores beside the weights and that carry no information. */
static bool is_known_buffer(const char *name) {
    static const char *const endings[] = {"causal_mask"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t length = strlen(name), ending = strlen(endings[i]);
        if (length >= ending && strcmp(name + length - ending, endings[i]) == 0)
            return true;
    }
    return false;
}

static void report_surplus(binder *b) {
    for (size_t i = 0; i < b->files->count; i++) {
        const safetensor *tensor = &b->files->tensors[i];
        if (b->used[i] || is_known_buffer(tensor->name))
            continue;
        char shape[256];
        print_shape(tensor->shape, tensor->rank, shape, sizeof shape);
        error_list_add(
            &b->faults,
            "tensor %s %s is not part of this model (the config says: %d blocks, %s biases)",
            tensor->name, shape, b->config->num_blocks, b->config->use_bias ? "with" : "no");
    }
}

xlstm_status weights_bind(const xlstm_large_config *config, const safetensors *files,
                          ops_device *device, weights *out) {
    *out = (weights){.block_count = config->num_blocks};
    binder b = {.config = config, .files = files, .device = device, .out = out};
    b.used = calloc(files->count + 1, sizeof *b.used);
    out->blocks = calloc((size_t)config->num_blocks, sizeof *out->blocks);
    /* At most every tensor is copied. */
    size_t buffers = (size_t)files->file_count + files->count + 1;
    out->buffers = calloc(buffers, sizeof *out->buffers);
    out->hosts = calloc(buffers, sizeof *out->hosts);
    if (!b.used || !out->blocks || !out->buffers || !out->hosts)
        fail(&b, error_memory(files->count * sizeof *out->buffers, "the weights"));
    for (int i = 0; b.status == XLSTM_OK && i < files->file_count; i++)
        if (wrap(&b, (void *)(uintptr_t)files->maps[i].data, files->maps[i].size))
            out->file_count++;
    if (b.status == XLSTM_OK) {
        bind_ends(&b);
        for (int i = 0; i < config->num_blocks; i++)
            bind_block(&b, i, &out->blocks[i]);
        report_surplus(&b);
    }
    free(b.used);
    if (b.status == XLSTM_OK)
        b.status = error_list_finish(&b.faults, XLSTM_FORMAT_ERROR);
    else
        (void)error_list_finish(&b.faults, b.status);
    if (b.status != XLSTM_OK)
        weights_free(out);
    return b.status;
}

void weights_free(weights *w) {
    for (int i = 0; i < w->buffer_count; i++) {
        w->buffers[i].device->buffer_free(&w->buffers[i]);
        if (i >= w->file_count)
            free(w->hosts[i]);
    }
    free(w->buffers);
    free(w->hosts);
    free(w->blocks);
    *w = (weights){0};
}

/* ---- Walking ---- */

typedef struct visitor {
    const weights *weights;
    weights_visit visit;
    void *context;
    char prefix[96];
} visitor;

static void visit(const visitor *v, const char *name, const ops_tensor *tensor) {
    char full[192];
    if (!ops_present(tensor))
        return;
    snprintf(full, sizeof full, "%s%s", v->prefix, name);
    const uint8_t *host = v->weights->hosts[tensor->buffer - v->weights->buffers];
    v->visit(v->context, full, tensor, host + tensor->offset);
}

static void visit_block(const visitor *v, const block_weights *w) {
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
        visit(v, table[i].name, table[i].tensor);
}

void weights_each(const weights *w, weights_visit function, void *context) {
    visitor v = {.weights = w, .visit = function, .context = context};
    visit(&v, "backbone.embeddings.weight", &w->embedding);
    for (int i = 0; i < w->block_count; i++) {
        snprintf(v.prefix, sizeof v.prefix, "backbone.blocks.%d.", i);
        visit_block(&v, &w->blocks[i]);
    }
    v.prefix[0] = 0;
    visit(&v, "backbone.out_norm.weight", &w->out_norm);
    visit(&v, "backbone.out_norm.bias", &w->out_norm_bias);
    if (w->head.buffer != w->embedding.buffer || w->head.offset != w->embedding.offset)
        visit(&v, "lm_head.weight", &w->head);
}
