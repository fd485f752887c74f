/* Finding and reading the parts of a checkpoint, which are files of a folder or values of a GGUF
 * file. */
#include "format/source.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "format/printable.h"
#include "format/safetensors.h"
#include "format/yaml.h"

enum { CONFIG_LIMIT = 16 << 20, TOKENIZER_LIMIT = 1 << 30 };

static const char json_key[] = "xlstm.config.json", yaml_key[] = "xlstm.config.yaml",
                  tokenizer_key[] = "tokenizer.huggingface.json";

/* ---- Which file ---- */

/* By its first bytes, whatever it is called. */
static bool begins_as_gguf(const char *path) {
    char magic[4];
    FILE *stream = file_is_regular(path) ? fopen(path, "rbe") : NULL;
    if (!stream)
        return false;
    bool is = fread(magic, 1, sizeof magic, stream) == sizeof magic &&
              memcmp(magic, "GGUF", sizeof magic) == 0;
    fclose(stream);
    return is;
}

static bool has_file(const char *folder, const char *name) {
    char *path = path_join(folder, name);
    bool there = path && file_exists(path);
    free(path);
    return there;
}

/* *found: the only .gguf of the folder, or NULL. *beside: there are .safetensors files. */
static xlstm_status find_in_folder(const char *folder, char **found, bool *beside) {
    *found = NULL;
    DIR *stream = opendir(folder);
    if (!stream)
        return error_system("open the folder", folder);
    int count = 0;
    xlstm_status status = XLSTM_OK;
    for (const struct dirent *e; status == XLSTM_OK && (e = readdir(stream)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        *beside |= path_ends_in(e->d_name, ".safetensors");
        if (!path_ends_in(e->d_name, ".gguf"))
            continue;
        free(*found);
        *found = path_join(folder, e->d_name);
        status = *found ? XLSTM_OK : XLSTM_OUT_OF_MEMORY;
        count++;
    }
    closedir(stream);
    if (count > 1) {
        free(*found);
        *found = NULL;
        if (!has_file(folder, "config.json") && !has_file(folder, "config.yaml"))
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "%s: the folder has %d .gguf files; give the path of one of them",
                             folder, count);
    }
    return status;
}

/* *file: the GGUF file that the path means, or NULL. *beside: it was chosen before .safetensors
 * files of the same folder. */
static xlstm_status find_gguf(const char *path, char **file, bool *beside) {
    *file = NULL;
    *beside = false;
    if (!file_exists(path))
        return error_set(XLSTM_IO_ERROR, "%s: no such file or folder", path);
    if (file_is_folder(path))
        return find_in_folder(path, file, beside);
    if (!path_ends_in(path, ".gguf") && !begins_as_gguf(path))
        return XLSTM_OK;
    *file = strdup(path);
    return *file ? XLSTM_OK : error_memory(strlen(path), "a path");
}

static xlstm_status check_architecture(const checkpoint_source *source) {
    gguf_text text;
    char name[PRINTABLE_MAX + 2] = "";
    if (!gguf_get_text(gguf_find(&source->gguf, "general.architecture"), &text))
        return error_set(XLSTM_FORMAT_ERROR, "%s: value general.architecture is missing or no text",
                         source->place);
    if (text.size == 5 && memcmp(text.bytes, "xlstm", 5) == 0)
        return XLSTM_OK;
    memcpy(name, text.bytes, text.size < sizeof name ? text.size : sizeof name - 1);
    return error_set(XLSTM_UNSUPPORTED,
                     "%s: general.architecture is \"%s\"; only \"xlstm\" is supported",
                     source->place, printable_of(name).text);
}

xlstm_status source_open(const char *path, checkpoint_source *source) {
    memset(source, 0, sizeof *source);
    source->path = strdup(path);
    if (!source->path)
        return error_memory(strlen(path), "a path");
    bool beside;
    xlstm_status status = find_gguf(path, &source->place, &beside);
    source->one_file = source->place != NULL;
    source->passes_over = source->one_file && beside;
    if (status == XLSTM_OK && source->one_file) {
        status = gguf_open(source->place, &source->gguf);
        if (status == XLSTM_OK)
            status = check_architecture(source);
    } else if (status == XLSTM_OK) {
        source->place = file_is_folder(path) ? strdup(path) : path_folder(path);
        if (!source->place)
            status = error_memory(strlen(path), "a path");
    }
    if (status != XLSTM_OK)
        source_close(source);
    return status;
}

void source_close(checkpoint_source *source) {
    gguf_close(&source->gguf);
    free(source->place);
    free(source->path);
    memset(source, 0, sizeof *source);
}

/* ---- Tensors ---- */

xlstm_status source_take_tensors(checkpoint_source *source, stored_tensors *tensors) {
    if (!source->one_file)
        return safetensors_open_folder(source->path, tensors);
    *tensors = source->gguf.tensors;
    memset(&source->gguf.tensors, 0, sizeof source->gguf.tensors);
    return XLSTM_OK;
}

/* ---- Config ---- */

/* The value that holds the config of a GGUF file. */
static xlstm_status find_config(const checkpoint_source *source, bool *yaml, gguf_text *text) {
    const gguf_value *as_json = gguf_find(&source->gguf, json_key);
    const gguf_value *as_yaml = gguf_find(&source->gguf, yaml_key);
    *yaml = as_yaml != NULL;
    if (as_json && as_yaml)
        return error_set(XLSTM_FORMAT_ERROR, "%s: values %s and %s are both there; one must go",
                         source->place, json_key, yaml_key);
    if (!as_json && !as_yaml)
        return error_set(XLSTM_FORMAT_ERROR, "%s: no config: neither value %s nor %s is there",
                         source->place, json_key, yaml_key);
    if (!gguf_get_text(*yaml ? as_yaml : as_json, text) || text->size > CONFIG_LIMIT)
        return error_set(XLSTM_FORMAT_ERROR, "%s: value %s is no text of at most %d bytes",
                         source->place, *yaml ? yaml_key : json_key, CONFIG_LIMIT);
    return XLSTM_OK;
}

xlstm_status source_config(const checkpoint_source *source, model_config *config) {
    gguf_text text;
    bool yaml;
    if (!source->one_file)
        return config_open_folder(source->place, config);
    memset(config, 0, sizeof *config);
    xlstm_status status = find_config(source, &yaml, &text);
    if (status != XLSTM_OK)
        return status;
    buffer name = {0};
    json_t *value = NULL;
    buffer_print(&name, "%s: %s", source->place, yaml ? yaml_key : json_key);
    if (name.failed)
        status = error_memory(strlen(source->place), "a name");
    if (status == XLSTM_OK)
        status = (yaml ? yaml_parse : json_parse)(text.bytes, text.size, name.data, &value);
    if (status == XLSTM_OK)
        status = config_from_json(value, name.data, yaml, config);
    json_decref(value);
    buffer_free(&name);
    return status;
}

xlstm_status source_config_text(const checkpoint_source *source, bool *yaml, buffer *text) {
    if (source->one_file) {
        gguf_text found;
        xlstm_status status = find_config(source, yaml, &found);
        if (status != XLSTM_OK)
            return status;
        buffer_append(text, found.bytes, found.size);
        return text->failed ? error_memory(found.size, "the config") : XLSTM_OK;
    }
    *yaml = !has_file(source->place, "config.json");
    char *path = path_join(source->place, *yaml ? "config.yaml" : "config.json");
    xlstm_status status = path ? file_read_regular(path, CONFIG_LIMIT, text) : XLSTM_OUT_OF_MEMORY;
    free(path);
    return status;
}

/* ---- Tokenizer ---- */

bool source_has_tokenizer(const checkpoint_source *source) {
    return source->one_file ? gguf_find(&source->gguf, tokenizer_key) != NULL
                            : has_file(source->place, "tokenizer.json");
}

static xlstm_status tokenizer_of_gguf(const checkpoint_source *source, buffer *text, buffer *name) {
    gguf_text found;
    const gguf_value *value = gguf_find(&source->gguf, tokenizer_key);
    if (!value)
        return error_set(XLSTM_FORMAT_ERROR, "%s: no tokenizer: value %s is missing", source->place,
                         tokenizer_key);
    if (!gguf_get_text(value, &found))
        return error_set(XLSTM_FORMAT_ERROR, "%s: value %s is no text", source->place,
                         tokenizer_key);
    buffer_append(text, found.bytes, found.size);
    buffer_print(name, "%s: %s", source->place, tokenizer_key);
    return XLSTM_OK;
}

xlstm_status source_tokenizer_text(const checkpoint_source *source, buffer *text, buffer *name) {
    xlstm_status status;
    if (source->one_file) {
        status = tokenizer_of_gguf(source, text, name);
    } else {
        char *path = path_join(source->place, "tokenizer.json");
        status = path ? file_read_regular(path, TOKENIZER_LIMIT, text) : XLSTM_OUT_OF_MEMORY;
        buffer_print(name, "%s", path ? path : "");
        free(path);
    }
    if (status == XLSTM_OK && (text->failed || name->failed))
        status = error_memory(text->size, "the tokenizer");
    return status;
}
