/* The model runs as it is wired: graphs with a block removed, two swapped, one subtracted, and one
 * that no sequential model resembles, against float64 logits of those graphs
 * (scripts/make_wiring_fixtures.py); printing and reading back; and every way in which a wiring can
 * be wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "format/npy.h"
#include "support/models.h"
#include "support/support.h"

enum { VOCAB = 4096 };

static char *read_text(const char *path) {
    buffer text = {0};
    if (file_read(path, 1 << 20, &text) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return text.data;
}

static xlstm_model *load_wired(const char *folder, const char *wiring_json, const char *device) {
    buffer changes = {0};
    xlstm_model_options options = {
        .device = device, .profile = "exact", .threads = 2, .max_batch_tokens = 64};
    buffer_print(&changes, "{\"wiring\": %s}", wiring_json);
    xlstm_model *model = test_model(test_variant(folder, changes.data), &options);
    buffer_free(&changes);
    return model;
}

static void last_logits(xlstm_model *model, float *logits) {
    npy_array ids;
    assert_int_equal(npy_open("tests/golden/reference-17m/p1_ids.npy", &ids), XLSTM_OK);
    xlstm_session *session = test_session(model);
    assert_int_equal(xlstm_eval(session, ids.data, ids.count, logits, NULL, NULL), XLSTM_OK);
    xlstm_session_free(session);
    npy_close(&ids);
}

static void check_graph(const char *name, const char *device, double tolerance) {
    static float logits[VOCAB];
    char path[128], folder[64];
    npy_array expected;
    snprintf(path, sizeof path, "tests/model/data/wiring_%s.json", name);
    snprintf(folder, sizeof folder, "%s-%c", name, device[strlen(device) - 1]);
    char *json = read_text(path);
    xlstm_model *model = load_wired(folder, json, device);
    snprintf(path, sizeof path, "tests/model/data/wiring_%s.npy", name);
    assert_int_equal(npy_open(path, &expected), XLSTM_OK);
    last_logits(model, logits);
    double error = test_error_f32(logits, expected.data, VOCAB);
    printf("  %-10s on %-13s %.2e (at most %.0e)\n", name, device, error, tolerance);
    assert_true(error <= tolerance);
    npy_close(&expected);
    xlstm_model_free(model);
    free(json);
}

static void test_graphs(void **state) {
    (void)state;
    static const char *const names[] = {"removed", "swapped", "negative", "all_three", "parallel"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        check_graph(names[i], "reference:f64", 1e-7); /* float32 fixtures */
        check_graph(names[i], "cpu", 2e-5);
    }
}

/* The sequential graph as a `wiring` field gives the bits of the model without one; so does what
 * the program itself prints. */
static void test_sequential_is_bit_equal(void **state) {
    (void)state;
    static float plain[VOCAB], wired[VOCAB], printed[VOCAB];
    xlstm_model_options options = {.profile = "exact", .max_batch_tokens = 64};
    xlstm_model *model = test_model(TEST_MODEL, &options);
    buffer text = {0};
    last_logits(model, plain);
    wiring_print(&model->graph, WIRING_JSON, &text);
    xlstm_model_free(model);

    char *json = read_text("tests/model/data/wiring_sequential.json");
    model = load_wired("written", json, "cpu");
    last_logits(model, wired);
    xlstm_model_free(model);
    free(json);

    model = load_wired("printed", text.data, "cpu");
    last_logits(model, printed);
    xlstm_model_free(model);
    buffer_free(&text);
    assert_memory_equal(plain, wired, sizeof plain);
    assert_memory_equal(plain, printed, sizeof plain);
}

/* A value that is wanted again later is not overwritten by the branch that adds to it: with an
 * embedding of its own for each use, the graph gives the same bits. */
static void test_values_are_kept(void **state) {
    (void)state;
    static float shared[VOCAB], apart[VOCAB];
    for (int own = 0; own < 2; own++) {
        const char *second = own ? "e2" : "e";
        buffer json = {0};
        buffer_print(&json, "{\"nodes\": [{\"name\": \"e\", \"kind\": \"embedding\", \"weights\": "
                            "\"backbone.embeddings\", \"inputs\": []}, ");
        if (own)
            buffer_print(&json, "{\"name\": \"e2\", \"kind\": \"embedding\", \"weights\": "
                                "\"backbone.embeddings\", \"inputs\": []}, ");
        buffer_print(&json,
                     "{\"name\": \"a\", \"kind\": \"mlstm\", \"weights\": \"backbone.blocks.0\", "
                     "\"inputs\": [{\"from\": \"e\"}]}, "
                     "{\"name\": \"s\", \"kind\": \"sum\", \"inputs\": [{\"from\": \"e\"}, "
                     "{\"from\": \"a\"}]}, "
                     "{\"name\": \"b\", \"kind\": \"ffn\", \"weights\": \"backbone.blocks.0\", "
                     "\"inputs\": [{\"from\": \"s\"}]}, "
                     "{\"name\": \"t\", \"kind\": \"sum\", \"inputs\": [{\"from\": \"%s\"}, "
                     "{\"from\": \"b\"}]}, "
                     "{\"name\": \"head\", \"kind\": \"head\", \"weights\": \"lm_head\", "
                     "\"inputs\": [{\"from\": \"t\"}]}]}",
                     second);
        xlstm_model *model = load_wired(own ? "apart" : "shared", json.data, "cpu");
        last_logits(model, own ? apart : shared);
        xlstm_model_free(model);
        buffer_free(&json);
    }
    assert_memory_equal(shared, apart, sizeof shared);
}

/* The sequential program needs one residual stream and no sums of its own. */
static void test_program_is_fused(void **state) {
    (void)state;
    wiring graph;
    program p;
    model_config config = {.num_blocks = 3, .add_out_norm = true};
    assert_int_equal(wiring_sequential(&config, &graph), XLSTM_OK);
    assert_int_equal(program_compile(&graph, &config, &p), XLSTM_OK);
    assert_int_equal(p.values, 1);
    assert_int_equal(p.count, 7); /* embedding and six branches */
    assert_true(p.head_norm);
    program_free(&p);
    wiring_free(&graph);
}

/* So do stacks of mLSTM and sLSTM blocks, with and without a feed-forward. */
static void test_neurips_program_is_fused(void **state) {
    (void)state;
    wiring graph;
    program p;
    bool slstm_at[] = {false, true, false};
    model_config config = {.family = FAMILY_NEURIPS, .num_blocks = 3};
    config.neurips.slstm_at = slstm_at;
    for (int ffn = 0; ffn < 2; ffn++) {
        config.neurips.ffn.present = ffn;
        assert_int_equal(wiring_sequential(&config, &graph), XLSTM_OK);
        assert_int_equal(program_compile(&graph, &config, &p), XLSTM_OK);
        assert_int_equal(p.values, 1);
        assert_int_equal(p.count, 4 + ffn);
        assert_int_equal(p.steps[2].kind, STEP_SLSTM);
        assert_int_equal(p.steps[2].residual, p.steps[2].output);
        assert_false(p.head_norm);
        program_free(&p);
        wiring_free(&graph);
    }
}

static void test_styles(void **state) {
    (void)state;
    wiring graph;
    model_config config = {.num_blocks = 2, .add_out_norm = true};
    assert_int_equal(wiring_sequential(&config, &graph), XLSTM_OK);
    for (int style = WIRING_UNICODE; style <= WIRING_JSON; style++) {
        buffer text = {0};
        wiring_print(&graph, (enum wiring_style)style, &text);
        assert_false(text.failed);
        assert_non_null(strstr(text.data, "blocks.1.ffn_sum"));
        for (size_t i = 0; style == WIRING_ASCII && i < text.size; i++)
            assert_true((unsigned char)text.data[i] < 128);
        buffer_free(&text);
    }
    wiring_free(&graph);
}

/* Nodes of a small valid graph, to be spoilt. */
#define E                                                                                          \
    "{\"name\":\"e\",\"kind\":\"embedding\",\"weights\":\"backbone.embeddings\",\"inputs\":[]}"
#define H(from)                                                                                    \
    "{\"name\":\"h\",\"kind\":\"head\",\"weights\":\"lm_head\",\"inputs\":[{\"from\":\"" from      \
    "\",\"polarity\":1}]}"
#define F(name, weights, from)                                                                     \
    "{\"name\":\"" name "\",\"kind\":\"ffn\",\"weights\":\"" weights                               \
    "\",\"inputs\":[{\"from\":\"" from "\",\"polarity\":1}]}"

static const struct {
    const char *nodes, *message;
} faults[] = {
    {"[]", "must have a list \"nodes\""},
    {"[" E "]", "exactly one node of kind \"head\", there are 0"},
    {"[" E "," H("e") "," H("e") "]", "two nodes are named \"h\""},
    {"[" E "," H("x") "]", "takes \"x\" as input, which does not exist"},
    {"[" E "," F("a", "backbone.blocks.0", "b") "," F("b", "backbone.blocks.0", "a") "," H("a") "]",
     "node \"a\" is part of a cycle"},
    {"[" E "," F("a", "backbone.blocks.0", "a") "," H("a") "]", "node \"a\" is part of a cycle"},
    {"[" E "," F("a", "backbone.blocks.0", "e") "," H("e") "]", "node \"a\" leads nowhere"},
    {"[" E "," F("a", "backbone.blocks.8", "e") "," H("a") "]",
     "weights \"backbone.blocks.8\" do not exist; the model has backbone.blocks.0 to "
     "backbone.blocks.7"},
    {"[" E "," F("a", "backbone.blocks.01", "e") "," H("a") "]", "do not exist"},
    {"[" E "," F("a", "lm_head", "e") "," H("a") "]", "do not exist"},
    {"[{\"name\":\"e\",\"kind\":\"embedding\",\"weights\":\"lm_head\"}," H("e") "]",
     "weights of kind embedding are \"backbone.embeddings\", not \"lm_head\""},
    {"[{\"name\":\"e\",\"kind\":\"attention\",\"weights\":\"backbone.embeddings\"}," H("e") "]",
     "not \"attention\""},
    {"[{\"kind\":\"embedding\",\"weights\":\"backbone.embeddings\"}," H("#0") "]",
     "node number 0 has no \"name\" of printable characters"},
    {"[" E ",{\"name\":\"h\",\"kind\":\"head\",\"weights\":\"lm_head\",\"inputs\":[{\"from\":\"e\","
     "\"polarity\":2}]}]",
     "polarity of an input must be 1 or -1"},
    {"[" E
     ",{\"name\":\"h\",\"kind\":\"head\",\"weights\":\"lm_head\",\"inputs\":[{\"polarity\":1}]}]",
     "an input has no \"from\""},
    {"[" E ",{\"name\":\"h\",\"kind\":\"head\",\"weights\":\"lm_head\",\"inputs\":7}]",
     "\"inputs\" must be a list"},
    {"[" E ",{\"name\":\"h\",\"kind\":\"head\",\"inputs\":[{\"from\":\"e\"}]}]",
     "needs \"weights\""},
    {"[" E ",{\"name\":\"h\",\"kind\":\"head\",\"weights\":\"lm_head\",\"inputs\":[]}]",
     "node \"h\" has no inputs"},
    {"[" E "," H("e") "," F("a", "backbone.blocks.0", "h") "]", "nothing may follow the head"},
    {"[" E
     ",{\"name\":\"s\",\"kind\":\"sum\",\"weights\":\"lm_head\",\"inputs\":[{\"from\":\"e\"}]}," H(
         "s") "]",
     "a sum has no weights"},
    {"[" E ",{\"name\":\"h\",\"kind\":\"head\",\"weights\":\"lm_head\",\"inputs\":[{\"from\":\"e\","
     "\"polartiy\":-1}]}]",
     "node \"h\": unknown key \"polartiy\""},
    {"[7," H("e") "]", "node number 0 has no \"name\" of printable characters"},
};

static void test_faults(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        buffer changes = {0};
        char folder[32];
        xlstm_model *model;
        snprintf(folder, sizeof folder, "fault-%zu", i);
        buffer_print(&changes, "{\"wiring\": {\"nodes\": %s}}", faults[i].nodes);
        assert_int_equal(xlstm_model_load(test_variant(folder, changes.data), NULL, &model),
                         XLSTM_FORMAT_ERROR);
        if (!strstr(xlstm_last_error(), faults[i].message))
            fail_msg("case %zu: expected \"%s\" in: %s", i, faults[i].message, xlstm_last_error());
        assert_null(model);
        buffer_free(&changes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graphs),
        cmocka_unit_test(test_sequential_is_bit_equal),
        cmocka_unit_test(test_values_are_kept),
        cmocka_unit_test(test_program_is_fused),
        cmocka_unit_test(test_neurips_program_is_fused),
        cmocka_unit_test(test_styles),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
