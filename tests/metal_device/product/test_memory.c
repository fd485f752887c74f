/* Weights are used where they are mapped: nothing of them is copied, whatever the size of a page and however much longer
 * the file is than the GPU's largest buffer. */
#include "story.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model/calibrate.h"
#include "ops/ops.h"
#include "support/models.h"
#include "support/support.h"

/* ---- Zero copy -------------------------------------------------------------------------------- */

typedef struct weights_case {
    const char *path;
    size_t page;
    xlstm_model_options options;
    float logits[STORY_VOCAB]; /* shared with the parent */
    uint64_t buffers, live;    /* of the loaded model; bytes that it does not map */
} weights_case;

static void in_place(const xlstm_model *model, size_t page) {
    const weights *w = &model->weights;
    must(w->file_count > 0 && w->buffer_count > w->file_count, "nothing is there");
    for (int i = 0; i < w->buffer_count; i++) {
        must(w->buffers[i].host == w->hosts[i], "buffer %d is a copy", i);
        must((uintptr_t)w->hosts[i] % page == 0, "buffer %d does not begin at a page", i);
    }
    for (int i = 0; i < w->file_count; i++)
        must(w->hosts[i] == (const void *)model->files.maps[i].data, "file %d is not mapped", i);
}

static void use_weights(void *context) {
    weights_case *c = context;
    char page[32];
    snprintf(page, sizeof page, "%zu", c->page);
    must(setenv("XLSTM_METAL_TEST_PAGE", page, 1) == 0, "no environment");
    xlstm_model *model = product_load(c->path, &c->options);
    c->buffers = metal_device_counted().buffers;
    c->live = metal_device_live_bytes();
    in_place(model, c->page);
    xlstm_session *session = product_session(model);
    story_first_words(session, c->logits);
    xlstm_session_free(session);
    xlstm_model_free(model);
}

/* As a machine with these pages and this largest buffer (0: as long as any). */
static const weights_case *run_case(const char *path, size_t page, uint64_t largest) {
    static weights_case *shared;
    if (!shared)
        shared =
            mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *shared = (weights_case){.path = path, .page = page, .options = product_options};
    shared->options.max_sessions = 1;
    metal_device_config machine = product_machine();
    machine.page = page;
    if (largest > 0)
        machine.largest_buffer = largest;
    product_run(&machine, use_weights, shared);
    return shared;
}

static int64_t bytes_of_weights(const char *path) {
    xlstm_model_info info;
    xlstm_model *model = test_model(path, NULL);
    xlstm_model_get_info(model, &info);
    xlstm_model_free(model);
    return info.weight_bytes;
}

#define LONG_MODEL                                                                                 \
    "{\"model_type\": \"xlstm\", \"embedding_dim\": 64, \"num_heads\": 2, \"num_blocks\": 12, "    \
    "\"vocab_size\": 48, \"ffn_round_up_to_multiple_of\": 8}"
#define BROAD_MODEL                                                                                \
    "{\"model_type\": \"xlstm\", \"embedding_dim\": 256, \"num_heads\": 2, \"num_blocks\": 1, "    \
    "\"vocab_size\": 2048, \"ffn_round_up_to_multiple_of\": 8}"

static void pages(void **state) {
    (void)state;
    const char *path = test_random_model("long", LONG_MODEL);
    weights_case small = *run_case(path, 4096, 0);
    const weights_case *large = run_case(path, 16384, 0);
    assert_memory_equal(small.logits, large->logits, sizeof small.logits);
    assert_int_equal(small.buffers, large->buffers);
    assert_int_equal(small.live, large->live);
}

/* Whichever of the buffers over a mapping fails, none stays. */
static void a_piece_fails(void *path) {
    xlstm_model_options options = product_options;
    options.max_sessions = 1;
    for (unsigned n = 1; n <= 3; n++) {
        uint64_t live = metal_device_live_objects();
        xlstm_model *model;
        metal_device_fail(METAL_FAULT_BUFFER, n, 0);
        product_error(xlstm_model_load(path, &options, &model), XLSTM_OUT_OF_MEMORY,
                      "the weights: out of memory");
        must(metal_device_live_objects() == live || live == 0, "%llu objects live",
             (unsigned long long)metal_device_live_objects());
    }
}

static void a_long_mapping(void **state) {
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", test_random_model("longer", LONG_MODEL));
    const uint64_t largest = 700000;
    int64_t bytes = bytes_of_weights(path);
    assert_true(bytes > (int64_t)largest);
    for (size_t page = 4096; page <= 16384; page *= 4) {
        weights_case whole = *run_case(path, page, 0);
        const weights_case *pieces = run_case(path, page, largest);
        assert_true(pieces->buffers > whole.buffers + 1);
        assert_int_equal(pieces->live, whole.live);
        assert_memory_equal(whole.logits, pieces->logits, sizeof whole.logits);
    }
    metal_device_config machine = product_machine();
    machine.largest_buffer = largest;
    product_run(&machine, a_piece_fails, path);
}

static void too_large(void *path) {
    xlstm_model_options options = product_options;
    options.max_sessions = 1;
    xlstm_model *model;
    product_error(xlstm_model_load(path, &options, &model), XLSTM_UNSUPPORTED,
                  "has 1048576 bytes; in a file of ");
    product_error(XLSTM_UNSUPPORTED, XLSTM_UNSUPPORTED, "takes tensors of at most 897008");
    must(metal_device_live_bytes() == 0, "bytes of a model that was not loaded");
}

static void a_tensor_that_is_too_large(void **state) {
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", test_random_model("broad", BROAD_MODEL));
    metal_device_config machine = product_machine();
    machine.largest_buffer = 1800000;
    product_run(&machine, too_large, path);
}

/* What does not begin at a page is copied, as it then is. */
static void copies(void *context) {
    (void)context;
    static char bytes[30000];
    ops_device *device = ops_device_find("metal");
    memset(bytes, 7, sizeof bytes);
    for (size_t size = 0; size < 20000; size += 4999) {
        ops_buffer copy;
        char *from = bytes + 16 - (uintptr_t)bytes % 16 + 16 * (size % 2 + 1);
        must(device->buffer_wrap(device, from, size, &copy) == XLSTM_OK, "%s", xlstm_last_error());
        must(copy.host != from && copy.size == size, "%zu bytes are not copied", size);
        must(memcmp(copy.host, from, size) == 0, "%zu other bytes", size);
        device->buffer_free(&copy);
    }
}

static void what_lies_within_a_page(void **state) {
    (void)state;
    product_run(NULL, copies, NULL);
}

/* ---- What reads the memory of a device --------------------------------------------------------- */

static void calibrate(void *path) {
    xlstm_model *model = product_load(path, &product_options);
    calibration *found;
    product_error(calibration_run(model, (const int32_t[]){1, 2, 3}, 3, 10, NULL, NULL, &found),
                  XLSTM_UNSUPPORTED, "which the device cpu can with activations in f32, not metal");
    must(!found, "a calibration");
    xlstm_model_free(model);
}

static void calibration_needs_ops_that_are_done(void **state) {
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", test_random_model("calibrated", STORY_MODEL));
    product_run(NULL, calibrate, path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages),
        cmocka_unit_test(a_long_mapping),
        cmocka_unit_test(a_tensor_that_is_too_large),
        cmocka_unit_test(what_lies_within_a_page),
        cmocka_unit_test(calibration_needs_ops_that_are_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
