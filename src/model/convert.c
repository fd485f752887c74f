/* Streaming the tensors of a plan into a file: a batch of rows is converted by all threads, then
 * written, so that one batch is all that is held. */
#include "model/convert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/threads.h"
#include "format/gguf.h"
#include "format/quantise.h"
#include "format/safetensors.h"
#include "model/convert_plan.h"
#include "model/describe.h"
#include "model/output.h"

enum {
    BATCH_ELEMENTS = 1 << 22, /* converted between two writes */
    TASK_ELEMENTS = 1 << 15   /* by one thread at a time */
};

/* ---- The output ---- */

/* One of the two writers. */
typedef struct sink {
    gguf_writer *gguf;
    safetensors_writer *safetensors;
} sink;

static xlstm_status sink_open_gguf(const xlstm_model *model, const convert_plan *p,
                                   const char *path, sink *s) {
    gguf_metadata metadata = {0};
    xlstm_status status = describe_as_gguf(model, NULL, p->most, &metadata);
    if (status == XLSTM_OK)
        status = gguf_writer_open(path, &metadata, p->entries, p->count, &s->gguf);
    gguf_metadata_free(&metadata);
    return status;
}

static void sink_write(sink *s, const void *bytes, size_t size) {
    if (s->gguf)
        gguf_writer_write(s->gguf, bytes, size);
    else
        safetensors_writer_write(s->safetensors, bytes, size);
}

/* `status`: of the work so far; the file appears under its name only if all went well. */
static xlstm_status sink_close(sink *s, xlstm_status status) {
    if (status == XLSTM_OK)
        return s->gguf ? gguf_writer_commit(s->gguf) : safetensors_writer_commit(s->safetensors);
    if (s->gguf)
        gguf_writer_cancel(s->gguf);
    if (s->safetensors)
        safetensors_writer_cancel(s->safetensors);
    return status;
}

/* ---- Rows ---- */

typedef struct conversion {
    const convert_plan *plan;
    const convert_options *options;
    thread_pool *pool;
    sink sink;
    int64_t done; /* bytes written */

    /* Of the tensor at work. A row is the last dimension; what has none is one row. */
    const convert_tensor *tensor;
    int64_t rows, width;
    int64_t first_row, batch_rows, task_rows; /* of the batch, and of a task in it */
    int64_t *fault;                           /* [tasks]: the first element at fault, or -1 */
    float *values;                            /* [threads][width] */
    size_t work_size;
    uint8_t *work; /* [threads][work_size]: a row as it is stored, or
                                                 what an encoder needs */
    uint8_t *out;  /* [batch_rows] */
} conversion;

static size_t row_bytes(dtype type, int64_t width) {
    return (size_t)dtype_bytes(type, width);
}

/* Index of the first value that is finite and becomes infinite, or `count`. */
static int64_t first_overflow(const float *values, const uint16_t *halves, int64_t count) {
    int64_t i = 0;
    while (i < count && ((halves[i] & 0x7FFF) != 0x7C00 || isinf(values[i])))
        i++;
    return i;
}

/* Returns the number of good values in front of the first that the type cannot hold. */
static int64_t convert_row(const conversion *c, const uint8_t *row, float *values, void *work,
                           uint8_t *out) {
    const convert_tensor *t = c->tensor;
    dtype from = t->from->dtype, to = t->to;
    memcpy(work, row, row_bytes(from, c->width)); /* the file may have it at an odd address */
    dtype_convert(from, work, DTYPE_F32, values, c->width);
    if (dtype_block(to) > 1 && t->columns)
        return quantise_row_carrying(to, values, t->columns, c->width, work, out);
    if (dtype_block(to) > 1)
        return quantise_row(to, values, NULL, c->width, out);
    dtype_convert(DTYPE_F32, values, to, out, c->width);
    return to == DTYPE_F16 ? first_overflow(values, (const uint16_t *)out, c->width) : c->width;
}

static void convert_task(void *context, int64_t task, int worker) {
    conversion *c = context;
    const convert_tensor *t = c->tensor;
    int64_t first = task * c->task_rows, last = first + c->task_rows;
    size_t from_bytes = row_bytes(t->from->dtype, c->width), to_bytes = row_bytes(t->to, c->width);
    c->fault[task] = -1;
    for (int64_t r = first; r < last && r < c->batch_rows; r++) {
        const uint8_t *row = t->from->data + (size_t)(c->first_row + r) * from_bytes;
        uint8_t *out = c->out + (size_t)r * to_bytes;
        if (t->from->dtype == t->to) {
            memcpy(out, row, to_bytes);
            continue;
        }
        int64_t good = convert_row(c, row, c->values + worker * c->width,
                                   c->work + (size_t)worker * c->work_size, out);
        if (good < c->width) {
            c->fault[task] = (c->first_row + r) * c->width + good;
            return;
        }
    }
}

/* "row 3, column 17", of a vector "element 3". */
static void print_place(const stored_tensor *t, int64_t index, char *text, size_t size) {
    int64_t width = t->rank > 0 ? t->shape[t->rank - 1] : 1;
    if (t->rank < 2)
        snprintf(text, size, "element %lld", (long long)index);
    else
        snprintf(text, size, "row %lld, column %lld", (long long)(index / width),
                 (long long)(index % width));
}

static xlstm_status fail_at(const convert_tensor *t, int64_t index) {
    char place[80];
    float value = 0;
    size_t size = dtype_size(t->from->dtype);
    print_place(t->from, index, place, sizeof place);
    if (dtype_block(t->from->dtype) > 1)
        value = (float)dtype_load(t->from->dtype, t->from->data, index);
    else {
        uint8_t bytes[8];
        memcpy(bytes, t->from->data + (size_t)index * size, size);
        value = (float)dtype_load(t->from->dtype, bytes, 0);
    }
    double limit = t->to == DTYPE_F16 ? 65504 : (double)quantise_limit(t->to);
    return error_set(XLSTM_FORMAT_ERROR,
                     "tensor %s, %s: %s cannot hold the value %g, only finite ones up to %g",
                     t->from->name, place, dtype_name(t->to), (double)value, limit);
}

static xlstm_status check_faults(const conversion *c, int64_t tasks) {
    for (int64_t i = 0; i < tasks; i++)
        if (c->fault[i] >= 0)
            return fail_at(c->tensor, c->fault[i]);
    return XLSTM_OK;
}

static void free_row_memory(conversion *c) {
    free(c->fault);
    free(c->values);
    free(c->work);
    free(c->out);
    c->fault = NULL, c->values = NULL, c->work = NULL, c->out = NULL;
}

static xlstm_status take_row_memory(conversion *c) {
    size_t threads = (size_t)thread_pool_size(c->pool), width = (size_t)c->width;
    int64_t most = BATCH_ELEMENTS / c->width;
    c->task_rows = TASK_ELEMENTS / c->width > 0 ? TASK_ELEMENTS / c->width : 1;
    most = most < c->task_rows ? c->task_rows : most;
    c->batch_rows = most < c->rows ? most : c->rows;
    size_t tasks = (size_t)(c->batch_rows / c->task_rows + 1);
    size_t size = (size_t)c->batch_rows * row_bytes(c->tensor->to, c->width);
    c->fault = malloc(tasks * sizeof *c->fault);
    c->values = malloc(threads * width * sizeof *c->values);
    c->work_size = quantise_work_size(c->width);
    c->work = malloc(threads * c->work_size);
    c->out = malloc(size);
    if (c->fault && c->values && c->work && c->out)
        return XLSTM_OK;
    return error_memory(size + threads * (width * 4 + c->work_size), "rows of a tensor");
}

static xlstm_status write_rows(conversion *c) {
    const convert_tensor *t = c->tensor;
    size_t from_bytes = row_bytes(t->from->dtype, c->width);
    int64_t most = c->batch_rows;
    for (c->first_row = 0; c->first_row < c->rows; c->first_row += c->batch_rows) {
        int64_t left = c->rows - c->first_row;
        c->batch_rows = left < most ? left : most;
        int64_t tasks = (c->batch_rows + c->task_rows - 1) / c->task_rows;
        thread_pool_run(c->pool, tasks, convert_task, c);
        xlstm_status status = check_faults(c, tasks);
        if (status != XLSTM_OK)
            return status;
        size_t size = (size_t)c->batch_rows * row_bytes(t->to, c->width);
        sink_write(&c->sink, c->out, size);
        file_map_forget(t->from->data + (size_t)c->first_row * from_bytes,
                        (size_t)c->batch_rows * from_bytes);
        c->done += (int64_t)size;
        const convert_options *o = c->options;
        if (o->progress && !o->progress(o->context, c->done, c->plan->bytes))
            return error_set(XLSTM_CANCELLED, "stopped while converting");
    }
    return XLSTM_OK;
}

static xlstm_status write_tensor(conversion *c, const convert_tensor *t) {
    int64_t elements = 1;
    for (int i = 0; i < t->from->rank; i++)
        elements *= t->from->shape[i];
    if (elements == 0)
        return XLSTM_OK;
    c->tensor = t;
    c->width = t->from->rank > 0 ? t->from->shape[t->from->rank - 1] : 1;
    c->rows = elements / c->width;
    xlstm_status status = take_row_memory(c);
    if (status == XLSTM_OK)
        status = write_rows(c);
    free_row_memory(c);
    return status;
}

static xlstm_status write_tensors(const convert_plan *p, const convert_options *o, sink *s) {
    conversion c = {.plan = p, .options = o, .sink = *s};
    int threads = o->threads ? o->threads : threads_available();
    xlstm_status status = thread_pool_create(threads, &c.pool);
    for (size_t i = 0; i < p->count && status == XLSTM_OK; i++)
        status = write_tensor(&c, &p->tensors[i]);
    thread_pool_free(c.pool);
    return sink_close(s, status);
}

/* ---- Files and folders ---- */

static bool same_file(const char *a, const char *b) {
    struct stat first, second;
    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

/* The mapped files must stay as they are while they are read. */
static xlstm_status check_not_input(const xlstm_model *model, const char *output) {
    bool same = same_file(output, model->source.path) || same_file(output, model->source.place);
    for (int i = 0; i < model->files.file_count; i++)
        same = same || same_file(output, model->files.files[i]);
    if (!same)
        return XLSTM_OK;
    return error_set(XLSTM_INVALID_ARGUMENT,
                     "%s is what is being converted: give another name for the output", output);
}

static xlstm_status check_for_gguf(const char *path, const convert_options *o,
                                   const convert_plan *p) {
    if (file_is_folder(path))
        return error_set(XLSTM_INVALID_ARGUMENT, "%s is a folder; a .gguf file is wanted", path);
    if (file_exists(path) && !o->replace)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%s exists already: remove it, or say --force to replace it", path);
    char *folder = path_folder(path);
    if (!folder)
        return XLSTM_OUT_OF_MEMORY;
    xlstm_status status = output_check_space(folder, p->bytes);
    free(folder);
    return status;
}

static xlstm_status write_gguf(const xlstm_model *model, const char *path, const convert_options *o,
                               const convert_plan *p) {
    sink s = {0};
    xlstm_status status = check_for_gguf(path, o, p);
    if (status == XLSTM_OK)
        status = sink_open_gguf(model, p, path, &s);
    return status == XLSTM_OK ? write_tensors(p, o, &s) : status;
}

static xlstm_status check_for_folder(const char *folder, const convert_plan *p) {
    for (size_t i = 0; i < p->count; i++)
        if (dtype_block(p->tensors[i].to) > 1)
            return error_set(XLSTM_UNSUPPORTED,
                             "safetensors files have no %s: give an output that ends in .gguf "
                             "instead of the folder %s, or one of f32, bf16 and f16",
                             dtype_name(p->tensors[i].to), folder);
    return XLSTM_OK;
}

/* The message of the failure stays. What other programs may have put into a folder that was there
 * before is left alone. */
static void remove_written(const char *folder, const char *tensors, bool created) {
    static const char *const names[] = {"config.json", "config.yaml", "tokenizer.json",
                                        "tokenizer_config.json"};
    unlink(tensors);
    for (size_t i = 0; i < sizeof names / sizeof names[0] && created; i++) {
        char *path = path_join(folder, names[i]);
        if (path)
            unlink(path);
        free(path);
    }
    if (created)
        rmdir(folder);
}

/* The config comes last: with it the folder is a checkpoint. */
static xlstm_status write_folder(const xlstm_model *model, const char *folder,
                                 const convert_options *o, const convert_plan *p) {
    xlstm_status status = check_for_folder(folder, p);
    bool created = false;
    if (status == XLSTM_OK)
        status = output_prepare_folder(folder, &created);
    if (status != XLSTM_OK)
        return status;
    char *path = path_join(folder, "model.safetensors");
    status = path ? output_check_space(folder, p->bytes) : XLSTM_OUT_OF_MEMORY;
    sink s = {0};
    if (status == XLSTM_OK)
        status = safetensors_writer_open(path, p->entries, p->count, &s.safetensors);
    if (status == XLSTM_OK)
        status = write_tensors(p, o, &s);
    if (status == XLSTM_OK)
        status = describe_as_files(model, folder);
    if (status != XLSTM_OK && path)
        remove_written(folder, path, created);
    free(path);
    return status;
}

static bool is_for_gguf(const char *output) {
    return path_ends_in(output, ".gguf");
}

static xlstm_status make_plan(const xlstm_model *model, const char *output,
                              const convert_options *o, convert_plan *p, convert_result *result) {
    xlstm_status status = check_not_input(model, output);
    return status == XLSTM_OK ? convert_plan_make(model, o, p, result) : status;
}

/* Whether a file can be made there shows when one is. */
static xlstm_status check_writable(const char *path) {
    file_writer writer;
    xlstm_status status = file_writer_open(path, &writer);
    if (status == XLSTM_OK)
        file_writer_cancel(&writer);
    return status;
}

xlstm_status convert_check(const xlstm_model *model, const char *output, const convert_options *o) {
    convert_plan p;
    convert_result result;
    xlstm_status status = make_plan(model, output, o, &p, &result);
    if (status != XLSTM_OK)
        return status;
    if (is_for_gguf(output)) {
        status = check_for_gguf(output, o, &p);
        if (status == XLSTM_OK)
            status = check_writable(output);
    } else
        status = check_for_folder(output, &p);
    convert_plan_free(&p);
    return status;
}

xlstm_status convert_model(const xlstm_model *model, const char *output, const convert_options *o,
                           convert_result *result) {
    convert_plan p;
    xlstm_status status = make_plan(model, output, o, &p, result);
    if (status != XLSTM_OK)
        return status;
    status = (is_for_gguf(output) ? write_gguf : write_folder)(model, output, o, &p);
    convert_plan_free(&p);
    return status;
}
