/* Several threads, each with sessions of its own, of one model and of two, on the GPU at the same time: each gets what
 * it gets alone. And faults meanwhile: they fail whom they concern, and everybody can begin anew. */
#include "story.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ops/ops.h"
#include "support/models.h"
#include "support/support.h"

enum { THREADS = 3, ROUNDS = 2 };

static char model_path[1024];

typedef struct teller {
    pthread_t thread;
    xlstm_model *model;
    const story_end *right;
    bool faults;
    char file[1100];
} teller;

static void *tell(void *context) {
    teller *t = context;
    for (int round = 0; round < ROUNDS; round++) {
        story s = {.model = t->model, .file = t->file};
        xlstm_status status = story_tell(&s);
        if (status == XLSTM_OK) {
            story_compare(&s, t->right, true);
        } else {
            product_error(t->faults ? status : XLSTM_OK, XLSTM_DEVICE_ERROR,
                          "the GPU took too long");
            story_compare(&s, t->right, false);
        }
        story_forget(&s);
    }
    return NULL;
}

static void begin(teller *t, xlstm_model *model, const story_end *right, int number, bool faults) {
    *t = (teller){.model = model, .right = right, .faults = faults};
    snprintf(t->file, sizeof t->file, "%s-%d", model_path, number);
    must(pthread_create(&t->thread, NULL, tell, t) == 0, "no thread");
}

static xlstm_model *load(void) {
    xlstm_model_options options = product_options;
    options.max_sessions = THREADS * STORY_SESSIONS;
    return product_load(model_path, &options);
}

static void alone(xlstm_model *model, story_end *end) {
    char file[1100];
    snprintf(file, sizeof file, "%s-alone", model_path);
    story s = {.model = model, .file = file};
    must(story_tell(&s) == XLSTM_OK, "%s: %s", s.step, xlstm_last_error());
    *end = s.end;
    story_forget(&s);
}

/* All at once; every third of some command buffers fails if `faults`. */
static void together(xlstm_model *const *models, int count, const story_end *right, bool faults) {
    teller tellers[THREADS];
    for (int i = 0; i < THREADS; i++)
        begin(&tellers[i], models[i % count], right, i, faults);
    for (int i = 0; i < 5 && faults; i++) {
        metal_device_fail(METAL_FAULT_COMMANDS, 3, 2);
        struct timespec pause = {.tv_nsec = 5000000};
        nanosleep(&pause, NULL);
    }
    for (int i = 0; i < THREADS; i++)
        must(pthread_join(tellers[i].thread, NULL) == 0, "a thread does not end");
    metal_device_fail(METAL_FAULT_COMMANDS, 0, 0);
}

static void one_model(void *context) {
    story_end right;
    xlstm_model *model = load();
    alone(model, &right);
    together(&model, 1, &right, context != NULL);
    alone(model, &right);
    xlstm_model_free(model);
}

static void two_models(void *context) {
    (void)context;
    story_end right, other;
    xlstm_model *models[2] = {load(), load()};
    alone(models[0], &right);
    alone(models[1], &other);
    must(memcmp(&right, &other, sizeof right) == 0, "two models of one file differ");
    together(models, 2, &right, false);
    xlstm_model_free(models[0]); /* the other goes on */
    alone(models[1], &other);
    must(memcmp(&right, &other, sizeof right) == 0, "after the other was freed");
    xlstm_model_free(models[1]);
}

/* The GPU is opened, kernels compiled and pipelines made by all threads at once. */
static void *load_and_tell(void *context) {
    story_end *end = context;
    xlstm_model *model = load();
    alone(model, end);
    xlstm_model_free(model);
    return NULL;
}

static void from_the_beginning(void *context) {
    (void)context;
    pthread_t threads[THREADS];
    story_end *ends = calloc(THREADS, sizeof *ends);
    must(ends, "no memory");
    for (int i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, load_and_tell, &ends[i]) == 0, "no thread");
    for (int i = 0; i < THREADS; i++)
        must(pthread_join(threads[i], NULL) == 0, "a thread does not end");
    metal_device_counts counts = metal_device_counted();
    must(counts.queues == 1 && counts.libraries == 1, "%llu queues, %llu libraries",
         (unsigned long long)counts.queues, (unsigned long long)counts.libraries);
    for (int i = 1; i < THREADS; i++)
        must(memcmp(&ends[0], &ends[i], sizeof *ends) == 0, "thread %d got something else", i);
    free(ends);
}

/* Only that, as nearly at once as can be. */
static atomic_int ready;

static void *create_a_buffer(void *unused) {
    (void)unused;
    ops_device *device = ops_device_find("metal");
    ops_buffer own;
    for (ready++; ready < THREADS;)
        ;
    must(device->buffer_create(device, 64, &own) == XLSTM_OK, "%s", xlstm_last_error());
    device->buffer_free(&own);
    return NULL;
}

static void open_at_once(void *context) {
    (void)context;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, create_a_buffer, NULL) == 0, "no thread");
    for (int i = 0; i < THREADS; i++)
        must(pthread_join(threads[i], NULL) == 0, "a thread does not end");
    must(metal_device_counted().queues == 1, "%llu queues",
         (unsigned long long)metal_device_counted().queues);
}

/* As an object with a destructor that lives as long as the program: it was there before the GPU, and ends after it. */
static xlstm_model *late_model;
static xlstm_session *late_session;

static void free_late(void) {
    float logits[STORY_VOCAB];
    story_first_words(late_session, logits);
    xlstm_session_free(late_session);
    xlstm_model_free(late_model);
    must(metal_device_live_bytes() == 0, "memory of a model that was freed");
    _exit(0); /* the GPU stays open */
}

static void end_before_the_model(void *context) {
    (void)context;
    must(atexit(free_late) == 0, "atexit");
    late_model = load();
    late_session = product_session(late_model);
}

static void a_model_that_outlives_main(void **state) {
    (void)state;
    product_run(NULL, end_before_the_model, NULL);
}

static void sessions_of_one_model(void **state) {
    (void)state;
    product_run(NULL, one_model, NULL);
}

static void sessions_of_two_models(void **state) {
    (void)state;
    product_run(NULL, two_models, NULL);
}

static void failures_beside_others(void **state) {
    (void)state;
    product_run(NULL, one_model, "faults");
}

static void threads_that_open_the_gpu(void **state) {
    (void)state;
    product_run(NULL, from_the_beginning, NULL);
    for (int i = 0; i < 40; i++)
        product_run(NULL, open_at_once, NULL);
}

int main(void) {
    snprintf(model_path, sizeof model_path, "%s", test_random_model("story", STORY_MODEL));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_of_one_model),      cmocka_unit_test(sessions_of_two_models),
        cmocka_unit_test(failures_beside_others),     cmocka_unit_test(threads_that_open_the_gpu),
        cmocka_unit_test(a_model_that_outlives_main),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
