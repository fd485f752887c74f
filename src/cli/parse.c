/* Parsing of the command line by the option table.
 *
 * Both `--name value` and `--name=value`, `-n 48` and `-n48`. A value is read completely or it is
 * wrong: no trailing characters, no overflow, no infinity. A value that stands alone and is exactly
 * the name of another option is taken for a forgotten value: `-m -p text` would otherwise look for
 * a model called "-p". Every error says which option, which value, and what would be right. */
#include "cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* ---- Numbers ---- */

static bool parse_integer(const char *text, int64_t *value) {
    const char *digits = text + (*text == '-');
    if (!isdigit((unsigned char)*digits))
        return false;
    char *end;
    errno = 0;
    long long parsed = strtoll(text, &end, 10);
    *value = parsed;
    return errno == 0 && *end == '\0';
}

static bool parse_uint64(const char *text, uint64_t *value) {
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    unsigned long long parsed = strtoull(text, &end, 10);
    *value = parsed;
    return errno == 0 && *end == '\0';
}

static bool parse_number(const char *text, double *value) {
    if (text[strspn(text, "+-.0123456789eE")] != '\0' || *text == '\0')
        return false; /* strtod would also take "inf", "nan", hexadecimal and leading space */
    char *end;
    *value = strtod(text, &end);
    return *end == '\0' && isfinite(*value);
}

static bool parse_bytes(const char *text, double most, int64_t *value) {
    static const struct {
        const char *name;
        double size;
    } units[] = {{"", 1},     {"B", 1},     {"kB", 1e3},   {"KB", 1e3},      {"MB", 1e6},
                 {"GB", 1e9}, {"TB", 1e12}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}};
    if (!isdigit((unsigned char)*text))
        return false;
    size_t digits = strspn(text, ".0123456789");
    char number[32];
    if (digits >= sizeof number)
        return false;
    memcpy(number, text, digits);
    number[digits] = '\0';
    double amount;
    if (!parse_number(number, &amount))
        return false;
    const char *unit = text + digits + strspn(text + digits, " ");
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        double size = amount * units[i].size;
        if (strcmp(unit, units[i].name) == 0 && size >= 1 && size <= most) {
            *value = (int64_t)size;
            return true;
        }
    }
    return false;
}

static bool is_separator(char c) {
    return c == ',' || isspace((unsigned char)c);
}

static xlstm_status append_id(int32_t id, int32_t **ids, int64_t *count) {
    /* Grown at powers of two, so that the capacity need not be kept. */
    if ((*count & (*count - 1)) == 0) {
        size_t size = sizeof(int32_t) * (size_t)(*count ? 2 * *count : 1);
        int32_t *grown = realloc(*ids, size);
        if (!grown)
            return error_memory(size, "a list of ids");
        *ids = grown;
    }
    (*ids)[(*count)++] = id;
    return XLSTM_OK;
}

xlstm_status ids_parse(const char *text, int64_t minimum, int64_t maximum, int32_t **ids,
                       int64_t *count) {
    while (isspace((unsigned char)*text))
        text++;
    while (*text) {
        if (*text == ',')
            return error_set(XLSTM_INVALID_ARGUMENT, "a number is missing before a comma");
        size_t length = 0;
        while (text[length] && !is_separator(text[length]))
            length++;
        char word[32];
        snprintf(word, sizeof word, "%.*s", (int)(length < 31 ? length : 31), text);
        int64_t id;
        if (length > 31 || !parse_integer(word, &id))
            return error_set(XLSTM_INVALID_ARGUMENT, "\"%s\" is not a whole number", word);
        if (id < minimum || id > maximum)
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "%s is out of range: %" PRId64 " to %" PRId64 " is right", word,
                             minimum, maximum);
        xlstm_status status = append_id((int32_t)id, ids, count);
        if (status != XLSTM_OK)
            return status;
        text += length;
        for (int commas = 0; is_separator(*text) && commas + (*text == ',') <= 1; text++)
            commas += *text == ',';
    }
    return XLSTM_OK;
}

/* ---- Values ---- */

/* What would have been right, in words. */
static void print_expected(const option_spec *spec, buffer *out) {
    switch (spec->kind) {
    case OPTION_FLAG:
        buffer_print(out, "takes no value");
        break;
    case OPTION_STRING:
    case OPTION_NONEMPTY:
        buffer_print(out, "takes %s, not an empty one",
                     strcmp(spec->value, "TEXT") == 0 ? "a text" : "a path");
        break;
    case OPTION_INTEGER:
        buffer_print(out, "takes a whole number from %.0f to %.0f", spec->minimum, spec->maximum);
        break;
    case OPTION_NUMBER:
        buffer_print(out, "takes a number from %g to %g", spec->minimum, spec->maximum);
        break;
    case OPTION_UINT64:
        buffer_print(out, "takes a whole number from 0 to %" PRIu64, UINT64_MAX);
        break;
    case OPTION_BYTES:
        buffer_print(out, "takes a number of bytes, such as 500MB or 5GB");
        break;
    case OPTION_CHOICE:
        buffer_print(out, "takes one of ");
        for (const char *c = spec->choices; *c; c++)
            buffer_print(out, *c == '|' ? ", " : "%c", *c);
        break;
    case OPTION_ID_LIST:
        buffer_print(out, "takes whole numbers separated by commas");
        break;
    }
}

static xlstm_status wrong_value(const option_spec *spec, const char *text) {
    buffer expected = {0};
    print_expected(spec, &expected);
    xlstm_status status = error_set(XLSTM_INVALID_ARGUMENT, "--%s \"%s\": %s", spec->name, text,
                                    expected.data ? expected.data : "is wrong");
    buffer_free(&expected);
    return status;
}

static bool is_choice(const char *choices, const char *text) {
    size_t length = strlen(text);
    for (const char *c = choices; length > 0 && *c;) {
        size_t size = strcspn(c, "|");
        if (size == length && memcmp(c, text, size) == 0)
            return true;
        c += size + (c[size] == '|');
    }
    return false;
}

static xlstm_status keep_text(option_value *value, const char *text) {
    size_t size = sizeof(char *) * (size_t)(value->count + 1);
    const char **grown = realloc((void *)value->texts, size);
    if (!grown)
        return error_memory(size, "the command line");
    value->texts = grown;
    value->texts[value->count++] = text;
    return XLSTM_OK;
}

static xlstm_status keep_ids(const option_spec *spec, const char *text, option_value *value) {
    if (!spec->repeatable)
        value->id_count = 0; /* the last one counts; the memory is taken anew */
    if (value->id_count == 0) {
        free(value->ids);
        value->ids = NULL;
    }
    if (spec->or_stdin && strcmp(text, "-") == 0)
        return XLSTM_OK;
    int64_t before = value->id_count;
    if (ids_parse(text, (int64_t)spec->minimum, (int64_t)spec->maximum, &value->ids,
                  &value->id_count) != XLSTM_OK)
        return error_prefix(XLSTM_INVALID_ARGUMENT, "--%s \"%s\"", spec->name, text);
    if (value->id_count == before && !spec->or_stdin)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "--%s \"%s\": the list is empty; whole numbers separated by commas are "
                         "right",
                         spec->name, text);
    return XLSTM_OK;
}

/* Text is NULL for flags. */
static xlstm_status set_value(enum option_id id, const char *text, options *o) {
    const option_spec *spec = &option_table[id];
    option_value *value = &o->values[id];
    bool right = true;
    switch (spec->kind) {
    case OPTION_FLAG:
    case OPTION_STRING:
        break;
    case OPTION_NONEMPTY:
        right = *text != '\0';
        break;
    case OPTION_INTEGER:
        right = parse_integer(text, &value->integer) && (double)value->integer >= spec->minimum &&
                (double)value->integer <= spec->maximum;
        break;
    case OPTION_NUMBER:
        right = parse_number(text, &value->number) && value->number >= spec->minimum &&
                value->number <= spec->maximum;
        break;
    case OPTION_UINT64:
        right = parse_uint64(text, &value->unsigned_integer);
        break;
    case OPTION_BYTES:
        right = parse_bytes(text, spec->maximum, &value->integer);
        break;
    case OPTION_CHOICE:
        right = is_choice(spec->choices, text);
        break;
    case OPTION_ID_LIST: {
        xlstm_status status = keep_ids(spec, text, value);
        if (status != XLSTM_OK)
            return status;
        break;
    }
    }
    if (!right)
        return wrong_value(spec, text);
    value->given = true;
    value->text = text;
    return spec->repeatable && spec->kind != OPTION_ID_LIST ? keep_text(value, text) : XLSTM_OK;
}

/* ---- Arguments ---- */

static enum option_id find_long(const command_spec *command, const char *name, size_t length) {
    for (const enum option_id *id = command->options; *id; id++) {
        const char *known = option_table[*id].name;
        if (strlen(known) == length && memcmp(known, name, length) == 0)
            return *id;
    }
    return OPTION_NONE;
}

static enum option_id find_letter(const command_spec *command, char letter) {
    for (const enum option_id *id = command->options; *id; id++) {
        if (option_table[*id].letter == letter)
            return *id;
    }
    return OPTION_NONE;
}

static bool is_option(const command_spec *command, const char *text) {
    if (text[0] != '-' || text[1] == '\0')
        return false;
    if (text[1] == '-')
        return find_long(command, text + 2, strlen(text + 2)) != OPTION_NONE;
    return text[2] == '\0' && find_letter(command, text[1]) != OPTION_NONE;
}

static xlstm_status unknown_option(const command_spec *command, const char *text) {
    const char *names[COMMAND_OPTIONS];
    int count = 0;
    for (const enum option_id *id = command->options; *id; id++)
        names[count++] = option_table[*id].name;
    const char *nearest = NULL;
    char name[64];
    if (text[0] == '-' && text[1] == '-') {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(text + 2, "="), text + 2);
        nearest = options_nearest(name, names, count);
    } else if (text[0] == '-' && text[2] != '\0') { /* -temperature: one dash is missing */
        snprintf(name, sizeof name, "%.*s", (int)strcspn(text + 1, "="), text + 1);
        nearest = options_nearest(name, names, count);
    }
    if (nearest)
        return error_set(XLSTM_INVALID_ARGUMENT, "unknown option %s: did you mean --%s?", text,
                         nearest);
    return error_set(XLSTM_INVALID_ARGUMENT, "unknown option %s", text);
}

static xlstm_status no_value(enum option_id id, const char *next) {
    buffer name = {0};
    option_print_name(id, &name);
    const option_spec *spec = &option_table[id];
    xlstm_status status =
        next ? error_set(XLSTM_INVALID_ARGUMENT,
                         "%s needs a value (%s), and %s is an option; write --%s=%s if it is meant",
                         name.data ? name.data : spec->name, spec->value, next, spec->name, next)
             : error_set(XLSTM_INVALID_ARGUMENT, "%s needs a value (%s)",
                         name.data ? name.data : spec->name, spec->value);
    buffer_free(&name);
    return status;
}

/* Parses arguments[*at], and the next one where that is its value; moves *at to the last one used.
 */
static xlstm_status parse_argument(const command_spec *command, int count, char *const *arguments,
                                   int *at, options *result) {
    const char *text = arguments[*at];
    bool operand = text[0] != '-' || text[1] == '\0';
    if (operand && command->operands && result->operand_count < COMMAND_OPERANDS) {
        result->operands[result->operand_count++] = text;
        return XLSTM_OK;
    }
    if (operand && command->operands)
        return error_set(XLSTM_INVALID_ARGUMENT, "unexpected argument \"%s\" behind %s %s", text,
                         result->operands[0], result->operands[1]);
    if (operand)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "unexpected argument \"%s\": every argument belongs to an option%s", text,
                         find_letter(command, 'p') ? ", and a prompt to -p" : "");
    enum option_id id;
    const char *value = NULL;
    if (text[1] == '-') {
        size_t length = strcspn(text + 2, "=");
        id = find_long(command, text + 2, length);
        value = text[2 + length] == '=' ? text + 3 + length : NULL;
    } else {
        id = find_letter(command, text[1]);
        if (find_long(command, text + 1, strcspn(text + 1, "=")))
            id = OPTION_NONE; /* -threads is no -t of "hreads" */
        if (id && text[2] != '\0' && option_table[id].kind == OPTION_FLAG)
            id = OPTION_NONE; /* -hx */
        else if (text[2] != '\0')
            value = text + 2 + (text[2] == '=');
    }
    if (id == OPTION_NONE)
        return unknown_option(command, text);
    if (option_table[id].kind == OPTION_FLAG)
        return value ? wrong_value(&option_table[id], value) : set_value(id, NULL, result);
    if (!value) {
        const char *next = *at + 1 < count ? arguments[*at + 1] : NULL;
        if (!next || is_option(command, next))
            return no_value(id, next);
        value = next;
        ++*at;
    }
    return set_value(id, value, result);
}

static xlstm_status check_exclusive(const command_spec *command, const options *o) {
    for (int g = 0; g < COMMAND_GROUP; g++) {
        enum option_id first = OPTION_NONE;
        for (int i = 0; i < COMMAND_GROUP && command->exclusive[g][i]; i++) {
            enum option_id id = command->exclusive[g][i];
            if (!option_given(o, id))
                continue;
            if (first)
                return error_set(XLSTM_INVALID_ARGUMENT,
                                 "--%s and --%s exclude each other: give one of them",
                                 option_table[first].name, option_table[id].name);
            first = id;
        }
    }
    return XLSTM_OK;
}

static xlstm_status check_required(const command_spec *command, const options *o) {
    for (int i = 0; i < COMMAND_GROUP && command->required[i]; i++) {
        enum option_id id = command->required[i];
        if (option_given(o, id))
            continue;
        buffer name = {0};
        option_print_name(id, &name);
        const option_spec *spec = &option_table[id];
        xlstm_status status =
            error_set(XLSTM_INVALID_ARGUMENT, "%s %s is missing: %s",
                      name.data ? name.data : spec->name, spec->value, spec->help);
        buffer_free(&name);
        return status;
    }
    return XLSTM_OK;
}

xlstm_status options_parse(const command_spec *command, int count, char *const *arguments,
                           options *result) {
    *result = (options){.command = command};
    xlstm_status status = XLSTM_OK;
    for (int at = 0; at < count && status == XLSTM_OK; at++)
        status = parse_argument(command, count, arguments, &at, result);
    if (status == XLSTM_OK && !option_given(result, OPTION_HELP)) {
        status = check_required(command, result);
        if (status == XLSTM_OK)
            status = check_exclusive(command, result);
    }
    if (status != XLSTM_OK)
        options_free(result);
    return status;
}

void options_free(options *o) {
    for (int id = 0; id < OPTION_COUNT; id++) {
        free((void *)o->values[id].texts);
        free(o->values[id].ids);
    }
    *o = (options){0};
}

const char *option_text(const options *o, enum option_id id, const char *fallback) {
    return option_given(o, id) ? o->values[id].text : fallback;
}

int64_t option_integer(const options *o, enum option_id id, int64_t fallback) {
    return option_given(o, id) ? o->values[id].integer : fallback;
}

double option_number(const options *o, enum option_id id, double fallback) {
    return option_given(o, id) ? o->values[id].number : fallback;
}

/* ---- Suggestions ---- */

/* Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours.
 */
static int distance(const char *a, const char *b) {
    enum { LONGEST = 40 };
    int n = (int)strlen(a), m = (int)strlen(b), d[LONGEST + 1][LONGEST + 1];
    if (n > LONGEST || m > LONGEST)
        return LONGEST;
    for (int i = 0; i <= n; i++)
        d[i][0] = i;
    for (int j = 0; j <= m; j++)
        d[0][j] = j;
    for (int i = 1; i <= n; i++) {
        for (int j = 1; j <= m; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
            best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[n][m];
}

const char *options_nearest(const char *word, const char *const *names, int count) {
    size_t length = strlen(word);
    const char *nearest = NULL;
    int least = length < 4 ? 2 : 2 + (int)length / 4; /* further away is no help */
    for (int i = 0; i < count; i++) {
        /* The beginning of a name, or a name with something behind it, counts as one mistake. */
        bool prefix = length >= 2 && (strncmp(word, names[i], length) == 0 ||
                                      strncmp(word, names[i], strlen(names[i])) == 0);
        int d = prefix ? 1 : distance(word, names[i]);
        if (d < least) {
            least = d;
            nearest = names[i];
        }
    }
    return nearest;
}

xlstm_status options_unknown_command(const char *word) {
    const char *names[64];
    buffer all = {0};
    for (int i = 0; i < command_count; i++) {
        names[i] = command_table[i].name;
        buffer_print(&all, "%s%s", i ? ", " : "", names[i]);
    }
    const char *nearest = options_nearest(word, names, command_count);
    xlstm_status status =
        nearest ? error_set(XLSTM_INVALID_ARGUMENT, "unknown command %s: did you mean %s?", word,
                            nearest)
                : error_set(XLSTM_INVALID_ARGUMENT, "unknown command %s; there are %s", word,
                            all.data ? all.data : "");
    buffer_free(&all);
    return status;
}
