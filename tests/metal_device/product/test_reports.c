/* What kernels find wrong while they run, which the host hears of when it waits: ids and rows that are not there, logits
 * that are no numbers. And how far a long prompt came that fails. */
#include "story.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/ops.h"
#include "support/models.h"
#include "support/support.h"

static char model_path[1024], nan_path[1024];

/* ---- Ops -------------------------------------------------------------------------------------- */

enum {
    ROWS = 5,
    WIDTH = 8,
    TOKENS = 3,
    IDS = 512,
    OUT = 1024,
    BATCH = 2048,
    SIZE = 4096 /* bytes */
};

typedef struct bench {
    ops_device *device;
    ops_stream *stream;
    ops_buffer buffer;
    ops_tensor table, ids, out;
} bench;

static void open_bench(bench *b) {
    ops_stream_options options = {.limits = {.tokens = 8,
                                             .sequences = 2,
                                             .width = WIDTH,
                                             .heads = 1,
                                             .head_dim_qk = 1,
                                             .head_dim_v = 1,
                                             .vocab = 8,
                                             .activation = DTYPE_F32}};
    b->device = ops_device_find("metal");
    must(b->device->stream_create(b->device, &options, &b->stream) == XLSTM_OK, "%s",
         xlstm_last_error());
    must(b->device->buffer_create(b->device, SIZE, &b->buffer) == XLSTM_OK, "%s",
         xlstm_last_error());
    b->table = ops_tensor_make(&b->buffer, 0, DTYPE_F32, 2, (int64_t[]){ROWS, WIDTH});
    b->ids = ops_tensor_make(&b->buffer, IDS, DTYPE_I32, 1, (int64_t[]){TOKENS});
    b->out = ops_tensor_make(&b->buffer, OUT, DTYPE_F32, 2, (int64_t[]){TOKENS, WIDTH});
}

static void close_bench(bench *b) {
    b->device->buffer_free(&b->buffer);
    b->device->stream_free(b->stream);
}

static void look_up(bench *b, bool embed, int32_t first, int32_t second, int32_t third) {
    int32_t ids[TOKENS] = {first, second, third};
    b->device->write(b->stream, &b->buffer, IDS, ids, sizeof ids);
    if (embed)
        b->device->ops.embed(b->stream,
                             &(struct ops_embed){.table = b->table, .ids = b->ids, .out = b->out});
    else
        b->device->ops.take_rows(
            b->stream, &(struct ops_take_rows){.x = b->table, .rows = b->ids, .out = b->out});
}

static void rows_that_are_not_there(void *context) {
    (void)context;
    bench b;
    float out[WIDTH];
    open_bench(&b);
    look_up(&b, true, 0, ROWS, -1);
    product_error(b.device->wait(b.stream), XLSTM_INVALID_ARGUMENT,
                  "embed: the id of token 1 is not a row of the table");
    look_up(&b, false, ROWS - 1, 0, INT32_MIN);
    product_error(b.device->read(b.stream, &b.buffer, OUT, out, sizeof out), XLSTM_INVALID_ARGUMENT,
                  "take_rows: index 2 is not a row of the source");
    look_up(&b, true, 0, ROWS - 1, 1);
    must(b.device->wait(b.stream) == XLSTM_OK, "%s", xlstm_last_error());
    must(b.device->read(b.stream, &b.buffer, OUT, out, sizeof out) == XLSTM_OK, "%s",
         xlstm_last_error());
    close_bench(&b);
}

static void wrong_batches(void *context) {
    (void)context;
    static const struct {
        int32_t slot[2], start[3];
        int64_t position;
        const char *words;
    } wrong[] = {{{0, 2}, {0, 1, 3}, 0, "names a slot that the states do not have"},
                 {{0, -1}, {0, 1, 3}, 0, "names a slot that the states do not have"},
                 {{0, 1}, {0, 3, 3}, 0, "every sequence has a token at least"},
                 {{0, 1}, {0, 1, 2}, 0, "end with its number of tokens"},
                 {{0, 1}, {0, 1, 3}, -1, "a position is negative or too large"},
                 {{1, 0}, {0, 1, 3}, 7, NULL}};
    bench b;
    open_bench(&b);
    struct ops_causal_conv op = {
        .batch = {.sequences = 2,
                  .tokens = TOKENS,
                  .longest = 2,
                  .slot = ops_tensor_make(&b.buffer, BATCH, DTYPE_I32, 1, (int64_t[]){2}),
                  .start = ops_tensor_make(&b.buffer, BATCH + 16, DTYPE_I32, 1, (int64_t[]){3}),
                  .position = ops_tensor_make(&b.buffer, BATCH + 32, DTYPE_I64, 1, (int64_t[]){2})},
        .x = b.out,
        .weight = ops_tensor_make(&b.buffer, 0, DTYPE_F32, 2, (int64_t[]){WIDTH, 2}),
        .state = ops_tensor_make(&b.buffer, BATCH + 64, DTYPE_F32, 3, (int64_t[]){2, 1, WIDTH}),
        .activation = OPS_IDENTITY,
        .out = ops_tensor_make(&b.buffer, OUT + 512, DTYPE_F32, 2, (int64_t[]){TOKENS, WIDTH})};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int64_t positions[2] = {wrong[i].position, 0};
        b.device->write(b.stream, &b.buffer, BATCH, wrong[i].slot, sizeof wrong[i].slot);
        b.device->write(b.stream, &b.buffer, BATCH + 16, wrong[i].start, sizeof wrong[i].start);
        b.device->write(b.stream, &b.buffer, BATCH + 32, positions, sizeof positions);
        b.device->ops.causal_conv(b.stream, &op);
        xlstm_status status = b.device->wait(b.stream);
        if (wrong[i].words)
            product_error(status, XLSTM_INVALID_ARGUMENT, wrong[i].words);
        else
            must(status == XLSTM_OK, "%s", xlstm_last_error());
    }
    close_bench(&b);
}

static void ops_with_wrong_ids(void **state) {
    (void)state;
    product_run(NULL, rows_that_are_not_there, NULL);
    product_run(NULL, wrong_batches, NULL);
}

/* ---- Logits that are no numbers ----------------------------------------------------------------- */

/* The model with a NaN in the row of id 5 of its head. */
static void make_nan_model(void) {
    snprintf(nan_path, sizeof nan_path, "%s", test_random_model("nan", STORY_MODEL));
    xlstm_model *model = test_model(nan_path, NULL);
    const stored_tensor *head = stored_find(&model->files, "lm_head.weight");
    assert_non_null(head);
    long at = head->data - model->files.maps[head->file].data;
    at += 5 * (long)head->shape[1] * 2;
    xlstm_model_free(model);
    char file[1100];
    snprintf(file, sizeof file, "%s/model.safetensors", nan_path);
    FILE *out = fopen(file, "r+b");
    assert_non_null(out);
    assert_int_equal(fseek(out, at, SEEK_SET), 0);
    assert_int_equal(fwrite("\xc0\x7f", 1, 2, out), 2);
    assert_int_equal(fclose(out), 0);
}

static xlstm_status generate(xlstm_session *session, xlstm_model *model, float temperature) {
    xlstm_sampler *sampler;
    xlstm_generate_result result;
    must(xlstm_sampler_create(model, &(xlstm_sampling){.temperature = temperature}, &sampler) ==
             XLSTM_OK,
         "%s", xlstm_last_error());
    xlstm_status status =
        xlstm_generate(session, sampler, (const int32_t[]){1, 2}, 2,
                       &(xlstm_generate_options){.max_tokens = 4, .ignore_eos = true}, &result);
    must(status == XLSTM_OK || result.new_tokens == 0, "a token of NaN");
    xlstm_sampler_free(sampler);
    return status;
}

static void sample_nan(void *context) {
    (void)context;
    float logits[STORY_VOCAB];
    xlstm_model *model = product_load(nan_path, &product_options);
    xlstm_model *sound = product_load(model_path, &product_options);
    xlstm_session *session = product_session(model), *other = product_session(sound);
    for (int i = 0; i < 2; i++) {
        product_error(generate(session, model, (float)i), XLSTM_DEVICE_ERROR,
                      "sample: a logit of row 0 is NaN or +inf");
        product_error(generate(session, model, (float)i), XLSTM_DEVICE_ERROR,
                      "reset it or load a state");
        must(generate(other, sound, (float)i) == XLSTM_OK, "%s", xlstm_last_error());
        must(xlstm_session_reset(session) == XLSTM_OK, "%s", xlstm_last_error());
    }
    story_first_words(session, logits); /* nothing is wrong with the state */
    for (int id = 0; id < STORY_VOCAB; id++)
        must(isnan(logits[id]) == (id == 5), "the logit of id %d is %g", id, (double)logits[id]);
    xlstm_session_free(other);
    xlstm_session_free(session);
    xlstm_model_free(sound);
    xlstm_model_free(model);
}

static void logits_that_are_no_numbers(void **state) {
    (void)state;
    make_nan_model();
    product_run(NULL, sample_nan, NULL);
}

/* ---- A long prompt ------------------------------------------------------------------------------ */

enum { LONG = 2 * 64 + 3 /* three pieces */ };

static bool keep_done(void *context, int64_t done, int64_t total) {
    (void)total;
    *(int64_t *)context = done;
    return true;
}

static void eval_long(void *context) {
    (void)context;
    int32_t ids[LONG];
    float right[STORY_VOCAB], logits[STORY_VOCAB];
    for (int i = 0; i < LONG; i++)
        ids[i] = i % STORY_VOCAB;
    xlstm_model *model = product_load(model_path, &product_options);
    xlstm_session *session = product_session(model);
    must(xlstm_eval(session, ids, LONG, right, NULL, NULL) == XLSTM_OK, "%s", xlstm_last_error());
    int failures = 0;
    unsigned seen = 0;
    for (unsigned n = 1;; n++) {
        int64_t done = 0;
        must(xlstm_session_reset(session) == XLSTM_OK, "%s", xlstm_last_error());
        metal_device_fail(METAL_FAULT_COMMANDS, n, 3);
        xlstm_status status = xlstm_eval(session, ids, LONG, logits, keep_done, &done);
        if (status == XLSTM_OK)
            break;
        product_error(status, XLSTM_DEVICE_ERROR, "a kernel touched memory that is not there");
        int64_t position = xlstm_session_position(session);
        must(position == 0 || position == 64 || position == 128 || position == LONG, "%lld",
             (long long)position);
        must(position >= done, "%lld tokens are done, %lld taken in", (long long)done,
             (long long)position);
        seen |= 1u << position / 64;
        failures++;
    }
    metal_device_fail(METAL_FAULT_COMMANDS, 0, 0);
    must(failures >= 3 && (seen & 7) == 7, "%d failures, pieces %x", failures, seen);
    must(memcmp(logits, right, sizeof right) == 0, "other logits after a reset");
    xlstm_session_free(session);
    xlstm_model_free(model);
}

static void a_long_prompt_that_fails(void **state) {
    (void)state;
    product_run(NULL, eval_long, NULL);
}

int main(void) {
    snprintf(model_path, sizeof model_path, "%s", test_random_model("story", STORY_MODEL));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_with_wrong_ids),
        cmocka_unit_test(logits_that_are_no_numbers),
        cmocka_unit_test(a_long_prompt_that_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
