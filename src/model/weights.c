/* Binding: which tensors the config calls for, under which names, and where they are. The blocks'
 * own tensors are in weights_large.c and weights_neurips.c. */
#include "model/weights_bind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/shape.h"

static void fail(weights_binder *b, xlstm_status status) {
    if (b->status == XLSTM_OK)
        b->status = status;
}

/* ---- Finding ---- */

const stored_tensor *weights_find(weights_binder *b, const char *const *names) {
    const stored_tensor *found = NULL;
    for (; *names; names++) {
        char full[192];
        snprintf(full, sizeof full, "%s%s", b->prefix, *names);
        const stored_tensor *tensor = stored_find(b->files, full);
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

static int64_t elements_of(const int64_t *shape, int rank) {
    int64_t elements = 1;
    for (int i = 0; i < rank; i++)
        elements *= shape[i];
    return elements;
}

const stored_tensor *weights_need(weights_binder *b, const char *const *names, int rank,
                                  const int64_t *shape) {
    const stored_tensor *tensor = weights_find(b, names);
    char expected[128];
    shape_text(rank, shape, expected, sizeof expected);
    if (!tensor) {
        error_list_add(&b->faults, "tensor %s%s %s is missing", b->prefix, names[0], expected);
        return NULL;
    }
    int64_t elements = elements_of(tensor->shape, tensor->rank);
    bool by_heads = rank == 1 && strstr(names[0], "multihead_norm") != NULL;
    bool fits = by_heads ? elements == shape[0]
                         : tensor->rank == rank &&
                               memcmp(tensor->shape, shape, (size_t)rank * sizeof *shape) == 0;
    bool blocks = dtype_block(tensor->dtype) > 1; /* only matrices, which are used as stored */
    bool right_type = tensor->dtype == DTYPE_F32 || tensor->dtype == DTYPE_BF16 ||
                      tensor->dtype == DTYPE_F16 || (blocks && rank == 2);
    if (!fits) {
        char actual[256];
        shape_text(tensor->rank, tensor->shape, actual, sizeof actual);
        error_list_add(&b->faults, "tensor %s has shape %s; the config calls for %s", tensor->name,
                       actual, expected);
    }
    if (!right_type)
        error_list_add(&b->faults, "tensor %s has dtype %s; %s", tensor->name,
                       dtype_name(tensor->dtype),
                       blocks ? "only matrices may be quantised"
                              : "weights are f32, bf16, f16 or, if matrices, quantised in blocks");
    if (!fits || !right_type)
        return NULL;
    b->out->parameters += elements;
    b->out->bytes += (int64_t)tensor->size;
    b->out->dtype_bytes[tensor->dtype] += (int64_t)tensor->size;
    return tensor;
}

/* ---- Placing ---- */

/* Hands host memory to the device, once it holds what it shall. */
static bool wrap(weights_binder *b, void *host, size_t size, ops_buffer *span) {
    xlstm_status status = b->device->buffer_wrap(b->device, host, size, span);
    if (status != XLSTM_OK)
        fail(b, error_prefix(status, "the weights"));
    return status == XLSTM_OK;
}

/* The first file_count buffers are the files. */
static void wrap_file(weights_binder *b, int file) {
    const stored_tensors *files = b->files;
    void *host = (void *)(uintptr_t)files->maps[file].data;
    b->out->hosts[file] = host;
    if (wrap(b, host, files->maps[file].size, &b->out->buffers[file]))
        b->out->file_count = b->out->buffer_count = file + 1;
}

static void wrap_own(weights_binder *b) {
    for (int i = b->out->file_count; i < b->out->buffer_count && b->status == XLSTM_OK; i++)
        wrap(b, b->out->hosts[i], b->out->buffers[i].size, &b->out->buffers[i]);
}

/* A tensor that the device will have a copy of, of what is at `host` when all are bound. */
static ops_tensor add_piece(weights_binder *b, const void *host, size_t size, dtype type, int rank,
                            const int64_t *shape) {
    weights *w = b->out;
    size_t offset = w->piece_bytes, most = SIZE_MAX - OPS_PIECE_ALIGNMENT;
    if (offset > most || size > most - offset) {
        fail(b, error_memory(size, "a weight"));
        return (ops_tensor){0};
    }
    w->pieces[w->piece_count++] = (ops_piece){host, size, offset};
    w->piece_bytes =
        (offset + size + OPS_PIECE_ALIGNMENT - 1) / OPS_PIECE_ALIGNMENT * OPS_PIECE_ALIGNMENT;
    return ops_tensor_make(&w->buffers[0], offset, type, rank, shape);
}

static void gather(weights_binder *b) {
    weights *w = b->out;
    xlstm_status status = b->device->buffer_gather(b->device, w->piece_bytes, w->pieces,
                                                   w->piece_count, &w->buffers[0]);
    if (status != XLSTM_OK)
        fail(b, error_prefix(status, "the weights"));
}

void *weights_own(weights_binder *b, dtype type, int rank, const int64_t *shape, ops_tensor *out) {
    size_t size = (size_t)elements_of(shape, rank) * dtype_size(type);
    size_t page = (size_t)sysconf(_SC_PAGESIZE); /* of its own, which no device must copy */
    size_t rounded = size ? (size + page - 1) / page * page : page;
    *out = (ops_tensor){0};
    if (b->status != XLSTM_OK)
        return NULL;
    void *memory = aligned_alloc(page, rounded);
    if (!memory) {
        fail(b, error_memory(size, "a weight"));
        return NULL;
    }
    int index = b->out->buffer_count++;
    b->out->hosts[index] = memory;
    b->out->buffers[index].size = rounded; /* the device has it when all are filled */
    *out = b->out->pieces ? add_piece(b, memory, size, type, rank, shape)
                          : ops_tensor_make(&b->out->buffers[index], 0, type, rank, shape);
    return memory;
}

ops_tensor weights_copy(weights_binder *b, const stored_tensor *tensor, dtype type, int rank,
                        const int64_t *shape) {
    ops_tensor out;
    void *memory = weights_own(b, type, rank, shape, &out);
    size_t width = dtype_size(tensor->dtype);
    int64_t count = (int64_t)(tensor->size / width);
    if (!memory)
        return out;
    if (type == tensor->dtype) {
        memcpy(memory, tensor->data, tensor->size);
        return out;
    }
    for (int64_t i = 0; i < count; i++)
        dtype_store(type, memory, i, weights_element(tensor, i));
    return out;
}

double weights_element(const stored_tensor *tensor, int64_t index) {
    uint8_t element[8]; /* the source may be misaligned */
    size_t width = dtype_size(tensor->dtype);
    memcpy(element, tensor->data + (size_t)index * width, width);
    return dtype_load(tensor->dtype, element, 0);
}

ops_tensor weights_place(weights_binder *b, const stored_tensor *tensor, int rank,
                         const int64_t *shape) {
    if (!tensor || b->status != XLSTM_OK)
        return (ops_tensor){0};
    if (b->out->pieces)
        return add_piece(b, tensor->data, tensor->size, tensor->dtype, rank, shape);
    bool blocks = dtype_block(tensor->dtype) > 1; /* have any address */
    if (!blocks && (uintptr_t)tensor->data % dtype_size(tensor->dtype) != 0)
        return weights_copy(b, tensor, tensor->dtype, rank, shape);
    ops_buffer *file = &b->out->buffers[tensor->file];
    if (file->longest > 0 && tensor->size > file->longest) {
        fail(b, error_set(XLSTM_UNSUPPORTED,
                          "tensor %s has %zu bytes; in a file of %zu bytes the device %s takes "
                          "tensors of at most %zu",
                          tensor->name, tensor->size, file->size, b->device->name, file->longest));
        return (ops_tensor){0};
    }
    size_t offset = (size_t)(tensor->data - b->files->maps[tensor->file].data);
    return ops_tensor_make(file, offset, tensor->dtype, rank, shape);
}

ops_tensor weights_matrix(weights_binder *b, const char *const *names, int64_t rows,
                          int64_t columns) {
    int64_t shape[2] = {rows, columns};
    return weights_place(b, weights_need(b, names, 2, shape), 2, shape);
}

ops_tensor weights_vector(weights_binder *b, const char *const *names, int64_t count) {
    const stored_tensor *tensor = weights_need(b, names, 1, &count);
    return tensor ? weights_copy(b, tensor, DTYPE_F32, 1, &count) : (ops_tensor){0};
}

ops_tensor weights_residual_norm(weights_binder *b, const char *const *names, int64_t count) {
    const stored_tensor *tensor = weights_need(b, names, 1, &count);
    ops_tensor out = {0};
    void *memory = tensor ? weights_own(b, b->real, 1, &count, &out) : NULL;
    for (int64_t i = 0; memory && i < count; i++)
        dtype_store(b->real, memory, i, 1 + weights_element(tensor, i));
    return out;
}

/* ---- The model ---- */

/* By type, shape, and a little of the content: reading all of it would cost a pass over the
 * weights. */
static bool look_equal(const stored_tensor *a, const stored_tensor *b) {
    if (a->dtype != b->dtype || a->size != b->size || a->rank != b->rank)
        return false;
    size_t part = a->size < 4096 ? a->size : 4096, last = a->size - part;
    return memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0 &&
           memcmp(a->data, b->data, part) == 0 && memcmp(a->data + last, b->data + last, part) == 0;
}

static void bind_out_norm(weights_binder *b) {
    const model_config *c = b->config;
    if (!c->add_out_norm)
        return;
    if (c->family == FAMILY_NEURIPS) {
        b->out->out_norm = weights_residual_norm(
            b, NAMES("xlstm_block_stack.post_blocks_norm.weight"), c->embedding_dim);
        return;
    }
    b->out->out_norm = weights_vector(b, NAMES("backbone.out_norm.weight"), c->embedding_dim);
    if (c->large.use_bias)
        b->out->out_norm_bias =
            weights_vector(b, NAMES("backbone.out_norm.bias"), c->embedding_dim);
}

static void bind_ends(weights_binder *b) {
    const model_config *c = b->config;
    int64_t D = c->embedding_dim;
    b->prefix[0] = 0;
    const char *const *embedding = c->family == FAMILY_NEURIPS
                                       ? NAMES("token_embedding.weight")
                                       : NAMES("backbone.embeddings.weight", "embedding.weight");
    b->out->embedding = weights_matrix(b, embedding, c->vocab_size, D);
    bind_out_norm(b);
    const char *const *head = NAMES("lm_head.weight");
    if (c->tie_word_embeddings) {
        const stored_tensor *own = weights_find(b, head), *table = weights_find(b, embedding);
        if (own && table && !look_equal(own, table))
            error_list_add(&b->faults, "tensor %s differs from %s, but the config has %s true",
                           own->name, table->name,
                           c->family == FAMILY_NEURIPS ? "tie_weights" : "tie_word_embeddings");
        b->out->head = b->out->embedding;
        return;
    }
    b->out->head = weights_matrix(b, head, c->vocab_size, D);
    if (ops_present(&b->out->embedding))
        b->out->embedding_bytes =
            dtype_bytes(b->out->embedding.dtype, ops_tensor_elements(&b->out->embedding));
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

static void report_surplus(weights_binder *b) {
    const model_config *c = b->config;
    bool has_biases = c->family == FAMILY_NEURIPS ? c->neurips.bias : c->large.use_bias;
    for (size_t i = 0; i < b->files->count; i++) {
        const stored_tensor *tensor = &b->files->tensors[i];
        if (b->used[i] || is_known_buffer(tensor->name))
            continue;
        char shape[256];
        shape_text(tensor->rank, tensor->shape, shape, sizeof shape);
        error_list_add(
            &b->faults,
            "tensor %s %s is not part of this model (the config says: %d blocks, %s biases)",
            tensor->name, shape, c->num_blocks, has_biases ? "with" : "no");
    }
}

/* Files are there before what is bound to them; pieces are copied when all of them are known. */
static void begin_memory(weights_binder *b) {
    weights *w = b->out;
    const stored_tensors *files = b->files;
    bool gathers = b->device->buffer_gather != NULL;
    /* At most every tensor is copied, and a block may need one that no file has. */
    size_t most = (size_t)files->file_count + files->count + (size_t)w->block_count + 1;
    w->buffers = calloc(most, sizeof *w->buffers);
    w->hosts = calloc(most, sizeof *w->hosts);
    w->pieces = gathers ? calloc(most, sizeof *w->pieces) : NULL;
    if (!w->buffers || !w->hosts || (gathers && !w->pieces)) {
        fail(b, error_memory(most * sizeof *w->buffers, "the weights"));
        return;
    }
    w->buffer_count = gathers ? 1 : 0;
    for (int i = 0; !gathers && b->status == XLSTM_OK && i < files->file_count; i++)
        wrap_file(b, i);
}

static void end_memory(weights_binder *b) {
    if (b->status == XLSTM_OK && b->out->pieces)
        gather(b);
    else if (b->status == XLSTM_OK)
        wrap_own(b);
}

xlstm_status weights_bind(const model_config *config, const stored_tensors *files,
                          ops_device *device, dtype real, weights *out) {
    *out = (weights){.family = config->family, .block_count = config->num_blocks};
    weights_binder b = {
        .config = config, .files = files, .device = device, .real = real, .out = out};
    b.used = calloc(files->count + 1, sizeof *b.used);
    out->blocks = calloc((size_t)config->num_blocks, sizeof *out->blocks);
    if (b.used && out->blocks)
        begin_memory(&b);
    else
        fail(&b, error_memory(files->count + 1, "the weights"));
    if (b.status == XLSTM_OK) {
        bind_ends(&b);
        for (int i = 0; i < config->num_blocks; i++)
            (config->family == FAMILY_NEURIPS ? weights_bind_neurips
                                              : weights_bind_large)(&b, i, &out->blocks[i]);
        report_surplus(&b);
    }
    free(b.used);
    if (b.status == XLSTM_OK)
        b.status = error_list_finish(&b.faults, XLSTM_FORMAT_ERROR);
    else
        (void)error_list_finish(&b.faults, b.status);
    end_memory(&b);
    if (b.status != XLSTM_OK)
        weights_free(out);
    return b.status;
}

void weights_free(weights *w) {
    for (int i = 0; i < w->buffer_count; i++) {
        if (w->buffers[i].device)
            w->buffers[i].device->buffer_free(&w->buffers[i]);
        if (i >= w->file_count)
            free(w->hosts[i]);
    }
    free(w->buffers);
    free(w->hosts);
    free(w->pieces);
    free(w->blocks);
    *w = (weights){0};
}

/* ---- Walking ---- */

static const uint8_t *host_of(const weights *w, const ops_tensor *tensor) {
    if (w->pieces)
        return ops_piece_host(w->pieces, w->piece_count, tensor->offset);
    return (const uint8_t *)w->hosts[tensor->buffer - w->buffers] + tensor->offset;
}

void weights_visit_one(const weights_visitor *v, const char *name, const ops_tensor *tensor) {
    char full[192];
    if (!ops_present(tensor))
        return;
    snprintf(full, sizeof full, "%s%s", v->prefix, name);
    v->visit(v->context, full, tensor, host_of(v->weights, tensor));
}

void weights_each(const weights *w, weights_visit function, void *context) {
    weights_visitor v = {.weights = w, .visit = function, .context = context};
    bool neurips = w->family == FAMILY_NEURIPS;
    weights_visit_one(&v, neurips ? "token_embedding.weight" : "backbone.embeddings.weight",
                      &w->embedding);
    for (int i = 0; i < w->block_count; i++) {
        snprintf(v.prefix, sizeof v.prefix,
                 neurips ? "xlstm_block_stack.blocks.%d." : "backbone.blocks.%d.", i);
        (neurips ? weights_visit_neurips : weights_visit_large)(&v, &w->blocks[i]);
    }
    v.prefix[0] = 0;
    weights_visit_one(
        &v, neurips ? "xlstm_block_stack.post_blocks_norm.weight" : "backbone.out_norm.weight",
        &w->out_norm);
    weights_visit_one(&v, "backbone.out_norm.bias", &w->out_norm_bias);
    if (w->head.buffer != w->embedding.buffer || w->head.offset != w->embedding.offset)
        weights_visit_one(&v, "lm_head.weight", &w->head);
}
