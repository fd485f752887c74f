/* Random checkpoints of the NeurIPS architecture: they load, every tensor begins as the official
 * package's reset_parameters lets it (the biases are those that it gives), and the config that is
 * written says the same as the one that was read. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "format/safetensors.h"
#include "format/yaml.h"
#include "model/init.h"
#include "support/models.h"
#include "support/support.h"

#define BLOCK "xlstm_block_stack.blocks."

static const char shape[] =
    "vocab_size: 500\nembedding_dim: 64\nnum_blocks: 3\nbias: true\nslstm_at: [1, 2]\n"
    "dropout: 0.25\ncontext_length: ${data.length}\n"
    "mlstm_block: {mlstm: {num_heads: 4, dropout: 0.5}}\n"
    "slstm_block:\n  slstm: {num_heads: 16, backend: %s, bias_init: %s, "
    "recurrent_weight_init: standard}\n  feedforward: {bias: true, act_fn: selu}\n";

static xlstm_status make(const char *folder, const char *backend, const char *bias, bool fused) {
    char text[800];
    json_t *value;
    model_config config;
    snprintf(text, sizeof text, shape, backend, bias);
    assert_int_equal(yaml_parse(text, strlen(text), "shape", &value), XLSTM_OK);
    if (config_from_json(value, "shape", true, &config) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    json_decref(value);
    xlstm_status status = init_checkpoint(
        &config, folder, &(init_options){.dtype = DTYPE_F32, .seed = 4, .fused = fused});
    config_free(&config);
    return status;
}

static stored_tensors open_made(const char *name, const char *backend, const char *bias) {
    stored_tensors files = {0};
    const char *folder = test_path(name);
    if (make(folder, backend, bias, false) != XLSTM_OK ||
        safetensors_open_folder(folder, &files) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return files;
}

static const float *find(const stored_tensors *files, const char *name, int64_t *count) {
    const stored_tensor *t = stored_find(files, name);
    if (!t)
        fail_msg("%s is missing", name);
    *count = (int64_t)(t->size / sizeof(float));
    return (const float *)t->data;
}

/* Mean 0 and this standard deviation, within five standard errors; no value beyond `most`. */
static void check_random(const stored_tensors *files, const char *name, double deviation,
                         double most) {
    int64_t count;
    const float *values = find(files, name, &count);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
        assert_true(fabs((double)values[i]) <= most);
    }
    double error = 5 / sqrt((double)count);
    if (fabs(sum / (double)count) > error * deviation ||
        fabs(sqrt(squares / (double)count) / deviation - 1) > error)
        fail_msg("%s: mean %g, deviation %g instead of %g", name, sum / (double)count,
                 sqrt(squares / (double)count), deviation);
}

static void check_constant(const stored_tensors *files, const char *name, float value) {
    int64_t count;
    const float *values = find(files, name, &count);
    for (int64_t i = 0; i < count; i++)
        assert_true(values[i] == value);
}

static void test_values(void **state) {
    (void)state;
    stored_tensors files = open_made("values", "vanilla", "powerlaw_blockdependent");
    double small = sqrt(2.0 / (5 * 64)), wang = 2 / (3 * sqrt(64.0)), conv = 1 / sqrt(4.0);
    check_random(&files, "token_embedding.weight", small, 1);
    check_random(&files, "lm_head.weight", small, 1);
    check_random(&files, BLOCK "0.xlstm.proj_up.weight", small, 1);
    check_random(&files, BLOCK "0.xlstm.q_proj.weight", small, 1);
    check_random(&files, BLOCK "0.xlstm.v_proj.weight", small, 1);
    check_random(&files, BLOCK "0.xlstm.proj_down.weight", wang, 1);
    check_random(&files, BLOCK "0.xlstm.conv1d.conv.weight", conv / sqrt(3.0), conv);
    check_random(&files, BLOCK "1.xlstm.conv1d.conv.bias", conv / sqrt(3.0), conv);
    check_random(&files, BLOCK "0.xlstm.mlstm_cell.igate.bias", 0.1, 1);
    check_random(&files, BLOCK "1.xlstm.fgate.weight", small, 1);
    check_random(&files, BLOCK "2.xlstm.slstm_cell._recurrent_kernel_", 0.125 / sqrt(3.0), 0.125);
    check_random(&files, BLOCK "2.ffn.proj_up.weight", small, 1);
    check_random(&files, BLOCK "2.ffn.proj_down.weight", wang, 1);
    check_constant(&files, BLOCK "0.xlstm.learnable_skip", 1);
    check_constant(&files, BLOCK "0.xlstm_norm.weight", 0);
    check_constant(&files, BLOCK "0.xlstm.mlstm_cell.outnorm.weight", 0);
    check_constant(&files, BLOCK "1.xlstm.group_norm.weight", 0);
    check_constant(&files, BLOCK "1.ffn_norm.weight", 0);
    check_constant(&files, "xlstm_block_stack.post_blocks_norm.weight", 0);
    check_constant(&files, BLOCK "0.xlstm.mlstm_cell.igate.weight", 0);
    check_constant(&files, BLOCK "0.xlstm.mlstm_cell.fgate.weight", 0);
    check_constant(&files, BLOCK "0.xlstm.proj_up.bias", 0);
    check_constant(&files, BLOCK "0.xlstm.k_proj.bias", 0);
    check_constant(&files, BLOCK "1.ffn.proj_up.bias", 0);
    int64_t count;
    static const float evenly[] = {3, 4, 5, 6};
    assert_memory_equal(find(&files, BLOCK "0.xlstm.mlstm_cell.fgate.bias", &count), evenly,
                        sizeof evenly);
    stored_close(&files);
}

/* Block 1 of 3, heads of 4 units: what the package's own initialisers give. */
static void check_biases(const char *name, const char *backend, const char *kind,
                         const float expected[4]) {
    stored_tensors files = open_made(name, backend, kind);
    int64_t count, units = 4, heads = 16;
    const float *bias = find(&files, BLOCK "1.xlstm.slstm_cell._bias_", &count);
    assert_int_equal(count, 4 * heads * units);
    for (int64_t i = 0; i < count; i++) {
        int64_t gate = strcmp(backend, "vanilla") == 0 ? i / (heads * units) : i / units % 4;
        float wanted = gate == 1 ? expected[i % units] : 0;
        assert_true(fabsf(bias[i] - wanted) <= 1e-6F);
    }
    const stored_tensor *r = stored_find(&files, BLOCK "1.xlstm.slstm_cell._recurrent_kernel_");
    assert_non_null(r);
    bool vanilla = strcmp(backend, "vanilla") == 0;
    assert_int_equal(r->shape[0], heads);
    assert_int_equal(r->shape[1], vanilla ? 4 * units : units);
    assert_int_equal(r->shape[2], vanilla ? units : 4 * units);
    stored_close(&files);
}

static void test_forget_biases(void **state) {
    (void)state;
    static const float powerlaw[] = {5, 0.7741308212280273F, -3.1638412475585938F, -7};
    static const float evenly[] = {3, 4, 5, 6}, zeros[] = {0, 0, 0, 0};
    check_biases("power-vanilla", "vanilla", "powerlaw_blockdependent", powerlaw);
    check_biases("power-cuda", "cuda", "powerlaw_blockdependent", powerlaw);
    check_biases("small-vanilla", "vanilla", "small_init", evenly);
    check_biases("small-cuda", "cuda", "small_init", evenly);
    check_biases("zeros-cuda", "cuda", "zeros", zeros);
    stored_tensors files = open_made("standard", "cuda", "standard");
    check_random(&files, BLOCK "1.xlstm.slstm_cell._bias_", 0.125 / sqrt(3.0), 0.125);
    stored_close(&files);
}

/* It is a model, and its config has all that the source had. */
static void test_loads(void **state) {
    (void)state;
    stored_tensors files = open_made("loads", "cuda", "standard");
    stored_close(&files);
    xlstm_model *model = test_model(test_path("loads"), NULL);
    xlstm_session *session = test_session(model);
    static float logits[500];
    int32_t ids[] = {3, 499, 0, 7};
    assert_int_equal(xlstm_eval(session, ids, 4, logits, NULL, NULL), XLSTM_OK);
    for (int i = 0; i < 500; i++)
        assert_true(isfinite(logits[i]));
    const model_config *c = &model->config;
    assert_int_equal(c->family, FAMILY_NEURIPS);
    assert_true(c->neurips.bias && c->neurips.ffn.bias && c->neurips.slstm.standard_recurrent_init);
    assert_true(!config_is_slstm(c, 0) && config_is_slstm(c, 1) && config_is_slstm(c, 2));
    assert_int_equal(c->neurips.slstm.bias_init, SLSTM_BIAS_STANDARD);
    assert_int_equal(c->neurips.ffn.activation, FFN_SELU);
    assert_true(json_number_value(json_object_get(c->source, "dropout")) == 0.25);
    assert_null(json_object_get(c->source, "context_length")); /* of a file that is not there */
    const json_t *layer = json_object_get(json_object_get(c->source, "mlstm_block"), "mlstm");
    assert_true(json_number_value(json_object_get(layer, "dropout")) == 0.5);
    xlstm_session_free(session);
    xlstm_model_free(model);
}

static void test_has_no_fused_layout(void **state) {
    (void)state;
    assert_int_equal(make(test_path("fused"), "cuda", "zeros", true), XLSTM_INVALID_ARGUMENT);
    assert_string_equal(xlstm_last_error(), "xlstm-neurips has no fused layout of tensors");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_forget_biases),
        cmocka_unit_test(test_loads),
        cmocka_unit_test(test_has_no_fused_layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
