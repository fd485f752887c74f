/* The parity task: two-block xLSTM[1:1] and xLSTM[0:1] models trained with the official package
 * (scripts/train_parity.py), whose answers to 300 sequences of 3 to 256 tokens are frozen beside
 * them. Here the same answer is given, sequence by sequence, with the same lead over the second
 * best, and so with the same accuracy. The models are right wherever the training made them: parity
 * of 256 tokens is beyond the 40 that they were trained on. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>

#include "format/npy.h"
#include "support/models.h"
#include "support/support.h"

enum { VOCAB = 3, LENGTH = 256 };

static npy_array fixture(const char *model, const char *name) {
    char path[128];
    npy_array array;
    snprintf(path, sizeof path, "tests/golden/parity-%s/%s.npy", model, name);
    if (npy_open(path, &array) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return array;
}

/* The best of three, and its lead. */
static int best_of(const float *logits, float *margin) {
    int best = 0;
    for (int i = 1; i < VOCAB; i++)
        best = logits[i] > logits[best] ? i : best;
    *margin = INFINITY;
    for (int i = 0; i < VOCAB; i++)
        if (i != best)
            *margin = fminf(*margin, logits[best] - logits[i]);
    return best;
}

static void check_model(const char *name, const char *device, int64_t stride) {
    char path[128];
    snprintf(path, sizeof path, "tests/golden/parity-%s", name);
    xlstm_model *model = test_model(
        path, &(xlstm_model_options){.device = device, .profile = "exact", .max_sessions = 1});
    xlstm_session *session = test_session(model);
    npy_array sequences = fixture(name, "sequences"), lengths = fixture(name, "lengths"),
              targets = fixture(name, "targets"), predictions = fixture(name, "predictions"),
              margins = fixture(name, "margins");
    int64_t count = lengths.count;
    int right = 0, right_there = 0, asked = 0;
    double largest = 0;
    assert_int_equal(sequences.count, count * LENGTH);
    for (int64_t i = 0; i < count; i += stride, asked++) {
        int32_t ids[LENGTH];
        int64_t length = ((const int64_t *)lengths.data)[i];
        int64_t expected = ((const int64_t *)predictions.data)[i];
        int64_t target = ((const int64_t *)targets.data)[i];
        float logits[VOCAB], margin;
        for (int64_t j = 0; j < length; j++)
            ids[j] = ((const uint8_t *)sequences.data)[i * LENGTH + j];
        assert_int_equal(xlstm_session_reset(session), XLSTM_OK);
        assert_int_equal(xlstm_eval(session, ids, length, logits, NULL, NULL), XLSTM_OK);
        int answer = best_of(logits, &margin);
        assert_int_equal(answer, expected);
        largest = fmax(largest, fabs((double)(margin - ((const float *)margins.data)[i])));
        right += answer == target;
        right_there += expected == target;
    }
    printf("  %s on %s: %d of %d right, there %d; margins differ by %.1e (at most 1e-3)\n", name,
           device, right, asked, right_there, largest);
    assert_int_equal(right, right_there);
    assert_true(right == asked); /* as the training left them */
    assert_true(largest <= 1e-3);
    xlstm_session_free(session);
    xlstm_model_free(model);
    npy_close(&sequences);
    npy_close(&lengths);
    npy_close(&targets);
    npy_close(&predictions);
    npy_close(&margins);
}

/* All sequences on the CPU, some on the slow device. */
static void check_both(const char *name) {
    check_model(name, "cpu", test_is_quick() ? 29 : 1);
    check_model(name, "reference", test_is_quick() ? 97 : 29);
}

static void test_mixed(void **state) {
    (void)state;
    check_both("xlstm11");
}

static void test_slstm_only(void **state) {
    (void)state;
    check_both("xlstm01");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mixed),
                                       cmocka_unit_test(test_slstm_only)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
