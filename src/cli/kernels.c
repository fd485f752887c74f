/* xlstm kernels: lists the kernel library, or runs one kernel on .npy files, so that it can be
 * compared from any language. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "format/npy.h"
#include "ops/kernel_shape.h"
#include "ops/kernels.h"
#include "xlstm_kernels.h"

/* ---- The list ---- */

static const char *role_name(xlstm_role role) {
    static const char *const names[] = {
        [XLSTM_INPUT] = "input",
        [XLSTM_OPTIONAL_INPUT] = "optional input",
        [XLSTM_OUTPUT] = "output",
        [XLSTM_BACKWARD_INPUT] = "backward input",
        [XLSTM_BACKWARD_OUTPUT] = "backward output",
    };
    return names[role];
}

static json_t *kernel_json(const xlstm_kernel *k) {
    json_t *parameters = json_array();
    for (int i = 0; i < k->parameter_count; i++)
        json_array_append_new(parameters,
                              json_pack("{s:s, s:s, s:s}", "name", k->parameters[i].name, "role",
                                        role_name(k->parameters[i].role), "shape",
                                        k->parameters[i].shape));
    json_t *backward = json_pack("[s]", "exact"), *accumulate = json_pack("[s]", "plain");
    if (k->upstream)
        json_array_append_new(backward, json_string("upstream"));
    if (k->compensated)
        json_array_append_new(accumulate, json_string("compensated"));
    json_t *types = k->device_memory ? json_pack("[s,s,s]", "f32", "bf16", "f16")
                                     : json_pack("[s,s,s,s]", "f64", "f32", "bf16", "f16");
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "name", k->name, "family",
                     k->family, "device", k->device, "summary", k->summary, "dtypes", types,
                     "backward", backward, "accumulate", accumulate, "parameters", parameters);
}

static xlstm_status list_kernels(bool as_json) {
    buffer text = {0};
    json_t *all = as_json ? json_array() : NULL;
    const xlstm_kernel *k;
    for (int i = 0; (k = xlstm_kernel_at(i)); i++) {
        if (as_json)
            json_array_append_new(all, kernel_json(k));
        else
            buffer_print(&text, "%-32s%s\n", k->name, k->summary);
    }
    return as_json ? output_json(json_pack("{s:o}", "kernels", all)) : output_buffer(&text);
}

/* ---- Running one ---- */

enum { MOST_PARAMETERS = 32 };

typedef struct job {
    const xlstm_kernel *kernel;
    xlstm_kernel_options options;
    bool all_states;
    const char *in, *out;
    xlstm_argument arguments[MOST_PARAMETERS];
    int count;
    npy_array files[MOST_PARAMETERS]; /* of inputs, by parameter */
    bool given[MOST_PARAMETERS];
    void *outputs[MOST_PARAMETERS];
    dtype type; /* of the first input, and so of the outputs */
    xlstm_dtype outer_type;
} job;

static xlstm_status path_of(const char *folder, const char *name, buffer *path) {
    *path = (buffer){0};
    buffer_print(path, "%s/%s.npy", folder, name);
    return path->data ? XLSTM_OK : error_memory(strlen(folder), "a path");
}

static bool outer_type(dtype type, xlstm_dtype *out) {
    switch (type) {
    case DTYPE_F64:
        *out = XLSTM_F64;
        return true;
    case DTYPE_F32:
        *out = XLSTM_F32;
        return true;
    case DTYPE_F16:
        *out = XLSTM_F16;
        return true;
    case DTYPE_I64:
        *out = XLSTM_I64;
        return true;
    case DTYPE_I32:
        *out = XLSTM_I32;
        return true;
    default:
        return false;
    }
}

static xlstm_status open_input(job *j, int parameter) {
    const xlstm_parameter *p = &j->kernel->parameters[parameter];
    npy_array *file = &j->files[parameter];
    buffer path;
    xlstm_status status = path_of(j->in, p->name, &path);
    bool required = p->role == XLSTM_INPUT;
    if (status == XLSTM_OK && !required && access(path.data, F_OK) != 0 && errno == ENOENT) {
        buffer_free(&path);
        return XLSTM_OK;
    }
    if (status == XLSTM_OK)
        status = npy_open(path.data, file);
    if (status != XLSTM_OK) {
        buffer_free(&path);
        return status;
    }
    j->given[parameter] = true;
    xlstm_dtype type;
    if (!outer_type(file->dtype, &type))
        status = error_set(XLSTM_FORMAT_ERROR, "%s: dtype %s; a kernel takes f8, f4 or f2",
                           path.data, dtype_name(file->dtype));
    else if (file->rank != kernel_shape_rank(p->shape))
        status = error_set(XLSTM_FORMAT_ERROR, "%s: rank %d, must have shape [%s]", path.data,
                           file->rank, p->shape);
    else
        j->arguments[j->count++] =
            (xlstm_argument){p->name, xlstm_array_make((void *)(uintptr_t)file->data, type,
                                                       file->rank, file->shape)};
    buffer_free(&path);
    return status;
}

static bool is_wanted(const job *j, int parameter) {
    const xlstm_parameter *p = &j->kernel->parameters[parameter];
    if (p->role == XLSTM_OUTPUT)
        return j->all_states || strncmp(p->name, "all_", 4) != 0;
    if (p->role != XLSTM_BACKWARD_OUTPUT || j->options.backward == XLSTM_FORWARD)
        return false;
    /* The gradient of what was given: "dc0" of "c0". */
    for (int i = 0; i < j->kernel->parameter_count; i++)
        if (strcmp(j->kernel->parameters[i].name, p->name + 1) == 0)
            return j->given[i];
    return false;
}

/* Sizes are known from the inputs. */
static xlstm_status make_output(job *j, int parameter, kernel_sizes *sizes) {
    const xlstm_parameter *p = &j->kernel->parameters[parameter];
    int64_t shape[XLSTM_MAX_RANK], count = 1;
    int rank = kernel_shape_rank(p->shape);
    bool fits = kernel_shape_evaluate(sizes, p->shape, shape);
    for (int d = 0; fits && d < rank; d++)
        fits = !__builtin_mul_overflow(count, shape[d], &count) && count < INT64_MAX / 16;
    if (!fits)
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: the shape of %s [%s] is too large",
                         j->kernel->name, p->name, p->shape);
    size_t bytes = (size_t)count * dtype_size(j->type);
    j->outputs[parameter] = malloc(bytes ? bytes : 1);
    if (!j->outputs[parameter])
        return error_memory(bytes, p->name);
    j->arguments[j->count++] = (xlstm_argument){
        p->name, xlstm_array_make(j->outputs[parameter], j->outer_type, rank, shape)};
    return XLSTM_OK;
}

static xlstm_status write_output(const job *j, int parameter) {
    const char *name = j->kernel->parameters[parameter].name;
    const xlstm_array *a = NULL;
    for (int i = 0; i < j->count; i++)
        if (strcmp(j->arguments[i].name, name) == 0)
            a = &j->arguments[i].array;
    if (!a)
        return XLSTM_OK;
    size_t bytes = dtype_size(j->type);
    for (int d = 0; d < a->rank; d++)
        bytes *= (size_t)a->shape[d];
    buffer path;
    npy_writer writer;
    xlstm_status status = path_of(j->out, name, &path);
    if (status == XLSTM_OK)
        status = npy_writer_open(path.data, j->type, a->rank, a->shape, &writer);
    if (status == XLSTM_OK) {
        npy_writer_write(&writer, a->data, bytes);
        status = npy_writer_commit(&writer);
    }
    buffer_free(&path);
    return status;
}

static xlstm_status open_inputs(job *j) {
    bool backward = j->options.backward != XLSTM_FORWARD;
    xlstm_status status = XLSTM_OK;
    for (int i = 0; status == XLSTM_OK && i < j->kernel->parameter_count; i++) {
        xlstm_role role = j->kernel->parameters[i].role;
        if (role <= XLSTM_OPTIONAL_INPUT || (role == XLSTM_BACKWARD_INPUT && backward))
            status = open_input(j, i);
    }
    return status;
}

/* Without it every gradient would be 0, which nobody wants to know. */
static xlstm_status need_gradient(const job *j) {
    for (int i = 0; i < j->kernel->parameter_count; i++)
        if (j->kernel->parameters[i].role == XLSTM_BACKWARD_INPUT && j->given[i])
            return XLSTM_OK;
    const char *first = "";
    for (int i = j->kernel->parameter_count - 1; i >= 0; i--)
        if (j->kernel->parameters[i].role == XLSTM_BACKWARD_INPUT)
            first = j->kernel->parameters[i].name;
    return error_set(XLSTM_IO_ERROR,
                     "%s has no gradient to go back from: --backward needs %s.npy there", j->in,
                     first);
}

static xlstm_status run_job(job *j) {
    kernel_sizes sizes = {.chunk_size = j->options.chunk_size};
    bool fits = true;
    xlstm_status status = open_inputs(j);
    if (status == XLSTM_OK && j->options.backward != XLSTM_FORWARD)
        status = need_gradient(j);
    for (int i = 0, argument = 0; status == XLSTM_OK && i < j->kernel->parameter_count; i++) {
        int64_t expected[XLSTM_MAX_RANK];
        if (j->given[i])
            fits = kernel_shape_match(&sizes, j->kernel->parameters[i].shape,
                                      j->arguments[argument++].array.shape, expected) &&
                   fits;
    }
    if (status == XLSTM_OK) {
        j->type = j->files[0].dtype;
        j->outer_type = j->arguments[0].array.dtype;
    }
    /* Inputs that do not fit together are refused below; no memory is taken for what would come
     * of them. */
    for (int i = 0; status == XLSTM_OK && fits && i < j->kernel->parameter_count; i++)
        if (is_wanted(j, i))
            status = make_output(j, i, &sizes);
    if (status == XLSTM_OK)
        status = kernel_run_copied(j->kernel, &j->options, j->arguments, j->count);
    if (status == XLSTM_OK && mkdir(j->out, 0777) != 0 && errno != EEXIST)
        status = error_system("create", j->out);
    for (int i = 0; status == XLSTM_OK && i < j->kernel->parameter_count; i++)
        if (j->outputs[i])
            status = write_output(j, i);
    for (int i = 0; i < j->kernel->parameter_count; i++) {
        if (j->given[i])
            npy_close(&j->files[i]);
        free(j->outputs[i]);
    }
    return status;
}

static xlstm_kernel_options read_options(const options *o) {
    xlstm_kernel_options k = xlstm_kernel_defaults();
    const char *backward = option_text(o, OPTION_BACKWARD, "");
    k.backward = strcmp(backward, "exact") == 0      ? XLSTM_BACKWARD_EXACT
                 : strcmp(backward, "upstream") == 0 ? XLSTM_BACKWARD_UPSTREAM
                                                     : XLSTM_FORWARD;
    if (strcmp(option_text(o, OPTION_ACCUMULATE, "plain"), "compensated") == 0)
        k.accumulate = XLSTM_ACCUMULATE_COMPENSATED;
    k.threads = (int)option_integer(o, OPTION_THREADS, 0);
    k.chunk_size = option_integer(o, OPTION_CHUNK_SIZE, KERNEL_DEFAULT_CHUNK);
    k.eps = option_number(o, OPTION_EPS, k.eps);
    k.normalize = strcmp(option_text(o, OPTION_NORMALIZE, "1"), "1") == 0;
    k.groups = (int)option_integer(o, OPTION_GROUPS, k.groups);
    k.soft_cap = option_number(o, OPTION_SOFT_CAP, k.soft_cap);
    k.forward_clip = option_number(o, OPTION_FORWARD_CLIP, 0);
    k.recurrent_gradient_clip = option_number(o, OPTION_RECURRENT_CLIP, 0);
    k.recurrent_cut = option_given(o, OPTION_RECURRENT_CUT);
    k.ignore_index = option_integer(o, OPTION_IGNORE_INDEX, k.ignore_index);
    return k;
}

int command_kernels(const options *o) {
    if (o->operand_count == 0) {
        if (option_given(o, OPTION_IN_FOLDER) || option_given(o, OPTION_OUT_FOLDER))
            return cli_fail_usage("kernels", "--in and --out belong to `xlstm kernels run NAME`");
        xlstm_status status = list_kernels(option_given(o, OPTION_JSON));
        return status == XLSTM_OK ? 0 : cli_fail(status);
    }
    if (strcmp(o->operands[0], "run") != 0)
        return cli_fail_usage("kernels", "unexpected argument \"%s\": the only one is run",
                              o->operands[0]);
    if (o->operand_count < 2)
        return cli_fail_usage("kernels", "run needs the name of a kernel; `xlstm kernels` lists "
                                         "them");
    if (!option_given(o, OPTION_IN_FOLDER) || !option_given(o, OPTION_OUT_FOLDER))
        return cli_fail_usage("kernels", "run needs --in DIR and --out DIR");
    job j = {.kernel = xlstm_kernel_find(o->operands[1]),
             .in = option_text(o, OPTION_IN_FOLDER, ""),
             .out = option_text(o, OPTION_OUT_FOLDER, ""),
             .all_states = option_given(o, OPTION_ALL_STATES),
             .options = read_options(o)};
    if (!j.kernel)
        return kernel_needs_cuda(o->operands[1]) ? cli_fail(XLSTM_UNSUPPORTED)
                                                 : cli_fail_usage_last("kernels");
    xlstm_status status = run_job(&j);
    return status == XLSTM_OK ? 0 : cli_fail(status);
}
