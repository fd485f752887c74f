/* The real model in every quantised type: what the cpu device computes in profile exact is what the
 * reference device computes from the same file, to the same 2e-5 as without quantisation; and it is
 * as far from the unquantised fixtures as that type may be. The distances are relative 2-norms of the
 * logits of the first prompt, measured and rounded up; docs/QUANTISATION.md has what they mean for
 * predictions. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "format/npy.h"
#include "model/convert.h"
#include "support/models.h"
#include "support/support.h"

#define FIXTURES "tests/golden/reference-17m/"

typedef struct bound {
    dtype type;
    double distance; /* at most, from the fixtures; at least a tenth of it */
} bound;

static const bound bounds[] = {{DTYPE_Q8_0, 0.01}, {DTYPE_Q4_0, 0.15}, {DTYPE_Q5_1, 0.08},
                               {DTYPE_Q5_0, 0.08}, {DTYPE_Q4_1, 0.15}, {DTYPE_IQ4_NL, 0.15}};

static npy_array open_fixture(const char *name) {
    char path[160];
    npy_array array;
    snprintf(path, sizeof path, FIXTURES "%s.npy", name);
    if (npy_open(path, &array) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return array;
}

typedef struct rows {
    float *values;
    int64_t vocab;
} rows;

static bool collect(void *context, int64_t first, int64_t count, const float *logits) {
    rows *r = context;
    memcpy(r->values + first * r->vocab, logits, (size_t)(count * r->vocab) * sizeof *logits);
    return true;
}

static float *logits_of(const char *path, const char *device, const npy_array *ids, int64_t vocab) {
    xlstm_model *model = test_model(
        path, &(xlstm_model_options){.device = device, .profile = "exact", .threads = 2});
    xlstm_session *session = test_session(model);
    rows r = {.values = malloc((size_t)(ids->count * vocab) * sizeof(float)), .vocab = vocab};
    assert_non_null(r.values);
    assert_int_equal(xlstm_eval_all(session, ids->data, ids->count, collect, &r), XLSTM_OK);
    xlstm_session_free(session);
    xlstm_model_free(model);
    return r.values;
}

/* The model in this type, as a file of the test. */
static const char *convert(dtype type) {
    char name[32];
    xlstm_model *model;
    convert_result result;
    snprintf(name, sizeof name, "%s.gguf", dtype_name(type));
    const char *path = test_path(name);
    assert_int_equal(model_open(TEST_MODEL, NULL, &model), XLSTM_OK);
    if (convert_model(
            model, path,
            &(convert_options){.type = type, .embedding = DTYPE_COUNT, .head = DTYPE_COUNT},
            &result) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    assert_true(result.type_count[type] >= 64);
    xlstm_model_free(model);
    return path;
}

static void check_type(const bound *b) {
    npy_array ids = open_fixture("p0_ids"), expected = open_fixture("p0_logits");
    int64_t vocab = expected.count / ids.count;
    float *fixture = malloc((size_t)expected.count * sizeof *fixture);
    assert_non_null(fixture);
    dtype_convert(expected.dtype, expected.data, DTYPE_F32, fixture, expected.count);
    const char *path = convert(b->type);
    float *cpu = logits_of(path, "cpu", &ids, vocab);
    float *reference = logits_of(path, "reference", &ids, vocab);
    double error = test_error_f32(cpu, reference, expected.count);
    double distance = test_error_f32(cpu, fixture, expected.count);
    printf("  %-6s cpu and reference %.2e (at most 2e-5), unquantised %.4f (at most %.2f)\n",
           dtype_name(b->type), error, distance, b->distance);
    assert_true(error <= 2e-5);
    assert_true(distance <= b->distance && distance >= b->distance / 10);
    remove(path);
    free(fixture);
    free(cpu);
    free(reference);
    npy_close(&ids);
    npy_close(&expected);
}

static void test_types(void **state) {
    (void)state;
    size_t count = test_is_quick() ? 1 : sizeof bounds / sizeof bounds[0];
    for (size_t i = 0; i < count; i++)
        check_type(&bounds[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
