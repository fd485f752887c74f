/* config.yaml by libyaml, into the same values as JSON: mappings, sequences, and scalars. A plain
 * scalar is null, a boolean, an integer or a number (whatever C's strtod reads completely, so 1e-06
 * is one) or else a string; yes, no, on and off are booleans, 0x10 and 0o17 integers, .inf and .nan
 * strings. A quoted scalar is a string. Duplicate keys, a second document, anchors, aliases, tags
 * and merge keys are errors; depth and size are bounded. An empty file is null. */
#ifndef FORMAT_YAML_H
#define FORMAT_YAML_H

#include "format/json.h"

xlstm_status yaml_parse(const char *text, size_t size, const char *name, json_t **value);
xlstm_status yaml_open(const char *path, size_t limit, json_t **value);

#endif
