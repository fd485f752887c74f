/* States in narrow types, and tokens that wait in a ring: deferral computes what the plain step does,
 * bits depend neither on the batch nor on threads, and states are exact in the middle of a ring. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "support/models.h"
#include "support/support.h"

enum { VOCAB = 320, LENGTH = 10000, RING = 16 };

static int32_t text[LENGTH];
static const char *const devices[] = {"cpu", "reference", "cuda"};
static int device_count = 2; /* 3 where cuda is tested */

static xlstm_model *load(const char *device, const char *state, int deferred, int threads) {
    return test_model(test_small_model(),
                      &(xlstm_model_options){.device = device,
                                             .profile = "exact",
                                             .threads = threads,
                                             .max_sessions = 8,
                                             .state_dtype = state,
                                             .deferred = deferred ? deferred : -1});
}

static void feed_singly(xlstm_session *session, const int32_t *ids, int64_t count, float *logits) {
    for (int64_t i = 0; i < count; i++)
        test_feed(session, ids + i, 1, i == count - 1 ? logits : NULL);
}

/* ---- The same mathematics ---- */

/* The largest relative error of a C or n of one session against those of another. */
static double state_error(xlstm_session *a, xlstm_session *b) {
    double worst = 0;
    for (int i = 0; i < a->model->pool.count; i++) {
        const state_tensor *t = &a->model->pool.tensors[i];
        const state_tensor *other = state_find(&b->model->pool, t->node_index, t->kind);
        if (strcmp(t->kind, "c") != 0 && strcmp(t->kind, "n") != 0)
            continue;
        int64_t count = (int64_t)(t->slot_size / dtype_size(t->pool.dtype));
        void *x = malloc(t->slot_size), *y = malloc(other->slot_size);
        double *wide = malloc((size_t)count * 2 * sizeof *wide);
        assert_true(x && y && wide);
        int at = (int)(other - b->model->pool.tensors);
        assert_int_equal(state_read(&a->model->pool, a->model->stream, i, a->slot, x), XLSTM_OK);
        assert_int_equal(state_read(&b->model->pool, b->model->stream, at, b->slot, y), XLSTM_OK);
        dtype_convert(t->pool.dtype, x, DTYPE_F64, wide, count);
        dtype_convert(other->pool.dtype, y, DTYPE_F64, wide + count, count);
        worst = fmax(worst, test_error_f64(wide, wide + count, count));
        free(x);
        free(y);
        free(wide);
    }
    return worst;
}

/* After `count` tokens, a multiple of the ring's length, nothing waits: states can be compared. */
static double drift(const char *device, int64_t count, bool singly) {
    xlstm_model *plain = load(device, NULL, 0, 1), *deferred = load(device, NULL, RING, 1);
    xlstm_session *a = test_session(plain), *b = test_session(deferred);
    test_feed(a, text, count, NULL);
    (singly ? feed_singly : test_feed)(b, text, count, NULL);
    double error = state_error(b, a);
    xlstm_session_free(a);
    xlstm_session_free(b);
    xlstm_model_free(plain);
    xlstm_model_free(deferred);
    return error;
}

static void test_ten_thousand_tokens(void **state) {
    (void)state;
    int64_t count = test_is_quick() ? 640 : LENGTH;
    double in_double = drift("reference:f64", count, false);
    double in_float = drift("cpu", count, true), in_pieces = drift("cpu", count, false);
    printf("  %d tokens, deferred against plain: %.1e in f64, %.1e in f32, %.1e as a prompt\n",
           (int)count, in_double, in_float, in_pieces);
    assert_true(in_double < 1e-12);
    assert_true(in_float < 1e-5);
    assert_true(in_pieces < 1e-5);
}

/* Prompts and single tokens in turn, with every length of ring, against the plain step. */
static void test_mixtures(void **state) {
    (void)state;
    static const int64_t pieces[] = {5, 1, 1, 90, 1, 3, 64, 1, 1, 17, 130, 1, 31, 2};
    static float expected[VOCAB], logits[VOCAB];
    for (int d = 0; d < device_count; d++) {
        for (int ring = 2; ring <= 64; ring *= 2) {
            xlstm_model *plain = load(devices[d], NULL, 0, 2);
            xlstm_model *deferred = load(devices[d], NULL, ring, 2);
            xlstm_session *a = test_session(plain), *b = test_session(deferred);
            int64_t at = 0;
            for (size_t p = 0; p < sizeof pieces / sizeof *pieces; at += pieces[p++]) {
                test_feed(a, text + at, pieces[p], expected);
                test_feed(b, text + at, pieces[p], logits);
                double error = test_error_f32(logits, expected, VOCAB);
                if (!(error < 1e-5))
                    fail_msg("%s, ring of %d, at %d: error %.1e", devices[d], ring, (int)at, error);
            }
            xlstm_session_free(a);
            xlstm_session_free(b);
            xlstm_model_free(plain);
            xlstm_model_free(deferred);
        }
    }
}

/* ---- Batches ---- */

/* Sessions at other places of their rings, together and alone; some leave and others join. */
static void test_batches(void **state) {
    (void)state;
    enum { ROWS = 6, STEPS = 40 };
    static const int64_t lengths[ROWS] = {1, 200, 64, 17, 15, 90};
    static float alone[ROWS][VOCAB], together[ROWS][VOCAB];
    static const char *const types[] = {"f32", "bf16", "f16"};
    for (int v = 0; v < 3 * device_count; v++) {
        if (v / 3 == 1)
            continue; /* reference takes one token after the other */
        xlstm_model *model = load(devices[v / 3], types[v % 3], RING, v % 3 + 1);
        xlstm_session *session[ROWS];
        for (int r = 0; r < ROWS; r++) {
            session[r] = test_session(model);
            test_feed(session[r], text + r, lengths[r], alone[r]);
            feed_singly(session[r], text + r, STEPS / 2, alone[r]);
            xlstm_session_free(session[r]);
        }
        for (int r = 0; r < ROWS; r++)
            session[r] = test_session(model);
        int taken[ROWS] = {0}; /* the prompt, then single tokens */
        for (int round = 0; round < STEPS; round++) {
            xlstm_batch_item items[ROWS];
            int count = 0;
            for (int r = 0; r < ROWS; r++) {
                bool in = (round * 7 + r * 3) % 5 < 3 && taken[r] <= STEPS / 2;
                if (!in)
                    continue;
                items[count++] = (xlstm_batch_item){session[r],
                                                    taken[r] ? text + r + taken[r] - 1 : text + r,
                                                    taken[r] ? 1 : lengths[r],
                                                    together[r],
                                                    NULL,
                                                    NULL};
                taken[r]++;
            }
            if (count > 0)
                assert_int_equal(xlstm_eval_batch(items, count), XLSTM_OK);
        }
        for (int r = 0; r < ROWS; r++) {
            for (; taken[r] <= STEPS / 2; taken[r]++)
                test_feed(session[r], text + r + taken[r] - 1, 1, together[r]);
            assert_memory_equal(alone[r], together[r], sizeof alone[r]);
            xlstm_session_free(session[r]);
        }
        xlstm_model_free(model);
    }
}

/* ---- States ---- */

static void save(xlstm_session *session, const char *path) {
    if (xlstm_session_save(session, path) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
}

static void restore(xlstm_session *session, const char *path) {
    if (xlstm_session_load(session, path) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
}

/* A copy and a file, made in the middle of a ring, go on with the same bits. */
static void test_going_on(void **state) {
    (void)state;
    static float expected[VOCAB], logits[VOCAB];
    static const char *const types[] = {"f32", "bf16", "f16"};
    const char *path = test_path("ring.state");
    for (int v = 0; v < 3 * device_count; v++) {
        xlstm_model *model = load(devices[v / 3], types[v % 3], RING, 2);
        xlstm_session *session = test_session(model), *copy, *other = test_session(model);
        test_feed(session, text, 70, NULL);
        feed_singly(session, text + 70, 7, NULL); /* at 77: 13 wait */
        save(session, path);
        assert_int_equal(xlstm_session_clone(session, &copy), XLSTM_OK);
        feed_singly(session, text + 77, 30, expected);
        feed_singly(copy, text + 77, 30, logits);
        assert_memory_equal(expected, logits, sizeof logits);
        test_feed(other, text + 50, 20, NULL); /* is replaced */
        restore(other, path);
        feed_singly(other, text + 77, 30, logits);
        assert_memory_equal(expected, logits, sizeof logits);
        xlstm_session_free(session);
        xlstm_session_free(copy);
        xlstm_session_free(other);
        xlstm_model_free(model);
    }
}

/* Every file restores in every setting: with another ring, without one, in another type. */
static void test_other_settings(void **state) {
    (void)state;
    static float expected[VOCAB], logits[VOCAB];
    static const struct setting {
        const char *device, *type;
        int ring;
        double tolerance; /* that of the type's rounding */
    } settings[] = {{"cpu", "f32", 16, 1e-5},         {"cpu", "f32", 0, 1e-5},
                    {"reference:f64", NULL, 8, 1e-5}, {"reference", "f32", 64, 1e-5},
                    {"cpu", "f16", 32, 2e-3},         {"cpu", "bf16", 16, 1e-2},
                    {"cuda", "bf16", 8, 1e-2},        {"cuda", "f32", 16, 1e-5}};
    const int count = device_count == 3 ? 8 : 6;
    const char *path = test_path("settings.state");
    for (int from = 0; from < count; from++) {
        const struct setting *f = &settings[from];
        xlstm_model *model = load(f->device, f->type, f->ring, 1);
        xlstm_session *session = test_session(model);
        test_feed(session, text, 77, NULL);
        save(session, path);
        test_feed(session, text + 77, 5, expected);
        for (int to = 0; to < count; to++) {
            const struct setting *t = &settings[to];
            xlstm_model *reader = load(t->device, t->type, t->ring, 1);
            xlstm_session *reading = test_session(reader);
            restore(reading, path);
            assert_int_equal(xlstm_session_position(reading), 77);
            feed_singly(reading, text + 77, 5, logits);
            double error = test_error_f32(logits, expected, VOCAB);
            if (!(error < f->tolerance + t->tolerance))
                fail_msg("from %d to %d: error %.1e", from, to, error);
            xlstm_session_free(reading);
            xlstm_model_free(reader);
        }
        xlstm_session_free(session);
        xlstm_model_free(model);
    }
}

/* ---- Rewinding ---- */

static void test_rewind(void **state) {
    (void)state;
    static float expected[VOCAB], logits[VOCAB];
    const char *path = test_path("rewind.state");
    xlstm_model *model = load("cpu", NULL, RING, 2), *plain = load("cpu", NULL, 0, 2);
    xlstm_session *session = test_session(model), *other = test_session(plain), *copy;
    test_feed(session, text, 70, NULL);
    feed_singly(session, text + 70, 3, NULL);
    save(session, path);
    feed_singly(session, text + 73, 2, expected); /* at 75 */
    test_feed(session, text + 500, 4, NULL);      /* at 79, the last place in the ring */
    assert_int_equal(xlstm_session_rewind(session, 6), XLSTM_OK);
    assert_int_equal(xlstm_session_position(session), 73);
    feed_singly(session, text + 73, 2, logits);
    assert_memory_equal(expected, logits, sizeof logits);
    test_expect_error(xlstm_session_rewind(session, 12), XLSTM_UNSUPPORTED,
                      "12 tokens cannot be taken back: only the last 11 are not folded in");
    test_expect_error(xlstm_session_rewind(session, -1), XLSTM_INVALID_ARGUMENT, "-1 tokens");
    assert_int_equal(xlstm_session_rewind(session, 11), XLSTM_OK);
    assert_int_equal(xlstm_session_rewind(session, 0), XLSTM_OK);
    test_expect_error(xlstm_session_rewind(session, 1), XLSTM_UNSUPPORTED, "only the last 0");

    /* What a foreign file folded in stays there. */
    test_expect_error(xlstm_session_rewind(other, 0), XLSTM_UNSUPPORTED, "deferred > 0");
    restore(other, path);
    save(other, path);
    restore(session, path);
    test_feed(session, text + 73, 2, NULL);
    test_expect_error(xlstm_session_rewind(session, 3), XLSTM_UNSUPPORTED, "only the last 2");
    assert_int_equal(xlstm_session_clone(session, &copy), XLSTM_OK);
    test_expect_error(xlstm_session_rewind(copy, 3), XLSTM_UNSUPPORTED, "only the last 2");
    assert_int_equal(xlstm_session_rewind(session, 2), XLSTM_OK);
    xlstm_session_free(copy);
    xlstm_session_free(session);
    xlstm_session_free(other);
    xlstm_model_free(model);
    xlstm_model_free(plain);
}

/* The columns of a convolution do not wait: they are gone when the next token comes. */
static void test_rewind_convolution(void **state) {
    (void)state;
    xlstm_model *model =
        test_model("tests/golden/neurips-mlstm", &(xlstm_model_options){.deferred = RING});
    xlstm_session *session = test_session(model);
    test_feed(session, (const int32_t[]){1, 2, 3}, 3, NULL);
    test_expect_error(xlstm_session_rewind(session, 1), XLSTM_UNSUPPORTED, "without a convolution");
    xlstm_session_free(session);
    xlstm_model_free(model);
}

static int find_tensor(const state_pool *pool, const char *kind) {
    for (int i = 0; i < pool->count; i++)
        if (strcmp(pool->tensors[i].kind, kind) == 0)
            return i;
    fail_msg("no state tensor %s", kind);
    return -1;
}

/* A head whose m is NaN stays one when the tokens that wait are folded into it; the others do not mind. */
static void test_fold_nan(void **state) {
    (void)state;
    enum { HEADS = 3 };
    const char *path = test_path("nan.state");
    xlstm_model *model = load("cpu", NULL, RING, 1), *plain = load("cpu", NULL, 0, 1);
    xlstm_session *session = test_session(model), *other = test_session(plain);
    test_feed(session, text, RING + 5, NULL);
    float m[HEADS];
    int at = find_tensor(&model->pool, "m");
    assert_int_equal(model->pool.tensors[at].slot_size, sizeof m);
    assert_int_equal(state_read(&model->pool, model->stream, at, session->slot, m), XLSTM_OK);
    m[1] = NAN;
    state_write(&model->pool, model->stream, at, session->slot, m);
    save(session, path);
    restore(other, path);
    at = find_tensor(&plain->pool, "m");
    assert_int_equal(state_read(&plain->pool, plain->stream, at, other->slot, m), XLSTM_OK);
    assert_true(!isnan(m[0]) && isnan(m[1]) && !isnan(m[2]));
    xlstm_session_free(session);
    xlstm_session_free(other);
    xlstm_model_free(model);
    xlstm_model_free(plain);
}

/* What is folded in is weighed by m as a float holds it, and that is rounded up: large maxima, whose
 * floats are far apart, show the one, and a number of heads the other. */
static void test_fold_large_maxima(void **state) {
    (void)state;
    enum { HEADS = 3, WAITING = 5, D_QK = 8 };
    const char *path = test_path("large.state");
    xlstm_model *model = load("cpu", NULL, RING, 1), *plain = load("cpu", NULL, 0, 1);
    xlstm_session *session = test_session(model), *other = test_session(plain);
    int m_at = find_tensor(&model->pool, "m"), n_at = find_tensor(&model->pool, "n");
    int f_at = find_tensor(&model->pool, "ring_f"), rounded_up = 0;
    float before[HEADS], after[HEADS], f[HEADS][RING], n[HEADS][D_QK], folded[HEADS][D_QK];
    test_feed(session, text, RING, NULL);
    test_feed(session, text + RING, WAITING, NULL);
    assert_int_equal(model->pool.tensors[n_at].slot_size, sizeof n);
    for (int trial = 0; trial < 8; trial++) {
        for (int head = 0; head < HEADS; head++)
            before[head] = 5000.1f + 777.7f * (float)(trial * HEADS + head);
        state_write(&model->pool, model->stream, m_at, session->slot, before);
        assert_int_equal(state_read(&model->pool, model->stream, n_at, session->slot, n), XLSTM_OK);
        assert_int_equal(state_read(&model->pool, model->stream, f_at, session->slot, f), XLSTM_OK);
        save(session, path);
        restore(other, path);
        int to = find_tensor(&plain->pool, "m");
        assert_int_equal(state_read(&plain->pool, plain->stream, to, other->slot, after), XLSTM_OK);
        to = find_tensor(&plain->pool, "n");
        assert_int_equal(state_read(&plain->pool, plain->stream, to, other->slot, folded),
                         XLSTM_OK);
        for (int head = 0; head < HEADS; head++) { /* next to this, the tokens count nothing */
            double m = (double)before[head];
            for (int l = 0; l < WAITING; l++)
                m -= log1p(exp(-(double)f[head][l]));
            assert_true((double)after[head] >= m);
            rounded_up += (float)m < after[head];
            for (int d = 0; d < D_QK; d++) {
                double expected = (double)n[head][d] * exp(m - (double)after[head]);
                assert_true(fabs((double)folded[head][d] - expected) <= 1e-6 * fabs(expected));
            }
        }
    }
    assert_in_range(rounded_up, 1, 8 * HEADS - 1);
    xlstm_session_free(session);
    xlstm_session_free(other);
    xlstm_model_free(model);
    xlstm_model_free(plain);
}

/* ---- Options ---- */

static void expect_refused(xlstm_model_options options, xlstm_status status, const char *part) {
    xlstm_model *none;
    test_expect_error(xlstm_model_load(test_small_model(), &options, &none), status, part);
    assert_null(none);
}

static void test_options(void **state) {
    (void)state;
    xlstm_model_info info;
    expect_refused((xlstm_model_options){.state_dtype = "f8"}, XLSTM_INVALID_ARGUMENT, "\"f8\"");
    expect_refused((xlstm_model_options){.state_dtype = "q8_0"}, XLSTM_INVALID_ARGUMENT, "q8_0");
    expect_refused((xlstm_model_options){.state_dtype = "f64"}, XLSTM_UNSUPPORTED,
                   "cpu does not keep states in f64");
    static const int wrong[] = {1, 3, 48, 128, -2};
    for (int i = 0; i < 5; i++)
        expect_refused((xlstm_model_options){.deferred = wrong[i]}, XLSTM_INVALID_ARGUMENT,
                       "power of two");
    xlstm_model *model = load("cpu", "bf16", 8, 1), *plain = load("cpu", NULL, 0, 1);
    xlstm_model_get_info(model, &info);
    assert_string_equal(info.state_dtype, "bf16");
    assert_int_equal(info.deferred, 8);
    /* 2 blocks, 3 heads, d_qk 8, d_v 16: C, n, m, and 8 tokens of k, v, i and f */
    assert_int_equal(info.state_bytes, 2 * 3 * (2 * (8 * 16 + 8) + 4 + 4 * 8 * (8 + 16 + 2)));
    xlstm_model_get_info(plain, &info);
    assert_string_equal(info.state_dtype, "f32");
    assert_int_equal(info.deferred, 0);
    assert_int_equal(info.state_bytes, 2 * 3 * 4 * (8 * 16 + 8 + 1));
    xlstm_model_free(model);
    xlstm_model_free(plain);
}

/* A state with a number that f16 has not is refused by name, and taken by the other types. */
static void test_too_large_for_f16(void **state) {
    (void)state;
    const char *path = test_path("large.state");
    xlstm_model *model = load("cpu", "f32", 0, 1), *narrow = load("cpu", "f16", 0, 1);
    xlstm_session *session = test_session(model), *refusing = test_session(narrow);
    test_feed(session, text, 3, NULL);
    const state_tensor *t = &model->pool.tensors[0];
    float *values = malloc(t->slot_size);
    assert_non_null(values);
    assert_int_equal(state_read(&model->pool, model->stream, 0, session->slot, values), XLSTM_OK);
    values[5] = 65504;
    state_write(&model->pool, model->stream, 0, session->slot, values);
    save(session, path);
    restore(refusing, path);
    values[5] = -65505;
    state_write(&model->pool, model->stream, 0, session->slot, values);
    save(session, path);
    test_expect_error(xlstm_session_load(refusing, path), XLSTM_FORMAT_ERROR,
                      "tensor blocks.0.mlstm.c holds values that f16 cannot");
    assert_int_equal(xlstm_session_position(refusing), 3);
    free(values);
    xlstm_session_free(session);
    xlstm_session_free(refusing);
    xlstm_model_free(model);
    xlstm_model_free(narrow);
}

int main(void) {
    if (test_uses_device("cuda"))
        device_count = 3;
    for (int i = 0; i < LENGTH; i++)
        text[i] = (int32_t)(random_bits(17, 0, (uint64_t)i) % VOCAB);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ten_thousand_tokens),
        cmocka_unit_test(test_mixtures),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_going_on),
        cmocka_unit_test(test_other_settings),
        cmocka_unit_test(test_rewind),
        cmocka_unit_test(test_rewind_convolution),
        cmocka_unit_test(test_fold_nan),
        cmocka_unit_test(test_fold_large_maxima),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_too_large_for_f16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
