/* The causal convolution, the sLSTM and the LSTM beyond the table: sequences alone, in batches and in
 * pieces give the same bits, what rounding m takes is not lost, NaN stays where it belongs, and wrong
 * calls fail without touching a state. */
#include "conformance/checks.h"
#include "conformance/recurrent_problem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const recurrent_shape shape = {12, {3, 1, 9, 2, 1, 1, 14, 1, 2, 1, 5, 1}, 3, 21, 5};

enum kind { CONV, SLSTM, LSTM, KINDS };
static const char *const names[] = {"causal_conv", "sLSTM", "LSTM"};

static recurrent_problem problem_of(enum kind kind) {
    return (recurrent_problem){
        .shape = &shape, .seed = 5, .lstm = kind == LSTM, .activation = OPS_SILU, .bias = true};
}

/* How a problem is cut into calls. */
enum cut { WHOLE, ALONE, TOKENS, CUTS };

static void run_cut(side *s, enum kind kind, const recurrent_problem *p, enum cut cut) {
    recurrent_tensors t = kind == CONV ? recurrent_place_conv(s, p) : recurrent_place_slstm(s, p);
    if (cut == WHOLE)
        recurrent_run(s, &t, &(recurrent_part){.count = shape.sequences});
    for (int i = 0; cut == ALONE && i < shape.sequences; i++)
        recurrent_run(s, &t, &(recurrent_part){.first = i, .count = 1});
    for (int i = 0; cut == TOKENS && i < shape.sequences; i++)
        for (int64_t from = 0, to; from < shape.lengths[i]; from = to) {
            to = from + 1 + from / 3; /* longer and longer pieces */
            to = to < shape.lengths[i] ? to : shape.lengths[i];
            recurrent_run(s, &t, &(recurrent_part){.first = i, .count = 1, .from = from, .to = to});
        }
    side_finish(s, names[kind]);
}

static void check_cuts(ops_device *device, enum kind kind) {
    static const char *const what[] = {"threads", "sequences alone", "sequences in pieces"};
    static const int threads[] = {7, 2, 1};
    ops_limits limits = recurrent_limits(&shape);
    recurrent_problem p = problem_of(kind);
    setting as = {device, DTYPE_F32, DTYPE_F32, OPS_EXACT, 1};
    side whole;
    side_open(&whole, &as, false, true, 3, &limits);
    run_cut(&whole, kind, &p, WHOLE);
    for (int cut = 0; cut < CUTS; cut++) {
        side s;
        as.threads = threads[cut];
        side_open(&s, &as, false, true, 3, &limits);
        run_cut(&s, kind, &p, (enum cut)cut);
        if (!side_equal(&s, &whole, -1))
            fail_msg("%s on %s: the bits depend on %s", names[kind], device->name, what[cut]);
        side_close(&s);
    }
    side_close(&whole);
}

void check_recurrent_batches(ops_device *device) {
    for (int kind = 0; kind < KINDS; kind++)
        check_cuts(device, (enum kind)kind);
}

/* ---- Rounding of m, and NaN ---- */

static const recurrent_shape small_heads = {3, {2, 150, 70}, 2, 13, 1};
static const recurrent_shape large_heads = {3, {3, 30, 11}, 2, 70, 1};

enum output { OUT, STATE_Y, STATE_C, STATE_N, STATE_M };

static void run_slstm(side *s, ops_device *device, bool exact, const recurrent_problem *p) {
    setting as = {device, DTYPE_F32, DTYPE_F32, OPS_EXACT, 2};
    ops_limits limits = recurrent_limits(p->shape);
    side_open(s, &as, exact, true, 3, &limits);
    recurrent_tensors t = recurrent_place_slstm(s, p);
    recurrent_run(s, &t, &(recurrent_part){.count = p->shape->sequences});
    side_finish(s, "slstm");
}

/* n and m together say what is kept: exp(m) n. m of about 100 loses 4e-6 a token, if n does not gain it. */
static void check_kept(ops_device *device, const recurrent_shape *of) {
    recurrent_problem p = {.shape = of, .seed = 17, .gates = GATES_KEPT};
    side s, exact;
    run_slstm(&s, device, false, &p);
    run_slstm(&exact, device, true, &p);
    const double *n = s.outputs[STATE_N].values, *m = s.outputs[STATE_M].values;
    const double *exact_n = exact.outputs[STATE_N].values, *exact_m = exact.outputs[STATE_M].values;
    double worst = 0;
    int64_t units = of->heads * of->size;
    for (int sequence = 0; sequence < of->sequences; sequence++)
        for (int64_t d = 0; d < units; d++) {
            int64_t at = recurrent_slot(of, sequence) * units + d;
            worst = fmax(worst, fabs(log(n[at] / exact_n[at]) + (m[at] - exact_m[at])));
        }
    side_close(&s);
    side_close(&exact);
    if (!(worst <= 3e-5)) /* rounding a gate of about 100 costs up to 8e-6 */
        fail_msg("sLSTM on %s: %d tokens later, what is kept is off by %.1e", device->name,
                 of->lengths[1], worst);
}

/* Of sequence 1, whose tokens follow those of sequence 0. */
static void check_poison(ops_device *device, const recurrent_shape *of, double poison, int token) {
    enum { HEAD = 1, UNIT = 2 };
    int64_t width = of->heads * of->size, unit = HEAD * of->size + UNIT, first = of->lengths[0];
    recurrent_problem p = {.shape = of, .seed = 23};
    side clean, s;
    run_slstm(&clean, device, false, &p);
    p.poison = poison;
    p.poisoned_token = first + token;
    p.poisoned_unit = unit;
    run_slstm(&s, device, false, &p);
    for (int64_t t = 0; t < recurrent_tokens(of); t++)
        for (int64_t d = 0; d < width; d++) {
            int64_t after = t - p.poisoned_token; /* R hands it on to the head in the next token */
            bool spoiled = t < first + of->lengths[1] && d / of->size == HEAD &&
                           (after > 0 || (after == 0 && d == unit));
            double y = s.outputs[OUT].values[t * width + d];
            if (spoiled ? !isnan(y) : y != clean.outputs[OUT].values[t * width + d])
                fail_msg("sLSTM on %s: an input gate of %g in token %d: token %d, unit %d is %g",
                         device->name, poison, (int)p.poisoned_token, (int)t, (int)d, y);
        }
    int64_t at = recurrent_slot(of, 1) * width + unit;
    for (int which = STATE_Y; which <= STATE_N; which++)
        if (!isnan(s.outputs[which].values[at]))
            fail_msg("sLSTM on %s: an input gate of %g is hidden in the state", device->name,
                     poison);
    side_close(&clean);
    side_close(&s);
}

/* A closed gate lets nothing in, whatever there is. */
static void check_closed(ops_device *device, const recurrent_shape *of) {
    recurrent_problem p = {
        .shape = of, .seed = 29, .closed = true, .poisoned_token = 7, .poisoned_unit = 4};
    side clean, s;
    run_slstm(&clean, device, false, &p);
    p.poison = (double)NAN;
    run_slstm(&s, device, false, &p);
    if (!side_equal(&s, &clean, -1))
        fail_msg("sLSTM on %s: a NaN went through a closed input gate", device->name);
    side_close(&clean);
    side_close(&s);
}

void check_recurrent_limits(ops_device *device) {
    const recurrent_shape *shapes[] = {&small_heads, &large_heads};
    for (int i = 0; i < 2; i++) {
        check_kept(device, shapes[i]);
        check_closed(device, shapes[i]);
        check_poison(device, shapes[i], (double)NAN, 0);
        check_poison(device, shapes[i], INFINITY, 0);
        check_poison(device, shapes[i], (double)NAN, shapes[i]->lengths[1] - 1);
        check_poison(device, shapes[i], INFINITY, 5);
    }
}

/* ---- Wrong calls ---- */

enum op { OP_CONV, OP_SLSTM, OP_HEADWISE, OPS };
enum { SEQUENCES = 2, ROWS = 5, SLOTS = 3, HEADS = 2, SIZE = 3, WIDTH = HEADS * SIZE, TAPS = 4 };

typedef struct call {
    ops_device *device;
    ops_stream *stream;
    ops_buffer buffers[24];
    int count;
    struct ops_causal_conv conv;
    struct ops_slstm slstm;
    struct ops_headwise headwise;
} call;

static ops_tensor place(call *c, dtype type, int rank, const int64_t *dimensions,
                        const void *values) {
    ops_buffer *buffer = &c->buffers[c->count++];
    ops_tensor t = ops_tensor_make(buffer, 0, type, rank, dimensions);
    size_t size = (size_t)ops_tensor_elements(&t) * dtype_size(type);
    assert_int_equal(c->device->buffer_create(c->device, size, buffer), XLSTM_OK);
    if (values)
        c->device->write(c->stream, buffer, 0, values, size);
    return t;
}

static ops_tensor ones(call *c, int rank, const int64_t *dimensions) {
    float values[400];
    for (int i = 0; i < 400; i++)
        values[i] = 1;
    return place(c, DTYPE_F32, rank, dimensions, values);
}

static void open_call(call *c, ops_device *device) {
    static const ops_limits limits = {.tokens = ROWS,
                                      .sequences = SEQUENCES,
                                      .width = WIDTH,
                                      .heads = HEADS,
                                      .head_dim_qk = 1,
                                      .head_dim_v = SIZE,
                                      .vocab = 1,
                                      .activation = DTYPE_F32};
    *c = (call){.device = device};
    ops_stream_options options = {.threads = 2, .profile = OPS_EXACT, .limits = limits};
    if (device->stream_create(device, &options, &c->stream) != XLSTM_OK)
        fail_msg("%s: %s", device->name, xlstm_last_error());
    const int64_t rows[] = {ROWS, HEADS, SIZE}, state[] = {SLOTS, HEADS, SIZE};
    const int64_t flat[] = {ROWS, WIDTH};
    ops_batch batch = {
        .sequences = SEQUENCES,
        .tokens = ROWS,
        .longest = 3,
        .slot = place(c, DTYPE_I32, 1, (int64_t[]){SEQUENCES}, (int32_t[]){2, 0}),
        .start = place(c, DTYPE_I32, 1, (int64_t[]){SEQUENCES + 1}, (int32_t[]){0, 3, 5}),
        .position = place(c, DTYPE_I64, 1, (int64_t[]){SEQUENCES}, (int64_t[]){0, 70})};
    c->conv = (struct ops_causal_conv){
        .batch = batch,
        .x = ones(c, 2, flat),
        .weight = ones(c, 2, (int64_t[]){WIDTH, TAPS}),
        .bias = ones(c, 1, (int64_t[]){WIDTH}),
        .activation = OPS_SILU,
        .state = place(c, DTYPE_F32, 3, (int64_t[]){SLOTS, TAPS - 1, WIDTH}, NULL),
        .out = place(c, DTYPE_F32, 2, flat, NULL)};
    c->slstm = (struct ops_slstm){.batch = batch,
                                  .recurrent = ones(c, 3, (int64_t[]){HEADS, SIZE, 4 * SIZE}),
                                  .bias = ones(c, 2, (int64_t[]){4, WIDTH}),
                                  .y = place(c, DTYPE_F32, 3, state, NULL),
                                  .c = place(c, DTYPE_F32, 3, state, NULL),
                                  .n = place(c, DTYPE_F32, 3, state, NULL),
                                  .m = place(c, DTYPE_F32, 3, state, NULL),
                                  .out = place(c, DTYPE_F32, 3, rows, NULL)};
    for (int g = 0; g < 4; g++)
        c->slstm.input[g] = ones(c, 3, rows);
    c->headwise = (struct ops_headwise){.x = c->slstm.input[0],
                                        .weight = ones(c, 3, (int64_t[]){HEADS, SIZE, SIZE}),
                                        .bias = ones(c, 2, (int64_t[]){HEADS, SIZE}),
                                        .out = c->slstm.out};
}

static void close_call(call *c) {
    for (int i = 0; i < c->count; i++)
        c->device->buffer_free(&c->buffers[i]);
    c->device->stream_free(c->stream);
}

static void run_call(call *c, enum op op) {
    if (op == OP_CONV)
        c->device->ops.causal_conv(c->stream, &c->conv);
    else if (op == OP_SLSTM)
        c->device->ops.slstm(c->stream, &c->slstm);
    else
        c->device->ops.headwise(c->stream, &c->headwise);
}

/* States start as 0, and no right call leaves them so. */
static bool is_touched(call *c) {
    float values[SLOTS * (TAPS - 1) * WIDTH];
    const ops_tensor *states[] = {&c->conv.state, &c->slstm.y, &c->slstm.c, &c->slstm.n};
    for (int s = 0; s < 4; s++) {
        int64_t count = ops_tensor_elements(states[s]);
        assert_int_equal(c->device->read(c->stream, states[s]->buffer, 0, values,
                                         (size_t)count * sizeof *values),
                         XLSTM_OK);
        for (int64_t i = 0; i < count; i++)
            if (values[i] != 0)
                return true;
    }
    return false;
}

static void require_failure(call *c, enum op op, const char *what) {
    static const char *const names_of_ops[] = {"causal_conv", "slstm", "headwise"};
    run_call(c, op);
    if (c->device->wait(c->stream) == XLSTM_OK)
        fail_msg("%s on %s took a call with %s", names_of_ops[op], c->device->name, what);
    assert_true(strlen(xlstm_last_error()) > 0);
}

enum change { ABSENT, OTHER_RANK, INTEGERS, OUTSIDE, SHORT, CHANGES };

static void change(ops_tensor *t, enum change how) {
    if (how == ABSENT) {
        *t = (ops_tensor){0};
    } else if (how == OTHER_RANK) {
        t->shape[t->rank] = t->stride[t->rank] = 1;
        t->rank++;
    } else if (how == INTEGERS) {
        t->dtype = t->dtype == DTYPE_I32 ? DTYPE_F32 : DTYPE_I32;
    } else if (how == OUTSIDE) {
        t->offset = dtype_size(t->dtype);
    } else {
        t->shape[t->rank - 1]--;
    }
}

/* Tensor `which` of the op; NULL past the last. */
static ops_tensor *tensor_of(call *c, enum op op, int which) {
    ops_tensor *conv[] = {&c->conv.batch.slot, &c->conv.batch.start, &c->conv.batch.position,
                          &c->conv.x,          &c->conv.weight,      &c->conv.state,
                          &c->conv.out,        &c->conv.bias,        NULL};
    ops_tensor *slstm[] = {&c->slstm.batch.slot, &c->slstm.batch.start, &c->slstm.batch.position,
                           &c->slstm.input[0],   &c->slstm.input[1],    &c->slstm.input[2],
                           &c->slstm.input[3],   &c->slstm.recurrent,   &c->slstm.bias,
                           &c->slstm.y,          &c->slstm.c,           &c->slstm.n,
                           &c->slstm.m,          &c->slstm.out,         NULL};
    ops_tensor *headwise[] = {&c->headwise.x, &c->headwise.weight, &c->headwise.out,
                              &c->headwise.bias, NULL};
    return op == OP_CONV ? conv[which] : op == OP_SLSTM ? slstm[which] : headwise[which];
}

static void check_tensors(ops_device *device, enum op op) {
    static const char *const what[] = {"a tensor absent", "a tensor of another rank",
                                       "a tensor of another type", "a tensor outside its buffer",
                                       "a tensor too short"};
    for (int which = 0;; which++)
        for (int how = 0; how < CHANGES; how++) {
            call c;
            open_call(&c, device);
            ops_tensor *t = tensor_of(&c, op, which);
            if (!t) {
                close_call(&c);
                return;
            }
            ops_tensor kept = *t;
            bool optional = t == &c.conv.bias || t == &c.headwise.bias;
            change(t, (enum change)how);
            if (how != ABSENT || !optional) {
                require_failure(&c, op, what[how]);
                *t = kept;
                assert_false(is_touched(&c));
            }
            *t = kept;
            run_call(&c, op); /* the stream goes on */
            assert_int_equal(device->wait(c.stream), XLSTM_OK);
            assert_true(op == OP_HEADWISE || is_touched(&c));
            close_call(&c);
        }
}

static void check_values(ops_device *device, enum op op) {
    static const struct {
        const char *what;
        int32_t slot[SEQUENCES], start[SEQUENCES + 1];
        int sequences;
    } wrong[] = {{"a slot past the end", {2, SLOTS}, {0, 3, 5}, 2},
                 {"a negative slot", {-1, 0}, {0, 3, 5}, 2},
                 {"an empty sequence", {2, 0}, {0, 0, 5}, 2},
                 {"an end past the last token", {2, 0}, {0, 3, 1000}, 2},
                 {"no sequences", {2, 0}, {0, 3, 5}, 0},
                 {"too many sequences", {2, 0}, {0, 3, 5}, 3}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        call c;
        open_call(&c, device);
        device->write(c.stream, c.conv.batch.slot.buffer, 0, wrong[i].slot, sizeof wrong[i].slot);
        device->write(c.stream, c.conv.batch.start.buffer, 0, wrong[i].start,
                      sizeof wrong[i].start);
        c.conv.batch.sequences = c.slstm.batch.sequences = wrong[i].sequences;
        require_failure(&c, op, wrong[i].what);
        assert_false(is_touched(&c));
        close_call(&c);
    }
}

static void check_numbers(ops_device *device) {
    call c;
    open_call(&c, device);
    c.conv.activation = (enum ops_activation)(OPS_IDENTITY + 1);
    require_failure(&c, OP_CONV, "no activation");
    c.slstm.clip = -1;
    require_failure(&c, OP_SLSTM, "a negative clip");
    assert_false(is_touched(&c));
    close_call(&c);
}

void check_recurrent_wrong_calls(ops_device *device) {
    for (int op = 0; op < OPS; op++)
        check_tensors(device, (enum op)op);
    check_values(device, OP_CONV);
    check_values(device, OP_SLSTM);
    check_numbers(device);
}
