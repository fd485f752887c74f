/* Any bytes as a config: JSON, or YAML after a first byte of 'y'. What is accepted must make sense.
 */
#include <stdlib.h>

#include "format/config.h"
#include "format/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static bool divides(int32_t heads, int32_t width) {
    return heads > 0 && width > 0 && width % heads == 0;
}

static bool large_makes_sense(const large_config *c) {
    return divides(c->num_heads, c->qk_dim) && divides(c->num_heads, c->v_dim) && c->ffn_dim > 0 &&
           c->norm_eps >= 0;
}

static bool neurips_makes_sense(const model_config *config) {
    const neurips_config *c = &config->neurips;
    for (int i = 0; i < config->num_blocks; i++)
        if (config_is_slstm(config, i) ? !c->slstm.present : !c->mlstm.present)
            return false;
    return (!c->mlstm.present || (divides(c->mlstm.num_heads, c->mlstm.inner.width) &&
                                  divides(c->mlstm.qkv_heads, c->mlstm.inner.width) &&
                                  c->mlstm.conv1d_kernel_size > 0)) &&
           (!c->slstm.present || divides(c->slstm.num_heads, config->embedding_dim)) &&
           (!c->ffn.present || c->ffn.hidden.width > 0);
}

static bool makes_sense(const model_config *c) {
    return c->complete && c->num_blocks > 0 && c->eos_token_id < c->vocab_size &&
           (c->family == FAMILY_LARGE ? large_makes_sense(&c->large) : neurips_makes_sense(c));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    bool yaml = size > 0 && bytes[0] == 'y';
    const char *text = (const char *)bytes + yaml;
    model_config config;
    json_t *value;
    xlstm_status status = yaml ? yaml_parse(text, size - 1, "input", &value)
                               : json_parse(text, size, "input", &value);
    if (status != XLSTM_OK)
        return 0;
    if (config_from_json(value, "input", yaml, &config) == XLSTM_OK && !makes_sense(&config))
        abort();
    config_free(&config);
    json_decref(value);
    return 0;
}
