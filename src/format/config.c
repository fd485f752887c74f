/* From config.json or config.yaml to xlstm_large_config.
 *
 * A table lists the fields: both spellings, what a value must be, and the default, which differs
 * between the two kinds of file for one field only. Keys that the reference ignores are ignored
 * here too (docs/MODEL.md lists them); a known key with a value that cannot be is a fault, and
 * faults are collected. */
#include "format/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/printable.h"
#include "format/yaml.h"

enum { CONFIG_LIMIT = 16 << 20, DIMENSION_LIMIT = 1 << 24 };

typedef enum field_kind {
    FIELD_INTEGER,      /* int32_t, 1 … most */
    FIELD_POSITIVE,     /* double > 0 */
    FIELD_NON_NEGATIVE, /* double >= 0 */
    FIELD_CAP,          /* double > 0, or null, which is stored as 0 */
    FIELD_FLAG,         /* bool */
    FIELD_TOKEN         /* int32_t, -1 … vocab_size - 1, or null, which is -1 */
} field_kind;

typedef struct field {
    const char *key, *alias; /* the two spellings; NULL: there is one */
    field_kind kind;
    size_t offset;
    int64_t most;
    double json_default, yaml_default; /* NAN: the field is required */
} field;

#define AT(member) offsetof(xlstm_large_config, member)

static const field fields[] = {
    /* vocab_size stands before the tokens, which are compared with it. */
    {"hidden_size", "embedding_dim", FIELD_INTEGER, AT(embedding_dim), 1 << 20, 4096, NAN},
    {"num_hidden_layers", "num_blocks", FIELD_INTEGER, AT(num_blocks), 1 << 16, 32, NAN},
    {"num_heads", NULL, FIELD_INTEGER, AT(num_heads), 1 << 16, 8, NAN},
    {"vocab_size", NULL, FIELD_INTEGER, AT(vocab_size), 1 << 24, 50304, NAN},
    {"use_bias", NULL, FIELD_FLAG, AT(use_bias), 0, 0, 0},
    {"add_out_norm", NULL, FIELD_FLAG, AT(add_out_norm), 0, 1, 1},
    {"tie_word_embeddings", NULL, FIELD_FLAG, AT(tie_word_embeddings), 0, 0, 0},
    {"norm_eps", NULL, FIELD_NON_NEGATIVE, AT(norm_eps), 0, 1e-6, 1e-6},
    {"eps", NULL, FIELD_NON_NEGATIVE, AT(eps), 0, 1e-6, 1e-6},
    {"gate_soft_cap", NULL, FIELD_CAP, AT(gate_soft_cap), 0, 15, 15},
    {"output_logit_soft_cap", NULL, FIELD_CAP, AT(output_logit_soft_cap), 0, 30, 30},
    {"qk_dim_factor", NULL, FIELD_POSITIVE, AT(qk_dim_factor), 0, 0.5, 0.5},
    {"v_dim_factor", NULL, FIELD_POSITIVE, AT(v_dim_factor), 0, 1, 1},
    {"ffn_proj_factor", NULL, FIELD_POSITIVE, AT(ffn_proj_factor), 0, 2.667, 2.6667},
    {"ffn_round_up_to_multiple_of", NULL, FIELD_INTEGER, AT(ffn_round_up_to_multiple_of), 1 << 20,
     64, 64},
    {"chunk_size", NULL, FIELD_INTEGER, AT(chunk_size), INT32_MAX, 64, 64},
    {"max_inference_chunksize", NULL, FIELD_INTEGER, AT(max_inference_chunksize), INT32_MAX, 16384,
     16384},
    {"force_bos_token_insert", NULL, FIELD_FLAG, AT(force_bos_token_insert), 0, 0, 0},
    {"bos_token_id", NULL, FIELD_TOKEN, AT(bos_token_id), 0, 0, 0},
    {"eos_token_id", NULL, FIELD_TOKEN, AT(eos_token_id), 0, 2, -1},
    {"pad_token_id", NULL, FIELD_TOKEN, AT(pad_token_id), 0, 1, -1},
};

typedef struct reader {
    const json_t *source;
    const char *name; /* of the file */
    bool yaml;
    xlstm_large_config config;
    error_list faults;
} reader;

/* A value as an error shows it. */
static printable show(const json_t *value) {
    if (json_is_object(value) || json_is_array(value))
        return printable_of(json_is_object(value) ? "a mapping" : "a list");
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    printable shown = printable_of(text != NULL ? text : "?");
    free(text);
    return shown;
}

static void fault_value(reader *r, const char *key, const json_t *value, const char *rule) {
    error_list_add(&r->faults, "%s: %s is %s; it must be %s", r->name, key, show(value).text, rule);
}

/* ---- Fields ---- */

static void *member(reader *r, const field *f) {
    return (char *)&r->config + f->offset;
}

static void store(reader *r, const field *f, double value) {
    switch (f->kind) {
    case FIELD_INTEGER:
        *(int32_t *)member(r, f) = (int32_t)value;
        break;
    case FIELD_TOKEN: /* a default that the vocabulary does not have is none */
        *(int32_t *)member(r, f) = value < r->config.vocab_size ? (int32_t)value : -1;
        break;
    case FIELD_FLAG:
        *(bool *)member(r, f) = value != 0;
        break;
    default:
        *(double *)member(r, f) = value;
    }
}

static void read_integer(reader *r, const field *f, const char *key, const json_t *value) {
    if (json_is_integer(value) && json_integer_value(value) >= 1 &&
        json_integer_value(value) <= f->most) {
        *(int32_t *)member(r, f) = (int32_t)json_integer_value(value);
        return;
    }
    error_list_add(&r->faults, "%s: %s is %s; it must be an integer from 1 to %lld", r->name, key,
                   show(value).text, (long long)f->most);
}

static void read_number(reader *r, const field *f, const char *key, const json_t *value) {
    double number = json_number_value(value);
    if (f->kind == FIELD_CAP && json_is_null(value))
        return; /* stays 0 */
    /* It must survive as an fp32 number: neither infinity nor, where it divides, zero. */
    double narrow = (double)(float)number;
    if (!json_is_number(value) || !isfinite(narrow) || narrow < 0 ||
        (narrow == 0 && f->kind != FIELD_NON_NEGATIVE)) {
        fault_value(r, key, value,
                    f->kind == FIELD_CAP        ? "a positive number, or null for none"
                    : f->kind == FIELD_POSITIVE ? "a positive number"
                                                : "a number that is not negative");
        return;
    }
    *(double *)member(r, f) = number;
}

/* An id, null, or a list of ids of which the first counts. */
static void read_token(reader *r, const field *f, const char *key, const json_t *value) {
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    bool valid = count > 0;
    int32_t most = r->config.vocab_size > 0 ? r->config.vocab_size - 1 : INT32_MAX;
    int32_t first = -1;
    if (json_is_null(value))
        count = 0;
    for (size_t i = 0; i < count && valid; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        valid =
            json_is_integer(id) && json_integer_value(id) >= -1 && json_integer_value(id) <= most;
        first = i == 0 && valid ? (int32_t)json_integer_value(id) : first;
    }
    if (!valid) {
        error_list_add(&r->faults, "%s: %s is %s; it must be an id from 0 to %d, or null for none",
                       r->name, key, show(value).text, (int)most);
        return;
    }
    *(int32_t *)member(r, f) = first;
}

static void read_value(reader *r, const field *f, const char *key, const json_t *value) {
    switch (f->kind) {
    case FIELD_INTEGER:
        read_integer(r, f, key, value);
        break;
    case FIELD_TOKEN:
        read_token(r, f, key, value);
        break;
    case FIELD_FLAG:
        if (json_is_boolean(value))
            *(bool *)member(r, f) = json_is_true(value);
        else
            fault_value(r, key, value, "true or false");
        break;
    default:
        read_number(r, f, key, value);
    }
}

/* Of two spellings either will do, null leaves it to the other, and two values must be equal. */
static void read_field(reader *r, const field *f) {
    const char *key = f->key;
    const json_t *value = json_object_get(r->source, f->key);
    const json_t *other = f->alias != NULL ? json_object_get(r->source, f->alias) : NULL;
    if (f->alias != NULL) {
        value = json_is_null(value) ? NULL : value;
        other = json_is_null(other) ? NULL : other;
    }
    if (value != NULL && other != NULL && !json_equal(value, other)) {
        error_list_add(&r->faults,
                       "%s: %s is %s and %s is %s; they mean the same and must be equal", r->name,
                       f->key, show(value).text, f->alias, show(other).text);
        return;
    }
    if (value == NULL && other != NULL) {
        key = f->alias;
        value = other;
    }
    double otherwise = r->yaml ? f->yaml_default : f->json_default;
    if (value != NULL) {
        read_value(r, f, key, value);
    } else if (!isnan(otherwise)) {
        store(r, f, otherwise);
    } else {
        error_list_add(&r->faults, "%s: %s is missing", r->name,
                       f->alias != NULL ? f->alias : f->key);
    }
}

static void read_other_fields(reader *r) {
    const json_t *mode = json_object_get(r->source, "weight_mode");
    const char *text = json_string_value(mode);
    r->config.fused = text != NULL && strcmp(text, "fused") == 0;
    if (mode != NULL && !r->config.fused && (text == NULL || strcmp(text, "single") != 0))
        fault_value(r, "weight_mode", mode, "\"single\" or \"fused\"");
    json_t *wiring = json_object_get(r->source, "wiring");
    r->config.wiring = json_is_object(wiring) ? wiring : NULL;
    if (wiring != NULL && !json_is_object(wiring) && !json_is_null(wiring))
        fault_value(r, "wiring", wiring, "a mapping, as `xlstm info --wiring json` prints it");
    const json_t *quantised = json_object_get(r->source, "quantization_config");
    if (quantised != NULL && !json_is_null(quantised)) {
        error_list_add(&r->faults,
                       "%s: quantization_config is there; weights quantised by other programs are "
                       "not supported",
                       r->name);
    }
}

/* ---- Derived dimensions ---- */

/* Python's ((x + m - 1) // m) * m with a float x: a fractional part just above a multiple is
 * dropped. */
static double round_up(double x, double m) {
    double above = x + m - 1;
    double remainder = fmod(above, m);
    double quotient = (above - remainder) / m;
    double floored = floor(quotient);
    return (quotient - floored > 0.5 ? floored + 1 : floored) * m;
}

/* embedding_dim × factor, cut to an integer, which the heads must divide; 0 after a fault. */
static int32_t head_total(reader *r, const char *key, double factor) {
    const xlstm_large_config *c = &r->config;
    if (c->embedding_dim == 0 || c->num_heads == 0 || factor <= 0)
        return 0; /* reported already */
    double total = trunc(c->embedding_dim * factor);
    if (total > DIMENSION_LIMIT) {
        error_list_add(&r->faults,
                       "%s: %s %g makes %d x %g = %.0f dimensions; at most %d are allowed", r->name,
                       key, factor, c->embedding_dim, factor, total, DIMENSION_LIMIT);
        return 0;
    }
    if (total < 1 || (int32_t)total % c->num_heads != 0) {
        error_list_add(
            &r->faults,
            "%s: embedding_dim %d x %s %g = %.0f dimensions, which num_heads %d does not divide",
            r->name, c->embedding_dim, key, factor, total, c->num_heads);
        return 0;
    }
    return (int32_t)total;
}

static void derive(reader *r) {
    xlstm_large_config *c = &r->config;
    c->qk_dim = head_total(r, "qk_dim_factor", c->qk_dim_factor);
    c->v_dim = head_total(r, "v_dim_factor", c->v_dim_factor);
    if (c->embedding_dim == 0 || c->ffn_proj_factor <= 0 || c->ffn_round_up_to_multiple_of == 0)
        return;
    double width = round_up(c->embedding_dim * c->ffn_proj_factor, c->ffn_round_up_to_multiple_of);
    if (width >= 1 && width <= DIMENSION_LIMIT) {
        c->ffn_dim = (int32_t)width;
    } else {
        error_list_add(
            &r->faults,
            "%s: ffn_proj_factor %g makes a feed-forward width of %.0f; it must be from 1 to %d",
            r->name, c->ffn_proj_factor, width, DIMENSION_LIMIT);
    }
}

/* ---- Families ---- */

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

static xlstm_status check_architecture(const json_t *source, const char *name) {
    const json_t *type = json_object_get(source, "model_type");
    const json_t *list = json_object_get(source, "architectures");
    const char *text = json_string_value(type);
    bool typed = type != NULL && !json_is_null(type);
    if (typed && (text == NULL || strcmp(text, "xlstm") != 0)) {
        return error_set(XLSTM_UNSUPPORTED, "%s: model_type is %s; only \"xlstm\" is supported",
                         name, show(type).text);
    }
    bool listed = list != NULL && !json_is_null(list) && json_array_size(list) != 0;
    const json_t *other = listed || json_is_array(list) || json_is_null(list) ? NULL : list;
    for (size_t i = 0; i < json_array_size(list) && other == NULL; i++) {
        text = json_string_value(json_array_get(list, i));
        if (text == NULL || strcmp(text, "xLSTMForCausalLM") != 0)
            other = json_array_get(list, i);
    }
    if (other != NULL) {
        return error_set(XLSTM_UNSUPPORTED,
                         "%s: architectures has %s; only \"xLSTMForCausalLM\" is supported", name,
                         show(other).text);
    }
    if (!typed && !listed &&
        !(has_either(source, "embedding_dim", "hidden_size") &&
          has_either(source, "num_blocks", "num_hidden_layers") &&
          has_either(source, "num_heads", "num_heads"))) {
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: nothing says what model this is; model_type must be \"xlstm\"", name);
    }
    return XLSTM_OK;
}

static xlstm_status check_family(const json_t *source, const char *name, bool yaml) {
    static const char *const neurips_keys[] = {"mlstm_block", "slstm_block", "slstm_at", NULL};
    static const char *const large_keys[] = {"ffn_proj_factor", "qk_dim_factor", NULL};
    if (!json_is_object(source)) {
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: a config is a mapping of keys to values, this is %s", name,
                         show(source).text);
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
    if (neurips != NULL) {
        return error_set(
            XLSTM_UNSUPPORTED,
            "%s: %s says that this is an xlstm-neurips model; such models are not supported by "
            "this version",
            name, neurips);
    }
    if (yaml && large == NULL) {
        return error_set(
            XLSTM_FORMAT_ERROR,
            "%s: the family is unknown: there is neither ffn_proj_factor or qk_dim_factor "
            "(xlstm-large) nor mlstm_block, slstm_block or slstm_at (xlstm-neurips)",
            name);
    }
    return XLSTM_OK;
}

/* ---- Opening ---- */

xlstm_status config_from_json(json_t *value, const char *name, bool yaml,
                              xlstm_large_config *config) {
    reader r = {.source = value, .name = name, .yaml = yaml};
    memset(config, 0, sizeof *config);
    xlstm_status status = check_family(value, name, yaml);
    if (status != XLSTM_OK)
        return status;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        read_field(&r, &fields[i]);
    read_other_fields(&r);
    derive(&r);
    *config = r.config;
    config->source = json_incref(value);
    config->spelling = yaml ? "official" : "huggingface";
    return error_list_finish(&r.faults, XLSTM_FORMAT_ERROR);
}

xlstm_status config_open(const char *path, xlstm_large_config *config) {
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

xlstm_status config_open_folder(const char *folder, xlstm_large_config *config) {
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

void config_free(xlstm_large_config *config) {
    json_decref(config->source);
    memset(config, 0, sizeof *config);
}
