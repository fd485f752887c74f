/* Tokens that are begun before the one before is seen (engine/decode.c): on every device the ids, the ends and the
 * states, byte for byte, are those of one token at a time. Where a callback ends the text, the session has taken in
 * what came out. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "base/file.h"
#include "support/models.h"
#include "support/support.h"

enum { MOST = 40 };

static const int32_t prompt[] = {7, 130, 55, 9, 301, 18, 2};
enum { PROMPT = sizeof prompt / sizeof *prompt };

typedef struct run {
    int32_t ids[MOST];
    int count, cancel_after;
    void (*meanwhile)(struct run *); /* called once, after the second id */
    xlstm_model *model;
    xlstm_generate_result result;
} run;

static bool take_id(void *context, int32_t id) {
    run *r = context;
    assert_true(r->count < MOST);
    r->ids[r->count++] = id;
    if (r->count == 2 && r->meanwhile)
        r->meanwhile(r);
    return r->cancel_after == 0 || r->count < r->cancel_after;
}

typedef struct device_under_test {
    ops_device *device;
    bool ahead; /* as it came */
} device_under_test;

static xlstm_model *load(device_under_test *d, bool ahead) {
    d->device->ahead = ahead;
    return test_model(test_small_model(),
                      &(xlstm_model_options){.device = d->device->name, .threads = 1});
}

static void generate(xlstm_session *session, const xlstm_sampling *sampling, const int32_t *ids,
                     int64_t count, xlstm_generate_options options, run *r) {
    xlstm_sampler *sampler;
    r->model = session->model;
    options.on_id = take_id;
    options.context = r;
    assert_int_equal(xlstm_sampler_create(session->model, sampling, &sampler), XLSTM_OK);
    if (xlstm_generate(session, sampler, ids, count, &options, &r->result) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    xlstm_sampler_free(sampler);
}

static void expect_same_states(xlstm_session *a, xlstm_session *b) {
    buffer first = {0}, second = {0};
    assert_int_equal(xlstm_session_position(a), xlstm_session_position(b));
    const char *paths[] = {test_path("ahead.state"), test_path("plain.state")};
    assert_int_equal(xlstm_session_save(a, paths[0]), XLSTM_OK);
    assert_int_equal(xlstm_session_save(b, paths[1]), XLSTM_OK);
    assert_int_equal(file_read(paths[0], SIZE_MAX, &first), XLSTM_OK);
    assert_int_equal(file_read(paths[1], SIZE_MAX, &second), XLSTM_OK);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    buffer_free(&first);
    buffer_free(&second);
}

static void expect_same_runs(const run *a, const run *b) {
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->ids, b->ids, (size_t)a->count * sizeof *a->ids);
    assert_int_equal(a->result.end, b->result.end);
    assert_int_equal(a->result.last_id, b->result.last_id);
    assert_int_equal(a->result.new_tokens, b->result.new_tokens);
    assert_int_equal(a->result.prompt_tokens, b->result.prompt_tokens);
}

/* The same text ahead and not, and then the text that follows it. */
static void compare(xlstm_model *ahead, xlstm_model *plain, const xlstm_sampling *sampling,
                    xlstm_generate_options options) {
    xlstm_session *a = test_session(ahead), *b = test_session(plain);
    run of_a = {0}, of_b = {0};
    generate(a, sampling, prompt, PROMPT, options, &of_a);
    generate(b, sampling, prompt, PROMPT, options, &of_b);
    expect_same_runs(&of_a, &of_b);
    expect_same_states(a, b);
    int32_t last = of_b.result.last_id;
    options.max_tokens = 3;
    of_a = of_b = (run){0};
    generate(a, sampling, &last, 1, options, &of_a);
    generate(b, sampling, &last, 1, options, &of_b);
    expect_same_runs(&of_a, &of_b);
    expect_same_states(a, b);
    xlstm_session_free(a);
    xlstm_session_free(b);
}

static void each_device(void (*test)(device_under_test *)) {
    for (int i = 0; ops_device_at(i); i++) {
        device_under_test d = {ops_device_at(i), ops_device_at(i)->ahead};
        if (!test_uses_device(d.device->name))
            continue;
        test(&d);
        d.device->ahead = d.ahead;
    }
}

static const xlstm_sampling warm = {.temperature = 1.5f, .top_k = 200, .top_p = 0.99f, .seed = 3};

/* Lengths, samplers, and what keeps tokens from being begun early. */
static void same_texts(device_under_test *d) {
    xlstm_model *ahead = load(d, true), *plain = load(d, false);
    const xlstm_sampling penalised = {.temperature = 1, .repetition_penalty = 1.5f, .seed = 9};
    for (int tokens = 1; tokens <= 5; tokens++)
        compare(ahead, plain, NULL, (xlstm_generate_options){.max_tokens = tokens});
    compare(ahead, plain, &warm, (xlstm_generate_options){.max_tokens = 12, .ignore_eos = true});
    compare(ahead, plain, &penalised, (xlstm_generate_options){.max_tokens = 12});
    xlstm_model_free(ahead);
    xlstm_model_free(plain);
}

static void test_texts(void **state) {
    (void)state;
    each_device(same_texts);
}

/* Ended by every id of a text, one after the other: the state never has the id that ended it. */
static void ended_by_ids(device_under_test *d) {
    xlstm_model *ahead = load(d, true), *plain = load(d, false);
    xlstm_session *session = test_session(plain);
    run whole = {0};
    generate(session, &warm, prompt, PROMPT,
             (xlstm_generate_options){.max_tokens = 9, .ignore_eos = true}, &whole);
    xlstm_session_free(session);
    for (int i = 0; i < whole.count; i++) {
        const int32_t stops[] = {319, whole.ids[i], 318};
        compare(ahead, plain, &warm,
                (xlstm_generate_options){
                    .max_tokens = 12, .ignore_eos = true, .stop_ids = stops, .stop_id_count = 3});
    }
    /* More ids than a device is told. */
    int32_t many[FORWARD_MOST_ENDS + 6];
    for (int i = 0; i < FORWARD_MOST_ENDS + 6; i++)
        many[i] = 200 + i;
    many[3] = whole.ids[4];
    compare(ahead, plain, &warm,
            (xlstm_generate_options){
                .max_tokens = 12, .stop_ids = many, .stop_id_count = FORWARD_MOST_ENDS + 6});
    xlstm_model_free(ahead);
    xlstm_model_free(plain);
}

static void test_ends(void **state) {
    (void)state;
    each_device(ended_by_ids);
}

/* Cancelled, the session has what came out; the plain one lacks the last id. */
static void cancelled(device_under_test *d) {
    xlstm_model *ahead = load(d, true), *plain = load(d, false);
    for (int after = 1; after <= 4; after++) {
        xlstm_session *a = test_session(ahead), *b = test_session(plain);
        run of_a = {.cancel_after = after}, of_b = {.cancel_after = after};
        const xlstm_generate_options options = {.max_tokens = 12, .ignore_eos = true};
        generate(a, &warm, prompt, PROMPT, options, &of_a);
        generate(b, &warm, prompt, PROMPT, options, &of_b);
        assert_int_equal(of_a.count, after);
        assert_int_equal(of_a.result.end, XLSTM_END_CANCELLED);
        assert_memory_equal(of_a.ids, of_b.ids, (size_t)after * sizeof *of_a.ids);
        if (of_a.result.last_id < 0)
            test_feed(b, &of_b.result.last_id, 1, NULL);
        assert_int_equal(
            of_a.result.last_id<0, after> 1); /* the first was chosen by the prompt's piece */
        expect_same_states(a, b);
        xlstm_session_free(a);
        xlstm_session_free(b);
    }
    xlstm_model_free(ahead);
    xlstm_model_free(plain);
}

static void test_cancelling(void **state) {
    (void)state;
    each_device(cancelled);
}

/* ---- Others that use the model while a token is under way ---- */

/* A text of its own, also ahead. */
static void *use_the_model(void *context) {
    run text = {0};
    xlstm_session *other = test_session(((run *)context)->model);
    generate(other, &warm, prompt + 2, 3, (xlstm_generate_options){.max_tokens = 5}, &text);
    xlstm_session_free(other);
    return NULL;
}

static void in_another_thread(run *r) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, use_the_model, r), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void shared(device_under_test *d) {
    xlstm_model *ahead = load(d, true), *plain = load(d, false);
    /* In the middle of a text; where the id ends it; where it is cancelled. */
    for (int way = 0; way < 3; way++) {
        xlstm_session *a = test_session(ahead), *b = test_session(plain);
        run of_a = {.meanwhile = in_another_thread}, of_b = {0};
        of_a.cancel_after = of_b.cancel_after = way == 2 ? 2 : 0;
        xlstm_generate_options options = {.max_tokens = 8, .ignore_eos = true};
        run third = {0};
        xlstm_session *c = test_session(plain);
        generate(c, &warm, prompt, PROMPT, options, &third);
        xlstm_session_free(c);
        options.stop_ids = &third.ids[2];
        options.stop_id_count = way == 1;
        generate(a, &warm, prompt, PROMPT, options, &of_a);
        generate(b, &warm, prompt, PROMPT, options, &of_b);
        assert_int_equal(of_a.count, of_b.count);
        assert_memory_equal(of_a.ids, of_b.ids, (size_t)of_a.count * sizeof *of_a.ids);
        assert_int_equal(of_a.result.end, of_b.result.end);
        if (of_a.result.last_id < 0)
            test_feed(b, &of_b.result.last_id, 1, NULL);
        expect_same_states(a, b);
        xlstm_session_free(a);
        xlstm_session_free(b);
    }
    xlstm_model_free(ahead);
    xlstm_model_free(plain);
}

static void test_sharing(void **state) {
    (void)state;
    each_device(shared);
}

/* ---- Two texts by turns ---- */

typedef struct turns {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int now, running;
} turns;

typedef struct player {
    turns *turns;
    int number;
    xlstm_session *session;
    run run;
} player;

static void give_turn(player *p, bool wait) {
    turns *t = p->turns;
    pthread_mutex_lock(&t->lock);
    t->now = !p->number;
    pthread_cond_broadcast(&t->changed);
    while (wait && t->running == 2 && t->now != p->number)
        pthread_cond_wait(&t->changed, &t->lock);
    t->running -= !wait;
    pthread_mutex_unlock(&t->lock);
}

static bool take_id_by_turns(void *context, int32_t id) {
    player *p = context;
    p->run.ids[p->run.count++] = id;
    give_turn(p, true);
    return true;
}

static void *play(void *context) {
    player *p = context;
    xlstm_sampler *sampler;
    xlstm_generate_options options = {
        .max_tokens = 9, .on_id = take_id_by_turns, .context = context, .ignore_eos = true};
    assert_int_equal(xlstm_sampler_create(p->session->model, &warm, &sampler), XLSTM_OK);
    assert_int_equal(
        xlstm_generate(p->session, sampler, prompt + p->number, 4, &options, &p->run.result),
        XLSTM_OK);
    xlstm_sampler_free(sampler);
    give_turn(p, false);
    return NULL;
}

static void by_turns(device_under_test *d) {
    xlstm_model *ahead = load(d, true), *plain = load(d, false);
    turns t = {.running = 2};
    player players[2];
    pthread_t threads[2];
    pthread_mutex_init(&t.lock, NULL);
    pthread_cond_init(&t.changed, NULL);
    for (int i = 0; i < 2; i++)
        players[i] = (player){.turns = &t, .number = i, .session = test_session(ahead)};
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, play, &players[i]), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < 2; i++) {
        run alone = {0};
        xlstm_session *session = test_session(plain);
        generate(session, &warm, prompt + i, 4,
                 (xlstm_generate_options){.max_tokens = 9, .ignore_eos = true}, &alone);
        expect_same_runs(&players[i].run, &alone);
        expect_same_states(players[i].session, session);
        xlstm_session_free(players[i].session);
        xlstm_session_free(session);
    }
    pthread_cond_destroy(&t.changed);
    pthread_mutex_destroy(&t.lock);
    xlstm_model_free(ahead);
    xlstm_model_free(plain);
}

static void test_turns(void **state) {
    (void)state;
    each_device(by_turns);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),      cmocka_unit_test(test_ends),
        cmocka_unit_test(test_cancelling), cmocka_unit_test(test_sharing),
        cmocka_unit_test(test_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
