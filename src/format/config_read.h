/* Reading fields from a mapping into the config's structures, by tables; shared by the families.
 * Faults are collected and name the key with its path, "slstm_block.slstm.num_heads". */
#ifndef FORMAT_CONFIG_READ_H
#define FORMAT_CONFIG_READ_H

#include "format/config.h"
#include "format/printable.h"

enum { DIMENSION_LIMIT = 1 << 24 };

typedef enum field_kind {
    FIELD_INTEGER,      /* int32_t, 1 … most */
    FIELD_COUNT,        /* int32_t, 0 … most */
    FIELD_POSITIVE,     /* double > 0 */
    FIELD_NON_NEGATIVE, /* double >= 0 */
    FIELD_CAP,          /* double > 0, or null, which is stored as 0 */
    FIELD_FLAG,         /* bool */
    FIELD_TOKEN,        /* int32_t, -1 … vocab_size - 1, or null, which is -1 */
    FIELD_WORD,         /* int32_t or an enum: the index of a text in `words` */
    FIELD_EITHER        /* bool: the second of two `words` */
} field_kind;

typedef struct field {
    const char *key, *alias; /* the two spellings; NULL: there is one */
    field_kind kind;
    size_t offset; /* in model_config */
    int64_t most;
    double json_default, yaml_default; /* NAN: the field is required */
    const char *const *words;          /* NULL ends them */
} field;

#define CONFIG_AT(member) offsetof(model_config, member)

typedef struct config_reader {
    const json_t *source; /* the mapping at hand */
    const json_t *root;   /* the file, which ${a.b} refers to */
    const char *name;     /* of the file */
    char path[96];        /* of the mapping at hand, "slstm_block.slstm.", or "" */
    bool yaml;
    model_config config;
    error_list faults;
    xlstm_status status; /* of memory */
} config_reader;

/* A value as an error shows it. */
printable config_show(const json_t *value);
/* The value under a key of the mapping at hand, references followed, or NULL. */
const json_t *config_get(const config_reader *r, const char *key);
void config_fault(config_reader *r, const char *key, const json_t *value, const char *rule);
void config_read_fields(config_reader *r, const field *fields, size_t count);
typedef struct config_place {
    const json_t *source;
    size_t path_length;
} config_place;
config_place config_here(const config_reader *r);
/* Goes into the mapping under `key`. An absent key is an empty mapping; false: it is null, or no
 * mapping, which is a fault. */
bool config_enter(config_reader *r, const char *key);
/* Back to an earlier place. */
void config_leave(config_reader *r, config_place before);
/* `wiring` and what is refused everywhere. */
void config_read_others(config_reader *r);

/* The families: r->config's part is filled and dimensions derived. */
void config_read_large(config_reader *r);
void config_read_neurips(config_reader *r);

#endif
