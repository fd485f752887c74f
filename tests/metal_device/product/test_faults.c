/* What can fail on a GPU fails here, one thing at a time, under a model that is loaded and used through
 * include/xlstm.h: the status and its message must be right, sessions must be what the header says they are then, and
 * all must go on, or end, as if nothing had happened. */
#include "story.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/models.h"
#include "support/support.h"

static const char *model_path, *state_path;

/* MTLCommandBufferError, and what becomes of each. */
static const struct {
    long code;
    xlstm_status status;
    const char *words;
} command_faults[] = {
    {1, XLSTM_DEVICE_ERROR, "the GPU failed"},
    {2, XLSTM_DEVICE_ERROR, "; a smaller max_batch_tokens makes its work shorter"},
    {3, XLSTM_DEVICE_ERROR,
     "a kernel touched memory that is not there (\"Linux test device\"): Caused GPU Address Fault "
     "Error (injected); this is a fault of xlstm"},
    {4, XLSTM_DEVICE_ERROR, "the system does not let this process use the GPU"},
    {7, XLSTM_DEVICE_ERROR, "the system does not let this process use the GPU"},
    {8, XLSTM_OUT_OF_MEMORY,
     "the GPU is out of memory (\"Linux test device\"): Insufficient Memory (injected); a smaller "
     "max_batch_tokens needs less"},
    {11, XLSTM_DEVICE_ERROR, "the GPU is lost"},
    {77, XLSTM_DEVICE_ERROR, "the GPU failed"}, /* one that is not known yet */
};
enum { COMMAND_FAULTS = sizeof command_faults / sizeof *command_faults };

/* ---- Helpers ---- */

/* The model, a story of it that ended well, and a session that stands by with its next logits. */
typedef struct scene {
    story story;
    story_end right;
    xlstm_session *bystander;
    float first[STORY_VOCAB], next[STORY_VOCAB]; /* of any session; of the bystander */
    uint64_t live; /* objects without a model, once all pipelines are made */
} scene;

static void open_scene(scene *s) {
    xlstm_model_options options = product_options;
    options.max_sessions = STORY_SESSIONS + 2;
    s->story = (story){.model = product_load(model_path, &options), .file = state_path};
    s->bystander = product_session(s->story.model);
    story_first_words(s->bystander, s->first);
}

static void close_scene(scene *s) {
    story_forget(&s->story);
    xlstm_session_free(s->bystander);
    xlstm_model_free(s->story.model);
}

static void next_words(const scene *s, float *logits) {
    xlstm_session *copy;
    must(xlstm_session_clone(s->bystander, &copy) == XLSTM_OK, "%s", xlstm_last_error());
    story_first_words(copy, logits);
    xlstm_session_free(copy);
}

/* Without a fault; leaves no model. */
static void begin_scene(scene *s) {
    open_scene(s);
    must(story_tell(&s->story) == XLSTM_OK, "%s: %s", s->story.step, xlstm_last_error());
    s->right = s->story.end;
    story_compare(&s->story, &s->right, true);
    next_words(s, s->next);
    close_scene(s);
    s->live = metal_device_live_objects();
}

static void same_logits(const float *logits, const float *right, const char *what) {
    must(memcmp(logits, right, STORY_VOCAB * sizeof *logits) == 0, "other logits: %s", what);
}

/* After a step has failed. */
static void check_failed(const scene *s) {
    const story *told = &s->story;
    float logits[STORY_VOCAB];
    story_compare(told, &s->right, false);
    for (int i = 0; i < 2 && told->used[i]; i++) {
        if (i == 1 && xlstm_eval(told->used[i], (int32_t[]){1}, 1, NULL, NULL, NULL) == XLSTM_OK)
            break; /* it was done when the other went on */
        product_error(xlstm_eval(told->used[i], (int32_t[]){1}, 1, NULL, NULL, NULL),
                      XLSTM_DEVICE_ERROR, "reset it or load a state");
        product_error(xlstm_session_save(told->used[i], state_path), XLSTM_DEVICE_ERROR,
                      "there is no state to save");
    }
    if (told->used[0]) {
        int64_t taken = xlstm_session_position(told->used[0]) - told->before;
        must(taken >= 0 && taken <= told->allowed && told->before >= 0,
             "%s: %lld tokens were taken in", told->step, (long long)taken);
    }
    if (told->used[0] && told->session[2]) { /* there is a state file */
        story_go_on(told->used[0], told->file, logits);
        same_logits(logits, s->right.logits[1], "after a load");
    }
    next_words(s, logits);
    same_logits(logits, s->next, "of a session that stood by");
    for (int i = 0; i < STORY_SESSIONS; i++)
        if (told->session[i]) {
            must(xlstm_session_reset(told->session[i]) == XLSTM_OK, "%s", xlstm_last_error());
            must(xlstm_session_position(told->session[i]) == 0, "reset");
            story_first_words(told->session[i], logits);
            same_logits(logits, s->first, "after a reset");
        }
}

/* Tells the story with the nth of `what` failing, and every fourth time once more without. false: there are fewer. */
static bool tell_with(scene *s, enum metal_device_fault what, unsigned nth, long code,
                      xlstm_status wanted, const char *words) {
    open_scene(s);
    metal_device_fail(what, nth, code);
    xlstm_status status = story_tell(&s->story);
    bool failed = !metal_device_fails(what), whole = true;
    metal_device_fail(what, 0, 0);
    if (status != XLSTM_OK) {
        product_error(status, wanted, words);
        must(failed, "%s: %s", s->story.step, xlstm_last_error());
        check_failed(s);
        story_forget(&s->story);
        whole = nth % 4 == 1;
        status = whole ? story_tell(&s->story) : XLSTM_OK;
    }
    must(status == XLSTM_OK, "%s: %s", s->story.step, xlstm_last_error());
    story_compare(&s->story, &s->right, whole);
    close_scene(s);
    must(metal_device_live_objects() == s->live, "%llu objects live, not %llu",
         (unsigned long long)metal_device_live_objects(), (unsigned long long)s->live);
    return failed;
}

/* ---- Loading ---- */

/* The status of a load of which `what` fails the nth time, which leaves nothing behind but an open GPU. */
static xlstm_status load_with(enum metal_device_fault what, unsigned nth) {
    uint64_t live = metal_device_live_objects(), bytes = metal_device_live_bytes();
    metal_device_fail(what, nth, 0);
    xlstm_model *model = (xlstm_model *)&live;
    xlstm_status status = xlstm_model_load(model_path, &product_options, &model);
    metal_device_fail(what, 0, 0);
    must((status == XLSTM_OK) == (model != NULL), "status %d", status);
    xlstm_model_free(model);
    must(metal_device_live_objects() == live || status == XLSTM_OK || live == 0,
         "%llu objects live, not %llu", (unsigned long long)metal_device_live_objects(),
         (unsigned long long)live);
    must(metal_device_live_bytes() == bytes, "%llu bytes live, not %llu",
         (unsigned long long)metal_device_live_bytes(), (unsigned long long)bytes);
    return status;
}

static void each_buffer(void *context) {
    (void)context;
    static const char *const what[] = {
        "the weights", "scratch memory for 64 tokens (max_batch_tokens)",
        "the states of 4 sessions (max_sessions)", "activations of 64 tokens (max_batch_tokens)"};
    unsigned seen = 0, n = 1;
    metal_device_counts mark = metal_device_counted();
    must(load_with(METAL_FAULT_BUFFER, 0) == XLSTM_OK, "%s", xlstm_last_error());
    uint64_t buffers = metal_device_since(&mark).buffers;
    for (; load_with(METAL_FAULT_BUFFER, n) != XLSTM_OK; n++) {
        product_error(XLSTM_OUT_OF_MEMORY, XLSTM_OUT_OF_MEMORY, "out of memory");
        bool named = false;
        for (unsigned i = 0; i < sizeof what / sizeof *what; i++)
            if (strstr(xlstm_last_error(), what[i])) {
                named = true;
                seen |= 1u << i;
            }
        must(named, "what for: %s", xlstm_last_error());
    }
    must(seen == 15, "only %x of what needs buffers failed", seen);
    must(n - 1 == buffers, "%u buffers failed of %llu", n - 1, (unsigned long long)buffers);
}

static void compiler_fails(void *context) {
    (void)context;
    for (int i = 0; i < 2; i++)
        product_error(load_with(METAL_FAULT_LIBRARY, 1), XLSTM_DEVICE_ERROR,
                      "the kernels do not compile for the GPU \"Linux test device\": "
                      "program_source:1:1: error: unknown type name 'injected'");
    must(load_with(METAL_FAULT_LIBRARY, 0) == XLSTM_OK, "%s", xlstm_last_error());
}

static void no_queue(void *context) {
    (void)context;
    product_error(load_with(METAL_FAULT_QUEUE, 1), XLSTM_DEVICE_ERROR,
                  "the GPU \"Linux test device\" gives no command queue");
    must(metal_device_live_objects() == 0, "of a GPU that was not opened");
    must(load_with(METAL_FAULT_QUEUE, 0) == XLSTM_OK, "%s", xlstm_last_error());
}

/* Metal works without one. */
static void no_residency_set(void *context) {
    (void)context;
    must(load_with(METAL_FAULT_RESIDENCY, 1) == XLSTM_OK, "%s", xlstm_last_error());
    must(!metal_device_fails(METAL_FAULT_RESIDENCY), "none was asked for");
}

static void refused(void *words) {
    xlstm_model *model;
    product_error(xlstm_model_load(model_path, &product_options, &model), XLSTM_UNSUPPORTED, words);
    must(!model, "a model where there is no GPU");
    must(metal_device_live_objects() == 0, "of a GPU that was not opened");
}

static void little_memory(void *context) {
    (void)context;
    xlstm_model *model;
    product_error(xlstm_model_load(model_path, &product_options, &model), XLSTM_OUT_OF_MEMORY,
                  "out of memory");
}

static void loading(void **state) {
    (void)state;
    product_run(NULL, each_buffer, NULL);
    product_run(NULL, compiler_fails, NULL);
    product_run(NULL, no_queue, NULL);
    product_run(NULL, no_residency_set, NULL);
}

/* macOS 14 has no residency sets and no math modes. */
static void older_system(void *context) {
    (void)context;
    scene s;
    begin_scene(&s);
    must(metal_device_counted().residency_sets == 0, "a residency set on macOS 14");
    must(tell_with(&s, METAL_FAULT_COMMANDS, 1, 2, XLSTM_DEVICE_ERROR, "the GPU took too long"),
         "no commands");
}

static void machines(void **state) {
    (void)state;
    metal_device_config machine = product_machine();
    machine.present = false;
    product_run(&machine, refused, "this machine has no GPU that Metal can use");
    machine = product_machine();
    machine.family = 6;
    product_run(&machine, refused,
                "the GPU \"Linux test device\" is not of Apple silicon: M1 or later is needed");
    machine = product_machine();
    machine.macos = 14;
    product_run(&machine, older_system, NULL);
    machine = product_machine();
    machine.memory = 30000;
    product_run(&machine, little_memory, NULL);
    machine = product_machine();
    machine.largest_buffer = 16384;
    product_run(&machine, little_memory, NULL);
}

/* ---- Running ---- */

/* A model makes all its pipelines when it is loaded. None of them is there at first: each fails once, and is made when
 * a model is loaded again; what is asked of the last one makes none. */
static void each_pipeline(void *context) {
    (void)context;
    scene s;
    unsigned failed = 0;
    for (bool more = true; more; failed += more) {
        xlstm_model *model;
        metal_device_counts mark = metal_device_counted();
        metal_device_fail(METAL_FAULT_PIPELINE, failed == 0 ? 1 : 2, 0);
        xlstm_status status = xlstm_model_load(model_path, &product_options, &model);
        more = !metal_device_fails(METAL_FAULT_PIPELINE);
        metal_device_fail(METAL_FAULT_PIPELINE, 0, 0);
        must((status != XLSTM_OK) == more, "loading: status %d", status);
        if (more)
            product_error(status, XLSTM_DEVICE_ERROR,
                          "the GPU \"Linux test device\" does not take the kernel \"");
        must(!more || metal_device_since(&mark).pipelines == (failed > 0), "pipelines were made");
        if (more)
            continue;
        s.story = (story){.model = model, .file = state_path};
        mark = metal_device_counted();
        status = story_tell(&s.story);
        must(status == XLSTM_OK, "%s: status %d", s.story.step, status);
        must(metal_device_since(&mark).pipelines == 0, "pipelines were made after loading");
        story_forget(&s.story);
        xlstm_model_free(model);
    }
    must(failed > 10, "only %u pipelines failed", failed);
}

static void each_command_buffer(void *context) {
    (void)context;
    scene s;
    begin_scene(&s);
    unsigned n = 1, codes = 0;
    for (bool more = true; more; n++) {
        int i = (int)(codes++ % COMMAND_FAULTS);
        more = tell_with(&s, METAL_FAULT_COMMANDS, n, command_faults[i].code,
                         command_faults[i].status, command_faults[i].words);
    }
    must(n > COMMAND_FAULTS + 2, "only %u command buffers in all", n);
}

static void each_kind_of_failure(void *context) {
    (void)context;
    scene s;
    begin_scene(&s);
    for (int i = 0; i < COMMAND_FAULTS; i++) {
        metal_device_counts mark = metal_device_counted();
        bool failed = tell_with(&s, METAL_FAULT_COMMANDS, 2, command_faults[i].code,
                                command_faults[i].status, command_faults[i].words);
        must(failed && metal_device_since(&mark).failed == 1, "code %ld", command_faults[i].code);
    }
}

static void nothing_to_encode_into(void *context) {
    (void)context;
    scene s;
    begin_scene(&s);
    static const enum metal_device_fault what[] = {METAL_FAULT_COMMAND_BUFFER, METAL_FAULT_ENCODER};
    for (int i = 0; i < 2; i++) {
        unsigned n = 1;
        while (tell_with(&s, what[i], n, 0, XLSTM_DEVICE_ERROR,
                         "the GPU \"Linux test device\" takes no commands"))
            n += 3;
        must(n > 10, "only %u in all", n);
    }
}

/* Once it is lost, nothing works but freeing; where it comes back, all does. */
static void lost(void *context) {
    (void)context;
    scene s;
    begin_scene(&s);
    for (unsigned n = 1; n <= 7; n += 3) {
        open_scene(&s);
        metal_device_fail(METAL_FAULT_LOST, n, 0);
        product_error(story_tell(&s.story), XLSTM_DEVICE_ERROR, "the GPU is lost");
        story_compare(&s.story, &s.right, false);
        for (int i = 0; i < 2; i++)
            product_error(xlstm_eval(s.bystander, (int32_t[]){1}, 1, NULL, NULL, NULL),
                          XLSTM_DEVICE_ERROR, i == 0 ? "the GPU is lost" : "reset it");
        if (n > 1) {
            close_scene(&s);
            must(metal_device_live_objects() == s.live, "objects live");
            xlstm_model *model;
            product_error(xlstm_model_load(model_path, &product_options, &model),
                          XLSTM_OUT_OF_MEMORY, "gives no buffer");
            metal_device_fail(METAL_FAULT_LOST, 0, 0);
            open_scene(&s);
        } else {
            metal_device_fail(METAL_FAULT_LOST, 0, 0);
            story_forget(&s.story);
        }
        must(story_tell(&s.story) == XLSTM_OK, "%s: %s", s.story.step, xlstm_last_error());
        story_compare(&s.story, &s.right, true);
        close_scene(&s);
    }
    must(metal_device_live_objects() == s.live, "objects live");
    open_scene(&s); /* and the process may end so */
    metal_device_fail(METAL_FAULT_LOST, 1, 0);
    product_error(story_tell(&s.story), XLSTM_DEVICE_ERROR, "the GPU is lost");
    close_scene(&s);
}

static void running(void **state) {
    (void)state;
    product_run(NULL, each_pipeline, NULL);
    product_run(NULL, each_kind_of_failure, NULL);
    product_run(NULL, nothing_to_encode_into, NULL);
}

static void command_buffers(void **state) {
    (void)state;
    product_run(NULL, each_command_buffer, NULL);
}

static void a_lost_gpu(void **state) {
    (void)state;
    product_run(NULL, lost, NULL);
}

int main(void) {
    model_path = test_random_model("story", STORY_MODEL);
    state_path = test_path("state");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loading),         cmocka_unit_test(machines),   cmocka_unit_test(running),
        cmocka_unit_test(command_buffers), cmocka_unit_test(a_lost_gpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
