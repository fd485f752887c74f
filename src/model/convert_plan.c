/* Which tensors are matrices, and what that makes of each. */
#include "model/convert_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/blocks.h"

/* ---- What a tensor is ---- */

enum role { ROLE_OTHER, ROLE_MATRIX, ROLE_EMBEDDING, ROLE_HEAD, ROLE_BUFFER };

static bool is_one_of(const char *name, const char *const *names) {
    for (; *names; names++)
        if (strcmp(name, *names) == 0)
            return true;
    return false;
}

/* Whether `name` ends in one of the endings, at a dot or at its beginning. */
static bool ends_in(const char *name, const char *const *endings) {
    for (; *endings; endings++) {
        size_t length = strlen(name), size = strlen(*endings);
        if (length >= size && strcmp(name + length - size, *endings) == 0 &&
            (length == size || name[length - size - 1] == '.'))
            return true;
    }
    return false;
}

/* Names of both families; what the config does not account for was an error when the model was
 * opened. */
static enum role role_of(const stored_tensor *t) {
    static const char *const embeddings[] = {"backbone.embeddings.weight", "embedding.weight",
                                             "token_embedding.weight", NULL};
    static const char *const head[] = {"lm_head.weight", NULL};
    static const char *const gates[] = {"igate_preact.weight",  "fgate_preact.weight",
                                        "ifgate_preact.weight", "igate.weight",
                                        "fgate.weight",         NULL};
    static const char *const weight[] = {"weight", NULL};
    static const char *const buffers[] = {"causal_mask", NULL};
    if (ends_in(t->name, buffers))
        return ROLE_BUFFER;
    if (t->rank != 2 || !ends_in(t->name, weight) || ends_in(t->name, gates))
        return ROLE_OTHER;
    if (is_one_of(t->name, embeddings))
        return ROLE_EMBEDDING;
    return is_one_of(t->name, head) ? ROLE_HEAD : ROLE_MATRIX;
}

static int64_t elements_of(const stored_tensor *t) {
    int64_t elements = 1;
    for (int i = 0; i < t->rank; i++)
        elements *= t->shape[i];
    return elements;
}

/* ---- What it becomes ---- */

/* The loss at 4 and 5 bits is mostly that of the ends, which are read by rows (the embedding) or
 * once a token (the head), and in a large model are a small part of the file. */
dtype convert_end_type(dtype type) {
    return dtype_block(type) > 1 ? DTYPE_Q8_0 : type;
}

/* Whether every element is a value of the other type. */
static bool is_exact_in(const stored_tensor *t, dtype type) {
    if (t->dtype == type)
        return true;
    for (int64_t i = 0, count = elements_of(t); i < count; i++) {
        uint8_t bytes[8], narrow[8];
        size_t size = dtype_size(t->dtype);
        memcpy(bytes, t->data + (size_t)i * size, size);
        double value = dtype_load(t->dtype, bytes, 0);
        dtype_store(type, narrow, 0, value);
        double kept = dtype_load(type, narrow, 0);
        if (kept != value && (kept == kept || value == value))
            return false;
    }
    return true;
}

static dtype small_type(const stored_tensor *t, dtype type) {
    if (dtype_block(type) > 1 || type == DTYPE_F32)
        return DTYPE_F32;
    return is_exact_in(t, type) ? type : DTYPE_F32;
}

static dtype matrix_type(const convert_options *o, enum role role) {
    dtype embedding = o->embedding == DTYPE_COUNT ? convert_end_type(o->type) : o->embedding;
    dtype head = o->head == DTYPE_COUNT ? convert_end_type(o->type) : o->head;
    if (role == ROLE_EMBEDDING)
        return embedding;
    return role == ROLE_HEAD ? head : o->type;
}

static dtype type_of(const convert_options *o, const stored_tensor *t, convert_result *result) {
    enum role role = role_of(t);
    if (o->same)
        return t->dtype;
    if (role == ROLE_OTHER)
        return small_type(t, o->type);
    dtype type = matrix_type(o, role);
    if (dtype_block(type) == 1 || t->shape[1] % BLOCK_ELEMENTS == 0)
        return type;
    if (result->narrow++ == 0)
        snprintf(result->narrow_example, sizeof result->narrow_example, "%s (%lld columns)",
                 t->name, (long long)t->shape[1]);
    return t->dtype;
}

/* Says nothing that other tensors do not say: buffers, and a head that is the embedding again, which
 * would not be that any more after each was rounded by its own importances. */
static bool is_superfluous(const xlstm_model *model, const convert_options *o,
                           const stored_tensor *t) {
    enum role role = role_of(t);
    return role == ROLE_BUFFER ||
           (role == ROLE_HEAD && model->config.tie_word_embeddings && !o->same);
}

static void note(const convert_options *o, const convert_tensor *t, convert_result *result) {
    bool quantised = t->to != t->from->dtype && dtype_block(t->to) > 1;
    result->type_count[t->to]++;
    result->weights += elements_of(t->from);
    result->bytes += dtype_bytes(t->to, elements_of(t->from));
    result->requantised += quantised && dtype_block(t->from->dtype) > 1;
    result->uncalibrated += quantised && o->calibration && !t->columns;
}

static dtype most_of(const convert_plan *p) {
    int64_t bytes[DTYPE_COUNT] = {0};
    dtype most = DTYPE_F32;
    for (size_t i = 0; i < p->count; i++) {
        const convert_tensor *t = &p->tensors[i];
        bytes[t->to] += dtype_bytes(t->to, elements_of(t->from));
        if (bytes[t->to] > bytes[most])
            most = t->to;
    }
    return most;
}

xlstm_status convert_plan_make(const xlstm_model *model, const convert_options *o, convert_plan *p,
                               convert_result *result) {
    const stored_tensors *files = &model->files;
    *p = (convert_plan){0};
    *result = (convert_result){0};
    p->tensors = calloc(files->count + 1, sizeof *p->tensors);
    p->entries = calloc(files->count + 1, sizeof *p->entries);
    if (!p->tensors || !p->entries) {
        convert_plan_free(p);
        return error_memory(files->count * sizeof *p->entries, "the list of tensors");
    }
    for (size_t i = 0; i < files->count; i++) {
        const stored_tensor *t = &files->tensors[i];
        if (is_superfluous(model, o, t))
            continue;
        convert_tensor *target = &p->tensors[p->count];
        *target = (convert_tensor){.from = t, .to = type_of(o, t, result)};
        if (o->calibration)
            target->columns = calibration_find(o->calibration, t);
        p->entries[p->count] =
            (stored_entry){.name = t->name, .dtype = target->to, .rank = t->rank};
        memcpy(p->entries[p->count++].shape, t->shape, sizeof t->shape);
        note(o, target, result);
    }
    p->bytes = result->bytes;
    p->most = most_of(p);
    return XLSTM_OK;
}

void convert_plan_free(convert_plan *p) {
    free(p->tensors);
    free(p->entries);
    *p = (convert_plan){0};
}
