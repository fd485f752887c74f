/* The real model in the tree against what the reference implementation of the authors computed with
 * it in float64: logits of four prompts and of a 300-token text, the greedy continuation, and the
 * states of the first and last block.
 *
 *     build/tests/golden/test_golden [TEST]
 *
 * Every device computes them, in profile exact; the tolerance of 2e-5 in the relative 2-norm leaves
 * room for fp32 rounding through 8 blocks (measured: below 2e-6) and for nothing else. The long
 * text's logits are stored in half precision (2^-11). */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/session.h"
#include "format/npy.h"
#include "support/support.h"

#define MODEL "models/reference-17m"
#define FIXTURES "tests/golden/reference-17m/"
enum { VOCAB = 4096, PROMPTS = 4, LONG = 300, GREEDY = 48 };

static npy_array open_fixture(const char *format, int number) {
    char name[64], path[160];
    npy_array array;
    snprintf(name, sizeof name, format, number);
    snprintf(path, sizeof path, FIXTURES "%s.npy", name);
    if (npy_open(path, &array) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return array;
}

static xlstm_model *load_model(const char *device, const char *profile) {
    xlstm_model *model;
    xlstm_model_options options = {.device = device, .profile = profile, .threads = 2};
    if (xlstm_model_load(MODEL, &options, &model) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return model;
}

static xlstm_session *new_session(xlstm_model *model) {
    xlstm_session *session;
    if (xlstm_session_create(model, &session) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return session;
}

static bool collect(void *context, int64_t first, int64_t rows, const float *logits) {
    memcpy((float *)context + first * VOCAB, logits, (size_t)(rows * VOCAB) * sizeof *logits);
    return true;
}

/* Leaves the session behind the text; the logits are the caller's to free. */
static float *check_logits(xlstm_model *model, xlstm_session *session, const char *prefix,
                           double tolerance) {
    char name[32];
    snprintf(name, sizeof name, "%s_ids", prefix);
    npy_array ids = open_fixture(name, 0);
    snprintf(name, sizeof name, "%s_logits", prefix);
    npy_array expected = open_fixture(name, 0);
    size_t count = (size_t)(ids.count * VOCAB);
    float *out = malloc(count * sizeof *out), *reference = malloc(count * sizeof *reference);
    assert_true(out && reference && (int64_t)count == expected.count);
    dtype_convert(expected.dtype, expected.data, DTYPE_F32, reference, expected.count);
    assert_int_equal(xlstm_eval_all(session, ids.data, ids.count, collect, out), XLSTM_OK);
    double error = test_error_f32(out, reference, expected.count);
    printf("  %-14s %-6s %-7s logits %.2e (at most %.0e)\n", model->device->name,
           model->activation == DTYPE_F64 ? "f64" : "f32", prefix, error, tolerance);
    assert_true(error <= tolerance);
    free(reference);
    npy_close(&ids);
    npy_close(&expected);
    return out;
}

/* What may differ: logits after a short prompt and after a long one, states, the mean negative
 * log-likelihood; and greedy ids once the two best logits are as close as `margin`. `exact` differs
 * from the reference in the order of sums; `fast` rounds what it multiplies to bf16, in every layer. */
typedef struct tolerances {
    double logits, long_logits, state, nll;
    float margin;
} tolerances;
static const tolerances of_exact = {2e-5, 1e-3, 1e-4, 1e-5, 1e-3f};
static const tolerances of_fast = {1e-2, 2e-2, 2e-2, 2e-4, 0.1f};

/* Greedy ids are equal up to the first step at which the two best logits are that close. */
static void check_greedy(xlstm_model *model, int prompt, const tolerances *most_apart) {
    npy_array ids = open_fixture("p%d_ids", prompt), expected = open_fixture("p%d_greedy", prompt),
              margin = open_fixture("p%d_margin", prompt);
    const int32_t *greedy = expected.data;
    xlstm_session *session = new_session(model);
    xlstm_sampler *sampler;
    int32_t id;
    assert_int_equal(xlstm_sampler_create(model, NULL, &sampler), XLSTM_OK);
    assert_int_equal(session_eval_sample(session, ids.data, ids.count, sampler, &id, NULL, NULL),
                     XLSTM_OK);
    int taken = 0;
    /* The reference takes its time. */
    bool slow = strcmp(model->device->name, "reference") == 0 && !test_is_large();
    int most = test_is_quick() || slow ? 12 : GREEDY;
    for (; taken < most && ((const float *)margin.data)[taken] >= most_apart->margin; taken++) {
        assert_int_equal(id, greedy[taken]);
        assert_int_equal(session_eval_sample(session, &id, 1, sampler, &id, NULL, NULL), XLSTM_OK);
    }
    /* The fixtures are decisive for a while. */
    assert_true(taken > 8 || most_apart == &of_fast);
    xlstm_sampler_free(sampler);
    xlstm_session_free(session);
    npy_close(&ids);
    npy_close(&expected);
    npy_close(&margin);
}

/* ‖state - reference‖ / ‖reference‖. */
static void check_state(xlstm_session *session, int block, const char *kind, double tolerance) {
    char format[32], node[32];
    snprintf(format, sizeof format, "p_long_state%%d_%s", kind);
    snprintf(node, sizeof node, "blocks.%d.mlstm", block);
    npy_array expected = open_fixture(format, block);
    const state_pool *pool = &session->model->pool;
    int index = 0;
    while (strcmp(pool->tensors[index].node, node) != 0 ||
           strcmp(pool->tensors[index].kind, kind) != 0)
        index++;
    const state_tensor *t = &pool->tensors[index];
    void *raw = malloc(t->slot_size);
    float *values = malloc((size_t)expected.count * sizeof *values);
    assert_non_null(raw);
    assert_non_null(values);
    assert_int_equal(t->slot_size / dtype_size(t->pool.dtype), expected.count);
    assert_int_equal(state_read(pool, session->model->stream, index, session->slot, raw), XLSTM_OK);
    dtype_convert(t->pool.dtype, raw, DTYPE_F32, values, expected.count);
    double error = test_error_f32(values, expected.data, expected.count);
    printf("  state %s of block %d: %.2e (at most %.0e)\n", kind, block, error, tolerance);
    assert_true(error <= tolerance);
    free(raw);
    free(values);
    npy_close(&expected);
}

/* The mean negative log-likelihood of each id after those before it. */
static double mean_nll(const int32_t *ids, const float *logits) {
    double sum = 0;
    for (int64_t t = 0; t + 1 < LONG; t++) {
        const float *row = logits + t * VOCAB;
        double most = -INFINITY, total = 0;
        for (int i = 0; i < VOCAB; i++)
            most = (double)row[i] > most ? (double)row[i] : most;
        for (int i = 0; i < VOCAB; i++)
            total += exp((double)row[i] - most);
        sum += most + log(total) - (double)row[ids[t + 1]];
    }
    return sum / (LONG - 1);
}

static void check_long(xlstm_model *model, const tolerances *most) {
    npy_array ids = open_fixture("p_long_ids", 0), nll = open_fixture("p_long_nll", 0);
    xlstm_session *session = new_session(model);
    float *logits = check_logits(model, session, "p_long", most->long_logits);
    double expected = *(const double *)nll.data, mean = mean_nll(ids.data, logits);
    printf("  mean negative log-likelihood %.9f, reference %.9f\n", mean, expected);
    assert_true(fabs(mean - expected) <= most->nll * expected);
    for (int block = 0; block < 8; block += 7) {
        check_state(session, block, "c", most->state);
        check_state(session, block, "n", most->state);
        check_state(session, block, "m", most->state);
    }
    free(logits);
    xlstm_session_free(session);
    npy_close(&ids);
    npy_close(&nll);
}

static void check_device(const char *device, const char *profile, bool with_long,
                         bool with_greedy) {
    const tolerances *most = strcmp(profile, "fast") == 0 ? &of_fast : &of_exact;
    if (!test_uses_device(strncmp(device, "reference", 9) == 0 ? "reference" : device))
        skip();
    xlstm_model *model = load_model(device, profile);
    for (int p = 0; p < (test_is_quick() ? 1 : PROMPTS); p++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "p%d", p);
        xlstm_session *session = new_session(model);
        free(check_logits(model, session, prefix, most->logits));
        xlstm_session_free(session);
        if (with_greedy)
            check_greedy(model, p, most);
    }
    if (with_long)
        check_long(model, most);
    xlstm_model_free(model);
}

static void test_reference_f64(void **state) {
    (void)state;
    check_device("reference:f64", "exact", !test_is_quick(), false);
}

static void test_reference_f32(void **state) {
    (void)state;
    check_device("reference", "exact", !test_is_quick(), !test_is_quick());
}

static void test_cpu_exact(void **state) {
    (void)state;
    check_device("cpu", "exact", !test_is_quick(), true);
}

static void test_cpu_fast(void **state) {
    (void)state;
    check_device("cpu", "fast", !test_is_quick(), true);
}

static void test_metal_exact(void **state) {
    (void)state;
    check_device("metal", "exact", test_is_large(), true);
}

static void test_metal_fast(void **state) {
    (void)state;
    check_device("metal", "fast", test_is_large(), true);
}

static void test_cuda_exact(void **state) {
    (void)state;
    check_device("cuda", "exact", test_is_large(), true);
}

static void test_cuda_fast(void **state) {
    (void)state;
    check_device("cuda", "fast", test_is_large(), true);
}

int main(int argc, char **argv) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_f64), cmocka_unit_test(test_reference_f32),
        cmocka_unit_test(test_cpu_exact),     cmocka_unit_test(test_cpu_fast),
        cmocka_unit_test(test_metal_exact),   cmocka_unit_test(test_metal_fast),
        cmocka_unit_test(test_cuda_exact),    cmocka_unit_test(test_cuda_fast),
    };
    return test_run_group(tests, sizeof tests / sizeof *tests, argc, argv);
}
