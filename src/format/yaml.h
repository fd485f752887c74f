/* config.yaml by libyaml, into the same values as JSON: mappings, sequences, and scalars. A plain
 * scalar is null, a boolean, an integer or a number (whatever C's strtod reads completely, so 1e-06
 * is one) or else a string. Anchors, aliases and tags are refused; depth and size are bounded. */
#ifndef FORMAT_YAML_H
#define FORMAT_YAML_H

#include "format/json.h"

xlstm_status yaml_parse(const char *text, size_t size, const char *name, json_t **value);
xlstm_status yaml_open(const char *path, size_t limit, json_t **value);

#endif
