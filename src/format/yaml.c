/* YAML by libyaml's event parser, built into the values of jansson without recursion: a stack of
 * open mappings and sequences of bounded depth. What a plain scalar means follows PyYAML, which the
 * official code reads its config with, except for numbers: PyYAML takes 1e-06 for a string, and C's
 * strtod knows better. */
#include "format/yaml.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

#include "base/file.h"
#include "format/printable.h"

enum { YAML_MAX_DEPTH = 64 };

typedef struct builder {
    const char *name; /* of the file */
    json_t *root;
    json_t *open[YAML_MAX_DEPTH];
    char *keys[YAML_MAX_DEPTH]; /* of open mappings: the key whose value comes next, or NULL */
    int depth;
} builder;

static xlstm_status fault(const builder *b, yaml_mark_t mark, const char *what) {
    return error_set(XLSTM_FORMAT_ERROR, "%s: YAML line %zu, column %zu: %s", b->name,
                     mark.line + 1, mark.column + 1, what);
}

/* ---- Scalars ---- */

static bool is_one_of(const char *text, const char *const *words) {
    for (; *words != NULL; words++)
        if (strcmp(text, *words) == 0)
            return true;
    return false;
}

/* An integer of int64: decimal, 0x… or 0o…, with an optional sign. */
static bool read_integer(const char *text, json_int_t *value) {
    const char *digits = text + (*text == '-' || *text == '+');
    int base = 10;
    if (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'o')) {
        base = digits[1] == 'x' ? 16 : 8;
        digits += 2;
    }
    if (strspn(digits, base == 16  ? "0123456789abcdefABCDEF"
                       : base == 8 ? "01234567"
                                   : "0123456789") != strlen(digits) ||
        *digits == '\0')
        return false;
    /* The sign goes along, so that the lowest int64 is one; strtoll does not know 0o. */
    char signed_digits[72];
    if (strlen(digits) + 2 > sizeof signed_digits)
        return false;
    signed_digits[0] = *text == '-' ? '-' : '+';
    memcpy(signed_digits + 1, digits, strlen(digits) + 1);
    errno = 0;
    *value = strtoll(signed_digits, NULL, base);
    return errno == 0;
}

/* A finite number that strtod reads completely; infinities and NaN have no JSON value and stay
 * strings. */
static bool read_number(const char *text, double *value) {
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*value);
}

static json_t *plain_scalar(const char *text, size_t size) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", "yes", "Yes",
                                        "YES",  "on",   "On",   "ON",  NULL};
    static const char *const falses[] = {"false", "False", "FALSE", "no",  "No",
                                         "NO",    "off",   "Off",   "OFF", NULL};
    json_int_t integer;
    double number;
    if (is_one_of(text, nulls))
        return json_null();
    if (is_one_of(text, trues))
        return json_true();
    if (is_one_of(text, falses))
        return json_false();
    if (read_integer(text, &integer))
        return json_integer(integer);
    if (read_number(text, &number))
        return json_real(number);
    return json_stringn(text, size);
}

/* ---- Building ---- */

/* Puts a value where it belongs; takes it over. */
static xlstm_status place(builder *b, json_t *value, yaml_mark_t mark) {
    if (value == NULL)
        return error_memory(64, b->name);
    if (b->depth == 0) {
        b->root = value;
        return XLSTM_OK;
    }
    json_t *container = b->open[b->depth - 1];
    char **key = &b->keys[b->depth - 1];
    if (json_is_array(container))
        return json_array_append_new(container, value) == 0 ? XLSTM_OK : error_memory(64, b->name);
    if (*key == NULL) {
        json_decref(value);
        return fault(b, mark, "a key must be a scalar");
    }
    int failed = json_object_set_new(container, *key, value);
    free(*key);
    *key = NULL;
    return failed ? error_memory(64, b->name) : XLSTM_OK;
}

static xlstm_status take_key(builder *b, const yaml_event_t *event) {
    const char *text = (const char *)event->data.scalar.value;
    if (strlen(text) != event->data.scalar.length)
        return fault(b, event->start_mark, "a key contains a NUL");
    if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strcmp(text, "<<") == 0)
        return fault(b, event->start_mark, "merge keys (<<) are not supported");
    if (json_object_get(b->open[b->depth - 1], text) != NULL) {
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: YAML line %zu, column %zu: the key \"%s\" is "
                         "there twice",
                         b->name, event->start_mark.line + 1, event->start_mark.column + 1,
                         printable_of(text).text);
    }
    b->keys[b->depth - 1] = strdup(text);
    return b->keys[b->depth - 1] != NULL ? XLSTM_OK : error_memory(strlen(text), b->name);
}

static xlstm_status take_scalar(builder *b, const yaml_event_t *event) {
    const char *text = (const char *)event->data.scalar.value;
    size_t size = event->data.scalar.length;
    if (event->data.scalar.anchor != NULL || event->data.scalar.tag != NULL)
        return fault(b, event->start_mark, "anchors and tags are not supported");
    if (b->depth > 0 && json_is_object(b->open[b->depth - 1]) && b->keys[b->depth - 1] == NULL)
        return take_key(b, event);
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return place(b, plain ? plain_scalar(text, size) : json_stringn(text, size), event->start_mark);
}

static xlstm_status open_container(builder *b, const yaml_event_t *event) {
    bool mapping = event->type == YAML_MAPPING_START_EVENT;
    const void *anchor =
        mapping ? event->data.mapping_start.anchor : event->data.sequence_start.anchor;
    const void *tag = mapping ? event->data.mapping_start.tag : event->data.sequence_start.tag;
    if (anchor != NULL || tag != NULL)
        return fault(b, event->start_mark, "anchors and tags are not supported");
    if (b->depth == YAML_MAX_DEPTH)
        return fault(b, event->start_mark, "nested more than 64 deep");
    json_t *container = mapping ? json_object() : json_array();
    xlstm_status status = place(b, container, event->start_mark);
    if (status == XLSTM_OK)
        b->open[b->depth++] = container;
    return status;
}

static xlstm_status take_event(builder *b, const yaml_event_t *event) {
    switch (event->type) {
    case YAML_ALIAS_EVENT:
        return fault(b, event->start_mark, "aliases are not supported");
    case YAML_SCALAR_EVENT:
        return take_scalar(b, event);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        return open_container(b, event);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        b->depth--;
        return XLSTM_OK;
    case YAML_DOCUMENT_START_EVENT:
        return b->root == NULL ? XLSTM_OK : fault(b, event->start_mark, "a second document begins");
    default:
        return XLSTM_OK;
    }
}

static xlstm_status parser_fault(const builder *b, const yaml_parser_t *parser) {
    if (parser->error == YAML_MEMORY_ERROR)
        return error_memory(64, b->name);
    if (parser->error == YAML_READER_ERROR) {
        return error_set(XLSTM_FORMAT_ERROR, "%s: YAML byte %zu: %s", b->name,
                         parser->problem_offset, parser->problem);
    }
    return fault(b, parser->problem_mark,
                 parser->problem != NULL ? parser->problem : "it is broken");
}

static xlstm_status build(builder *b, yaml_parser_t *parser) {
    for (;;) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event))
            return parser_fault(b, parser);
        xlstm_status status = take_event(b, &event);
        bool last = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
        if (status != XLSTM_OK || last)
            return status;
    }
}

xlstm_status yaml_parse(const char *text, size_t size, const char *name, json_t **value) {
    builder b = {.name = name};
    yaml_parser_t parser;
    *value = NULL;
    /* The decimal point is a point, whatever the program's locale says. */
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c_locale == (locale_t)0 || !yaml_parser_initialize(&parser)) {
        if (c_locale != (locale_t)0)
            freelocale(c_locale);
        return error_memory(sizeof parser, name);
    }
    locale_t previous = uselocale(c_locale);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    xlstm_status status = build(&b, &parser);
    yaml_parser_delete(&parser);
    uselocale(previous);
    freelocale(c_locale);
    for (int i = 0; i < YAML_MAX_DEPTH; i++)
        free(b.keys[i]);
    if (status != XLSTM_OK) {
        json_decref(b.root);
        return status;
    }
    *value = b.root != NULL ? b.root : json_null();
    return XLSTM_OK;
}

xlstm_status yaml_open(const char *path, size_t limit, json_t **value) {
    buffer text = {0};
    *value = NULL;
    xlstm_status status = file_read_regular(path, limit, &text);
    if (status == XLSTM_OK)
        status = yaml_parse(text.data != NULL ? text.data : "", text.size, path, value);
    buffer_free(&text);
    return status;
}
