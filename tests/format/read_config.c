#include "format/read_config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "format/yaml.h"

xlstm_status config_try_text(const char *text, bool yaml, model_config *config) {
    json_t *value;
    xlstm_status status = yaml ? yaml_parse(text, strlen(text), "c", &value)
                               : json_parse(text, strlen(text), "c", &value);
    if (status != XLSTM_OK)
        fail_msg("%s: %s", text, xlstm_last_error());
    status = config_from_json(value, "c", yaml, config);
    json_decref(value);
    return status;
}

model_config config_must_read(const char *text, bool yaml) {
    model_config config;
    if (config_try_text(text, yaml, &config) != XLSTM_OK)
        fail_msg("%s: %s", text, xlstm_last_error());
    return config;
}
