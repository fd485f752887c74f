/* Calls that are wrong must fail the stream of every device, neither read nor write outside a
 * tensor (the sanitizers would see it on host devices), leave the states as they are, and not keep
 * a right call from working after the next wait. */
#include "conformance/checks.h"
#include "conformance/side.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SEQUENCES = 2, SLOTS = 3, HEADS = 1, MOST_TOKENS = 150 };

/* Few tokens of narrow heads in f32; and, in the profile fast, prompts of wide ones in bf16. */
typedef struct kind {
    ops_profile profile;
    dtype type;
    int32_t first, tokens; /* of the first sequence, of both */
    int64_t d;
} kind;
static const kind few = {OPS_EXACT, DTYPE_F32, 3, 5, 4};
static const kind prompt = {OPS_FAST, DTYPE_BF16, 100, 105, 128};
static const kind longer = {OPS_FAST, DTYPE_BF16, 140, MOST_TOKENS, 128};

/* A right call of the mLSTM; each part of the batch has a buffer of exactly its size. */
typedef struct call {
    ops_device *device;
    const kind *is;
    ops_stream *stream;
    ops_buffer buffers[12 + OPS_MAX_PROJECTIONS + 2];
    int count;
    struct ops_mlstm op;
} call;

static ops_tensor place(call *c, dtype type, int rank, const int64_t *shape, const void *values) {
    ops_buffer *buffer = &c->buffers[c->count++];
    ops_tensor t = ops_tensor_make(buffer, 0, type, rank, shape);
    size_t size = (size_t)ops_tensor_elements(&t) * dtype_size(type);
    assert_int_equal(c->device->buffer_create(c->device, size, buffer), XLSTM_OK);
    if (values)
        c->device->write(c->stream, buffer, 0, values, size);
    return t;
}

static void open_call(call *c, ops_device *device, const kind *is) {
    *c = (call){.device = device, .is = is};
    ops_stream_options options = {.threads = 2,
                                  .profile = is->profile,
                                  .limits = {.tokens = is->tokens,
                                             .sequences = SEQUENCES,
                                             .width = is->d,
                                             .heads = HEADS,
                                             .head_dim_qk = is->d,
                                             .head_dim_v = is->d,
                                             .vocab = 1,
                                             .activation = DTYPE_F32}};
    if (device->stream_create(device, &options, &c->stream) != XLSTM_OK)
        fail_msg("%s: %s", device->name, xlstm_last_error());
    const int64_t rows[] = {is->tokens, HEADS, is->d}, state[] = {SLOTS, HEADS, is->d, is->d};
    float ones[MOST_TOKENS * HEADS];
    for (int i = 0; i < MOST_TOKENS * HEADS; i++)
        ones[i] = 1;
    c->op = (struct ops_mlstm){
        .batch = {.sequences = SEQUENCES,
                  .tokens = is->tokens,
                  .longest = is->first,
                  .slot = place(c, DTYPE_I32, 1, (int64_t[]){SEQUENCES}, (int32_t[]){2, 0}),
                  .start = place(c, DTYPE_I32, 1, (int64_t[]){SEQUENCES + 1},
                                 (int32_t[]){0, is->first, is->tokens}),
                  .position = place(c, DTYPE_I64, 1, (int64_t[]){SEQUENCES}, (int64_t[]){0, 70})},
        .q = place(c, is->type, 3, rows, NULL),
        .k = place(c, is->type, 3, rows, NULL),
        .v = place(c, is->type, 3, rows, NULL),
        .input_gate = place(c, DTYPE_F32, 2, rows, ones),
        .forget_gate = place(c, DTYPE_F32, 2, rows, NULL),
        .c = place(c, DTYPE_F32, 4, state, NULL),
        .n = place(c, DTYPE_F32, 3, state, NULL),
        .m = place(c, DTYPE_F32, 2, state, NULL),
        .eps = 1e-6,
        .h = place(c, is->type, 3, rows, NULL)};
}

static void close_call(call *c) {
    for (int i = 0; i < c->count; i++)
        c->device->buffer_free(&c->buffers[i]);
    c->device->stream_free(c->stream);
}

/* m starts as 0, and becomes at least i = 1 in a slot that is used. */
static bool is_touched(call *c) {
    float m[SLOTS * HEADS];
    assert_int_equal(c->device->read(c->stream, c->op.m.buffer, 0, m, sizeof m), XLSTM_OK);
    for (int i = 0; i < SLOTS * HEADS; i++)
        if (m[i] > 0)
            return true;
    return false;
}

static void require_failure(call *c, const char *what) {
    c->device->ops.mlstm(c->stream, &c->op);
    if (c->device->wait(c->stream) == XLSTM_OK)
        fail_msg("mlstm on %s took a batch with %s", c->device->name, what);
    assert_true(strlen(xlstm_last_error()) > 0);
    if (is_touched(c))
        fail_msg("mlstm on %s changed states for a batch with %s", c->device->name, what);
}

/* ---- Values of a batch ---- */

/* Starts are written for few tokens: 3, 5 and what is near it stand for those of the kind. */
static void check_values(ops_device *device, const kind *is) {
    static const struct {
        const char *what;
        int32_t slot[SEQUENCES], start[SEQUENCES + 1];
        int64_t position[SEQUENCES];
    } wrong[] = {
        {"a slot past the end", {2, SLOTS}, {0, 3, 5}, {0, 70}},
        {"a negative slot", {-1, 0}, {0, 3, 5}, {0, 70}},
        {"a first start that is not 0", {2, 0}, {1, 3, 5}, {0, 70}},
        {"a negative start", {2, 0}, {-1, 3, 5}, {0, 70}},
        {"an empty sequence", {2, 0}, {0, 0, 5}, {0, 70}},
        {"falling starts", {2, 0}, {0, 9, 5}, {0, 70}},
        {"an end before the last token", {2, 0}, {0, 3, 4}, {0, 70}},
        {"an end past the last token", {2, 0}, {0, 3, 1000000}, {0, 70}},
        {"a negative position", {2, 0}, {0, 3, 5}, {0, -70}},
        {"a position that overflows", {2, 0}, {0, 3, 5}, {0, INT64_MAX}},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        call c;
        open_call(&c, device, is);
        const ops_batch *b = &c.op.batch;
        int32_t start[SEQUENCES + 1];
        for (int k = 0; k <= SEQUENCES; k++) {
            int32_t as_few = wrong[i].start[k];
            start[k] = as_few == few.first ? is->first
                       : as_few > few.first && as_few < 2 * few.tokens
                           ? is->tokens + as_few - few.tokens
                           : as_few;
        }
        device->write(c.stream, b->slot.buffer, 0, wrong[i].slot, sizeof wrong[i].slot);
        device->write(c.stream, b->start.buffer, 0, start, sizeof start);
        device->write(c.stream, b->position.buffer, 0, wrong[i].position, sizeof wrong[i].position);
        require_failure(&c, wrong[i].what);
        close_call(&c);
    }
}

/* ---- Shapes of a batch ---- */

enum change { ABSENT, OTHER_RANK, OTHER_TYPE, OUTSIDE, SHORT, CHANGES };
static const char *const change_names[] = {"is absent", "has another rank", "is f32",
                                           "lies outside its buffer", "is too short"};

static void change(ops_tensor *t, enum change how) {
    switch (how) {
    case ABSENT:
        *t = (ops_tensor){0};
        break;
    case OTHER_RANK:
        if (t->rank < OPS_MAX_RANK) {
            t->shape[t->rank] = t->stride[t->rank] = 1;
            t->rank++;
        } else {
            t->rank--;
        }
        break;
    case OTHER_TYPE:
        t->dtype = DTYPE_F32;
        break;
    case OUTSIDE:
        t->offset = dtype_size(t->dtype);
        break;
    default:
        t->shape[0]--;
    }
}

static void check_tensors(ops_device *device, const kind *is) {
    static const char *const names[] = {"slot", "start", "position", "c", "n", "m"};
    for (int i = 0; i < 6; i++)
        for (int how = 0; how < CHANGES; how++) {
            if (i >= 3 && how == OTHER_TYPE) /* f32 is right for states */
                continue;
            call c;
            open_call(&c, device, is);
            ops_tensor *const tensors[] = {
                &c.op.batch.slot, &c.op.batch.start, &c.op.batch.position,
                &c.op.c,          &c.op.n,           &c.op.m};
            ops_tensor kept = *tensors[i];
            change(tensors[i], (enum change)how);
            device->ops.mlstm(c.stream, &c.op);
            if (device->wait(c.stream) == XLSTM_OK)
                fail_msg("mlstm on %s took a call whose %s %s", device->name, names[i],
                         change_names[how]);
            *tensors[i] = kept;
            assert_false(is_touched(&c));
            close_call(&c);
        }
}

static void check_counts(ops_device *device, const kind *is) {
    static const int counts[] = {0, -1, SEQUENCES + 1, INT32_MAX};
    for (int i = 0; i < 4; i++) {
        call c;
        open_call(&c, device, is);
        c.op.batch.sequences = counts[i];
        require_failure(&c, "a wrong number of sequences");
        close_call(&c);
    }
}

/* After a failure and a wait the same stream takes a right call. */
static void check_recovery(ops_device *device, const kind *is) {
    call c;
    open_call(&c, device, is);
    ops_tensor slot = c.op.batch.slot;
    change(&c.op.batch.slot, SHORT);
    require_failure(&c, "too few slots");
    c.op.batch.slot = slot;
    device->ops.mlstm(c.stream, &c.op);
    assert_int_equal(device->wait(c.stream), XLSTM_OK);
    assert_true(is_touched(&c));
    close_call(&c);
}

void check_wrong_batches(ops_device *device) {
    const kind *kinds[] = {&few, &prompt, &longer};
    for (int i = 0; i < (device->narrow_from > 0 ? 3 : 1); i++) {
        check_recovery(device, kinds[i]);
        check_values(device, kinds[i]);
        check_tensors(device, kinds[i]);
        check_counts(device, kinds[i]);
    }
}

/* ---- Projections ---- */

void check_projection_counts(ops_device *device) {
    static const int counts[] = {0, -1, OPS_MAX_PROJECTIONS + 1, INT32_MAX};
    for (int i = 0; i < 5; i++) {
        call c;
        open_call(&c, device, &few);
        const int64_t shape[] = {2, few.d}, square[] = {few.d, few.d};
        struct ops_norm_project op = {.x = place(&c, DTYPE_F32, 2, shape, NULL),
                                      .norm = {.kind = OPS_NORM_NONE, .groups = 1},
                                      .count = i < 4 ? counts[i] : OPS_MAX_PROJECTIONS};
        ops_tensor weight = place(&c, DTYPE_F32, 2, square, NULL);
        for (int j = 0; j < OPS_MAX_PROJECTIONS; j++)
            op.projection[j] =
                (ops_projection){.weight = weight, .out = place(&c, DTYPE_F32, 2, shape, NULL)};
        device->ops.norm_project(c.stream, &op);
        if ((device->wait(c.stream) == XLSTM_OK) != (i == 4))
            fail_msg("norm_project on %s: %d projections", device->name, op.count);
        close_call(&c);
    }
}
