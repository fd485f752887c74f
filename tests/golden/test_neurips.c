/* Models of the NeurIPS architecture against what the official package computed with them in float64
 * (scripts/make_neurips_fixtures.py): logits, states, and logits of models wired otherwise; and what
 * must hold for any model: token by token, in pieces, in batches, through copies and state files it
 * is the same function. Measured: below 5e-7 in f32, 1e-8 with f64 (the fixtures are f32). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/npy.h"
#include "format/yaml.h"
#include "support/models.h"
#include "support/support.h"

#define FOLDER "tests/golden/neurips-"
enum { TOKENS = 70, BORDER = 64, MOST_VOCAB = 40 };

static const char *const names[] = {"mlstm",    "mlstm-narrow", "slstm",    "slstm-cuda",
                                    "lstm",     "mixed",        "ffn-relu", "ffn-relu2",
                                    "ffn-selu", "ffn-sigmoid"};
enum { MODELS = sizeof names / sizeof names[0] };

static const char *path_of(const char *model, const char *file) {
    static char path[160];
    snprintf(path, sizeof path, FOLDER "%s%s%s", model, file ? "/" : "", file ? file : "");
    return path;
}

static npy_array fixture(const char *model, const char *file) {
    npy_array array;
    if (npy_open(path_of(model, file), &array) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return array;
}

static xlstm_model *load(const char *name, const char *device, const char *profile) {
    return test_model(path_of(name, NULL), &(xlstm_model_options){.device = device,
                                                                  .profile = profile,
                                                                  .threads = 2,
                                                                  .max_batch_tokens = 64});
}

typedef struct rows {
    float *values;
    int64_t vocab;
} rows;

static bool collect(void *context, int64_t first, int64_t count, const float *logits) {
    const rows *r = context;
    memcpy(r->values + first * r->vocab, logits, (size_t)(count * r->vocab) * sizeof *logits);
    return true;
}

/* ---- Against the fixtures ---- */

static void check_logits(const char *name, const char *device, const char *profile,
                         double tolerance) {
    static float values[TOKENS * MOST_VOCAB];
    npy_array ids = fixture(name, "ids.npy"), expected = fixture(name, "logits.npy");
    xlstm_model *model = load(name, device, profile);
    xlstm_session *session = test_session(model);
    rows out = {values, model->config.vocab_size};
    assert_int_equal(ids.count, TOKENS);
    assert_int_equal(expected.count, TOKENS * out.vocab);
    assert_int_equal(xlstm_eval_all(session, ids.data, TOKENS, collect, &out), XLSTM_OK);
    double error = test_error_f32(values, expected.data, expected.count);
    printf("  %-13s %-14s %-5s logits %.2e (at most %.0e)\n", name, device, profile, error,
           tolerance);
    assert_true(error <= tolerance);

    /* The step form is the same function. */
    assert_int_equal(xlstm_session_reset(session), XLSTM_OK);
    for (int i = 0; i < TOKENS; i++)
        test_feed(session, (const int32_t *)ids.data + i, 1, values + i * out.vocab);
    error = test_error_f32(values, expected.data, expected.count);
    printf("  %-13s %-14s %-5s steps  %.2e (at most %.0e)\n", name, device, profile, error,
           tolerance);
    assert_true(error <= tolerance);
    xlstm_session_free(session);
    xlstm_model_free(model);
    npy_close(&ids);
    npy_close(&expected);
}

static void test_logits(void **state) {
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        check_logits(names[i], "cpu", "exact", 2e-5);
        check_logits(names[i], "cpu", "fast", 2e-2); /* products may be of bf16 */
        check_logits(names[i], "reference", "exact", 2e-5);
        check_logits(names[i], "reference:f64", "exact", 1e-8);
    }
}

/* States in the form of a state file: unscaled keys, the convolution's inputs oldest first. */
static void check_states(const char *device, double tolerance) {
    static float values[1 << 12];
    npy_array ids = fixture("mixed", "ids.npy");
    xlstm_model *model = load("mixed", device, "exact");
    xlstm_session *session = test_session(model);
    const state_pool *pool = &model->pool;
    test_feed(session, ids.data, TOKENS, NULL);
    assert_int_equal(pool->count, 2 * 4 + 2 * 5);
    for (int i = 0; i < pool->count; i++) {
        const state_tensor *t = &pool->tensors[i];
        char file[32];
        uint8_t raw[1 << 15];
        snprintf(file, sizeof file, "state%c_%s.npy", t->node[strlen("blocks.")], t->kind);
        npy_array expected = fixture("mixed", file);
        assert_int_equal(expected.rank, t->pool.rank - 1);
        for (int j = 0; j < expected.rank; j++)
            assert_int_equal(expected.shape[j], t->pool.shape[j + 1]);
        assert_true(t->slot_size <= sizeof raw);
        assert_int_equal(state_read(pool, model->stream, i, session->slot, raw), XLSTM_OK);
        dtype_convert(t->pool.dtype, raw, DTYPE_F32, values, expected.count);
        double error = test_error_f32(values, expected.data, expected.count);
        if (error > tolerance)
            fail_msg("%s of %s on %s: %.2e, at most %.0e", t->kind, t->node, device, error,
                     tolerance);
        npy_close(&expected);
    }
    xlstm_session_free(session);
    xlstm_model_free(model);
    npy_close(&ids);
}

static void test_states(void **state) {
    (void)state;
    check_states("reference:f64", 1e-7);
    check_states("cpu", 2e-5);
}

static void check_gpu(const char *device) {
    for (int i = 0; i < MODELS; i++) {
        check_logits(names[i], device, "exact", 2e-5);
        check_logits(names[i], device, "fast", 2e-2);
    }
    check_states(device, 2e-5);
}

static void test_metal(void **state) {
    (void)state;
    check_gpu("metal");
}

static void test_cuda(void **state) {
    (void)state;
    check_gpu("cuda");
}

/* The recurrent weights of one training backend or the other are the same model. */
static void test_either_layout(void **state) {
    (void)state;
    float expected[MOST_VOCAB], logits[MOST_VOCAB];
    npy_array ids = fixture("slstm-cuda", "ids.npy");
    xlstm_model *cuda = load("slstm-cuda", "cpu", "exact");
    xlstm_model *vanilla = load("slstm-cuda/vanilla.safetensors", "cpu", "exact");
    xlstm_session *one = test_session(cuda), *other = test_session(vanilla);
    test_feed(one, ids.data, TOKENS, expected);
    test_feed(other, ids.data, TOKENS, logits);
    assert_memory_equal(expected, logits, sizeof *logits * (size_t)cuda->config.vocab_size);
    assert_true(model_fingerprint(cuda) == model_fingerprint(vanilla));
    xlstm_session_free(one);
    xlstm_session_free(other);
    xlstm_model_free(cuda);
    xlstm_model_free(vanilla);
    npy_close(&ids);
}

/* ---- One function, however it is called ---- */

static void check_splits(xlstm_model *model, const int32_t *ids) {
    size_t size = sizeof(float) * (size_t)model->config.vocab_size;
    float expected[MOST_VOCAB], logits[MOST_VOCAB];
    const char *path = test_path("border.state");
    xlstm_session *session = test_session(model), *copy;
    test_feed(session, ids, TOKENS, expected);

    /* Cut at a chunk's border, through a state file and a copy: the same bits. */
    assert_int_equal(xlstm_session_reset(session), XLSTM_OK);
    test_feed(session, ids, BORDER, NULL);
    assert_int_equal(xlstm_session_save(session, path), XLSTM_OK);
    assert_int_equal(xlstm_session_clone(session, &copy), XLSTM_OK);
    test_feed(session, ids + BORDER, TOKENS - BORDER, logits);
    assert_memory_equal(expected, logits, size);
    memset(logits, 0, sizeof logits);
    test_feed(copy, ids + BORDER, TOKENS - BORDER, logits);
    assert_memory_equal(expected, logits, size);
    memset(logits, 0, sizeof logits);
    test_feed(copy, ids, 5, NULL); /* is replaced */
    if (xlstm_session_load(copy, path) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    test_feed(copy, ids + BORDER, TOKENS - BORDER, logits);
    assert_memory_equal(expected, logits, size);

    /* Cut anywhere: to rounding. Lengths below and above the convolutions' taps. */
    static const int cuts[] = {1, 2, 3, 33};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        assert_int_equal(xlstm_session_reset(session), XLSTM_OK);
        test_feed(session, ids, cuts[i], NULL);
        test_feed(session, ids + cuts[i], 2, NULL);
        test_feed(session, ids + cuts[i] + 2, TOKENS - cuts[i] - 2, logits);
        assert_true(test_error_f32(logits, expected, model->config.vocab_size) < 1e-5);
    }
    xlstm_session_free(session);
    xlstm_session_free(copy);
}

/* In profile exact a row of a batch has the bits that it has alone. */
static void check_batch(xlstm_model *model, const int32_t *ids) {
    static const int64_t begin[3] = {0, 10, 1}, count[3] = {7, 1, 40};
    size_t size = sizeof(float) * (size_t)model->config.vocab_size;
    float expected[3][MOST_VOCAB], logits[3][MOST_VOCAB];
    xlstm_batch_item items[3];
    xlstm_session *sessions[3];
    for (int i = 0; i < 3; i++) {
        sessions[i] = test_session(model);
        test_feed(sessions[i], ids + i, 3, NULL);
        test_feed(sessions[i], ids + begin[i], count[i], expected[i]);
        assert_int_equal(xlstm_session_reset(sessions[i]), XLSTM_OK);
        test_feed(sessions[i], ids + i, 3, NULL);
        items[i] = (xlstm_batch_item){sessions[i], ids + begin[i], count[i], logits[i], NULL, NULL};
    }
    if (xlstm_eval_batch(items, 3) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    for (int i = 0; i < 3; i++) {
        assert_memory_equal(expected[i], logits[i], size);
        xlstm_session_free(sessions[i]);
    }
}

/* Saved on one device, restored on another. */
static void check_devices(const char *name, xlstm_model *cpu, const int32_t *ids) {
    float expected[MOST_VOCAB], logits[MOST_VOCAB];
    const char *path = test_path("other.state");
    xlstm_model *reference = load(name, "reference:f64", "exact");
    xlstm_session *from = test_session(cpu), *to = test_session(reference);
    test_feed(from, ids, 40, NULL);
    assert_int_equal(xlstm_session_save(from, path), XLSTM_OK);
    test_feed(from, ids + 40, 5, expected);
    if (xlstm_session_load(to, path) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    test_feed(to, ids + 40, 5, logits);
    assert_true(test_error_f32(logits, expected, cpu->config.vocab_size) < 5e-6);
    xlstm_session_free(from);
    xlstm_session_free(to);
    xlstm_model_free(reference);
}

static void test_one_function(void **state) {
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        npy_array ids = fixture(names[i], "ids.npy");
        xlstm_model *model = load(names[i], "cpu", "exact");
        check_splits(model, ids.data);
        check_batch(model, ids.data);
        check_devices(names[i], model, ids.data);
        xlstm_model_free(model);
        npy_close(&ids);
    }
}

/* ---- Other wirings, other configs ---- */

/* A folder with the weights of neurips-mixed and its config, as JSON, with one key replaced. */
static const char *variant(const char *folder, const char *key, json_t *value) {
    const char *path = test_path(folder);
    char from[4096], to[4200], here[2048];
    json_t *config;
    assert_int_equal(mkdir(path, 0777), 0);
    assert_non_null(getcwd(here, sizeof here));
    snprintf(from, sizeof from, "%s/" FOLDER "mixed/model.safetensors", here);
    snprintf(to, sizeof to, "%s/model.safetensors", path);
    assert_int_equal(symlink(from, to), 0);
    assert_int_equal(yaml_open(path_of("mixed", "config.yaml"), 1 << 20, &config), XLSTM_OK);
    assert_int_equal(json_object_set_new(config, key, value), 0);
    snprintf(to, sizeof to, "%s/config.json", path);
    assert_int_equal(json_dump_file(config, to, 0), 0);
    json_decref(config);
    return path;
}

static json_t *read_graph(const char *name) {
    char file[64];
    json_t *graph;
    snprintf(file, sizeof file, "wiring_%s.json", name);
    if (json_open(path_of("mixed", file), 1 << 20, &graph) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return graph;
}

static void check_graph(const char *name, const char *device, double tolerance) {
    float logits[MOST_VOCAB];
    char file[64], folder[64];
    npy_array ids = fixture("mixed", "ids.npy");
    snprintf(file, sizeof file, "wiring_%s.npy", name);
    npy_array expected = fixture("mixed", file);
    snprintf(folder, sizeof folder, "%s-%c", name, device[strlen(device) - 1]);
    xlstm_model *model = test_model(variant(folder, "wiring", read_graph(name)),
                                    &(xlstm_model_options){.device = device, .profile = "exact"});
    xlstm_session *session = test_session(model);
    test_feed(session, ids.data, TOKENS, logits);
    double error = test_error_f32(logits, expected.data, expected.count);
    printf("  wired %-8s on %-13s %.2e (at most %.0e)\n", name, device, error, tolerance);
    assert_true(error <= tolerance);
    xlstm_session_free(session);
    xlstm_model_free(model);
    npy_close(&ids);
    npy_close(&expected);
}

static void test_wirings(void **state) {
    (void)state;
    static const char *const graphs[] = {"removed", "swapped", "negative", "parallel"};
    for (size_t i = 0; i < sizeof graphs / sizeof graphs[0]; i++) {
        check_graph(graphs[i], "reference:f64", 1e-7);
        check_graph(graphs[i], "cpu", 2e-5);
    }
}

/* What `info --wiring json` prints, in the config, gives the bits of the model without it. */
static void test_printed_wiring(void **state) {
    (void)state;
    float expected[MOST_VOCAB], logits[MOST_VOCAB];
    npy_array ids = fixture("mixed", "ids.npy");
    xlstm_model *model = load("mixed", "cpu", "exact");
    xlstm_session *session = test_session(model);
    buffer text = {0};
    test_feed(session, ids.data, TOKENS, expected);
    wiring_print(&model->graph, WIRING_JSON, &text);
    xlstm_session_free(session);
    xlstm_model_free(model);
    model = test_model(variant("printed", "wiring", json_loads(text.data, 0, NULL)),
                       &(xlstm_model_options){.profile = "exact", .max_batch_tokens = 64});
    session = test_session(model);
    test_feed(session, ids.data, TOKENS, logits);
    assert_memory_equal(expected, logits, sizeof logits);
    xlstm_session_free(session);
    xlstm_model_free(model);
    buffer_free(&text);
    npy_close(&ids);
}

/* forward_clipval keeps every y of an sLSTM within bounds. */
static void test_clipped(void **state) {
    (void)state;
    float logits[MOST_VOCAB];
    npy_array ids = fixture("mixed", "ids.npy"), expected = fixture("mixed", "logits.npy");
    json_t *block = json_pack("{s:{s:i, s:f}}", "slstm", "num_heads", 2, "forward_clipval", 0.125);
    xlstm_model *model = test_model(variant("clipped", "slstm_block", block),
                                    &(xlstm_model_options){.profile = "exact"});
    xlstm_session *session = test_session(model);
    const state_pool *pool = &model->pool;
    int at_bound = 0;
    test_feed(session, ids.data, TOKENS, logits);
    for (int i = 0; i < pool->count; i++) {
        float y[32];
        if (strcmp(pool->tensors[i].kind, "y") != 0)
            continue;
        assert_int_equal(pool->tensors[i].slot_size, sizeof y);
        assert_int_equal(state_read(pool, model->stream, i, session->slot, y), XLSTM_OK);
        for (int j = 0; j < 32; j++) {
            assert_true(y[j] >= -0.125F && y[j] <= 0.125F);
            at_bound += y[j] == 0.125F || y[j] == -0.125F;
        }
    }
    assert_true(at_bound > 5);
    const float *last = (const float *)expected.data + (TOKENS - 1) * MOST_VOCAB;
    assert_true(test_error_f32(logits, last, MOST_VOCAB) > 0.01);
    xlstm_session_free(session);
    xlstm_model_free(model);
    npy_close(&ids);
    npy_close(&expected);
}

/* ---- Faults ---- */

static void expect_faults(const char *folder, const char *key, json_t *value,
                          const char *const *parts) {
    xlstm_model *model;
    const char *path = variant(folder, key, value);
    assert_int_equal(xlstm_model_load(path, NULL, &model), XLSTM_FORMAT_ERROR);
    for (; *parts; parts++)
        if (!strstr(xlstm_last_error(), *parts))
            fail_msg("expected \"%s\" in: %s", *parts, xlstm_last_error());
    assert_null(model);
}

#define PARTS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define BLOCK "xlstm_block_stack.blocks."

static void test_faults(void **state) {
    (void)state;
    /* Another block map: what is missing and what is too much, at once. */
    expect_faults("map", "slstm_at", json_pack("[i]", 1),
                  PARTS("tensor " BLOCK "3.xlstm.proj_up.weight [128, 32] is missing",
                        "tensor " BLOCK "3.xlstm.mlstm_cell.outnorm.weight [64] is missing",
                        "tensor " BLOCK "3.xlstm.zgate.weight [2, 16, 16] is not part of this",
                        "tensor " BLOCK "3.ffn_norm.weight [32] is not part of this"));
    expect_faults("heads", "slstm_block", json_pack("{s:{s:i}}", "slstm", "num_heads", 4),
                  PARTS("tensor " BLOCK "1.xlstm.fgate.weight has shape [2, 16, 16]; the config "
                        "calls for [4, 8, 8]",
                        "tensor " BLOCK "1.xlstm.slstm_cell._recurrent_kernel_ has shape "
                        "[2, 64, 16]; the config calls for [4, 8, 32]"));
    expect_faults("bias", "bias", json_true(),
                  PARTS("tensor " BLOCK "0.xlstm.proj_up.bias [128] is missing",
                        "tensor " BLOCK "0.xlstm.q_proj.bias [64] is missing",
                        "tensor " BLOCK "2.xlstm.proj_down.bias [32] is missing"));
    expect_faults("tied", "tie_weights", json_true(),
                  PARTS("tensor lm_head.weight differs from token_embedding.weight, but the config "
                        "has tie_weights true"));
    expect_faults("no-norm", "add_post_blocks_norm", json_false(),
                  PARTS("tensor xlstm_block_stack.post_blocks_norm.weight [32] is not part of"));
}

static void test_wiring_faults(void **state) {
    (void)state;
    static const struct {
        const char *kind, *weights, *message;
    } cases[] = {
        {"mlstm", BLOCK "1", "is of kind mlstm, but " BLOCK "1 is an sLSTM block"},
        {"slstm", BLOCK "0", "is of kind slstm, but " BLOCK "0 is an mLSTM block"},
        {"ffn", BLOCK "2", "is of kind ffn, but " BLOCK "2 is an mLSTM block without feed-forward"},
        {"slstm", BLOCK "4",
         "weights \"" BLOCK "4\" do not exist; the model has " BLOCK "0 to " BLOCK "3"},
        {"mlstm", "backbone.blocks.0", "weights \"backbone.blocks.0\" do not exist"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char folder[32];
        snprintf(folder, sizeof folder, "wiring-%zu", i);
        json_t *nodes =
            json_pack("[{s:s, s:s, s:s}, {s:s, s:s, s:s, s:[{s:s}]}, {s:s, s:s, s:s, s:[{s:s}]}]",
                      "name", "e", "kind", "embedding", "weights", "token_embedding", "name", "a",
                      "kind", cases[i].kind, "weights", cases[i].weights, "inputs", "from", "e",
                      "name", "h", "kind", "head", "weights", "lm_head", "inputs", "from", "a");
        expect_faults(folder, "wiring", json_pack("{s:o}", "nodes", nodes),
                      PARTS(cases[i].message));
    }
}

int main(int argc, char **argv) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metal),         cmocka_unit_test(test_cuda),
        cmocka_unit_test(test_logits),        cmocka_unit_test(test_states),
        cmocka_unit_test(test_either_layout), cmocka_unit_test(test_one_function),
        cmocka_unit_test(test_wirings),       cmocka_unit_test(test_printed_wiring),
        cmocka_unit_test(test_clipped),       cmocka_unit_test(test_faults),
        cmocka_unit_test(test_wiring_faults),
    };
    return test_run_group(tests, sizeof tests / sizeof *tests, argc, argv);
}
