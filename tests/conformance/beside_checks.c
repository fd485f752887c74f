/* What must hold where a projection says that the next op does not read one of its outputs (ops_projection.later), which a
 * device may make beside that op: whoever reads it finds it done. */
#include "conformance/cases.h"
#include "conformance/checks.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/support.h"

enum { MOST_LAYERS = 2 };

/* residual += out(norm(h) sigmoid(o)), h the mLSTM of q, k, v and the gates. */
typedef struct cell {
    int64_t tokens, qk, v; /* of a head */
    int heads, sequences, layers;
    bool recurs; /* else what comes behind the projection reads its output at once */
} cell;

/* Tokens that a device may take for many, heads that tensor cores take and others, one prompt and three, and no mLSTM at all. */
static const cell cells[] = {
    {150, 128, 128, 1, 1, 2, true}, {130, 128, 256, 1, 1, 1, true}, {140, 64, 64, 2, 1, 1, true},
    {150, 64, 64, 1, 3, 1, true},   {100, 128, 128, 1, 1, 1, true}, {150, 128, 128, 1, 1, 1, false},
};

static ops_tensor weight(side *s, int64_t outputs, int64_t inputs) {
    return side_draw(s, SIDE_WEIGHT, 2, (int64_t[]){outputs, inputs}, 0, 1 / sqrt((double)inputs));
}
static ops_norm norm(side *s, enum ops_norm_kind kind, int64_t groups, int64_t width) {
    return (ops_norm){.kind = kind,
                      .groups = (int)groups,
                      .eps = 1e-6,
                      .weight = side_draw(s, SIDE_WEIGHT, 1, &width, 1, 0.3)};
}

static ops_batch batch_of(side *s, const cell *z) {
    enum { MOST = 256 };
    int32_t start[MOST + 1] = {0}, slot[MOST];
    int64_t position[MOST] = {0}, longest = 0;
    for (int q = 0; q < z->sequences; q++) {
        slot[q] = z->sequences - 1 - q;
        start[q + 1] = (int32_t)(z->tokens * (q + 1) / z->sequences);
        const int64_t length = start[q + 1] - start[q];
        longest = length > longest ? length : longest;
    }
    return (ops_batch){.sequences = z->sequences,
                       .tokens = z->tokens,
                       .longest = longest,
                       .slot = side_i32(s, z->sequences, slot),
                       .start = side_i32(s, z->sequences + 1, start),
                       .position = side_i64(s, z->sequences, position)};
}

static ops_tensor state(side *s, const char *name, int rank, const int64_t *shape) {
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= shape[i];
    double *zeros = must_allocate((size_t)count * sizeof *zeros);
    memset(zeros, 0, (size_t)count * sizeof *zeros);
    ops_tensor t = side_place(s, DTYPE_F32, rank, shape, zeros);
    free(zeros);
    side_output(s, name, &t);
    return t;
}

typedef struct layer {
    struct ops_norm_project in;
    struct ops_mlstm cell;
    struct ops_mlstm_output out;
} layer;

static layer make_layer(side *s, const cell *z, const ops_batch *batch, ops_tensor residual) {
    const int64_t qk = z->heads * z->qk, hv = z->heads * z->v, slots = z->sequences;
    const int64_t keys[] = {z->tokens, qk}, values[] = {z->tokens, hv},
                  both[] = {z->tokens, 2 * z->heads};
    ops_tensor q = side_poison_between(s, 2, keys), k = side_poison_between(s, 2, keys),
               v = side_poison_between(s, 2, values), o = side_poison_between(s, 2, values),
               h = side_poison_between(s, 2, values), gates = side_poison(s, 2, both);
    const ops_tensor i = side_columns(&gates, 0, z->heads),
                     f = side_columns(&gates, z->heads, z->heads);
    side_output_sum(s, "q", &q);
    side_output_sum(s, "k", &k);
    side_output_sum(s, "v", &v);
    side_output_sum(s, "o", &o);
    side_output_sum(s, "gates", &gates);
    layer l = {
        .in = {.x = residual,
               .norm = norm(s, OPS_NORM_RMS, 1, hv),
               .count = 6,
               .projection = {{.weight = weight(s, qk, hv), .out = q},
                              {.weight = weight(s, qk, hv), .out = k},
                              {.weight = weight(s, hv, hv), .out = v},
                              {.weight = weight(s, hv, hv), .out = o, .later = z->recurs},
                              {.weight = weight(s, z->heads, hv), .soft_cap = 15, .out = i},
                              {.weight = weight(s, z->heads, hv), .soft_cap = 15, .out = f}}},
        .cell = {.batch = *batch,
                 .q = ops_tensor_split(&q, z->heads, z->qk),
                 .k = ops_tensor_split(&k, z->heads, z->qk),
                 .v = ops_tensor_split(&v, z->heads, z->v),
                 .input_gate = i,
                 .forget_gate = f,
                 .eps = 1e-6,
                 .h = ops_tensor_split(&h, z->heads, z->v)},
        .out = {.h = ops_tensor_split(z->recurs ? &h : &v, z->heads, z->v),
                .output_gate = o,
                .activation = OPS_SIGMOID,
                .norm = norm(s, OPS_NORM_LAYER, z->heads, hv),
                .weight = weight(s, hv, hv),
                .residual = residual,
                .sign = 1,
                .out = residual}};
    if (!z->recurs)
        return l;
    side_output(s, "h", &h);
    l.cell.c = state(s, "c", 4, (int64_t[]){slots, z->heads, z->qk, z->v});
    l.cell.n = state(s, "n", 3, (int64_t[]){slots, z->heads, z->qk});
    l.cell.m = side_place(s, DTYPE_F32, 2, (int64_t[]){slots, z->heads}, (double[256 * 4]){0});
    side_output_exponent(s, "m", &l.cell.m);
    return l;
}

static void run_cells(side *s, ops_device *device, const cell *z, bool exact) {
    const setting as = {device, DTYPE_F32, DTYPE_BF16, OPS_FAST, 2};
    const ops_limits limits = {.tokens = z->tokens,
                               .sequences = z->sequences,
                               .width = z->heads * z->v,
                               .heads = z->heads,
                               .head_dim_qk = z->qk,
                               .head_dim_v = z->v,
                               .vocab = z->heads * z->v};
    side_open(s, &as, exact, false, (uint64_t)z->tokens, &limits);
    s->narrow = device->narrow_from > 0;
    s->only = -1;
    ops_tensor residual =
        side_draw(s, SIDE_TABLE, 2, (int64_t[]){z->tokens, z->heads * z->v}, 0, 1);
    side_output_sum(s, "residual", &residual);
    const ops_batch batch = batch_of(s, z);
    const struct ops_table *ops = &s->as.device->ops;
    layer layers[MOST_LAYERS]; /* first all that is written, which would come between the ops */
    for (int i = 0; i < z->layers; i++)
        layers[i] = make_layer(s, z, &batch, residual);
    for (int i = 0; i < z->layers; i++) {
        ops->norm_project(s->stream, &layers[i].in);
        if (z->recurs)
            ops->mlstm(s->stream, &layers[i].cell);
        ops->mlstm_output(s->stream, &layers[i].out);
    }
    side_finish(s, "layers of a projection and the mLSTM");
}

void check_beside(ops_device *device) {
    const int count = (int)(sizeof cells / sizeof *cells);
    /* Where that takes long: the others make nothing beside. */
    const int step = test_is_brief() && strcmp(device->name, "cuda") != 0 ? count : 1;
    for (int i = 0; i < count; i += step) {
        const cell *z = &cells[i];
        side exact, s, again;
        run_cells(&exact, device, z, true);
        run_cells(&s, device, z, false);
        run_cells(&again, device, z, false);
        const double error = side_error(&s, &exact), tolerance = FAST_TOLERANCE * 2 * z->layers;
        if (!(error <= tolerance))
            fail_msg("%d tokens of %d sequences, %d layers on %s: relative error %.1e, tolerance "
                     "%.1e",
                     (int)z->tokens, z->sequences, z->layers, device->name, error, tolerance);
        if (!side_equal(&s, &again, -1))
            fail_msg("%d tokens of %d sequences on %s: two runs differ", (int)z->tokens,
                     z->sequences, device->name);
        side_close(&exact);
        side_close(&s);
        side_close(&again);
    }
}
