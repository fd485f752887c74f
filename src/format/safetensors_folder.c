/* The weight files of a folder, in the layouts that are around:
 *
 *   1. model.safetensors                                   (as transformers: it wins over an index)
 *   2. model.safetensors.index.json and the files it names (Hugging Face)
 *   3. model-00001-of-0000N.safetensors …, without an index
 *   4. model_0.safetensors, model_1.safetensors, …         (the official code)
 *
 * A shard that is not there would otherwise show as hundreds of missing tensors, so the files are
 * counted here. */
#include "format/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/printable.h"
#include "format/safetensors_load.h"

static const char SINGLE[] = "model.safetensors";
static const char INDEX[] = "model.safetensors.index.json";
enum { INDEX_LIMIT = 64 << 20 };

/* A growing list of paths; owned. */
typedef struct path_list {
    char **paths;
    int count;
} path_list;

static void path_list_free(path_list *list) {
    for (int i = 0; i < list->count; i++)
        free(list->paths[i]);
    free(list->paths);
}

static xlstm_status path_list_add(path_list *list, const char *folder, const char *name) {
    char **grown = realloc(list->paths, ((size_t)list->count + 1) * sizeof *grown);
    if (grown == NULL)
        return error_memory(((size_t)list->count + 1) * sizeof *grown, "a list of files");
    list->paths = grown;
    char *path = path_join(folder, name);
    if (path == NULL)
        return XLSTM_OUT_OF_MEMORY;
    list->paths[list->count++] = path;
    return XLSTM_OK;
}

static bool exists_in(const char *folder, const char *name) {
    char *path = path_join(folder, name);
    bool exists = path != NULL && file_exists(path);
    free(path);
    return exists;
}

/* ---- With an index ---- */

/* A file of the folder itself: an index must not lead elsewhere. */
static bool is_plain_name(const char *name) {
    return name != NULL && name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* The files that the index names, each once, into `list`; the missing ones and refused names into
 * the faults. */
static xlstm_status collect_indexed(const char *folder, const char *index_path, json_t *map,
                                    safetensors_load *load, path_list *list) {
    const char *tensor;
    json_t *value;
    xlstm_status status = XLSTM_OK;
    json_t *seen = json_object();
    if (seen == NULL)
        return error_memory(1, index_path);
    json_object_foreach(map, tensor, value) {
        const char *name = json_string_value(value);
        if (!is_plain_name(name)) {
            error_list_add(&load->faults,
                           "%s: tensor %s: %s%s%s is not the name of a file in the folder",
                           index_path, printable_of(tensor).text, name != NULL ? "\"" : "its file",
                           name != NULL ? printable_of(name).text : "", name != NULL ? "\"" : "");
            safetensors_load_fault(load, XLSTM_FORMAT_ERROR);
            continue;
        }
        if (json_object_get(seen, name) != NULL)
            continue;
        if (json_object_set_new(seen, name, json_true()) != 0) {
            status = error_memory(strlen(name), index_path);
            break;
        }
        if (exists_in(folder, name)) {
            status = path_list_add(list, folder, name);
        } else {
            error_list_add(&load->faults, "%s: the file %s is missing from the folder", index_path,
                           printable_of(name).text);
            safetensors_load_fault(load, XLSTM_IO_ERROR);
        }
        if (status != XLSTM_OK)
            break;
    }
    json_decref(seen);
    return status;
}

/* Whether the file of that name was there and its header could be read. */
static bool is_readable(const safetensors_load *load, const char *name) {
    for (int i = 0; i < load->s.file_count; i++)
        if (strcmp(base_name(load->s.files[i]), name) == 0)
            return load->readable[i];
    return false;
}

/* Both ways: what the index lists must be where it says, and what the files hold must be listed. */
static void compare_with_index(const char *index_path, json_t *map, safetensors_load *load) {
    const stored_tensors *s = &load->s;
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (!is_plain_name(file) || !is_readable(load, file))
            continue; /* reported already */
        const stored_tensor *tensor = stored_find(s, name);
        if (tensor == NULL) {
            error_list_add(&load->faults, "%s: tensor %s: it is not in %s", index_path,
                           printable_of(name).text, printable_of(file).text);
            safetensors_load_fault(load, XLSTM_FORMAT_ERROR);
        } else if (strcmp(base_name(s->files[tensor->file]), file) != 0) {
            error_list_add(&load->faults, "%s: tensor %s: it is in %s, not in %s", index_path,
                           printable_of(name).text, base_name(s->files[tensor->file]),
                           printable_of(file).text);
            safetensors_load_fault(load, XLSTM_FORMAT_ERROR);
        }
    }
    for (size_t i = 0; i < s->count; i++) {
        if (json_object_get(map, s->tensors[i].name) == NULL) {
            error_list_add(&load->faults, "%s: tensor %s: it is not listed in %s",
                           s->files[s->tensors[i].file], printable_of(s->tensors[i].name).text,
                           INDEX);
            safetensors_load_fault(load, XLSTM_FORMAT_ERROR);
        }
    }
}

static xlstm_status open_indexed(const char *folder, const char *index_path, stored_tensors *out) {
    json_t *index;
    safetensors_load load = {0};
    path_list list = {0};
    xlstm_status status = json_open(index_path, INDEX_LIMIT, &index);
    if (status != XLSTM_OK)
        return status;
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map)) {
        json_decref(index);
        return error_set(XLSTM_FORMAT_ERROR, "%s: \"weight_map\" is missing or no object",
                         index_path);
    }
    status = collect_indexed(folder, index_path, map, &load, &list);
    if (status != XLSTM_OK) /* memory is out */
        load.status = status;
    else if (safetensors_load_files(&load, (const char *const *)list.paths, list.count))
        compare_with_index(index_path, map, &load);
    status = safetensors_load_finish(&load, out);
    path_list_free(&list);
    json_decref(index);
    return status;
}

/* ---- Without an index ---- */

/* The number in `digits` decimal places (0: one or more, without a leading zero); -1 if there is
 * none. */
static int take_number(const char **at, int digits) {
    int value = 0, taken = 0;
    for (; taken < 9 && **at >= '0' && **at <= '9' && (digits == 0 || taken < digits); taken++) {
        if (digits == 0 && taken == 1 && value == 0)
            return -1;
        value = 10 * value + *(*at)++ - '0';
    }
    return taken > 0 && (digits == 0 || taken == digits) ? value : -1;
}

static bool take_text(const char **at, const char *text) {
    size_t size = strlen(text);
    if (strncmp(*at, text, size) != 0)
        return false;
    *at += size;
    return true;
}

/* What a look at the names of a folder found. */
typedef struct listing {
    int shards;   /* the N of model-…-of-N; 0: none */
    int other;    /* another such N; 0: none */
    int official; /* highest number of model_K, plus 1; 0: none */
} listing;

static void look_at_name(const char *name, listing *found) {
    const char *at = name;
    if (take_text(&at, "model-")) {
        int number = take_number(&at, 5);
        int total = number > 0 && take_text(&at, "-of-") ? take_number(&at, 5) : -1;
        if (total < 1 || number > total || strcmp(at, ".safetensors") != 0)
            return;
        if (found->shards == 0)
            found->shards = total;
        else if (found->shards != total)
            found->other = total;
    } else if (take_text(&at, "model_")) {
        int number = take_number(&at, 0);
        if (number >= 0 && number < 100000 && strcmp(at, ".safetensors") == 0 &&
            number >= found->official)
            found->official = number + 1;
    }
}

static xlstm_status list_folder(const char *folder, listing *found) {
    memset(found, 0, sizeof *found);
    DIR *stream = opendir(folder);
    if (stream == NULL)
        return error_system("open", folder);
    const struct dirent *entry;
    while ((entry = readdir(stream)) != NULL)
        look_at_name(entry->d_name, found);
    closedir(stream);
    return XLSTM_OK;
}

/* Opens the numbered files first … first + count - 1, all of which must be there. */
static xlstm_status open_numbered(const char *folder, const listing *found, stored_tensors *out) {
    safetensors_load load = {0};
    path_list list = {0};
    bool shards = found->shards > 0;
    int count = shards ? found->shards : found->official;
    for (int i = 0; i < count && load.status != XLSTM_OUT_OF_MEMORY; i++) {
        char name[64];
        if (shards)
            snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i + 1, count);
        else
            snprintf(name, sizeof name, "model_%d.safetensors", i);
        if (exists_in(folder, name)) {
            load.status =
                path_list_add(&list, folder, name) == XLSTM_OK ? load.status : XLSTM_OUT_OF_MEMORY;
        } else {
            error_list_add(&load.faults, "%s: the file %s is missing", folder, name);
            safetensors_load_fault(&load, XLSTM_IO_ERROR);
        }
    }
    if (load.status != XLSTM_OUT_OF_MEMORY)
        safetensors_load_files(&load, (const char *const *)list.paths, list.count);
    path_list_free(&list);
    return safetensors_load_finish(&load, out);
}

static xlstm_status open_listed(const char *folder, stored_tensors *out) {
    listing found;
    xlstm_status status = list_folder(folder, &found);
    if (status != XLSTM_OK)
        return status;
    if (found.other != 0) {
        return error_set(
            XLSTM_FORMAT_ERROR,
            "%s: shards of two checkpoints, one of %d files and one of %d; remove one of "
            "them or add %s",
            folder, found.shards, found.other, INDEX);
    }
    if (found.shards == 0 && found.official == 0) {
        return error_set(XLSTM_IO_ERROR,
                         "%s: no weights; looked for %s, %s, model-00001-of-NNNNN.safetensors and "
                         "model_0.safetensors",
                         folder, SINGLE, INDEX);
    }
    return open_numbered(folder, &found, out);
}

xlstm_status safetensors_open_folder(const char *folder, stored_tensors *out) {
    memset(out, 0, sizeof *out);
    if (!file_is_folder(folder))
        return safetensors_open(&folder, 1, out);
    char *single = path_join(folder, SINGLE), *index = path_join(folder, INDEX);
    xlstm_status status = XLSTM_OUT_OF_MEMORY;
    if (single != NULL && index != NULL) {
        status = file_exists(single)  ? safetensors_open((const char *const *)&single, 1, out)
                 : file_exists(index) ? open_indexed(folder, index, out)
                                      : open_listed(folder, out);
    }
    free(single);
    free(index);
    return status;
}
