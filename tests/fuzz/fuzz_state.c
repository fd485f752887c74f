/* Any bytes as a state file of a tiny model: an error and an unmoved session, or a state that can
 * go on. The checksum is put right first, since no mutation would get past it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "engine/session.h"
#include "model/init.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const char config_text[] =
    "{\"architectures\": [\"xLSTMForCausalLM\"], \"model_type\": \"xlstm\", \"embedding_dim\": 16, "
    "\"num_heads\": 2, \"num_blocks\": 1, \"vocab_size\": 8, \"ffn_proj_factor\": 1.0, "
    "\"ffn_round_up_to_multiple_of\": 16}";

/* A checkpoint in a temporary folder, gone as soon as it is loaded. */
static xlstm_session *make_session(void) {
    char folder[] = "/tmp/xlstm-fuzz-XXXXXX", model_folder[64], path[128];
    json_t *value;
    model_config config;
    xlstm_model *model;
    xlstm_session *session;
    xlstm_model_options options = {.threads = 1, .max_sessions = 1, .max_batch_tokens = 64};
    if (!mkdtemp(folder) ||
        json_parse(config_text, sizeof config_text - 1, "config", &value) != XLSTM_OK)
        abort();
    snprintf(model_folder, sizeof model_folder, "%s/model", folder);
    if (config_from_json(value, "config", false, &config) != XLSTM_OK ||
        init_checkpoint(&config, model_folder,
                        &(init_options){.dtype = DTYPE_F32, .seed = 1, .threads = 1}) != XLSTM_OK ||
        xlstm_model_load(model_folder, &options, &model) != XLSTM_OK ||
        xlstm_session_create(model, &session) != XLSTM_OK) {
        fprintf(stderr, "%s\n", xlstm_last_error());
        abort();
    }
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", model_folder, files[i]);
        unlink(path);
    }
    rmdir(model_folder);
    rmdir(folder);
    config_free(&config);
    json_decref(value);
    return session;
}

static void seal(uint8_t *bytes, size_t size) {
    static const char key[] = "\"checksum\":\"";
    uint8_t *at = memmem(bytes, size, key, sizeof key - 1);
    char digits[17];
    if (!at || size - (size_t)(at - bytes) < sizeof key - 1 + 16)
        return;
    memcpy(at + sizeof key - 1, "0000000000000000", 16);
    snprintf(digits, sizeof digits, "%016llx", (unsigned long long)hash64_of(bytes, size, 0));
    memcpy(at + sizeof key - 1, digits, 16);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static xlstm_session *session;
    if (!session)
        session = make_session();
    uint8_t *copy = aligned_alloc(64, (size / 64 + 1) * 64);
    if (!copy)
        return 0;
    memcpy(copy, bytes, size);
    seal(copy, size);
    int64_t before = xlstm_session_position(session);
    if (session_load_bytes(session, copy, size, "input") != XLSTM_OK) {
        if (xlstm_session_position(session) != before)
            abort();
    } else {
        int32_t id = 3;
        float logits[8];
        if (xlstm_eval(session, &id, 1, logits, NULL, NULL) != XLSTM_OK)
            abort();
    }
    free(copy);
    return 0;
}
