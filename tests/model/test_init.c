/* Random checkpoints: names and shapes, the distributions of the values, and that nothing but
 * config, type and seed changes a byte. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "format/safetensors.h"
#include "model/init.h"

static const char shape[] = "{\"model_type\": \"xlstm\", \"embedding_dim\": 128, \"num_heads\": 4, "
                            "\"num_blocks\": 2, \"vocab_size\": 3000, \"use_bias\": %s, "
                            "\"tie_word_embeddings\": %s}";

static char folder[64];

static void remove_folder(const char *path) {
    DIR *entries = opendir(path);
    for (struct dirent *e = entries ? readdir(entries) : NULL; e; e = readdir(entries)) {
        char *file = path_join(path, e->d_name);
        unlink(file);
        free(file);
    }
    if (entries)
        closedir(entries);
    rmdir(path);
}

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/xlstm-init-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    remove_folder(folder);
    return 0;
}

static xlstm_status make(const char *bias, const char *tied, init_options wanted) {
    char text[512];
    int length = snprintf(text, sizeof text, shape, bias, tied);
    json_t *value;
    model_config config;
    assert_int_equal(json_parse(text, (size_t)length, "shape", &value), XLSTM_OK);
    assert_int_equal(config_from_json(value, "shape", false, &config), XLSTM_OK);
    json_decref(value);
    xlstm_status status = init_checkpoint(&config, folder, &wanted);
    config_free(&config);
    return status;
}

static stored_tensors load(void) {
    stored_tensors files;
    if (safetensors_open_folder(folder, &files) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return files;
}

static const stored_tensor *find(const stored_tensors *files, const char *name) {
    const stored_tensor *t = stored_find(files, name);
    if (!t)
        fail_msg("%s is missing", name);
    return t;
}

typedef struct moments {
    double mean, deviation, kurtosis, lag; /* lag: correlation of neighbours */
    double beyond_2, beyond_4;             /* shares of values that many deviations away */
    int64_t count;
} moments;

static moments measure(const stored_tensor *t) {
    moments m = {.count = (int64_t)(t->size / dtype_size(t->dtype))};
    double squares = 0, fourth = 0, products = 0, before = 0;
    for (int64_t i = 0; i < m.count; i++) {
        double x = dtype_load(t->dtype, t->data, i);
        m.mean += x;
        squares += x * x;
        fourth += x * x * x * x;
        products += x * before;
        before = x;
    }
    double n = (double)m.count;
    m.mean /= n;
    m.deviation = sqrt(squares / n);
    m.kurtosis = fourth / n / pow(m.deviation, 4);
    m.lag = products / squares;
    for (int64_t i = 0; i < m.count; i++) {
        double x = fabs(dtype_load(t->dtype, t->data, i)) / m.deviation;
        m.beyond_2 += (x > 2) / n;
        m.beyond_4 += (x > 4) / n;
    }
    return m;
}

/* Within five standard errors of N(0, deviation). */
static void check_normal(const stored_tensors *files, const char *name, double deviation) {
    moments m = measure(find(files, name));
    double n = (double)m.count, error = 5 / sqrt(n);
    double two = erfc(2 / sqrt(2.0)), four = erfc(4 / sqrt(2.0));
    if (fabs(m.mean) > error * deviation || fabs(m.deviation / deviation - 1) > error / sqrt(2.0) ||
        fabs(m.kurtosis - 3) > error * sqrt(24.0) || fabs(m.lag) > error ||
        fabs(m.beyond_2 - two) > error * sqrt(two) ||
        fabs(m.beyond_4 - four) > error * sqrt(four) + 1 / n)
        fail_msg(
            "%s is not N(0, %g): mean %g, deviation %g, kurtosis %g, correlation %g, beyond 2: "
            "%g, beyond 4: %g",
            name, deviation, m.mean, m.deviation, m.kurtosis, m.lag, m.beyond_2, m.beyond_4);
}

static void check_constant(const stored_tensors *files, const char *name, double value) {
    const stored_tensor *t = find(files, name);
    for (size_t i = 0; i < t->size / dtype_size(t->dtype); i++)
        assert_true(dtype_load(t->dtype, t->data, (int64_t)i) == value);
}

static void test_values(void **state) {
    (void)state;
    assert_int_equal(make("true", "false", (init_options){.dtype = DTYPE_F32, .seed = 5}),
                     XLSTM_OK);
    stored_tensors files = load();
    double usual = sqrt(2.0 / (5 * 128));
    check_normal(&files, "backbone.embeddings.weight", usual);
    check_normal(&files, "lm_head.weight", usual);
    check_normal(&files, "backbone.blocks.1.mlstm_layer.q.weight", usual);
    check_normal(&files, "backbone.blocks.1.mlstm_layer.ogate_preact.weight", usual);
    check_normal(&files, "backbone.blocks.0.ffn.proj_up_gate.weight", usual);
    check_normal(&files, "backbone.blocks.0.mlstm_layer.out_proj.weight", 2 / (2 * sqrt(128.0)));
    const stored_tensor *down = find(&files, "backbone.blocks.0.ffn.proj_down.weight");
    check_normal(&files, "backbone.blocks.0.ffn.proj_down.weight",
                 2 / (2 * sqrt((double)down->shape[1])));
    check_constant(&files, "backbone.blocks.0.mlstm_layer.igate_preact.weight", 0);
    check_constant(&files, "backbone.blocks.0.mlstm_layer.fgate_preact.weight", 0);
    check_constant(&files, "backbone.blocks.0.mlstm_layer.igate_preact.bias", -10);
    check_constant(&files, "backbone.blocks.0.mlstm_layer.q.bias", 0);
    check_constant(&files, "backbone.blocks.0.norm_ffn.weight", 1);
    check_constant(&files, "backbone.blocks.0.norm_ffn.bias", 0);
    check_constant(&files, "backbone.out_norm.weight", 1);
    const stored_tensor *forget = find(&files, "backbone.blocks.0.mlstm_layer.fgate_preact.bias");
    const float evenly[] = {3, 4, 5, 6};
    assert_int_equal(forget->size, sizeof evenly);
    assert_memory_equal(forget->data, evenly, sizeof evenly);
    stored_close(&files);
}

/* Tensors differ from each other, or all blocks would be one. */
static void test_streams(void **state) {
    (void)state;
    assert_int_equal(make("false", "true", (init_options){.dtype = DTYPE_BF16}), XLSTM_OK);
    stored_tensors files = load();
    assert_null(stored_find(&files, "lm_head.weight"));
    assert_null(stored_find(&files, "backbone.blocks.0.mlstm_layer.q.bias"));
    const stored_tensor *q = find(&files, "backbone.blocks.0.mlstm_layer.q.weight");
    assert_memory_not_equal(q->data, find(&files, "backbone.blocks.1.mlstm_layer.q.weight")->data,
                            q->size);
    assert_memory_not_equal(q->data, find(&files, "backbone.blocks.0.mlstm_layer.k.weight")->data,
                            q->size);
    stored_close(&files);
}

/* The fused layout holds the rows of the single one. */
static void test_fused(void **state) {
    (void)state;
    init_options wanted = {.dtype = DTYPE_BF16, .seed = 9};
    assert_int_equal(make("false", "false", wanted), XLSTM_OK);
    stored_tensors single = load();
    char single_folder[64];
    memcpy(single_folder, folder, sizeof folder);
    assert_int_equal(set_up(NULL), 0);
    wanted.fused = true;
    wanted.threads = 3;
    assert_int_equal(make("false", "false", wanted), XLSTM_OK);
    stored_tensors fused = load();
    const stored_tensor *joined = find(&fused, "backbone.blocks.1.mlstm_layer.qkv_opreact.weight");
    static const char *const parts[] = {"q", "k", "v", "ogate_preact"};
    size_t at = 0;
    for (int i = 0; i < 4; i++) {
        char name[96];
        snprintf(name, sizeof name, "backbone.blocks.1.mlstm_layer.%s.weight", parts[i]);
        const stored_tensor *part = find(&single, name);
        assert_true(at + part->size <= joined->size);
        assert_memory_equal(joined->data + at, part->data, part->size);
        at += part->size;
    }
    assert_int_equal(at, joined->size);
    stored_close(&fused);
    stored_close(&single);
    remove_folder(single_folder);
}

static bool stop_half_way(void *context, int64_t done, int64_t total) {
    int64_t *last = context;
    *last = done;
    return done < total / 2;
}

static int count_files(void) {
    int count = 0;
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (struct dirent *e = readdir(entries); e; e = readdir(entries))
        count += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    closedir(entries);
    return count;
}

static void test_cancelled(void **state) {
    (void)state;
    int64_t last = 0;
    init_options wanted = {
        .dtype = DTYPE_BF16, .shard_bytes = 100000, .progress = stop_half_way, .context = &last};
    assert_int_equal(make("false", "false", wanted), XLSTM_CANCELLED);
    assert_true(last > 0);
    assert_int_equal(count_files(), 0);
    /* Afterwards the folder is as good as new, and then it is not. */
    wanted.progress = NULL;
    assert_int_equal(make("false", "false", wanted), XLSTM_OK);
    int files = count_files();
    assert_true(files > 10);
    assert_int_equal(make("false", "false", wanted), XLSTM_INVALID_ARGUMENT);
    assert_int_equal(count_files(), files);
}

static void test_wrong_type(void **state) {
    (void)state;
    assert_int_equal(make("false", "false", (init_options){.dtype = DTYPE_I8}),
                     XLSTM_INVALID_ARGUMENT);
    assert_int_equal(count_files(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_values, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_streams, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancelled, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrong_type, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
