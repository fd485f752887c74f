/* What a decoded token moves: the model runs through the host that ships, and the test device counts, for every
 * dispatch, each byte of its buffers that it reads and each that it writes, once. What the next dispatch reads
 * again counts again.
 *
 * A ledger says what each dispatch must move at least: its weights, its state, and the vectors that the ops hand on to
 * each other. No dispatch may move more; the whole is at most 1.03 times weights and states (read and written) with the shape
 * of xLSTM-7B, whose 32 blocks are the same block, which the two of a test show. XLSTM_TEST_LARGE=1 runs that
 * shape; a small one else. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/session.h"
#include "metal_device/device.h"
#include "model/convert.h"
#include "model/init.h"
#include "support/models.h"
#include "support/support.h"

enum { FLOAT = 4, BLOCK_DISPATCHES = 6, BLOCK_BARRIERS = 5, LAYERS = 32 };
/* Numbers that are not of the ledger: positions, ids, flags. */
enum { SPARE = 64 };

static const char seven_b[] =
    "{\"model_type\": \"xlstm\", \"embedding_dim\": 4096, \"num_heads\": 8, \"num_blocks\": %d, "
    "\"vocab_size\": 50304, \"ffn_proj_factor\": 2.667}";
static const char small[] =
    "{\"model_type\": \"xlstm\", \"embedding_dim\": 256, \"num_heads\": 4, \"num_blocks\": %d, "
    "\"vocab_size\": 520, \"ffn_proj_factor\": 2.667}";

/* ---- Models ---- */

static void make_checkpoint(const char *shape, int blocks, dtype type, const char *folder) {
    char text[512];
    json_t *value;
    model_config config;
    int length = snprintf(text, sizeof text, shape, blocks);
    assert_int_equal(json_parse(text, (size_t)length, "shape", &value), XLSTM_OK);
    assert_int_equal(config_from_json(value, "shape", false, &config), XLSTM_OK);
    json_decref(value);
    if (init_checkpoint(&config, folder, &(init_options){.dtype = type, .seed = 7}) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    config_free(&config);
}

static void make_quantised(const char *folder, dtype type, const char *path) {
    xlstm_model *model;
    convert_result result;
    convert_options options = {
        .type = type, .embedding = DTYPE_COUNT, .head = DTYPE_COUNT, .replace = true};
    if (model_open(folder, NULL, &model) != XLSTM_OK ||
        convert_model(model, path, &options, &result) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    xlstm_model_free(model);
}

static xlstm_model *load(const char *path, const char *state_type) {
    return test_model(path, &(xlstm_model_options){.device = "metal",
                                                   .max_sessions = 1,
                                                   .max_batch_tokens = 64,
                                                   .state_dtype = state_type});
}

/* ---- What was counted ---- */

typedef struct move {
    char kernel[48];
    uint64_t read, written;
    int barriers; /* before it */
} move;

enum { MOST_MOVES = 128 };
typedef struct token_log {
    move moves[MOST_MOVES];
    int count, barriers;
} token_log;

static void watch(void *context, const char *kernel, uint64_t read, uint64_t written) {
    token_log *log = context;
    if (!kernel) {
        log->barriers++;
    } else if (log->count < MOST_MOVES) {
        move *m = &log->moves[log->count++];
        snprintf(m->kernel, sizeof m->kernel, "%s", kernel);
        m->read = read;
        m->written = written;
        m->barriers = log->barriers;
        log->barriers = 0;
    }
}

/* Takes in an id and chooses so many, of which all but the last are taken in. */
static void run_ids(xlstm_session *session, xlstm_sampler *sampler, int32_t id, int count,
                    token_log *log) {
    const int32_t stop = session->model->config.vocab_size - 1;
    xlstm_generate_result result;
    *log = (token_log){0};
    metal_device_watch(watch, log);
    if (xlstm_generate(
            session, sampler, &id, 1,
            &(xlstm_generate_options){.max_tokens = count, .stop_ids = &stop, .stop_id_count = 1},
            &result) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    metal_device_watch(NULL, NULL);
    assert_int_equal(result.new_tokens, count);
    assert_true(log->count < MOST_MOVES);
}

/* The last of so many tokens, and that all before moved the same. */
static void run_tokens(xlstm_model *model, int tokens, token_log *log) {
    xlstm_sampler *sampler;
    xlstm_session *session = test_session(model);
    assert_int_equal(xlstm_sampler_create(model, NULL, &sampler), XLSTM_OK);
    for (int token = 0; token < tokens; token++) {
        const token_log before = *log;
        run_ids(session, sampler, 5 + token, 1, log);
        for (int i = 0; token > 0 && i < log->count; i++) {
            assert_int_equal(before.count, log->count);
            assert_string_equal(before.moves[i].kernel, log->moves[i].kernel);
            assert_int_equal(before.moves[i].read, log->moves[i].read);
            assert_int_equal(before.moves[i].written, log->moves[i].written);
        }
    }
    xlstm_sampler_free(sampler);
    xlstm_session_free(session);
}

/* How much more `count` + 1 tokens move than `count`: one that may have been begun before the one before was seen. */
static void run_more(xlstm_model *model, int count, token_log *log) {
    xlstm_sampler *sampler;
    xlstm_session *session = test_session(model);
    token_log fewer;
    assert_int_equal(xlstm_sampler_create(model, NULL, &sampler), XLSTM_OK);
    run_ids(session, sampler, 5, count, &fewer);
    assert_int_equal(xlstm_session_reset(session), XLSTM_OK);
    run_ids(session, sampler, 5, count + 1, log);
    for (int i = 0; i < fewer.count; i++)
        assert_string_equal(fewer.moves[i].kernel, log->moves[i].kernel);
    log->count -= fewer.count;
    memmove(log->moves, log->moves + fewer.count, (size_t)log->count * sizeof *log->moves);
    xlstm_sampler_free(sampler);
    xlstm_session_free(session);
}

static uint64_t bytes_of_moves(const move *moves, int count) {
    uint64_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += moves[i].read + moves[i].written;
    return bytes;
}

/* ---- The ledger ---- */

typedef struct entry {
    const char *kernel; /* what its name begins with */
    uint64_t read, written;
} entry;

static uint64_t bytes_of(const ops_tensor *t) {
    return ops_present(t) ? (uint64_t)dtype_bytes(t->dtype, ops_tensor_elements(t)) : 0;
}

static uint64_t state_bytes(const xlstm_model *model, int block, const char *kind) {
    const state_pool *pool = &model->pool;
    int seen = 0;
    for (int i = 0; i < pool->count; i++)
        if (strcmp(pool->tensors[i].kind, kind) == 0 && seen++ == block)
            return pool->tensors[i].slot_size;
    fail_msg("block %d has no state %s", block, kind);
    return 0;
}

static void expect_block(const xlstm_model *model, int block, entry out[BLOCK_DISPATCHES]) {
    const block_weights *w = &model->weights.blocks[block];
    const mlstm_weights *m = &w->mlstm;
    const ffn_weights *f = &w->ffn;
    const large_config *c = &model->config.large;
    uint64_t D = FLOAT * (uint64_t)model->config.embedding_dim, F = FLOAT * (uint64_t)c->ffn_dim;
    uint64_t K = FLOAT * (uint64_t)c->qk_dim, V = FLOAT * (uint64_t)c->v_dim;
    uint64_t gates = 2 * FLOAT * (uint64_t)c->num_heads;
    uint64_t C = state_bytes(model, block, "c");
    uint64_t small_states = state_bytes(model, block, "n") + state_bytes(model, block, "m");
    out[0] = (entry){"norm_project_one",
                     D + bytes_of(&m->norm) + bytes_of(&m->q) + bytes_of(&m->k) + bytes_of(&m->v) +
                         bytes_of(&m->output_gate) + bytes_of(&m->input_gate) +
                         bytes_of(&m->forget_gate) + bytes_of(&m->input_gate_bias) +
                         bytes_of(&m->forget_gate_bias),
                     2 * K + 2 * V + gates};
    out[1] = (entry){"mlstm_step", C + small_states + 2 * K + V + gates, C + V};
    out[2] = (entry){"mlstm_settle", small_states + K + gates, small_states};
    out[3] = (entry){"project_add_one", 2 * V + bytes_of(&m->head_norm) + bytes_of(&m->out) + D, D};
    out[4] = (entry){"norm_project_gated_one",
                     D + bytes_of(&f->norm) + bytes_of(&f->gate) + bytes_of(&f->up), F};
    out[5] = (entry){"project_add_one", F + bytes_of(&f->down) + D, D};
}

/* Embedding; the row of the head, logits, the choice. */
static uint64_t expect_ends(const xlstm_model *model) {
    const weights *w = &model->weights;
    uint64_t D = FLOAT * (uint64_t)model->config.embedding_dim;
    uint64_t logits = FLOAT * (uint64_t)model->config.vocab_size;
    uint64_t row = bytes_of(&w->embedding) / (uint64_t)model->config.vocab_size;
    return row + D + 2 * D + D + bytes_of(&w->out_norm) + bytes_of(&w->head) + logits + logits;
}

/* ---- Checks ---- */

typedef struct traffic {
    uint64_t ends, block; /* bytes */
    token_log log;
    int first; /* dispatch of the first block */
} traffic;

static void check_block(const xlstm_model *model, int block, const move *moves) {
    entry ledger[BLOCK_DISPATCHES];
    expect_block(model, block, ledger);
    for (int i = 0; i < BLOCK_DISPATCHES; i++) {
        const entry *e = &ledger[i];
        const move *m = &moves[i];
        if (strncmp(m->kernel, e->kernel, strlen(e->kernel)) != 0)
            fail_msg("dispatch %d of block %d is %s, not %s", i, block, m->kernel, e->kernel);
        if (m->read > e->read + SPARE || m->written > e->written + SPARE)
            fail_msg("%s of block %d reads %llu bytes and writes %llu, must not be more than %llu "
                     "and %llu",
                     m->kernel, block, (unsigned long long)m->read, (unsigned long long)m->written,
                     (unsigned long long)e->read, (unsigned long long)e->written);
    }
}

static int barriers_of(const token_log *log, int first) {
    int barriers = 0;
    for (int i = first; i < first + BLOCK_DISPATCHES; i++)
        barriers += log->moves[i].barriers;
    return barriers;
}

/* A token of a model of `blocks` blocks, each dispatch against the ledger; all blocks move the same. */
static void check_token(const xlstm_model *model, int blocks, traffic *t) {
    const token_log *log = &t->log;
    while (t->first < log->count && strncmp(log->moves[t->first].kernel, "norm_project", 12) != 0)
        t->first++;
    int after = t->first + blocks * BLOCK_DISPATCHES;
    assert_true(after < log->count);
    for (int b = 0; b < blocks; b++) {
        int first = t->first + b * BLOCK_DISPATCHES;
        uint64_t bytes = bytes_of_moves(&log->moves[first], BLOCK_DISPATCHES);
        check_block(model, b, &log->moves[first]);
        assert_true(barriers_of(log, first) <= BLOCK_BARRIERS);
        assert_true(b == 0 || bytes == t->block);
        t->block = bytes;
    }
    t->ends = bytes_of_moves(log->moves, t->first) +
              bytes_of_moves(&log->moves[after], log->count - after);
    if (t->ends > expect_ends(model) + 4 * SPARE)
        fail_msg("embedding, logits and choice move %llu bytes, must not be more than %llu",
                 (unsigned long long)t->ends, (unsigned long long)expect_ends(model));
}

/* The last of `tokens` taken in one by one. */
static traffic measure(xlstm_model *model, int blocks, int tokens) {
    traffic t = {0};
    run_tokens(model, tokens, &t.log);
    check_token(model, blocks, &t);
    return t;
}

/* As in generation, where a token may be under way when the next begins. */
static traffic measure_ahead(xlstm_model *model, int blocks) {
    traffic t = {0};
    run_more(model, 2, &t.log);
    check_token(model, blocks, &t);
    return t;
}

/* Weights that a token needs as they lie in the files, of the embedding one row. */
static uint64_t needed_weights(const xlstm_model *model) {
    model_memory memory;
    model_get_memory(model, &memory);
    return (uint64_t)(memory.weights - memory.embedding) +
           (uint64_t)memory.embedding / (uint64_t)model->config.vocab_size;
}

/* Of them, what the first block has. */
static uint64_t weights_of_block(const xlstm_model *model) {
    static const char prefix[] = "backbone.blocks.0.";
    uint64_t bytes = 0;
    for (size_t i = 0; i < model->files.count; i++) {
        const stored_tensor *t = &model->files.tensors[i];
        if (strncmp(t->name, prefix, sizeof prefix - 1) == 0)
            bytes += t->size;
    }
    return bytes;
}

static uint64_t needed_states(const xlstm_model *model) {
    model_memory memory;
    model_get_memory(model, &memory);
    return 2 * (uint64_t)memory.state_per_session;
}

static void print_moves(const char *name, const traffic *t) {
    for (int i = 0; i < t->log.count; i++) {
        const move *m = &t->log.moves[i];
        if (i < t->first + BLOCK_DISPATCHES || i >= t->first + 2 * BLOCK_DISPATCHES)
            print_message("# %s: %-32s reads %9llu bytes, writes %9llu, %d barriers before\n", name,
                          m->kernel, (unsigned long long)m->read, (unsigned long long)m->written,
                          m->barriers);
    }
}

/* Of a model of two blocks. One more is the same again, so that what any number of them moves is known. */
static void check_two_blocks(xlstm_model *model, int tokens, const char *name, double bar) {
    traffic t = measure(model, 2, tokens);
    uint64_t needed = needed_weights(model), states = needed_states(model), more = LAYERS - 2;
    assert_true(weights_of_block(model) > 0);
    uint64_t all = t.ends + LAYERS * t.block;
    uint64_t least = needed + states + more * (weights_of_block(model) + states / 2);
    double ratio = (double)all / (double)least;
    print_moves(name, &t);
    print_message(
        "# %s: a block moves %llu bytes, the rest %llu; %d blocks move %llu, which is %.4f of "
        "weights and states, %llu\n",
        name, (unsigned long long)t.block, (unsigned long long)t.ends, LAYERS,
        (unsigned long long)all, ratio, (unsigned long long)least);
    assert_true(all >= least); /* everything was counted */
    assert_true(ratio <= bar);
}

/* ---- Tests ---- */

static const struct {
    const char *name;
    dtype checkpoint, quantised; /* DTYPE_COUNT: the checkpoint itself */
    const char *state;
    bool is_large; /* runs with the large shape, too */
} kinds[] = {
    {"bf16", DTYPE_BF16, DTYPE_COUNT, "f32", true},
    {"f16", DTYPE_F16, DTYPE_COUNT, "f32", false},
    {"q8_0", DTYPE_BF16, DTYPE_Q8_0, "f32", true},
    {"q4_0", DTYPE_BF16, DTYPE_Q4_0, "f32", true},
    {"q4_0, states bf16", DTYPE_BF16, DTYPE_Q4_0, "bf16", false},
    {"f32", DTYPE_F32, DTYPE_COUNT, "f32", false},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

/* The file of a kind; that of checkpoints is made once. */
static void make_model(const char *shape, int blocks, int kind, char path[4096]) {
    char folder[64], file[64];
    const char *name = shape == small ? "small" : "7b";
    snprintf(folder, sizeof folder, "%s-%d-%s", name, blocks, dtype_name(kinds[kind].checkpoint));
    snprintf(path, 4096, "%s", test_path(folder));
    if (access(path, F_OK) != 0)
        make_checkpoint(shape, blocks, kinds[kind].checkpoint, path);
    if (kinds[kind].quantised == DTYPE_COUNT)
        return;
    snprintf(file, sizeof file, "%s-%d-%s.gguf", name, blocks, dtype_name(kinds[kind].quantised));
    make_quantised(path, kinds[kind].quantised, test_path(file));
    snprintf(path, 4096, "%s", test_path(file));
}

/* Vectors are much here, and the bar is the ledger's; that it is near to weights and states shows that
 * nothing is left out of the count or of the ledger. */
static void test_small_shape(void **state) {
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        char path[4096];
        uint64_t bytes[2], block[2];
        for (int blocks = 1; blocks <= 2; blocks++) {
            make_model(small, blocks, kind, path);
            xlstm_model *model = load(path, kinds[kind].state);
            traffic t = measure(model, blocks, 2);
            block[blocks - 1] = t.block;
            bytes[blocks - 1] = t.ends + (uint64_t)blocks * t.block;
            traffic ahead = measure_ahead(model, blocks);
            assert_int_equal(ahead.block, t.block);
            if (blocks == 2)
                check_two_blocks(model, 1, kinds[kind].name, 1.05);
            xlstm_model_free(model);
        }
        /* A token of two blocks moves what one of one block does, and a block. */
        assert_int_equal(block[0], block[1]);
        assert_int_equal(bytes[1] - bytes[0], block[1]);
    }
}

static void test_seven_b(void **state) {
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        char path[4096];
        if (!kinds[kind].is_large)
            continue;
        make_model(seven_b, 2, kind, path);
        xlstm_model *model = load(path, kinds[kind].state);
        check_two_blocks(model, 1, kinds[kind].name, 1.03);
        xlstm_model_free(model);
        if (kinds[kind].quantised != DTYPE_COUNT)
            assert_int_equal(unlink(path), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_small_shape)};
    const struct CMUnitTest large[] = {cmocka_unit_test(test_small_shape),
                                       cmocka_unit_test(test_seven_b)};
    metal_device_config config = metal_device_default();
    config.mode = GPU_CHECKED;
    metal_device_configure(&config);
    return test_is_large() ? cmocka_run_group_tests(large, NULL, NULL)
                           : cmocka_run_group_tests(tests, NULL, NULL);
}
