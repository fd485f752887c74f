/* Any bytes as a config: JSON, or YAML after a first byte of 'y'. What is accepted must make sense.
 */
#include <stdlib.h>

#include "format/config.h"
#include "format/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    bool yaml = size > 0 && bytes[0] == 'y';
    const char *text = (const char *)bytes + yaml;
    model_config config;
    json_t *value;
    xlstm_status status = yaml ? yaml_parse(text, size - 1, "input", &value)
                               : json_parse(text, size, "input", &value);
    if (status != XLSTM_OK)
        return 0;
    if (config_from_json(value, "input", yaml, &config) == XLSTM_OK &&
        (config.qk_dim < 1 || config.qk_dim % config.num_heads != 0 || config.v_dim < 1 ||
         config.v_dim % config.num_heads != 0 || config.ffn_dim < 1 || config.num_blocks < 1 ||
         config.eos_token_id >= config.vocab_size || !(config.norm_eps >= 0)))
        abort();
    config_free(&config);
    json_decref(value);
    return 0;
}
