/* What must hold for the ops of several layers in a row, which a device may gather and run together: results are those of
 * the reference, and bits do not change from run to run. */
#include "conformance/cases.h"
#include "conformance/checks.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/support.h"

enum { MOST_LAYERS = 3 };

/* A layer without its cell: v takes the place of h. */
typedef struct shape {
    int64_t tokens, width, inner; /* rows of what is gated */
    int heads, layers;
} shape;

/* Widths that end within a tile or are one, more rows than tiles of all blocks have, fewer than there are blocks. */
static const shape shapes[] = {
    {2, 64, 72, 2, 3},     {5, 256, 344, 4, 2},   {64, 128, 200, 4, 2}, {65, 192, 1000, 3, 2},
    {100, 200, 136, 5, 3}, {128, 320, 480, 2, 2}, {129, 64, 80, 2, 1},
};

static ops_tensor weight(side *s, int64_t outputs, int64_t inputs) {
    return side_draw(s, SIDE_WEIGHT, 2, (int64_t[]){outputs, inputs}, 0, 1 / sqrt((double)inputs));
}
static ops_norm norm(side *s, enum ops_norm_kind kind, int groups, int64_t width) {
    return (ops_norm){.kind = kind,
                      .groups = groups,
                      .eps = 1e-6,
                      .weight = side_draw(s, SIDE_WEIGHT, 1, &width, 1, 0.3)};
}
static ops_projection projection(ops_tensor matrix, ops_tensor out, double soft_cap) {
    return (ops_projection){.weight = matrix, .soft_cap = soft_cap, .out = out};
}

/* residual += out(norm(v) sigmoid(o)), residual -= down(silu(gate) up), of q, v, o and two gates of the residual. */
typedef struct layer {
    struct ops_norm_project in;
    struct ops_mlstm_output out;
    struct ops_norm_project_gated up;
    struct ops_project_add down;
} layer;

static layer make_layer(side *s, const shape *z, ops_tensor residual) {
    const int64_t width = z->width, *rows = (int64_t[]){z->tokens, width};
    ops_tensor q = side_poison_between(s, 2, (int64_t[]){z->tokens, width / 2}),
               v = side_poison_between(s, 2, rows), o = side_poison_between(s, 2, rows),
               gates = side_poison(s, 2, (int64_t[]){z->tokens, 2 * z->heads}),
               inner = side_poison_between(s, 2, (int64_t[]){z->tokens, z->inner});
    const ops_projection projections[] = {
        projection(weight(s, width / 2, width), q, 0), projection(weight(s, width, width), v, 0),
        projection(weight(s, width, width), o, 0),
        projection(weight(s, z->heads, width), side_columns(&gates, 0, z->heads), 1.5),
        projection(weight(s, z->heads, width), side_columns(&gates, z->heads, z->heads), 1.5)};
    layer l = {.in = {.x = residual, .norm = norm(s, OPS_NORM_RMS, 1, width), .count = 5},
               .out = {.h = ops_tensor_split(&v, z->heads, width / z->heads),
                       .output_gate = o,
                       .activation = OPS_SIGMOID,
                       .norm = norm(s, OPS_NORM_LAYER, z->heads, width),
                       .weight = weight(s, width, width),
                       .residual = residual,
                       .sign = 1,
                       .out = residual},
               .up = {.x = residual,
                      .norm = norm(s, OPS_NORM_RMS, 1, width),
                      .activation = OPS_SILU,
                      .gate_weight = weight(s, z->inner, width),
                      .up_weight = weight(s, z->inner, width),
                      .out = inner},
               .down = {.x = inner,
                        .weight = weight(s, width, z->inner),
                        .residual = residual,
                        .sign = -1,
                        .out = residual}};
    memcpy(l.in.projection, projections, sizeof projections);
    side_output_sum(s, "q", &q);
    side_output_sum(s, "v", &v);
    side_output_sum(s, "o", &o);
    side_output_sum(s, "gates", &gates);
    side_output_sum(s, "inner", &inner);
    return l;
}

static void run_layers(side *s, ops_device *device, const shape *z, bool exact) {
    const setting as = {device, DTYPE_F32, DTYPE_BF16, OPS_FAST, 2};
    const ops_limits limits = {.tokens = z->tokens,
                               .sequences = 1,
                               .width = z->width > z->inner ? z->width : z->inner,
                               .heads = z->heads,
                               .head_dim_qk = z->width / z->heads,
                               .head_dim_v = z->width / z->heads,
                               .vocab = z->width};
    side_open(s, &as, exact, false, (uint64_t)(z->tokens + z->width), &limits);
    s->narrow = device->narrow_from > 0;
    s->only = -1;
    ops_tensor residual = side_draw(s, SIDE_TABLE, 2, (int64_t[]){z->tokens, z->width}, 0, 1);
    side_output_sum(s, "residual", &residual);
    const struct ops_table *ops = &s->as.device->ops;
    layer layers[MOST_LAYERS]; /* first all that is written, which would come between the ops */
    for (int i = 0; i < z->layers; i++)
        layers[i] = make_layer(s, z, residual);
    for (int i = 0; i < z->layers; i++) {
        ops->norm_project(s->stream, &layers[i].in);
        ops->mlstm_output(s->stream, &layers[i].out);
        ops->norm_project_gated(s->stream, &layers[i].up);
        ops->project_add(s->stream, &layers[i].down);
    }
    side_finish(s, "layers");
}

static void check_shape(ops_device *device, const shape *z) {
    /* every layer rounds what it takes and gives, and adds to the errors of those before */
    const double tolerance = FAST_TOLERANCE * z->layers;
    side exact, s, again;
    run_layers(&exact, device, z, true);
    run_layers(&s, device, z, false);
    run_layers(&again, device, z, false);
    double error = side_error(&s, &exact);
    if (!(error <= tolerance))
        fail_msg("%d layers of %d wide on %s, %d tokens: relative error %.1e, tolerance %.1e",
                 z->layers, (int)z->width, device->name, (int)z->tokens, error, tolerance);
    if (!side_equal(&s, &again, -1))
        fail_msg("%d layers of %d wide on %s, %d tokens: two runs differ", z->layers, (int)z->width,
                 device->name, (int)z->tokens);
    side_close(&exact);
    side_close(&s);
    side_close(&again);
}

void check_layers(ops_device *device) {
    const int step = test_is_brief() ? 2 : 1;
    for (int i = 0; i < (int)(sizeof shapes / sizeof *shapes); i += step)
        check_shape(device, &shapes[i]);
}
