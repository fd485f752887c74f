/* A randomly initialised checkpoint, written: the shards of the plan, streamed, then the JSON files.
 *
 * Values come in blocks that are each a function of (seed, name of the part, number of the block)
 * alone: threads make blocks in any order, and neither their number, nor the shards, nor the fused
 * layout change a value. A checkpoint of billions of values takes less time to make than to write.
 */
#include "model/init.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/normal.h"
#include "base/random.h"
#include "base/threads.h"
#include "format/safetensors.h"
#include "model/init_plan.h"
#include "model/output.h"

enum { BLOCK = 1 << 14, BLOCKS_AT_ONCE = 256 };

/* ---- The bytes ---- */

typedef struct writing {
    const init_plan *plan;
    const char *folder;
    thread_pool *pool;
    normal_table normal;
    const init_part *part;
    int64_t first_block; /* of the part, that the buffer begins with */
    uint8_t *bytes;      /* [BLOCKS_AT_ONCE * BLOCK] of the dtype */
    int64_t done;        /* bytes written */
    int files;           /* shards that exist */
    bool has_index, has_config;
} writing;

/* Value j of a part that is not random. */
static double fixed_value(const init_part *t, int64_t j) {
    if (t->kind == INIT_LINEAR)
        return t->a + (t->b - t->a) * (double)j / (t->count > 1 ? (double)(t->count - 1) : 1);
    if (t->kind == INIT_CONSTANT)
        return t->a;
    if (j / t->gate_stride % 4 != 1)
        return 0;
    double x = (double)(j % t->units) / (t->units > 1 ? (double)(t->units - 1) : 1);
    return t->a - t->b * pow(x, t->exponent);
}

static void fill_block(void *context, int64_t task, int worker) {
    const writing *w = context;
    const init_part *t = w->part;
    (void)worker;
    uint64_t seed = w->plan->options->seed;
    int64_t block = w->first_block + task, first = block * BLOCK;
    int64_t count = t->count - first < BLOCK ? t->count - first : BLOCK;
    float values[BLOCK];
    normal_generator g = normal_sequence(&w->normal, seed, t->stream, (uint64_t)block);
    for (int64_t i = 0; i < count; i++) {
        double value = t->kind == INIT_NORMAL ? t->a * normal_next(&g)
                       : t->kind == INIT_UNIFORM
                           ? t->a * (2 * random_uniform(seed, t->stream, (uint64_t)(first + i)) - 1)
                           : fixed_value(t, first + i);
        values[i] = (float)value;
    }
    dtype type = w->plan->options->dtype;
    dtype_convert(DTYPE_F32, values, type, w->bytes + (size_t)(task * BLOCK) * dtype_size(type),
                  count);
}

static xlstm_status write_part(writing *w, const init_part *t, safetensors_writer *file) {
    const init_options *options = w->plan->options;
    int64_t blocks = (t->count + BLOCK - 1) / BLOCK;
    w->part = t;
    for (w->first_block = 0; w->first_block < blocks; w->first_block += BLOCKS_AT_ONCE) {
        int64_t left = blocks - w->first_block, now = left < BLOCKS_AT_ONCE ? left : BLOCKS_AT_ONCE;
        thread_pool_run(w->pool, now, fill_block, w);
        int64_t values = t->count - w->first_block * BLOCK;
        if (values > now * BLOCK)
            values = now * BLOCK;
        size_t size = (size_t)values * dtype_size(options->dtype);
        safetensors_writer_write(file, w->bytes, size);
        w->done += (int64_t)size;
        if (options->progress && !options->progress(options->context, w->done, w->plan->bytes))
            return error_set(XLSTM_CANCELLED, "stopped while writing %s", w->folder);
    }
    return XLSTM_OK;
}

static void shard_name(int shards, int shard, char *name, size_t size) {
    if (shards == 1)
        snprintf(name, size, "model.safetensors");
    else
        snprintf(name, size, "model-%05d-of-%05d.safetensors", shard + 1, shards);
}

static char *shard_path(const writing *w, int shard) {
    char name[64];
    shard_name(w->plan->shards, shard, name, sizeof name);
    return path_join(w->folder, name);
}

/* Tensors [first, last) make one file. */
static xlstm_status write_tensors(writing *w, size_t first, size_t last, const char *path) {
    stored_entry *entries = calloc(last - first, sizeof *entries);
    if (!entries)
        return error_memory((last - first) * sizeof *entries, "the list of tensors");
    for (size_t i = first; i < last; i++) {
        const init_tensor *t = &w->plan->tensors[i];
        entries[i - first] = (stored_entry){.name = t->name,
                                            .dtype = w->plan->options->dtype,
                                            .rank = t->rank,
                                            .shape = {t->shape[0], t->shape[1], t->shape[2]}};
    }
    safetensors_writer *file;
    xlstm_status status = safetensors_writer_open(path, entries, last - first, &file);
    free(entries);
    if (status != XLSTM_OK)
        return status;
    for (size_t i = first; i < last && status == XLSTM_OK; i++) {
        const init_tensor *t = &w->plan->tensors[i];
        for (int j = 0; j < t->part_count && status == XLSTM_OK; j++)
            status = write_part(w, &t->parts[j], file);
    }
    if (status == XLSTM_OK)
        return safetensors_writer_commit(file);
    safetensors_writer_cancel(file);
    return status;
}

static xlstm_status write_shards(writing *w) {
    const init_plan *p = w->plan;
    for (size_t first = 0; first < p->count; w->files++) {
        size_t last = first;
        while (last < p->count && p->tensors[last].shard == w->files)
            last++;
        char *path = shard_path(w, w->files);
        if (!path)
            return XLSTM_OUT_OF_MEMORY;
        xlstm_status status = write_tensors(w, first, last, path);
        free(path);
        if (status != XLSTM_OK)
            return status;
        first = last;
    }
    return XLSTM_OK;
}

/* ---- The JSON files ---- */

/* Takes over `value`. */
static xlstm_status write_json(const writing *w, const char *name, json_t *value) {
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    json_decref(value);
    char *path = path_join(w->folder, name);
    xlstm_status status = XLSTM_OUT_OF_MEMORY;
    if (!text) {
        error_memory(0, name);
    } else if (path) {
        file_writer file;
        status = file_writer_open(path, &file);
        if (status == XLSTM_OK) {
            file_writer_write(&file, text, strlen(text));
            file_writer_write(&file, "\n", 1);
            status = file_writer_commit(&file);
        }
    }
    free(text);
    free(path);
    return status;
}

static json_t *make_index(const init_plan *p) {
    json_t *map = json_object();
    for (size_t i = 0; i < p->count; i++) {
        char name[64];
        shard_name(p->shards, p->tensors[i].shard, name, sizeof name);
        json_object_set_new(map, p->tensors[i].name, json_string(name));
    }
    return json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)p->bytes, "weight_map",
                     map);
}

/* ---- The folder ---- */

static void remove_file(const writing *w, const char *name) {
    char *path = path_join(w->folder, name);
    if (path)
        unlink(path);
    free(path);
}

/* Removes what was written; the message of the failure stays. */
static void remove_written(const writing *w, bool folder_created) {
    for (int shard = 0; shard < w->files; shard++) {
        char name[64];
        shard_name(w->plan->shards, shard, name, sizeof name);
        remove_file(w, name);
    }
    if (w->has_index)
        remove_file(w, "model.safetensors.index.json");
    if (w->has_config)
        remove_file(w, "config.json");
    if (folder_created)
        rmdir(w->folder);
}

/* config.json comes last: with it the folder is a checkpoint. */
static xlstm_status write_files(writing *w) {
    xlstm_status status = output_check_space(w->folder, w->plan->bytes);
    if (status == XLSTM_OK)
        status = write_shards(w);
    if (status == XLSTM_OK && w->plan->shards > 1) {
        status = write_json(w, "model.safetensors.index.json", make_index(w->plan));
        w->has_index = status == XLSTM_OK;
    }
    if (status == XLSTM_OK) {
        status = write_json(w, "config.json", init_config(w->plan));
        w->has_config = status == XLSTM_OK;
    }
    return status;
}

static xlstm_status write_checkpoint(const init_plan *p, const char *folder) {
    writing w = {.plan = p, .folder = folder};
    size_t size = (size_t)BLOCKS_AT_ONCE * BLOCK * dtype_size(p->options->dtype);
    w.bytes = malloc(size);
    if (!w.bytes)
        return error_memory(size, "initial values");
    normal_table_init(&w.normal);
    int threads = p->options->threads ? p->options->threads : threads_available();
    bool created = false;
    xlstm_status status = thread_pool_create(threads, &w.pool);
    if (status == XLSTM_OK)
        status = output_prepare_folder(folder, &created);
    if (status == XLSTM_OK) {
        status = write_files(&w);
        if (status != XLSTM_OK)
            remove_written(&w, created);
    }
    thread_pool_free(w.pool);
    free(w.bytes);
    return status;
}

xlstm_status init_checkpoint(const model_config *config, const char *folder,
                             const init_options *options) {
    if (options->dtype != DTYPE_F32 && options->dtype != DTYPE_BF16 && options->dtype != DTYPE_F16)
        return error_set(XLSTM_INVALID_ARGUMENT, "weights are f32, bf16 or f16, not %s",
                         dtype_name(options->dtype));
    if (options->fused && config->family == FAMILY_NEURIPS)
        return error_set(XLSTM_INVALID_ARGUMENT, "xlstm-neurips has no fused layout of tensors");
    init_plan p = {.config = config, .options = options};
    xlstm_status status = init_plan_make(&p);
    if (status == XLSTM_OK)
        status = write_checkpoint(&p, folder);
    free(p.tensors);
    return status;
}
