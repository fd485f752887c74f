/* Values under keys, checked one by one. A table lists the fields; keys that the reference ignores
 * are ignored here too (docs/MODEL.md lists them); a known key with a value that cannot be is a
 * fault, and faults are collected. */
#include "format/config_read.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

printable config_show(const json_t *value) {
    if (json_is_object(value) || json_is_array(value))
        return printable_of(json_is_object(value) ? "a mapping" : "a list");
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    printable shown = printable_of(text != NULL ? text : "?");
    free(text);
    return shown;
}

/* What "${a.b}" in an experiment's file refers to, from the top of the file; anything else is
 * itself. One step: a reference to a reference is a text. */
static const json_t *follow(const config_reader *r, const json_t *value) {
    const char *text = json_string_value(value);
    size_t length = text != NULL ? strlen(text) : 0;
    if (length < 4 || strncmp(text, "${", 2) != 0 || text[length - 1] != '}')
        return value;
    const json_t *at = r->root;
    for (const char *part = text + 2, *end = text + length - 1; part < end && at != NULL;) {
        size_t size = strcspn(part, ".}");
        char key[96];
        if (size >= sizeof key)
            return value;
        memcpy(key, part, size);
        key[size] = '\0';
        at = json_object_get(at, key);
        part += size + 1;
    }
    return at != NULL ? at : value;
}

const json_t *config_get(const config_reader *r, const char *key) {
    return follow(r, json_object_get(r->source, key));
}

void config_fault(config_reader *r, const char *key, const json_t *value, const char *rule) {
    error_list_add(&r->faults, "%s: %s%s is %s; it must be %s", r->name, r->path, key,
                   config_show(value).text, rule);
}

/* ---- Fields ---- */

static void *member(config_reader *r, const field *f) {
    return (char *)&r->config + f->offset;
}

static void store(config_reader *r, const field *f, double value) {
    switch (f->kind) {
    case FIELD_INTEGER:
    case FIELD_COUNT:
    case FIELD_WORD:
        *(int32_t *)member(r, f) = (int32_t)value;
        break;
    case FIELD_TOKEN: /* a default that the vocabulary does not have is none */
        *(int32_t *)member(r, f) = value < r->config.vocab_size ? (int32_t)value : -1;
        break;
    case FIELD_FLAG:
    case FIELD_EITHER:
        *(bool *)member(r, f) = value != 0;
        break;
    default:
        *(double *)member(r, f) = value;
    }
}

static void read_integer(config_reader *r, const field *f, const char *key, const json_t *value) {
    int least = f->kind == FIELD_COUNT ? 0 : 1;
    if (json_is_integer(value) && json_integer_value(value) >= least &&
        json_integer_value(value) <= f->most) {
        *(int32_t *)member(r, f) = (int32_t)json_integer_value(value);
        return;
    }
    error_list_add(&r->faults, "%s: %s%s is %s; it must be an integer from %d to %lld", r->name,
                   r->path, key, config_show(value).text, least, (long long)f->most);
}

static void read_number(config_reader *r, const field *f, const char *key, const json_t *value) {
    double number = json_number_value(value);
    if (f->kind == FIELD_CAP && json_is_null(value))
        return; /* stays 0 */
    /* It must survive as an fp32 number: neither infinity nor, where it divides, zero. */
    double narrow = (double)(float)number;
    if (!json_is_number(value) || !isfinite(narrow) || narrow < 0 ||
        (narrow == 0 && f->kind != FIELD_NON_NEGATIVE)) {
        config_fault(r, key, value,
                     f->kind == FIELD_CAP        ? "a positive number, or null for none"
                     : f->kind == FIELD_POSITIVE ? "a positive number"
                                                 : "a number that is not negative");
        return;
    }
    *(double *)member(r, f) = number;
}

/* An id, null, or a list of ids of which the first counts. */
static void read_token(config_reader *r, const field *f, const char *key, const json_t *value) {
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
        error_list_add(&r->faults,
                       "%s: %s%s is %s; it must be an id from 0 to %d, or null for none", r->name,
                       r->path, key, config_show(value).text, (int)most);
        return;
    }
    *(int32_t *)member(r, f) = first;
}

/* "a", "b" or "c" */
static void read_word(config_reader *r, const field *f, const char *key, const json_t *value) {
    char rule[160] = "";
    const char *text = json_string_value(value);
    for (int i = 0; f->words[i] != NULL; i++) {
        if (text != NULL && strcmp(text, f->words[i]) == 0) {
            store(r, f, i);
            return;
        }
        const char *before = i == 0 ? "" : f->words[i + 1] != NULL ? ", " : " or ";
        size_t used = strlen(rule);
        snprintf(rule + used, sizeof rule - used, "%s\"%s\"", before, f->words[i]);
    }
    config_fault(r, key, value, rule);
}

static void read_value(config_reader *r, const field *f, const char *key, const json_t *value) {
    switch (f->kind) {
    case FIELD_INTEGER:
    case FIELD_COUNT:
        read_integer(r, f, key, value);
        break;
    case FIELD_TOKEN:
        read_token(r, f, key, value);
        break;
    case FIELD_FLAG:
        if (json_is_boolean(value))
            *(bool *)member(r, f) = json_is_true(value);
        else
            config_fault(r, key, value, "true or false");
        break;
    case FIELD_WORD:
    case FIELD_EITHER:
        read_word(r, f, key, value);
        break;
    default:
        read_number(r, f, key, value);
    }
}

/* Of two spellings either will do, null leaves it to the other, and two values must be equal. */
static void read_field(config_reader *r, const field *f) {
    const char *key = f->key;
    const json_t *value = config_get(r, f->key);
    const json_t *other = f->alias != NULL ? config_get(r, f->alias) : NULL;
    if (f->alias != NULL) {
        value = json_is_null(value) ? NULL : value;
        other = json_is_null(other) ? NULL : other;
    }
    if (value != NULL && other != NULL && !json_equal(value, other)) {
        error_list_add(&r->faults,
                       "%s: %s%s is %s and %s is %s; they mean the same and must be equal", r->name,
                       r->path, f->key, config_show(value).text, f->alias, config_show(other).text);
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
        error_list_add(&r->faults, "%s: %s%s is missing", r->name, r->path,
                       f->alias != NULL ? f->alias : f->key);
    }
}

void config_read_fields(config_reader *r, const field *fields, size_t count) {
    for (size_t i = 0; i < count; i++)
        read_field(r, &fields[i]);
}

/* ---- Mappings ---- */

config_place config_here(const config_reader *r) {
    return (config_place){r->source, strlen(r->path)};
}

bool config_enter(config_reader *r, const char *key) {
    const json_t *value = config_get(r, key);
    size_t length = strlen(r->path);
    if (json_is_null(value))
        return false;
    if (value != NULL && !json_is_object(value)) {
        config_fault(r, key, value, "a mapping");
        return false;
    }
    snprintf(r->path + length, sizeof r->path - length, "%s.", key);
    r->source = value;
    return true;
}

void config_leave(config_reader *r, config_place before) {
    r->source = before.source;
    r->path[before.path_length] = '\0';
}

void config_read_others(config_reader *r) {
    json_t *wiring = json_object_get(r->source, "wiring");
    r->config.wiring = json_is_object(wiring) ? wiring : NULL;
    if (wiring != NULL && !json_is_object(wiring) && !json_is_null(wiring))
        config_fault(r, "wiring", wiring, "a mapping, as `xlstm info --wiring json` prints it");
    const json_t *quantised = json_object_get(r->source, "quantization_config");
    if (quantised != NULL && !json_is_null(quantised)) {
        error_list_add(&r->faults,
                       "%s: %squantization_config is there; weights quantised by other programs "
                       "are not supported",
                       r->name, r->path);
    }
}
