/* From config.json or config.yaml to model_config: which file, which family; the fields of a family
 * are read in config_large.c and config_neurips.c. */
#include "format/config.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/config_read.h"
#include "format/yaml.h"

enum { CONFIG_LIMIT = 16 << 20 };

const char *config_family_name(model_family family) {
    return family == FAMILY_LARGE ? "xlstm-large" : "xlstm-neurips";
}

/* ---- Families ---- */

static const char *const neurips_keys[] = {"mlstm_block", "slstm_block", "slstm_at", NULL};
static const char *const large_keys[] = {"ffn_proj_factor", "qk_dim_factor", NULL};

/* The first of the keys that the config has, or NULL. */
static const char *first_present(const json_t *source, const char *const *keys) {
    for (; *keys != NULL; keys++)
        if (json_object_get(source, *keys) != NULL)
            return *keys;
    return NULL;
}

static bool has_either(const json_t *source, const char *key, const char *alias) {
    const json_t *value = json_object_get(source, key), *other = json_object_get(source, alias);
    return (value != NULL && !json_is_null(value)) || (other != NULL && !json_is_null(other));
}

/* What a JSON file says of itself. */
static xlstm_status check_architecture(const json_t *source, const char *name) {
    const json_t *type = json_object_get(source, "model_type");
    const json_t *list = json_object_get(source, "architectures");
    const char *text = json_string_value(type);
    bool typed = type != NULL && !json_is_null(type);
    if (typed && (text == NULL || strcmp(text, "xlstm") != 0)) {
        return error_set(XLSTM_UNSUPPORTED, "%s: model_type is %s; only \"xlstm\" is supported",
                         name, config_show(type).text);
    }
    bool listed = list != NULL && !json_is_null(list) && json_array_size(list) != 0;
    const json_t *other = listed || json_is_array(list) || json_is_null(list) ? NULL : list;
    for (size_t i = 0; i < json_array_size(list) && other == NULL; i++) {
        text = json_string_value(json_array_get(list, i));
        if (text == NULL ||
            (strcmp(text, "xLSTMForCausalLM") != 0 && strcmp(text, "xLSTMLMModel") != 0))
            other = json_array_get(list, i);
    }
    if (other != NULL) {
        return error_set(XLSTM_UNSUPPORTED,
                         "%s: architectures has %s; only \"xLSTMForCausalLM\" is supported", name,
                         config_show(other).text);
    }
    if (!typed && !listed && first_present(source, neurips_keys) == NULL &&
        !(has_either(source, "embedding_dim", "hidden_size") &&
          has_either(source, "num_blocks", "num_hidden_layers") &&
          has_either(source, "num_heads", "num_heads"))) {
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: nothing says what model this is; model_type must be \"xlstm\"", name);
    }
    return XLSTM_OK;
}

static xlstm_status find_family(const json_t *source, const char *name, bool yaml,
                                model_family *family) {
    if (!json_is_object(source)) {
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: a config is a mapping of keys to values, this is %s", name,
                         config_show(source).text);
    }
    if (!yaml) {
        xlstm_status status = check_architecture(source, name);
        if (status != XLSTM_OK)
            return status;
    }
    const char *neurips = first_present(source, neurips_keys);
    const char *large = first_present(source, large_keys);
    if (neurips != NULL && large != NULL) {
        return error_set(
            XLSTM_FORMAT_ERROR,
            "%s: %s belongs to the xlstm-neurips family and %s to xlstm-large; a config "
            "is of one of them",
            name, neurips, large);
    }
    if (yaml && neurips == NULL && large == NULL) {
        return error_set(
            XLSTM_FORMAT_ERROR,
            "%s: the family is unknown: there is neither ffn_proj_factor or qk_dim_factor "
            "(xlstm-large) nor mlstm_block, slstm_block or slstm_at (xlstm-neurips)",
            name);
    }
    *family = neurips != NULL ? FAMILY_NEURIPS : FAMILY_LARGE;
    return XLSTM_OK;
}

/* The mapping that describes the model: the file's, or, in a file that describes an experiment, the
 * one under its key `model`. */
static json_t *find_model(json_t *root) {
    json_t *model = json_object_get(root, "model");
    bool at_top =
        first_present(root, neurips_keys) != NULL || first_present(root, large_keys) != NULL;
    bool below = json_is_object(model) && (first_present(model, neurips_keys) != NULL ||
                                           first_present(model, large_keys) != NULL);
    return below && !at_top ? model : root;
}

/* ---- Opening ---- */

xlstm_status config_from_json(json_t *value, const char *name, bool yaml, model_config *config) {
    json_t *model = find_model(value);
    config_reader r = {.source = model, .root = value, .name = name, .yaml = yaml};
    memset(config, 0, sizeof *config);
    xlstm_status status = find_family(r.source, name, yaml, &r.config.family);
    if (status != XLSTM_OK)
        return status;
    if (model != value)
        snprintf(r.path, sizeof r.path, "model.");
    if (r.config.family == FAMILY_LARGE)
        config_read_large(&r);
    else
        config_read_neurips(&r);
    *config = r.config;
    config->source = json_incref(model);
    config->spelling = yaml ? "official" : "huggingface";
    if (r.status != XLSTM_OK) {
        (void)error_list_finish(&r.faults, r.status);
        return error_memory((size_t)config->num_blocks, name);
    }
    return error_list_finish(&r.faults, XLSTM_FORMAT_ERROR);
}

xlstm_status config_open(const char *path, model_config *config) {
    const char *dot = strrchr(path, '.');
    bool yaml = dot != NULL && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
    json_t *value;
    memset(config, 0, sizeof *config);
    if (!yaml && (dot == NULL || strcmp(dot, ".json") != 0)) {
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: the name of a config ends in .json or .yaml",
                         path);
    }
    xlstm_status status =
        yaml ? yaml_open(path, CONFIG_LIMIT, &value) : json_open(path, CONFIG_LIMIT, &value);
    if (status == XLSTM_OK) {
        status = config_from_json(value, path, yaml, config);
        json_decref(value);
    }
    return status;
}

xlstm_status config_open_folder(const char *folder, model_config *config) {
    memset(config, 0, sizeof *config);
    if (!file_is_folder(folder))
        return error_set(XLSTM_IO_ERROR, "%s: there is no such folder", folder);
    char *json = path_join(folder, "config.json"), *yaml = path_join(folder, "config.yaml");
    xlstm_status status = XLSTM_OUT_OF_MEMORY;
    if (json != NULL && yaml != NULL) {
        status = file_exists(json) ? config_open(json, config)
                 : file_exists(yaml)
                     ? config_open(yaml, config)
                     : error_set(XLSTM_IO_ERROR,
                                 "%s: no config; looked for config.json and config.yaml", folder);
    }
    free(json);
    free(yaml);
    return status;
}

void config_free(model_config *config) {
    free(config->neurips.slstm_at);
    json_decref(config->source);
    memset(config, 0, sizeof *config);
}
