/* Nothing is made while a text is generated: from the first id on the library takes no memory, and Metal makes no
 * buffer, pipeline, library, queue or event. And nothing stays: what sessions, prompts, copies and states have made is gone
 * with the model, and at the end of the process all of it.
 *
 * The library's own calls of malloc and the like come here (host.mk gives them other names); those of the
 * look-alike of Metal do not. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/session.h"
#include "metal_device/device.h"
#include "support/models.h"
#include "support/support.h"

/* ---- The library's memory ---- */

static uint64_t allocations;

static void count(void) {
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
}

void *counted_malloc(size_t size);
void *counted_calloc(size_t number, size_t size);
void *counted_realloc(void *old, size_t size);
void *counted_aligned_alloc(size_t alignment, size_t size);
int counted_posix_memalign(void **out, size_t alignment, size_t size);
char *counted_strdup(const char *text);
char *counted_strndup(const char *text, size_t most);
FILE *counted_fopen(const char *path, const char *mode);

void *counted_malloc(size_t size) {
    count();
    return malloc(size);
}
void *counted_calloc(size_t number, size_t size) {
    count();
    return calloc(number, size);
}
void *counted_realloc(void *old, size_t size) {
    count();
    return realloc(old, size);
}
void *counted_aligned_alloc(size_t alignment, size_t size) {
    count();
    return aligned_alloc(alignment, size);
}
int counted_posix_memalign(void **out, size_t alignment, size_t size) {
    count();
    return posix_memalign(out, alignment, size);
}
char *counted_strdup(const char *text) {
    count();
    return strdup(text);
}
char *counted_strndup(const char *text, size_t most) {
    count();
    return strndup(text, most);
}
FILE *counted_fopen(const char *path, const char *mode) {
    count();
    return fopen(path, mode);
}

/* ---- Generating ---- */

enum { TOKENS = 8, LONG_PROMPT = 70 };

typedef struct watch {
    int ids;
    uint64_t allocations;       /* when the first id came */
    metal_device_counts counts; /* when the model was loaded */
    uint64_t live_bytes;
    char made[128]; /* the first thing that was made since */
    char text[512];
    size_t length;
} watch;

static void compare(watch *w, const char *what, uint64_t before, uint64_t now) {
    if (before != now && !w->made[0])
        snprintf(w->made, sizeof w->made, "%llu %s more with id %d",
                 (unsigned long long)(now - before), what, w->ids);
}

static bool see_id(void *context, int32_t id) {
    (void)id;
    watch *w = context;
    const metal_device_counts now = metal_device_counted(), *then = &w->counts;
    if (w->ids++ == 0)
        w->allocations = allocations;
    compare(w, "allocations", w->allocations, allocations);
    compare(w, "buffers", then->buffers, now.buffers);
    compare(w, "bytes of buffers", then->buffer_bytes, now.buffer_bytes);
    compare(w, "queues", then->queues, now.queues);
    compare(w, "libraries", then->libraries, now.libraries);
    compare(w, "functions", then->functions, now.functions);
    compare(w, "pipelines", then->pipelines, now.pipelines);
    compare(w, "events", then->events, now.events);
    compare(w, "residency sets", then->residency_sets, now.residency_sets);
    compare(w, "bytes of live buffers", w->live_bytes, metal_device_live_bytes());
    return true;
}

static bool see_text(void *context, const char *bytes, size_t size) {
    watch *w = context;
    size_t room = sizeof w->text - w->length, part = size < room ? size : room;
    memcpy(w->text + w->length, bytes, part);
    w->length += part;
    return true;
}

/* `loaded`: what was counted when the model was there. */
static void generate(xlstm_session *session, const metal_device_counts *loaded,
                     const xlstm_sampling *sampling, const int32_t *ids, int64_t prompt,
                     bool text) {
    xlstm_sampler *sampler;
    xlstm_generate_result result;
    uint64_t objects = metal_device_live_objects();
    watch w = {.counts = *loaded, .live_bytes = metal_device_live_bytes()};
    xlstm_generate_options options = {.max_tokens = TOKENS,
                                      .ignore_eos = true,
                                      .on_id = see_id,
                                      .on_text = text ? see_text : NULL,
                                      .context = &w};
    assert_int_equal(xlstm_sampler_create(session->model, sampling, &sampler), XLSTM_OK);
    if (xlstm_generate(session, sampler, ids, prompt, &options, &result) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    assert_int_equal(w.ids, TOKENS);
    if (w.made[0])
        fail_msg("%s, of %d", w.made, TOKENS);
    assert_int_equal(metal_device_live_objects(), objects);
    xlstm_sampler_free(sampler);
}

/* Models, prompts and rules. The first model makes all kernels that it will need when it is loaded. */
static void test_generating(void **state) {
    (void)state;
    static const xlstm_sampling rules = {
        .temperature = 0.9f, .top_k = 40, .top_p = 0.95f, .repetition_penalty = 1.1f, .seed = 5};
    static const xlstm_model_options options[] = {
        {.device = "metal"},
        {.device = "metal", .profile = "exact"},
        {.device = "metal", .deferred = 4, .state_dtype = "bf16"},
    };
    int32_t ids[LONG_PROMPT];
    for (int i = 0; i < LONG_PROMPT; i++)
        ids[i] = i * 7 % 300;
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        xlstm_model *model = test_model(test_small_model(), &options[i]);
        const metal_device_counts loaded = metal_device_counted();
        xlstm_session *session = test_session(model);
        generate(session, &loaded, NULL, ids, LONG_PROMPT, false);
        generate(session, &loaded, &rules, ids, 1, false);
        generate(session, &loaded, &rules, ids, 5, false);
        xlstm_session_free(session);
        xlstm_model_free(model);
    }
}

/* The real model, whose tokenizer makes text of ids. */
static void test_text(void **state) {
    (void)state;
    static const int32_t ids[] = {5, 80, 900};
    xlstm_model *model = test_model(TEST_MODEL, &(xlstm_model_options){.device = "metal"});
    const metal_device_counts loaded = metal_device_counted();
    xlstm_session *session = test_session(model);
    generate(session, &loaded, NULL, ids, 3, true);
    xlstm_session_free(session);
    xlstm_model_free(model);
}

/* ---- What stays ---- */

static bool take_logits(void *context, int64_t first, int64_t rows, const float *logits) {
    (void)first, (void)logits;
    *(int64_t *)context += rows;
    return true;
}

/* All that a model can be asked for. */
static void use(xlstm_model *model) {
    enum { IDS = 40 };
    int32_t ids[IDS];
    int64_t rows = 0;
    xlstm_model_info info;
    const metal_device_counts loaded = metal_device_counted();
    xlstm_session *session = test_session(model), *copy, *third = test_session(model);
    xlstm_model_get_info(model, &info);
    float *logits = malloc((size_t)info.vocab_size * sizeof *logits);
    assert_non_null(logits);
    for (int i = 0; i < IDS; i++)
        ids[i] = i * 11 % 300;
    test_feed(session, ids, IDS, logits);
    assert_int_equal(xlstm_session_clone(session, &copy), XLSTM_OK);
    generate(copy, &loaded, NULL, ids, 3, false);
    assert_int_equal(xlstm_eval_all(copy, ids, IDS, take_logits, &rows), XLSTM_OK);
    assert_int_equal(rows, IDS);
    assert_int_equal(xlstm_session_save(session, test_path("state")), XLSTM_OK);
    assert_int_equal(xlstm_session_load(third, test_path("state")), XLSTM_OK);
    xlstm_batch_item items[] = {{session, ids, 3, logits, NULL, NULL},
                                {.session = copy, .ids = ids, .count = 1},
                                {.session = third, .ids = ids, .count = 9}};
    assert_int_equal(xlstm_eval_batch(items, 3), XLSTM_OK);
    assert_int_equal(xlstm_session_reset(copy), XLSTM_OK);
    if (info.deferred > 0)
        assert_int_equal(xlstm_session_rewind(third, 1), XLSTM_OK);
    /* Errors leave nothing either. */
    assert_int_not_equal(xlstm_eval(session, (int32_t[]){-1}, 1, NULL, NULL, NULL), XLSTM_OK);
    assert_int_not_equal(xlstm_session_load(session, test_path("no such state")), XLSTM_OK);
    xlstm_session_free(session);
    xlstm_session_free(copy);
    xlstm_session_free(third);
    free(logits);
}

/* Device, queue, library and pipelines are the process's: they are there after the first round, and after the next
 * nothing else is. */
static void test_what_stays(void **state) {
    (void)state;
    static const xlstm_model_options options[] = {
        {.device = "metal", .max_sessions = 3},
        {.device = "metal", .max_sessions = 3, .profile = "exact", .deferred = 16},
    };
    uint64_t objects = 0, bytes = 0;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 2; i++) {
            xlstm_model *model = test_model(test_small_model(), &options[i]);
            use(model);
            xlstm_model_free(model);
        }
        if (round > 0 && metal_device_live_objects() != objects) {
            metal_device_print_live(stderr);
            fail_msg("%llu objects live after round %d, %llu after the one before",
                     (unsigned long long)metal_device_live_objects(), round,
                     (unsigned long long)objects);
        }
        objects = metal_device_live_objects();
        bytes = metal_device_live_bytes();
        assert_int_equal(bytes, 0);
    }
}

/* The last to be called, since it is registered first: after the library has let go of the GPU. */
static void expect_nothing(void) {
    if (metal_device_live_objects() == 0 && metal_device_counted().violations == 0)
        return;
    fprintf(stderr, "objects that live at the end of the process:\n");
    metal_device_print_live(stderr);
    _exit(1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generating),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_what_stays),
    };
    if (atexit(expect_nothing) != 0)
        return 1;
    metal_device_config config = metal_device_default();
    config.mode = GPU_FAST;
    metal_device_configure(&config);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
