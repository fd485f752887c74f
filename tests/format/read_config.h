/* Configs from texts, for the tests of both architectures. */
#ifndef FORMAT_READ_CONFIG_H
#define FORMAT_READ_CONFIG_H

#include <stdbool.h>

#include "format/config.h"

/* The text, in errors "c", must be JSON or YAML; what it says need not be right. */
xlstm_status config_try_text(const char *text, bool yaml, model_config *config);
/* Fails the running test if it is not. */
model_config config_must_read(const char *text, bool yaml);

#endif
