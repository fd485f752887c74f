#include "story.h"

#include <stdio.h>
#include <string.h>

enum { PROMPT = 2 };

static const int32_t prompt[PROMPT + 1] = {11, 18, 25};

/* ---- Steps ---- */

static xlstm_session *uses(story *s, int first, int second, int64_t tokens) {
    s->used[0] = s->session[first];
    s->used[1] = second < 0 ? NULL : s->session[second];
    s->before = xlstm_session_position(s->used[0]);
    s->allowed = tokens;
    return s->used[0];
}

typedef struct id_list {
    int32_t *ids;
    int *count;
} id_list;

static bool put(void *context, int32_t id) {
    id_list *list = context;
    list->ids[(*list->count)++] = id;
    return *list->count < STORY_NEW + 1;
}

static xlstm_status generate(story *s, const xlstm_sampling *sampling, int32_t *ids, int *count) {
    xlstm_session *session = uses(s, 0, -1, PROMPT + STORY_NEW);
    id_list list = {ids, count};
    xlstm_generate_options options = {
        .max_tokens = STORY_NEW, .ignore_eos = true, .on_id = put, .context = &list};
    xlstm_generate_result result;
    xlstm_sampler *sampler;
    xlstm_status status = xlstm_sampler_create(s->model, sampling, &sampler);
    if (status == XLSTM_OK)
        status = xlstm_generate(session, sampler, prompt, PROMPT, &options, &result);
    xlstm_sampler_free(sampler);
    return status;
}

static xlstm_status begin(story *s) {
    return xlstm_session_create(s->model, &s->session[0]);
}

static xlstm_status generate_greedily(story *s) {
    return generate(s, &(xlstm_sampling){0}, s->end.greedy, &s->greedy_count);
}

static xlstm_status save(story *s) {
    return xlstm_session_save(s->session[0], s->file);
}

static xlstm_status clone(story *s) {
    return xlstm_session_clone(s->session[0], &s->session[1]);
}

static xlstm_status eval_clone(story *s) {
    return xlstm_eval(uses(s, 1, -1, 2), prompt, 2, s->end.logits[0], NULL, NULL);
}

static xlstm_status begin_another(story *s) {
    return xlstm_session_create(s->model, &s->session[2]);
}

static xlstm_status load(story *s) {
    return xlstm_session_load(s->session[2], s->file);
}

static xlstm_status eval_loaded(story *s) {
    return xlstm_eval(uses(s, 2, -1, 2), prompt, 2, s->end.logits[1], NULL, NULL);
}

static xlstm_status eval_batch(story *s) {
    uses(s, 1, 2, PROMPT);
    xlstm_batch_item items[] = {{s->session[1], prompt, PROMPT, s->end.logits[2], NULL, NULL},
                                {s->session[2], prompt + 1, 2, s->end.logits[3], NULL, NULL}};
    return xlstm_eval_batch(items, 2);
}

static bool keep_last(void *context, int64_t first, int64_t rows, const float *logits) {
    float *last = context;
    (void)first;
    memcpy(last, logits + (rows - 1) * STORY_VOCAB, STORY_VOCAB * sizeof *last);
    return true;
}

static xlstm_status eval_all(story *s) {
    return xlstm_eval_all(uses(s, 1, -1, PROMPT), prompt, PROMPT, keep_last, s->end.logits[4]);
}

static xlstm_status sample(story *s) {
    xlstm_sampler *sampler;
    xlstm_status status = xlstm_sampler_create(
        s->model, &(xlstm_sampling){.temperature = 1, .top_k = 20, .seed = 3}, &sampler);
    if (status == XLSTM_OK)
        status = xlstm_sample(sampler, s->end.logits[4], 100, &s->end.chosen);
    xlstm_sampler_free(sampler);
    return status;
}

static xlstm_status reset(story *s) {
    return xlstm_session_reset(s->session[0]);
}

static xlstm_status generate_drawn(story *s) {
    const xlstm_sampling sampling = {
        .temperature = 0.9f, .top_p = 0.9f, .repetition_penalty = 1.1f, .seed = 5};
    return generate(s, &sampling, s->end.drawn, &s->drawn_count);
}

static const struct {
    const char *name;
    xlstm_status (*run)(story *);
} steps[] = {{"begin", begin},
             {"generate greedily", generate_greedily},
             {"save", save},
             {"clone", clone},
             {"evaluate the clone", eval_clone},
             {"begin another", begin_another},
             {"load", load},
             {"evaluate what was loaded", eval_loaded},
             {"evaluate a batch", eval_batch},
             {"evaluate for all logits", eval_all},
             {"sample", sample},
             {"reset", reset},
             {"generate by drawing", generate_drawn}};

/* ---- The whole ---- */

xlstm_status story_tell(story *s) {
    xlstm_status status = XLSTM_OK;
    s->end = (story_end){0};
    s->greedy_count = s->drawn_count = 0;
    for (size_t i = 0; status == XLSTM_OK && i < sizeof steps / sizeof *steps; i++) {
        s->step = steps[i].name;
        s->used[0] = s->used[1] = NULL;
        status = steps[i].run(s);
    }
    return status;
}

void story_forget(story *s) {
    for (int i = 0; i < STORY_SESSIONS; i++) {
        xlstm_session_free(s->session[i]);
        s->session[i] = NULL;
    }
}

static void compare_ids(const story *s, const int32_t *ids, int count, const int32_t *right) {
    for (int i = 0; i < count; i++)
        must(ids[i] == right[i], "%s: id %d of %d is %d, not %d", s->step, i, count, ids[i],
             right[i]);
}

void story_compare(const story *s, const story_end *right, bool whole) {
    must(!whole || (s->greedy_count == STORY_NEW && s->drawn_count == STORY_NEW),
         "%d and %d new tokens", s->greedy_count, s->drawn_count);
    compare_ids(s, s->end.greedy, s->greedy_count, right->greedy);
    compare_ids(s, s->end.drawn, s->drawn_count, right->drawn);
    if (!whole)
        return;
    must(s->end.chosen == right->chosen, "%d, not %d", s->end.chosen, right->chosen);
    must(memcmp(s->end.logits, right->logits, sizeof right->logits) == 0, "other logits");
}

void story_first_words(xlstm_session *session, float *logits) {
    must(xlstm_eval(session, prompt + 1, PROMPT, logits, NULL, NULL) == XLSTM_OK, "%s",
         xlstm_last_error());
}

void story_go_on(xlstm_session *session, const char *file, float *logits) {
    must(xlstm_session_load(session, file) == XLSTM_OK, "%s", xlstm_last_error());
    must(xlstm_eval(session, prompt, 2, logits, NULL, NULL) == XLSTM_OK, "%s", xlstm_last_error());
}
