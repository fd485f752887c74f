/* Sessions: the result does not depend on how a prompt is cut, on the number of threads, or on who
 * else is in the batch.
 *
 * Bit-equal: any thread count, batch rows alone or together, cuts at chunk borders (multiples of
 * 64). Elsewhere fp32 rounding differs: at most 1e-5 in the relative 2-norm of the logits. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/processors.h"
#include "base/random.h"
#include "support/elsewhere.h"
#include "support/models.h"
#include "support/support.h"

enum { VOCAB = 4096, LONGEST = 1000, CHUNK = 64 };

static int32_t text[LONGEST];

static xlstm_model *load_pinned(int threads, int max_batch_tokens, bool pin) {
    xlstm_model_options options = {.device = test_device(),
                                   .profile = "exact",
                                   .threads = threads,
                                   .max_batch_tokens = max_batch_tokens,
                                   .max_sessions = 6,
                                   .pin = pin};
    return test_model(test_model_path(), &options);
}

static xlstm_model *load(int threads, int max_batch_tokens) {
    return load_pinned(threads, max_batch_tokens, false);
}

/* Logits after `count` tokens of the text, fed in pieces of `piece` (0: of random lengths), behind
 * `before` tokens that make the initial state non-zero. */
static void feed_in_pieces(xlstm_model *model, int64_t before, int64_t count, int64_t piece,
                           uint64_t seed, float *logits) {
    xlstm_session *session = test_session(model);
    if (before > 0)
        test_feed(session, text, before, NULL);
    for (int64_t at = before; at < before + count;) {
        int64_t take = piece ? piece : 1 + (int64_t)(random_bits(seed, 1, (uint64_t)at) % 90);
        take = take < before + count - at ? take : before + count - at;
        test_feed(session, text + at, take, logits);
        at += take;
    }
    assert_int_equal(xlstm_session_position(session), before + count);
    xlstm_session_free(session);
}

static void test_splits(void **state) {
    (void)state;
    static float whole[VOCAB], parts[VOCAB];
    static const int64_t lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 1000 - 70};
    static const int64_t pieces[] = {1, 16, 32, 64, 128, 0};
    xlstm_model *model = load(2, 512);
    double worst = 0;
    for (size_t l = 0; l < sizeof lengths / sizeof lengths[0] - (test_model_is_small() ? 1 : 0);
         l++) {
        for (int64_t before = 0; before <= 70; before += before ? 6 : 64) {
            feed_in_pieces(model, before, lengths[l], lengths[l], 0, whole);
            if (lengths[l] > 128 && before == 64 && !test_is_large())
                continue; /* long enough with what begins at 0 and within a chunk */
            for (size_t p = 0; p < sizeof pieces / sizeof pieces[0]; p++) {
                feed_in_pieces(model, before, lengths[l], pieces[p], (uint64_t)lengths[l], parts);
                double error = test_error_f32(parts, whole, test_vocabulary());
                worst = error > worst ? error : worst;
                if (error > 1e-5)
                    fail_msg("%lld tokens behind %lld in pieces of %lld: %.2e",
                             (long long)lengths[l], (long long)before, (long long)pieces[p], error);
                bool at_borders = before % CHUNK == 0 && pieces[p] && pieces[p] % CHUNK == 0;
                if (at_borders)
                    assert_memory_equal(parts, whole, test_logits_bytes());
            }
        }
    }
    printf("  worst difference away from chunk borders: %.2e\n", worst);
    xlstm_model_free(model);
}

/* The size of the pieces in which a prompt goes through the layers changes no bit. */
static void test_batch_size_changes_nothing(void **state) {
    (void)state;
    static float expected[VOCAB], logits[VOCAB];
    int64_t count = test_model_is_small() ? 300 : LONGEST;
    for (int tokens = 64; tokens <= 1024; tokens *= 2) {
        xlstm_model *model = load(2, tokens);
        feed_in_pieces(model, 0, count, count, 0, tokens == 64 ? expected : logits);
        if (tokens > 64)
            assert_memory_equal(expected, logits, test_logits_bytes());
        xlstm_model_free(model);
    }
}

static void test_threads_change_nothing(void **state) {
    (void)state;
    static float expected[2][VOCAB], logits[2][VOCAB];
    /* Negative: pinned, as many as there are processors for. */
    static const int threads[] = {1, 2, 3, 7, -1, -2, -3, -7};
    int64_t count = test_is_quick() ? 150 : 700;
    int processors[PROCESSORS_MOST], most = processors_allowed(processors);
    for (int t = 0; t < 8 && -threads[t] <= most; t++) {
        float(*out)[VOCAB] = t == 0 ? expected : logits;
        xlstm_model *model = load_pinned(abs(threads[t]), 256, threads[t] < 0);
        xlstm_session *session = test_session(model);
        test_feed(session, text, count, out[0]);
        for (int i = 0; i < 5; i++)
            test_feed(session, text + i, 1, out[1]);
        xlstm_session_free(session);
        xlstm_model_free(model);
        if (t > 0)
            assert_memory_equal(expected, logits, sizeof expected);
    }
}

/* Six sessions of different lengths, together and each alone; then decoding together. */
static void test_batch_rows_are_independent(void **state) {
    (void)state;
    enum { ROWS = 6, STEPS = 4 };
    static const int64_t lengths[ROWS] = {1, 200, 64, 17, 333, 90};
    static float alone[ROWS][VOCAB], together[ROWS][VOCAB];
    xlstm_model *model = load(2, 256);
    for (int r = 0; r < ROWS; r++) {
        xlstm_session *session = test_session(model);
        test_feed(session, text + r, lengths[r], alone[r]);
        for (int i = 0; i < STEPS; i++)
            test_feed(session, text + r + i, 1, alone[r]);
        xlstm_session_free(session);
    }
    xlstm_batch_item items[ROWS];
    /* One asks for no id; the others for the most probable, a drawn one, and one that shuns what was there. */
    static const xlstm_sampling rules[ROWS] = {[2] = {.temperature = 0.8f, .top_k = 40, .seed = 3},
                                               [3] = {.repetition_penalty = 1.3f},
                                               [4] = {.temperature = 1, .seed = 9}};
    xlstm_sampler *samplers[ROWS] = {0};
    int32_t next[ROWS], wanted;
    for (int r = 0; r < ROWS; r++) {
        items[r] = (xlstm_batch_item){test_session(model), text + r, lengths[r],
                                      together[r],         NULL,     &next[r]};
        if (r > 0)
            assert_int_equal(xlstm_sampler_create(model, &rules[r], &samplers[r]), XLSTM_OK);
        items[r].sampler = samplers[r];
        for (int i = 0; r > 0 && i < 20; i++)
            xlstm_sampler_accept(samplers[r], text[r + i]);
        next[r] = -1;
    }
    for (int i = -1; i < STEPS; i++) {
        for (int r = 0; i >= 0 && r < ROWS; r++) {
            items[r].ids = text + r + i;
            items[r].count = 1;
        }
        assert_int_equal(xlstm_eval_batch(items, ROWS), XLSTM_OK);
    }
    for (int r = 0; r < ROWS; r++) {
        assert_int_equal(xlstm_session_position(items[r].session), lengths[r] + STEPS);
        assert_memory_equal(alone[r], together[r], test_logits_bytes());
        xlstm_session_free(items[r].session);
        if (r == 0) {
            assert_int_equal(next[r], -1);
            continue;
        }
        assert_int_equal(xlstm_sample(samplers[r], alone[r], lengths[r] + STEPS, &wanted),
                         XLSTM_OK);
        assert_int_equal(next[r], wanted);
        xlstm_sampler_free(samplers[r]);
    }
    xlstm_model_free(model);
}

/* More sessions than rows of logits that are made at once. */
static void test_many_choices(void **state) {
    (void)state;
    enum { ROWS = 150 };
    static float logits[VOCAB];
    xlstm_model_options options = {
        .device = test_device(), .profile = "exact", .threads = 2, .max_sessions = ROWS};
    xlstm_model *model = test_model(test_small_model(), &options);
    const xlstm_sampling greedy = {0};
    xlstm_sampler *sampler;
    xlstm_batch_item items[ROWS];
    int32_t ids[ROWS], next[ROWS], wanted;
    assert_int_equal(xlstm_sampler_create(model, &greedy, &sampler), XLSTM_OK);
    for (int r = 0; r < ROWS; r++) {
        ids[r] = 2 * r;
        items[r] = (xlstm_batch_item){test_session(model), &ids[r], 1, NULL, sampler, &next[r]};
    }
    assert_int_equal(xlstm_eval_batch(items, ROWS), XLSTM_OK);
    for (int r = 0; r < ROWS; r++) {
        assert_int_equal(xlstm_session_reset(items[r].session), XLSTM_OK);
        test_feed(items[r].session, &ids[r], 1, logits);
        assert_int_equal(xlstm_sample(sampler, logits, 1, &wanted), XLSTM_OK);
        assert_int_equal(next[r], wanted);
        xlstm_session_free(items[r].session);
    }
    xlstm_sampler_free(sampler);
    xlstm_model_free(model);
}

static void test_clone_and_reset(void **state) {
    (void)state;
    static float first[VOCAB], second[VOCAB], fresh[VOCAB];
    xlstm_model *model = load(2, 128);
    xlstm_session *session = test_session(model), *copy;
    test_feed(session, text, 100, NULL);
    assert_int_equal(xlstm_session_clone(session, &copy), XLSTM_OK);
    test_feed(session, text + 100, 30, first);
    test_feed(session, text + 7, 40, NULL);
    test_feed(copy, text + 100, 30, second); /* unmoved by what the original did */
    assert_memory_equal(first, second, test_logits_bytes());
    assert_int_equal(xlstm_session_position(copy), 130);
    assert_int_equal(xlstm_session_reset(copy), XLSTM_OK);
    assert_int_equal(xlstm_session_position(copy), 0);
    test_feed(copy, text, 130, second);
    feed_in_pieces(model, 0, 130, 130, 0, fresh);
    assert_memory_equal(fresh, second, test_logits_bytes());
    xlstm_session_free(session);
    xlstm_session_free(copy);
    xlstm_model_free(model);
}

static bool stop_after_first(void *context, int64_t done, int64_t total) {
    (void)total;
    *(int64_t *)context = done;
    return false;
}

static void test_cancelling(void **state) {
    (void)state;
    static float expected[VOCAB], logits[VOCAB];
    int64_t told = 0;
    xlstm_model *model = load(2, 128);
    xlstm_session *session = test_session(model);
    assert_int_equal(xlstm_eval(session, text, 300, NULL, stop_after_first, &told),
                     XLSTM_CANCELLED);
    assert_int_equal(told, 128);
    assert_int_equal(xlstm_session_position(session), 128);
    test_feed(session, text + 128, 300 - 128, logits); /* goes on where it stopped */
    feed_in_pieces(model, 0, 300, 300, 0, expected);
    assert_memory_equal(expected, logits, test_logits_bytes());
    xlstm_session_free(session);
    xlstm_model_free(model);
}

static void test_wrong_calls(void **state) {
    (void)state;
    xlstm_model *model = test_model(TEST_MODEL, &(xlstm_model_options){.max_sessions = 6}), *none;
    xlstm_session *sessions[7];
    int32_t bad[] = {5, 4096, -1};
    for (int i = 0; i < 6; i++)
        sessions[i] = test_session(model);
    test_expect_error(xlstm_session_create(model, &sessions[6]), XLSTM_BUSY, "all 6 sessions");
    assert_null(sessions[6]);
    test_expect_error(xlstm_eval(sessions[0], bad, 3, NULL, NULL, NULL), XLSTM_INVALID_ARGUMENT,
                      "id 4096 at index 1 is not in the vocabulary, which has the ids 0 to 4095");
    assert_int_equal(xlstm_session_position(sessions[0]), 0);
    test_expect_error(xlstm_eval(sessions[0], bad, 0, NULL, NULL, NULL), XLSTM_INVALID_ARGUMENT,
                      "no ids");
    xlstm_batch_item twice[2] = {{.session = sessions[1], .ids = text, .count = 3},
                                 {.session = sessions[1], .ids = text, .count = 3}};
    test_expect_error(xlstm_eval_batch(twice, 2), XLSTM_INVALID_ARGUMENT,
                      "items 0 and 1 of the batch are the same");
    twice[1].session = sessions[2];
    twice[1].ids = bad;
    test_expect_error(xlstm_eval_batch(twice, 2), XLSTM_INVALID_ARGUMENT,
                      "item 1 of the batch: id 4096");
    for (int i = 0; i < 6; i++)
        xlstm_session_free(sessions[i]);
    xlstm_model_free(model);
    test_expect_error(xlstm_model_load("no/such/folder", NULL, &none), XLSTM_IO_ERROR,
                      "no/such/folder");
    if (!ops_device_find("cuda"))
        test_expect_error(
            xlstm_model_load(TEST_MODEL, &(xlstm_model_options){.device = "cuda"}, &none),
            XLSTM_UNSUPPORTED, "built without CUDA: run make cuda");
    test_expect_error(
        xlstm_model_load(TEST_MODEL, &(xlstm_model_options){.device = "cpu:f64"}, &none),
        XLSTM_UNSUPPORTED, "f64");
    test_expect_error(
        xlstm_model_load(TEST_MODEL, &(xlstm_model_options){.profile = "upstream"}, &none),
        XLSTM_UNSUPPORTED, "upstream");
    test_expect_error(xlstm_model_load(TEST_MODEL, &(xlstm_model_options){.prefill = "fp4"}, &none),
                      XLSTM_INVALID_ARGUMENT, "use \"profile\" or \"fp8\"");
    test_expect_error(xlstm_model_load(TEST_MODEL, &(xlstm_model_options){.prefill = "fp8"}, &none),
                      XLSTM_UNSUPPORTED, "the device cpu has no products of fp8");
    test_expect_error(
        xlstm_model_load(TEST_MODEL, &(xlstm_model_options){.profile = "quick"}, &none),
        XLSTM_INVALID_ARGUMENT, "quick");
    test_expect_error(xlstm_model_load(TEST_MODEL,
                                       &(xlstm_model_options){.device = "reference", .pin = true},
                                       &none),
                      XLSTM_UNSUPPORTED, "no threads to pin");
    test_expect_error(xlstm_model_load(TEST_MODEL, &(xlstm_model_options){.threads = -1}, &none),
                      XLSTM_INVALID_ARGUMENT, "threads is -1");
}

int main(int argc, char **argv) {
    test_write_ids(text, LONGEST, 7);
    struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_batch_size_changes_nothing),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_batch_rows_are_independent),
        cmocka_unit_test(test_many_choices),
        cmocka_unit_test(test_clone_and_reset),
        cmocka_unit_test(test_cancelling),
        cmocka_unit_test(test_wrong_calls),
        TEST_ON_CUDA(splits),
        TEST_ON_CUDA(batch_size_changes_nothing),
        TEST_ON_CUDA(batch_rows_are_independent),
        TEST_ON_CUDA(many_choices),
        TEST_ON_CUDA(clone_and_reset),
        TEST_ON_CUDA(cancelling),
    };
    return test_run_group(tests, sizeof tests / sizeof *tests, argc, argv);
}
