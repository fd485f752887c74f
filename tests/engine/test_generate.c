/* Generation: greedy ids of the reference, sampling that depends on seed and position alone, where
 * a text begins and ends, and stop strings that never show, not even in part. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "format/npy.h"
#include "support/models.h"
#include "support/support.h"

enum { VOCAB = 4096, MOST = 64 };

/* New tokens of a run: of `count`, a quarter where the real model is slow. */
static int most_tokens(int count) {
    return test_is_quick() ? count / 4 : count;
}

/* What came out of one generation. */
typedef struct run {
    int32_t ids[MOST];
    int count;
    buffer text;
    int64_t cancel_after; /* ids; 0: never */
    xlstm_generate_result result;
    int64_t position;
} run;

static bool take_id(void *context, int32_t id) {
    run *r = context;
    if (r->count < MOST)
        r->ids[r->count++] = id;
    return r->cancel_after == 0 || r->count < r->cancel_after;
}

static bool take_text(void *context, const char *bytes, size_t count) {
    buffer_append(&((run *)context)->text, bytes, count);
    return true;
}

static void generate_with(xlstm_model *model, const xlstm_sampling *sampling, const int32_t *ids,
                          int64_t count, xlstm_generate_options options, run *r) {
    xlstm_session *session = test_session(model);
    xlstm_sampler *sampler;
    int64_t cancel_after = r->cancel_after;
    *r = (run){.cancel_after = cancel_after};
    options.on_id = take_id;
    options.on_text = take_text;
    options.context = r;
    assert_int_equal(xlstm_sampler_create(model, sampling, &sampler), XLSTM_OK);
    if (xlstm_generate(session, sampler, ids, count, &options, &r->result) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    r->position = xlstm_session_position(session);
    buffer_append(&r->text, "", 0);
    xlstm_sampler_free(sampler);
    xlstm_session_free(session);
}

static xlstm_model *load(int threads) {
    return test_model(TEST_MODEL, &(xlstm_model_options){.profile = "exact", .threads = threads});
}

static npy_array fixture(const char *name) {
    char path[128];
    npy_array array;
    snprintf(path, sizeof path, "tests/golden/reference-17m/%s.npy", name);
    assert_int_equal(npy_open(path, &array), XLSTM_OK);
    return array;
}

static void test_greedy(void **state) {
    (void)state;
    const int count = most_tokens(48);
    xlstm_model *model = load(2);
    npy_array ids = fixture("p0_ids"), expected = fixture("p0_greedy"),
              margin = fixture("p0_margin");
    run r = {0};
    generate_with(model, NULL, ids.data, ids.count,
                  (xlstm_generate_options){.max_tokens = count, .ignore_eos = true}, &r);
    assert_int_equal(r.count, count);
    assert_int_equal(r.result.new_tokens, count);
    assert_int_equal(r.result.end, XLSTM_END_LENGTH);
    for (int i = 0; i < count && ((const float *)margin.data)[i] >= 1e-3f; i++)
        assert_int_equal(r.ids[i], ((const int32_t *)expected.data)[i]);
    /* The last id has not been taken in. */
    assert_int_equal(r.result.last_id, r.ids[count - 1]);
    assert_int_equal(r.position, ids.count + count - 1);
    /* What was streamed is what decoding all ids gives. */
    char *text;
    size_t length;
    assert_int_equal(xlstm_decode(xlstm_model_tokenizer(model), r.ids, r.count, XLSTM_SKIP_SPECIAL,
                                  &text, &length),
                     XLSTM_OK);
    assert_int_equal(length, r.text.size);
    assert_memory_equal(text, r.text.data, length);
    xlstm_free(text);
    buffer_free(&r.text);
    npy_close(&ids);
    npy_close(&expected);
    npy_close(&margin);
    xlstm_model_free(model);
}

/* The same seed gives the same text with any number of threads; another seed another text. */
static void test_seeds(void **state) {
    (void)state;
    static const xlstm_sampling sampling = {.temperature = 1, .top_p = 0.95f, .seed = 42};
    xlstm_sampling other = sampling;
    other.seed = 43;
    npy_array ids = fixture("p1_ids");
    run r = {0}, again = {0}, different = {0};
    xlstm_model *one = load(1), *seven = load(7);
    const int count = most_tokens(40);
    xlstm_generate_options options = {.max_tokens = count, .ignore_eos = true};
    generate_with(one, &sampling, ids.data, ids.count, options, &r);
    generate_with(seven, &sampling, ids.data, ids.count, options, &again);
    generate_with(one, &other, ids.data, ids.count, options, &different);
    assert_memory_equal(r.ids, again.ids, (size_t)count * sizeof r.ids[0]);
    assert_memory_not_equal(r.ids, different.ids, (size_t)count * sizeof r.ids[0]);
    buffer_free(&r.text);
    buffer_free(&again.text);
    buffer_free(&different.text);
    npy_close(&ids);
    xlstm_model_free(one);
    xlstm_model_free(seven);
}

/* Frequencies of many draws against the softmax of the logits: chi-squared below its 1 - 1e-6
 * quantile for 7 degrees of freedom. */
static void test_distribution(void **state) {
    (void)state;
    enum { CHOICES = 8 };
    const int draws = test_is_quick() ? 1000 : 20000;
    static float logits[VOCAB];
    int seen[CHOICES] = {0};
    double total = 0, chi = 0;
    xlstm_model *model = load(1);
    xlstm_sampler *sampler;
    for (int i = 0; i < VOCAB; i++)
        logits[i] = i < CHOICES ? (float)(0.4 * i) : -200;
    assert_int_equal(
        xlstm_sampler_create(model, &(xlstm_sampling){.temperature = 0.8f, .seed = 1}, &sampler),
        XLSTM_OK);
    for (int i = 0; i < draws; i++) {
        int32_t id;
        assert_int_equal(xlstm_sample(sampler, logits, i, &id), XLSTM_OK);
        assert_true(id < CHOICES);
        seen[id]++;
    }
    for (int i = 0; i < CHOICES; i++)
        total += exp(0.5 * i);
    for (int i = 0; i < CHOICES; i++) {
        double expected = draws * exp(0.5 * i) / total;
        chi += (seen[i] - expected) * (seen[i] - expected) / expected;
    }
    printf("  chi-squared %.1f (at most 40.5)\n", chi);
    assert_true(chi < 40.5);
    xlstm_sampler_free(sampler);
    xlstm_model_free(model);
}

static int32_t draw(xlstm_model *model, xlstm_sampling sampling, const float *logits,
                    int64_t position, int32_t accepted) {
    xlstm_sampler *sampler;
    int32_t id;
    assert_int_equal(xlstm_sampler_create(model, &sampling, &sampler), XLSTM_OK);
    if (accepted >= 0)
        xlstm_sampler_accept(sampler, accepted);
    assert_int_equal(xlstm_sample(sampler, logits, position, &id), XLSTM_OK);
    xlstm_sampler_free(sampler);
    return id;
}

static void test_filters(void **state) {
    (void)state;
    static float logits[VOCAB];
    xlstm_model *model = load(1);
    for (int i = 0; i < VOCAB; i++)
        logits[i] = -100;
    logits[10] = 4, logits[20] = 3.9f, logits[30] = 3, logits[40] = -1;
    for (int i = 0; i < (test_is_quick() ? 10 : 200); i++) {
        assert_int_equal(draw(model, (xlstm_sampling){0}, logits, i, -1), 10);
        assert_int_equal(draw(model, (xlstm_sampling){.temperature = 1, .top_k = 1}, logits, i, -1),
                         10);
        int32_t two = draw(model, (xlstm_sampling){.temperature = 1, .top_k = 2}, logits, i, -1);
        assert_true(two == 10 || two == 20);
        int32_t half =
            draw(model, (xlstm_sampling){.temperature = 1, .top_p = 0.5f}, logits, i, -1);
        assert_true(half == 10 ||
                    half == 20); /* 0.43 + 0.39: the second crosses one half and is kept */
        int32_t likely =
            draw(model, (xlstm_sampling){.temperature = 1, .min_p = 0.3f}, logits, i, -1);
        assert_true(likely == 10 || likely == 20 || likely == 30);
    }
    /* 4 / 1.2 < 3.9: the penalised id loses. */
    assert_int_equal(draw(model, (xlstm_sampling){.repetition_penalty = 1.2f}, logits, 0, 10), 20);
    assert_int_equal(draw(model, (xlstm_sampling){.repetition_penalty = 1.2f}, logits, 0, 11), 10);
    xlstm_sampler *sampler;
    assert_int_equal(xlstm_sampler_create(model, &(xlstm_sampling){.top_p = 1.5f}, &sampler),
                     XLSTM_INVALID_ARGUMENT);
    assert_int_equal(xlstm_sampler_create(model, &(xlstm_sampling){.temperature = NAN}, &sampler),
                     XLSTM_INVALID_ARGUMENT);
    assert_int_equal(xlstm_sampler_create(model, &(xlstm_sampling){.top_k = -1}, &sampler),
                     XLSTM_INVALID_ARGUMENT);
    xlstm_model_free(model);
}

static void test_stops(void **state) {
    (void)state;
    xlstm_model *model = load(2);
    npy_array ids = fixture("p0_ids");
    run plain = {0}, r = {0};
    xlstm_generate_options options = {.max_tokens = most_tokens(48), .ignore_eos = true};
    generate_with(model, NULL, ids.data, ids.count, options, &plain);

    /* Every short piece of the text as a stop string: what comes out is the text up to its first
     * occurrence. */
    for (size_t at = 2; at + 6 < plain.text.size; at += test_is_quick() ? 20 : 9) {
        char stop[8] = {0};
        memcpy(stop, plain.text.data + at, 6);
        size_t first = (size_t)(strstr(plain.text.data, stop) - plain.text.data);
        const char *const stops[] = {"never in it", stop};
        options.stop_strings = stops;
        options.stop_string_count = 2;
        generate_with(model, NULL, ids.data, ids.count, options, &r);
        assert_int_equal(r.result.end, XLSTM_END_STOP);
        assert_int_equal(r.text.size, first);
        if (first > 0)
            assert_memory_equal(r.text.data, plain.text.data, first);
        buffer_free(&r.text);
    }
    /* One that never comes holds nothing back at the end. */
    const char *const never[] = {"qqqqqqqq"};
    options.stop_strings = never;
    options.stop_string_count = 1;
    generate_with(model, NULL, ids.data, ids.count, options, &r);
    assert_int_equal(r.text.size, plain.text.size);
    buffer_free(&r.text);
    options.stop_string_count = 0;

    options.stop_ids = &plain.ids[5];
    options.stop_id_count = 1;
    int first = 0;
    while (plain.ids[first] != plain.ids[5])
        first++;
    generate_with(model, NULL, ids.data, ids.count, options, &r);
    assert_int_equal(r.result.end, XLSTM_END_STOP);
    assert_int_equal(r.count, first);
    buffer_free(&r.text);
    options.stop_id_count = 0;

    r.cancel_after = 3;
    generate_with(model, NULL, ids.data, ids.count, options, &r);
    assert_int_equal(r.result.end, XLSTM_END_CANCELLED);
    assert_int_equal(r.count, 3);
    buffer_free(&r.text);
    r.cancel_after = 0;

    options.max_tokens = 0;
    generate_with(model, NULL, ids.data, ids.count, options, &r);
    assert_int_equal(r.count, 0);
    assert_int_equal(r.position, ids.count);
    assert_int_equal(r.result.last_id, -1);
    buffer_free(&r.text);
    buffer_free(&plain.text);
    npy_close(&ids);
    xlstm_model_free(model);
}

/* a + b tokens are a tokens, a saved state, and b tokens after the id that was not taken in;
 * sampled ones too. */
static void test_saving_in_between(void **state) {
    (void)state;
    const int a = test_is_quick() ? 5 : 13, b = test_is_quick() ? 6 : 20;
    static const xlstm_sampling sampling = {.temperature = 0.9f, .top_k = 50, .seed = 5};
    const char *path = test_path("between.state");
    npy_array ids = fixture("p2_ids");
    xlstm_model *model = load(2);
    run whole = {0}, rest = {0};
    generate_with(model, &sampling, ids.data, ids.count,
                  (xlstm_generate_options){.max_tokens = a + b, .ignore_eos = true}, &whole);

    xlstm_session *session = test_session(model);
    xlstm_sampler *sampler;
    xlstm_generate_result result;
    assert_int_equal(xlstm_sampler_create(model, &sampling, &sampler), XLSTM_OK);
    assert_int_equal(xlstm_generate(session, sampler, ids.data, ids.count,
                                    &(xlstm_generate_options){.max_tokens = a, .ignore_eos = true},
                                    &result),
                     XLSTM_OK);
    assert_int_equal(xlstm_session_save(session, path), XLSTM_OK);
    assert_int_equal(xlstm_session_reset(session), XLSTM_OK);
    assert_int_equal(xlstm_session_load(session, path), XLSTM_OK);
    assert_int_equal(
        xlstm_generate(session, sampler, &result.last_id, 1,
                       &(xlstm_generate_options){
                           .max_tokens = b, .ignore_eos = true, .on_id = take_id, .context = &rest},
                       &result),
        XLSTM_OK);
    assert_int_equal(rest.count, b);
    assert_memory_equal(rest.ids, whole.ids + a, (size_t)b * sizeof rest.ids[0]);
    xlstm_sampler_free(sampler);
    xlstm_session_free(session);
    buffer_free(&whole.text);
    npy_close(&ids);
    xlstm_model_free(model);
}

/* ---- Beginning and end of text ---- */

static void expect_prompt(xlstm_model *model, const char *words, xlstm_bos bos, bool continues,
                          int64_t count, int32_t first) {
    int32_t *ids;
    int64_t actual;
    assert_int_equal(
        xlstm_encode_prompt(model, words, strlen(words), bos, continues, &ids, &actual), XLSTM_OK);
    assert_int_equal(actual, count);
    if (count > 0)
        assert_int_equal(ids[0], first);
    xlstm_free(ids);
}

static void test_beginning(void **state) {
    (void)state;
    xlstm_model *forced = load(1);
    xlstm_model *plain =
        test_model(test_variant("plain", "{\"force_bos_token_insert\": false}"), NULL);
    xlstm_model *without = test_model(test_variant("no-bos", "{\"bos_token_id\": null}"), NULL);
    int32_t *ids;
    int64_t count;
    assert_int_equal(xlstm_encode(xlstm_model_tokenizer(forced), "The", 3, 0, &ids, &count),
                     XLSTM_OK);
    int32_t the = ids[0];
    assert_int_equal(count, 1);
    xlstm_free(ids);
    expect_prompt(forced, "The", XLSTM_BOS_AUTO, false, 2, 0);
    expect_prompt(forced, "The", XLSTM_BOS_NEVER, false, 1, the);
    expect_prompt(forced, "The", XLSTM_BOS_AUTO, true, 1, the);
    expect_prompt(forced, "<|endoftext|>The", XLSTM_BOS_AUTO, false, 2, 0); /* not twice */
    expect_prompt(forced, "", XLSTM_BOS_AUTO, false, 1, 0);
    expect_prompt(forced, "", XLSTM_BOS_NEVER, false, 0, 0);
    expect_prompt(plain, "The", XLSTM_BOS_AUTO, false, 1, the);
    expect_prompt(plain, "The", XLSTM_BOS_ALWAYS, false, 2, 0);
    expect_prompt(plain, "", XLSTM_BOS_AUTO, false, 1, 0);
    assert_int_equal(xlstm_encode_prompt(without, "The", 3, XLSTM_BOS_AUTO, false, &ids, &count),
                     XLSTM_INVALID_ARGUMENT);
    assert_non_null(strstr(xlstm_last_error(), "bos_token_id"));
    xlstm_model_free(forced);
    xlstm_model_free(plain);
    xlstm_model_free(without);
}

static void expect_end(const char *folder, int32_t id, const char *warning_part) {
    xlstm_model_info info;
    xlstm_model *model = test_model(folder, NULL);
    const char *warning = xlstm_model_warning(model);
    xlstm_model_get_info(model, &info);
    assert_int_equal(info.eos_id, id);
    if (warning_part)
        assert_non_null(strstr(warning, warning_part));
    else
        assert_null(warning);
    xlstm_model_free(model);
}

static void test_end(void **state) {
    (void)state;
    char path[4096];
    expect_end(TEST_MODEL, 0, NULL);
    /* As xLSTM-7B: the config says 2, which is "!". */
    expect_end(test_variant("seven", "{\"eos_token_id\": 2}"), 0, "eos_token_id is 2");
    const char *folder = test_variant("named", "{\"eos_token_id\": 0}");
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    test_write_file(path, "{\"eos_token\": {\"content\": \"<|padding|>\"}}", 41);
    expect_end(folder, 1, "generation stops at 1");
    folder = test_variant("unknown", "{\"eos_token_id\": 0}");
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    test_write_file(path, "{\"eos_token\": \"no such token\"}", 30);
    expect_end(folder, 0, "does not know the eos_token \"no such token\"");
    folder = test_variant("broken", "{\"eos_token_id\": 0}");
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    test_write_file(path, "{\"eos_token\"", 12);
    expect_end(folder, 0, "tokenizer_config.json");
    folder = test_variant("mapped", "{\"eos_token_id\": 0}");
    snprintf(path, sizeof path, "%s/special_tokens_map.json", folder);
    test_write_file(path, "{\"eos_token\": \"<|padding|>\"}", 28);
    expect_end(folder, 1, "generation stops at 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),       cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_distribution), cmocka_unit_test(test_filters),
        cmocka_unit_test(test_stops),        cmocka_unit_test(test_saving_in_between),
        cmocka_unit_test(test_beginning),    cmocka_unit_test(test_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
