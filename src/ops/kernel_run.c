/* xlstm_kernel_run: a call is checked against the list of kernels, its arrays are made plain, the
 * device runs it, and what was made plain goes back where the caller wanted it.
 *
 * Copies are made where an array is bf16 or f16 (as f32), an index (as i64), or has no contiguous
 * innermost dimension; all others are handed on as they are, and so is everything that lies in the
 * memory of another device. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/shape.h"
#include "ops/kernel_shape.h"
#include "ops/kernels.h"

typedef struct run {
    const kernel_entry *entry;
    kernel_call call;
    kernel_sizes sizes;
    const xlstm_array *given[KERNEL_MOST_ARGUMENTS]; /* by parameter; NULL: absent */
    void *copies[KERNEL_MOST_ARGUMENTS];
} run;

static size_t element_size(xlstm_dtype type) {
    static const size_t size[] = {[XLSTM_F64] = 8, [XLSTM_F32] = 4, [XLSTM_BF16] = 2,
                                  [XLSTM_F16] = 2, [XLSTM_I64] = 8, [XLSTM_I32] = 4};
    return size[type];
}

static bool is_index(xlstm_dtype type) {
    return type == XLSTM_I64 || type == XLSTM_I32;
}

static dtype inner_type(xlstm_dtype type) {
    static const dtype inner[] = {
        [XLSTM_F64] = DTYPE_F64, [XLSTM_F32] = DTYPE_F32, [XLSTM_BF16] = DTYPE_BF16,
        [XLSTM_F16] = DTYPE_F16, [XLSTM_I64] = DTYPE_I64, [XLSTM_I32] = DTYPE_I32};
    return inner[type];
}

static bool is_output(const run *r, int parameter) {
    enum xlstm_role role = r->entry->kernel.parameters[parameter].role;
    int argument = r->entry->index[parameter];
    bool stored = r->entry->group == GROUP_MLSTM && argument >= MLSTM_ALL_C &&
                  argument <= MLSTM_ALL_M && r->call.options.stored_states;
    return (role == XLSTM_OUTPUT && !stored) || role == XLSTM_BACKWARD_OUTPUT;
}

/* ---- Shapes ---- */

static xlstm_status wrong_shape(const run *r, int parameter, const int64_t *expected, int rank) {
    const xlstm_parameter *p = &r->entry->kernel.parameters[parameter];
    const xlstm_array *a = r->given[parameter];
    char actual[160], wanted[160] = "";
    shape_text(a->rank, a->shape, actual, sizeof actual);
    if (expected)
        shape_text(rank, expected, wanted, sizeof wanted);
    return error_set(XLSTM_INVALID_ARGUMENT, "%s: %s has shape %s, must be [%s]%s%s",
                     r->entry->kernel.name, p->name, actual, p->shape, expected ? " = " : "",
                     wanted);
}

static xlstm_status check_shape(run *r, int parameter) {
    const xlstm_array *a = r->given[parameter];
    const char *shape = r->entry->kernel.parameters[parameter].shape;
    int64_t expected[XLSTM_MAX_RANK];
    int rank = kernel_shape_rank(shape);
    if (a->rank != rank)
        return wrong_shape(r, parameter, NULL, 0);
    return kernel_shape_match(&r->sizes, shape, a->shape, expected)
               ? XLSTM_OK
               : wrong_shape(r, parameter, expected, rank);
}

/* Every required input is there and all sizes agree; all are at least 1. */
static xlstm_status check_shapes(run *r) {
    const xlstm_kernel *k = &r->entry->kernel;
    xlstm_status status = XLSTM_OK;
    for (int i = 0; status == XLSTM_OK && i < k->parameter_count; i++) {
        if (!r->given[i] && k->parameters[i].role == XLSTM_INPUT)
            return error_set(XLSTM_INVALID_ARGUMENT, "%s: the input %s [%s] is missing", k->name,
                             k->parameters[i].name, k->parameters[i].shape);
        if (r->given[i])
            status = check_shape(r, i);
    }
    for (int i = 0; status == XLSTM_OK && i < r->sizes.count; i++)
        if (r->sizes.value[i] == 0)
            return error_set(XLSTM_INVALID_ARGUMENT, "%s: %s is 0, must be at least 1", k->name,
                             r->sizes.name[i]);
    if (status == XLSTM_OK && r->entry->form == KERNEL_STEP && kernel_size(&r->sizes, "S") != 1)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%s: S is %lld; a step takes one token, so S must be 1", k->name,
                         (long long)kernel_size(&r->sizes, "S"));
    return status;
}

/* ---- Arrays ---- */

static int64_t elements_of(const xlstm_array *a) {
    int64_t elements = 1;
    for (int i = 0; i < a->rank; i++)
        elements *= a->shape[i];
    return elements;
}

/* Sizes and strides that address memory; all of it is checked before anything is computed. */
static xlstm_status check_array(const run *r, int parameter) {
    const xlstm_array *a = r->given[parameter];
    const char *kernel = r->entry->kernel.name;
    const char *name = r->entry->kernel.parameters[parameter].name;
    int64_t elements = 1, last = 0;
    if (a->dtype < XLSTM_F64 || a->dtype > XLSTM_I32)
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: %s has no dtype", kernel, name);
    if (a->rank < 1 || a->rank > XLSTM_MAX_RANK)
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: %s has rank %d, must be 1 to %d", kernel,
                         name, a->rank, XLSTM_MAX_RANK);
    for (int i = 0; i < a->rank; i++) {
        int64_t span;
        if (a->shape[i] < 0 || a->stride[i] < 0 ||
            __builtin_mul_overflow(elements, a->shape[i], &elements) ||
            __builtin_mul_overflow(a->shape[i] ? a->shape[i] - 1 : 0, a->stride[i], &span) ||
            __builtin_add_overflow(last, span, &last) || last > INT64_MAX / 16 ||
            elements > INT64_MAX / 16)
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "%s: %s has a size or stride that is negative or too large", kernel,
                             name);
    }
    for (int i = 0; elements > 0 && i < a->rank; i++)
        if (is_output(r, parameter) && a->stride[i] == 0 && a->shape[i] > 1)
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "%s: %s is an output and has stride 0 in dimension %d: its elements "
                             "would share memory",
                             kernel, name, i);
    if (elements > 0 && (!a->data || (uintptr_t)a->data % element_size(a->dtype)))
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: %s has data %p: %s", kernel, name, a->data,
                         a->data ? "not aligned to its elements" : "no memory");
    bool index = r->entry->group == GROUP_CROSS_ENTROPY &&
                 r->entry->index[parameter] == CROSS_ENTROPY_TARGET;
    if (index != is_index(a->dtype))
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: %s must be %s", kernel, name,
                         index ? "i64 or i32" : "f64, f32, bf16 or f16");
    return XLSTM_OK;
}

/* f64 if the arrays are, else f32. */
static xlstm_status choose_real(run *r) {
    const char *wide = NULL, *narrow = NULL;
    for (int i = 0; i < r->entry->kernel.parameter_count; i++) {
        if (!r->given[i] || is_index(r->given[i]->dtype))
            continue;
        const char **first = r->given[i]->dtype == XLSTM_F64 ? &wide : &narrow;
        if (!*first)
            *first = r->entry->kernel.parameters[i].name; /* inputs come first in the list */
    }
    if (wide && narrow)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%s: %s is f64 and %s is not; either all arrays are f64 or none",
                         r->entry->kernel.name, wide, narrow);
    if (wide && r->entry->table->memory)
        return error_set(XLSTM_UNSUPPORTED,
                         "%s: %s has no f64: %s is f64, must be f32, bf16 or f16",
                         r->entry->kernel.name, r->entry->kernel.device, wide);
    r->call.real = wide ? DTYPE_F64 : DTYPE_F32;
    return XLSTM_OK;
}

/* Walks over all elements of `a` in order, a row of the innermost dimension at a time. */
typedef void row_function(const xlstm_array *a, char *row, char *plain, dtype plain_type);

static void gather_row(const xlstm_array *a, char *row, char *plain, dtype type) {
    int64_t count = a->shape[a->rank - 1], stride = a->stride[a->rank - 1];
    dtype from = inner_type(a->dtype);
    if (is_index(a->dtype))
        for (int64_t i = 0; i < count; i++)
            ((int64_t *)(void *)plain)[i] = from == DTYPE_I64
                                                ? ((const int64_t *)(void *)row)[i * stride]
                                                : ((const int32_t *)(void *)row)[i * stride];
    else if (stride == 1)
        dtype_convert(from, row, type, plain, count);
    else
        for (int64_t i = 0; i < count; i++)
            dtype_store(type, plain, i, dtype_load(from, row, i * stride));
}

static void scatter_row(const xlstm_array *a, char *row, char *plain, dtype type) {
    int64_t count = a->shape[a->rank - 1], stride = a->stride[a->rank - 1];
    if (stride == 1)
        dtype_convert(type, plain, inner_type(a->dtype), row, count);
    else
        for (int64_t i = 0; i < count; i++)
            dtype_store(inner_type(a->dtype), row, i * stride, dtype_load(type, plain, i));
}

static void each_row(const xlstm_array *a, char *plain, dtype type, row_function *function) {
    int64_t index[XLSTM_MAX_RANK] = {0}, width = a->shape[a->rank - 1];
    int64_t rows = elements_of(a) / width;
    for (int64_t r = 0; r < rows; r++, plain += (size_t)width * dtype_size(type)) {
        int64_t offset = 0;
        for (int d = 0; d < a->rank - 1; d++)
            offset += index[d] * a->stride[d];
        function(a, (char *)a->data + (size_t)offset * element_size(a->dtype), plain, type);
        for (int d = a->rank - 2; d >= 0 && ++index[d] == a->shape[d]; d--)
            index[d] = 0;
    }
}

/* What the device sees of a parameter. */
static xlstm_status make_plain(run *r, int parameter) {
    const xlstm_array *a = r->given[parameter];
    xlstm_array *plain = &r->call.array[r->entry->index[parameter]];
    if (!a || elements_of(a) == 0)
        return XLSTM_OK;
    dtype type = is_index(a->dtype) ? DTYPE_I64 : r->call.real;
    *plain = *a;
    if (r->entry->table->memory)
        return XLSTM_OK;
    bool contiguous = a->stride[a->rank - 1] == 1 || a->shape[a->rank - 1] == 1;
    if (contiguous && inner_type(a->dtype) == type)
        return XLSTM_OK;
    size_t bytes = (size_t)elements_of(a) * dtype_size(type);
    r->copies[parameter] = malloc(bytes);
    if (!r->copies[parameter])
        return error_memory(bytes, r->entry->kernel.parameters[parameter].name);
    xlstm_dtype plain_type = type == DTYPE_I64   ? XLSTM_I64
                             : type == DTYPE_F64 ? XLSTM_F64
                                                 : XLSTM_F32;
    *plain = xlstm_array_make(r->copies[parameter], plain_type, a->rank, a->shape);
    if (!is_output(r, parameter))
        each_row(a, r->copies[parameter], type, gather_row);
    return XLSTM_OK;
}

/* ---- Options and values ---- */

static xlstm_status check_options(const run *r) {
    const xlstm_kernel_options *o = &r->call.options;
    const xlstm_kernel *k = &r->entry->kernel;
    if (o->backward < XLSTM_FORWARD || o->backward > XLSTM_BACKWARD_UPSTREAM)
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: no such backward", k->name);
    if (o->backward == XLSTM_BACKWARD_UPSTREAM && !k->upstream)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%s has no upstream backward: only the mLSTM kernels do; its exact "
                         "backward is the reference's",
                         k->name);
    if (o->accumulate == XLSTM_ACCUMULATE_COMPENSATED && !k->compensated)
        return error_set(XLSTM_UNSUPPORTED,
                         "%s has no compensated accumulation; `xlstm kernels` "
                         "tells which kernels have",
                         k->name);
    if (o->accumulate < XLSTM_ACCUMULATE_PLAIN || o->accumulate > XLSTM_ACCUMULATE_COMPENSATED)
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: no such accumulation", k->name);
    if (o->chunk_size < 0 || o->threads < 0 || o->groups < 0)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%s: chunk size, threads and groups must not be negative", k->name);
    if (!(o->eps >= 0) || isinf(o->eps) || !(o->recurrent_gradient_clip >= 0) ||
        !(o->forward_clip >= 0))
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%s: eps and the bounds of clipping must be finite and not negative",
                         k->name);
    if (r->entry->group == GROUP_SOFT_CAP && !(o->soft_cap > 0))
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: soft_cap is %g, must be positive", k->name,
                         o->soft_cap);
    return XLSTM_OK;
}

static xlstm_status check_targets(const run *r) {
    const xlstm_array *t = &r->call.array[CROSS_ENTROPY_TARGET];
    int64_t vocab = r->call.array[CROSS_ENTROPY_LOGITS].shape[1];
    const int64_t *target = t->data;
    for (int64_t i = 0; i < t->shape[0]; i++)
        if ((target[i] < 0 || target[i] >= vocab) && target[i] != r->call.options.ignore_index)
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "%s: target[%lld] is %lld, must be 0 to %lld, or %lld to be ignored",
                             r->entry->kernel.name, (long long)i, (long long)target[i],
                             (long long)vocab - 1, (long long)r->call.options.ignore_index);
    return XLSTM_OK;
}

static xlstm_status check_groups(const run *r) {
    int64_t width = r->call.array[AFFINE_X].shape[1];
    int groups = r->call.options.groups;
    if (groups < 1 || width % groups)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%s: groups is %d, must be at least 1 and divide D, which is %lld",
                         r->entry->kernel.name, groups, (long long)width);
    return XLSTM_OK;
}

/* ---- Running ---- */

/* Sorts the arguments by parameter; those of a backward are only taken with one. */
static xlstm_status sort_arguments(run *r, const xlstm_argument *arguments, int count) {
    const xlstm_kernel *k = &r->entry->kernel;
    bool backward = r->call.options.backward != XLSTM_FORWARD;
    for (int i = 0; i < count; i++) {
        int p = 0;
        if (!arguments || !arguments[i].name)
            return error_set(XLSTM_INVALID_ARGUMENT, "%s: argument %d has no name", k->name, i);
        while (p < k->parameter_count && strcmp(k->parameters[p].name, arguments[i].name) != 0)
            p++;
        if (p == k->parameter_count)
            return error_set(XLSTM_INVALID_ARGUMENT, "%s has no argument \"%.40s\"", k->name,
                             arguments[i].name);
        if (r->given[p])
            return error_set(XLSTM_INVALID_ARGUMENT, "%s: %s is given twice", k->name,
                             arguments[i].name);
        if (!backward && k->parameters[p].role >= XLSTM_BACKWARD_INPUT)
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "%s: %s belongs to a backward; options.backward is XLSTM_FORWARD",
                             k->name, arguments[i].name);
        r->given[p] = &arguments[i].array;
        /* Their shape depends on it. */
        bool states = r->entry->group == GROUP_MLSTM && r->entry->index[p] >= MLSTM_ALL_C &&
                      r->entry->index[p] <= MLSTM_ALL_M;
        if (states && r->call.options.chunk_size == 0)
            r->call.options.chunk_size = KERNEL_DEFAULT_CHUNK;
    }
    if (r->call.options.stored_states && r->entry->group == GROUP_MLSTM)
        for (int p = 0; p < k->parameter_count; p++)
            if (r->entry->index[p] >= MLSTM_ALL_C && r->entry->index[p] <= MLSTM_ALL_M &&
                !r->given[p])
                return error_set(XLSTM_INVALID_ARGUMENT,
                                 "%s: stored_states is set, and %s is missing", k->name,
                                 k->parameters[p].name);
    return XLSTM_OK;
}

static xlstm_status prepare(run *r, const xlstm_argument *arguments, int count) {
    xlstm_status status = check_options(r);
    if (status == XLSTM_OK)
        status = sort_arguments(r, arguments, count);
    int parameters = r->entry->kernel.parameter_count;
    for (int i = 0; status == XLSTM_OK && i < parameters; i++)
        if (r->given[i])
            status = check_array(r, i);
    if (status == XLSTM_OK)
        status = check_shapes(r);
    if (status == XLSTM_OK)
        status = choose_real(r);
    for (int i = 0; status == XLSTM_OK && i < parameters; i++)
        status = make_plain(r, i);
    if (status == XLSTM_OK && r->entry->group == GROUP_CROSS_ENTROPY && !r->entry->table->memory)
        status = check_targets(r);
    if (status == XLSTM_OK &&
        (r->entry->group == GROUP_RMS_NORM || r->entry->group == GROUP_LAYER_NORM))
        status = check_groups(r);
    return status;
}

/* A call without its arrays. */
static xlstm_status begin(run *r, const char *name, const xlstm_kernel_options *options) {
    const xlstm_kernel *kernel = xlstm_kernel_find(name);
    if (!kernel)
        return XLSTM_INVALID_ARGUMENT;
    *r = (run){.entry = kernel_entry_of(kernel)};
    r->call = (kernel_call){.form = r->entry->form,
                            .sigmoid = r->entry->sigmoid,
                            .lstm = r->entry->lstm,
                            .options = options ? *options : xlstm_kernel_defaults()};
    r->sizes.chunk_size = r->call.options.chunk_size;
    /* Forward they are outputs like any other. */
    if (r->call.options.backward == XLSTM_FORWARD)
        r->call.options.stored_states = false;
    return XLSTM_OK;
}

/* Outputs go back where the caller wants them if all went well. */
static void end(run *r, bool well) {
    for (int i = 0; i < r->entry->kernel.parameter_count; i++) {
        if (well && r->copies[i] && is_output(r, i))
            each_row(r->given[i], r->copies[i], r->call.real, scatter_row);
        free(r->copies[i]);
    }
}

static xlstm_status workspace_of(const run *r, size_t *bytes) {
    *bytes = 0;
    kernel_workspace_function *workspace = r->entry->functions.workspace;
    return workspace ? workspace(&r->call, bytes) : XLSTM_OK;
}

enum { WORKSPACE_ALIGNMENT = 256 };

static xlstm_status check_workspace(const run *r) {
    const xlstm_kernel_options *o = &r->call.options;
    size_t needed;
    xlstm_status status = workspace_of(r, &needed);
    if (status != XLSTM_OK || needed == 0)
        return status;
    if (!o->workspace || o->workspace_size < needed)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%s: the workspace has %zu bytes, must have %zu (xlstm_kernel_workspace)",
                         r->entry->kernel.name, o->workspace ? o->workspace_size : 0, needed);
    if ((uintptr_t)o->workspace % WORKSPACE_ALIGNMENT)
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: the workspace %p is not aligned to %d bytes",
                         r->entry->kernel.name, o->workspace, WORKSPACE_ALIGNMENT);
    return XLSTM_OK;
}

xlstm_status xlstm_kernel_run(const char *name, const xlstm_kernel_options *options,
                              const xlstm_argument *arguments, int count) {
    run r;
    xlstm_status status = begin(&r, name, options);
    if (status != XLSTM_OK)
        return status;
    status = prepare(&r, arguments, count);
    if (status == XLSTM_OK && r.entry->table->enter)
        status = r.entry->table->enter(&r.call);
    if (status == XLSTM_OK)
        status = check_workspace(&r);
    if (status == XLSTM_OK)
        status = r.entry->functions.run(&r.call);
    end(&r, status == XLSTM_OK);
    return status;
}

xlstm_status xlstm_kernel_workspace(const char *name, const xlstm_kernel_options *options,
                                    const xlstm_argument *arguments, int count, size_t *bytes) {
    run r;
    xlstm_status status = begin(&r, name, options);
    if (status != XLSTM_OK)
        return status;
    status = prepare(&r, arguments, count);
    if (status == XLSTM_OK && r.entry->table->enter)
        status = r.entry->table->enter(&r.call);
    if (status == XLSTM_OK)
        status = workspace_of(&r, bytes);
    end(&r, false);
    return status;
}
