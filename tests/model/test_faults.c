/* All that is wrong with a checkpoint is said at once, a line each, also where config, files and
 * tensors each have their share. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/models.h"
#include "support/support.h"

static int lines(const char *text) {
    int count = 1;
    for (; *text; text++)
        count += *text == '\n';
    return count;
}

/* Loading must fail with `count` lines in which each of `parts` (NULL ends them) stands. */
static void expect_faults(const char *folder, int count, const char *const *parts) {
    xlstm_model *model;
    assert_int_not_equal(xlstm_model_load(folder, NULL, &model), XLSTM_OK);
    assert_null(model);
    const char *text = xlstm_last_error();
    for (; *parts; parts++)
        if (!strstr(text, *parts))
            fail_msg("expected \"%s\" in: %s", *parts, text);
    if (lines(text) != count)
        fail_msg("expected %d lines: %s", count, text);
}

#define PARTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_config_and_tensors(void **state) {
    (void)state;
    const char *folder =
        test_variant("both", "{\"norm_eps\": -1, \"gate_soft_cap\": 1e300, \"num_blocks\": 7}");
    expect_faults(folder, 2 + 15,
                  PARTS("norm_eps is -1", "gate_soft_cap is",
                        "tensor backbone.blocks.7.norm_ffn.weight [384] is not part"));
    folder = test_variant("vocabulary", "{\"vocab_size\": 4000, \"eps\": -1}");
    expect_faults(folder, 3,
                  PARTS("eps is -1", "backbone.embeddings.weight has shape [4096, 384]",
                        "[4000, 384]", "lm_head.weight has shape"));
}

static void test_missing_shard(void **state) {
    (void)state;
    char path[4096];
    const char *folder = test_variant("shard", "{\"norm_eps\": \"small\"}");
    snprintf(path, sizeof path, "%s/model-00002-of-00004.safetensors", folder);
    assert_int_equal(unlink(path), 0);
    expect_faults(folder, 2, PARTS("norm_eps is \"small\"", "model-00002-of-00004.safetensors"));
}

static void test_wiring_and_tensors(void **state) {
    (void)state;
    const char *folder = test_variant(
        "wired", "{\"wiring\": {\"nodes\": []}, \"num_blocks\": 9, \"use_bias\": false}");
    expect_faults(
        folder, 1 + 15,
        PARTS("wiring must have a list", "backbone.blocks.8.norm_mlstm.weight [384] is missing"));
}

/* The two must be the same where the config ties them; sharing one is what tying means. */
static void test_tied(void **state) {
    (void)state;
    const char *folder = test_variant("tied", "{\"tie_word_embeddings\": true}");
    expect_faults(folder, 1,
                  PARTS("tensor lm_head.weight differs from backbone.embeddings.weight"));
}

static void test_other_files_in_place(void **state) {
    (void)state;
    char path[4096];
    const char *folder = test_variant("pipe", "{}");
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0666), 0);
    expect_faults(folder, 1, PARTS("config.json is not a regular file"));
}

static void test_tokenizer_larger_than_model(void **state) {
    (void)state;
    xlstm_model *model = test_model(TEST_MODEL, NULL);
    model->config.vocab_size = 4000; /* as if the weights were that small */
    assert_null(xlstm_model_tokenizer(model));
    assert_non_null(
        strstr(xlstm_last_error(), "ids up to 4095, but the config's vocab_size is 4000"));
    xlstm_model_free(model);
}

/* A model that needs what a device lacks is refused when it is loaded, with the names of all such ops. */
static void test_ops_that_are_missing(void **state) {
    (void)state;
    for (int i = 0; ops_device_at(i); i++) {
        ops_device *device = ops_device_at(i);
        if (!test_uses_device(device->name))
            continue;
        ops_table all = device->ops;
        device->ops.mlstm = NULL;
        device->ops.project_add = NULL;
        device->ops.slstm = NULL; /* this model has none */
        xlstm_model_options options = {.device = device->name};
        xlstm_model *model;
        xlstm_status status = xlstm_model_load(TEST_MODEL, &options, &model);
        device->ops = all;
        char expected[256];
        snprintf(expected, sizeof expected,
                 "device %s lacks the op project_add, which this model needs\n"
                 "device %s lacks the op mlstm, which this model needs",
                 device->name, device->name);
        test_expect_error(status, XLSTM_UNSUPPORTED, expected);
        assert_null(model);
        assert_int_equal(lines(xlstm_last_error()), 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_and_tensors),
        cmocka_unit_test(test_missing_shard),
        cmocka_unit_test(test_wiring_and_tensors),
        cmocka_unit_test(test_tied),
        cmocka_unit_test(test_other_files_in_place),
        cmocka_unit_test(test_tokenizer_larger_than_model),
        cmocka_unit_test(test_ops_that_are_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
