#include "support/models.h"

#include <stdarg.h>
#include <stdio.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/init.h"
#include "support/support.h"

xlstm_model *test_model(const char *path, const xlstm_model_options *options) {
    xlstm_model *model;
    if (xlstm_model_load(path, options, &model) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return model;
}

const char *test_random_model(const char *name, const char *config_text) {
    const char *folder = test_path(name);
    json_t *value;
    model_config config;
    assert_int_equal(json_parse(config_text, strlen(config_text), name, &value), XLSTM_OK);
    assert_int_equal(config_from_json(value, name, false, &config), XLSTM_OK);
    if (init_checkpoint(&config, folder, &(init_options){.dtype = DTYPE_BF16, .seed = 3}) !=
        XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    config_free(&config);
    json_decref(value);
    return folder;
}

const char *test_small_model(void) {
    static char folder[4096];
    if (!folder[0])
        snprintf(folder, sizeof folder, "%s",
                 test_random_model("small",
                                   "{\"model_type\": \"xlstm\", \"embedding_dim\": 48, "
                                   "\"num_heads\": 3, \"num_blocks\": 2, \"vocab_size\": 320, "
                                   "\"ffn_round_up_to_multiple_of\": 16}"));
    return folder;
}

xlstm_session *test_session(xlstm_model *model) {
    xlstm_session *session;
    if (xlstm_session_create(model, &session) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return session;
}

/* Links every file of TEST_MODEL but the config. */
static void link_files(const char *folder) {
    char here[2048];
    assert_non_null(getcwd(here, sizeof here));
    DIR *files = opendir(TEST_MODEL);
    assert_non_null(files);
    for (struct dirent *file; (file = readdir(files)) != NULL;) {
        char from[4096], to[4096];
        if (file->d_name[0] == '.' || strcmp(file->d_name, "config.json") == 0)
            continue;
        snprintf(from, sizeof from, "%s/" TEST_MODEL "/%s", here, file->d_name);
        snprintf(to, sizeof to, "%s/%s", folder, file->d_name);
        assert_int_equal(symlink(from, to), 0);
    }
    closedir(files);
}

const char *test_variant(const char *name, const char *changes) {
    const char *folder = test_path(name);
    char path[4096];
    assert_int_equal(mkdir(folder, 0777), 0);
    link_files(folder);
    json_t *config = json_load_file(TEST_MODEL "/config.json", 0, NULL);
    json_t *edits = json_loads(changes, 0, NULL);
    assert_true(config && edits);
    const char *key;
    json_t *value;
    json_object_foreach(edits, key, value) json_object_set(config, key, value);
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    json_decref(edits);
    return folder;
}

void test_feed(xlstm_session *session, const int32_t *ids, int64_t count, float *logits) {
    if (xlstm_eval(session, ids, count, logits, NULL, NULL) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
}
