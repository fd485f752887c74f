/* Kernels that work on a device's own memory, for arrays on the host: what the command `kernels run`
 * and the tests need. Every array goes to the device as it lies, gaps between its rows included, and
 * comes back if it is an output. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "ops/kernels.h"

typedef struct copies {
    const kernel_memory *memory;
    xlstm_argument argument[KERNEL_MOST_ARGUMENTS]; /* as given, with the copies' addresses */
    size_t bytes[KERNEL_MOST_ARGUMENTS];
    bool owner[KERNEL_MOST_ARGUMENTS]; /* not the same memory as an argument before */
    int count;
    void *workspace;
} copies;

static size_t element_size(xlstm_dtype type) {
    return type == XLSTM_F64 || type == XLSTM_I64   ? 8
           : type == XLSTM_F32 || type == XLSTM_I32 ? 4
                                                    : 2;
}

/* From the first element to the end of the last; 0 for what xlstm_kernel_run will refuse. */
static size_t span_of(const xlstm_array *a) {
    int64_t last = 0, step;
    if (!a->data || a->rank < 1 || a->rank > XLSTM_MAX_RANK)
        return 0;
    for (int d = 0; d < a->rank; d++)
        if (a->shape[d] < 1 || a->stride[d] < 0 ||
            __builtin_mul_overflow(a->shape[d] - 1, a->stride[d], &step) ||
            __builtin_add_overflow(last, step, &last) || last > INT64_MAX / 16)
            return 0;
    return (size_t)(last + 1) * element_size(a->dtype);
}

/* The next argument. */
static xlstm_status copy_in(copies *c, const xlstm_argument *given) {
    int n = c->count++;
    size_t bytes = span_of(&given[n].array);
    c->argument[n] = given[n];
    if (bytes == 0)
        return XLSTM_OK;
    c->bytes[n] = bytes;
    for (int i = 0; i < n; i++)
        if (c->bytes[i] == bytes && given[i].array.data == given[n].array.data) {
            c->argument[n].array.data = c->argument[i].array.data;
            return XLSTM_OK;
        }
    c->argument[n].array.data = NULL;
    xlstm_status status = c->memory->take(bytes, &c->argument[n].array.data);
    c->owner[n] = status == XLSTM_OK;
    return status == XLSTM_OK
               ? c->memory->write(c->argument[n].array.data, given[n].array.data, bytes)
               : status;
}

static bool is_output(const xlstm_kernel *kernel, const char *name, const xlstm_kernel_options *o) {
    for (int p = 0; p < kernel->parameter_count; p++)
        if (name && strcmp(kernel->parameters[p].name, name) == 0)
            return kernel->parameters[p].role == XLSTM_BACKWARD_OUTPUT ||
                   (kernel->parameters[p].role == XLSTM_OUTPUT &&
                    !(o->stored_states && o->backward != XLSTM_FORWARD &&
                      strncmp(name, "all_", 4) == 0));
    return false;
}

static xlstm_status run_there(copies *c, const xlstm_kernel *kernel, xlstm_kernel_options o) {
    xlstm_status status =
        xlstm_kernel_workspace(kernel->name, &o, c->argument, c->count, &o.workspace_size);
    if (status == XLSTM_OK && o.workspace_size > 0)
        status = c->memory->take(o.workspace_size, &c->workspace);
    o.workspace = c->workspace;
    o.stream = NULL; /* which `read` waits for */
    return status == XLSTM_OK ? xlstm_kernel_run(kernel->name, &o, c->argument, c->count) : status;
}

xlstm_status kernel_run_copied(const xlstm_kernel *kernel, const xlstm_kernel_options *options,
                               const xlstm_argument *arguments, int count) {
    copies c = {.memory = kernel_entry_of(kernel)->table->memory};
    if (!c.memory || count > KERNEL_MOST_ARGUMENTS)
        return xlstm_kernel_run(kernel->name, options, arguments, count);
    xlstm_kernel_options o = options ? *options : xlstm_kernel_defaults();
    xlstm_status status = XLSTM_OK;
    while (status == XLSTM_OK && c.count < count)
        status = copy_in(&c, arguments);
    if (status == XLSTM_OK)
        status = run_there(&c, kernel, o);
    for (int i = 0; i < c.count; i++)
        if (status == XLSTM_OK && c.bytes[i] > 0 && is_output(kernel, arguments[i].name, &o))
            status = c.memory->read(arguments[i].array.data, c.argument[i].array.data, c.bytes[i]);
    for (int i = 0; i < c.count; i++)
        if (c.owner[i])
            c.memory->give_back(c.argument[i].array.data);
    c.memory->give_back(c.workspace);
    return status;
}
