/* See recurrent_problem.h. A sequence's slot is not its number, and there are slots that no sequence
 * has. */
#include "conformance/recurrent_problem.h"

#include <math.h>
#include <stdlib.h>

enum { SPARE_SLOTS = 2 };

int64_t recurrent_tokens(const recurrent_shape *shape) {
    int64_t tokens = 0;
    for (int i = 0; i < shape->sequences; i++)
        tokens += shape->lengths[i];
    return tokens;
}

static int64_t width_of(const recurrent_shape *shape) {
    return shape->heads * shape->size;
}

int32_t recurrent_slot(const recurrent_shape *shape, int sequence) {
    return (int32_t)(shape->sequences + SPARE_SLOTS - 1 - sequence);
}

ops_limits recurrent_limits(const recurrent_shape *shape) {
    return (ops_limits){.tokens = recurrent_tokens(shape),
                        .sequences = shape->sequences,
                        .width = width_of(shape),
                        .heads = shape->heads,
                        .head_dim_qk = 1,
                        .head_dim_v = shape->size,
                        .vocab = 1};
}

static void make_extreme(double *gates, int64_t count, enum recurrent_gates kind, uint64_t seed,
                         bool input) {
    for (int64_t i = 0; i < count; i++) {
        if (kind == GATES_CAPPED)
            gates[i] = 15 * tanh(10 * gates[i]);
        else if (kind == GATES_WIDE)
            gates[i] = 100 * tanh(10 * gates[i]);
        else if (kind == GATES_EQUAL)
            gates[i] = 0.25;
        else if (kind == GATES_EXTREME && draw_integer(seed, (uint64_t)i, 3) == 0)
            gates[i] = input || draw_integer(seed + 1, (uint64_t)i, 2) ? -(double)INFINITY
                                                                       : (double)INFINITY;
    }
}

static void make_kept(double *x, const recurrent_shape *shape) {
    int64_t width = width_of(shape), token = 0;
    for (int i = 0; i < shape->sequences; i++)
        for (int t = 0; t < shape->lengths[i]; t++, token++)
            for (int64_t d = 0; d < width; d++) {
                x[4 * token * width + d] = t == 0 ? 100 : -INFINITY;
                x[(4 * token + 1) * width + d] = 10;
            }
}

/* Inputs of the gates, side by side. */
static ops_tensor place_gates(side *s, const recurrent_problem *p) {
    int64_t tokens = recurrent_tokens(p->shape), width = width_of(p->shape);
    double *x = must_allocate((size_t)(tokens * 4 * width) * sizeof *x);
    draw_normal(p->seed, (uint64_t)s->drawn++, 0, tokens * 4 * width, 0, 1, x);
    for (int64_t t = 0; t < tokens && !p->lstm; t++)
        for (int g = 0; g < 2; g++)
            make_extreme(x + (4 * t + g) * width, width, p->gates, p->seed + (uint64_t)(2 * t + g),
                         g == 0);
    if (p->gates == GATES_KEPT)
        make_kept(x, p->shape);
    double *poisoned = x + 4 * p->poisoned_token * width + p->poisoned_unit;
    if (p->poison != 0)
        poisoned[p->closed ? 2 * width : 0] = p->poison;
    if (p->closed)
        poisoned[0] = -INFINITY;
    ops_tensor placed = side_place(s, s->as.activation, 2, (int64_t[]){tokens, 4 * width}, x);
    free(x);
    return placed;
}

/* One of y, c, n, m: where n is 0, so are the others, as they are before the first token. */
static ops_tensor place_state(side *s, const recurrent_problem *p, int which) {
    int64_t shape[] = {p->shape->sequences + SPARE_SLOTS, p->shape->heads, p->shape->size};
    int64_t count = shape[0] * shape[1] * shape[2];
    double *values = must_allocate((size_t)count * sizeof *values);
    draw_normal(p->seed, (uint64_t)s->drawn++, 0, count, 0, 0.5, values);
    for (int64_t i = 0; i < count; i++)
        if (p->empty || draw_integer(p->seed, (uint64_t)i, 5) == 0)
            values[i] = 0;
        else if (which == 2)
            values[i] = 1 + fabs(values[i]);
    ops_tensor t = side_place(s, s->as.activation, 3, shape, values);
    free(values);
    return t;
}

recurrent_tensors recurrent_place_slstm(side *s, const recurrent_problem *p) {
    static const char *const names[] = {"y", "c", "n", "m"};
    const recurrent_shape *z = p->shape;
    recurrent_tensors t = {.problem = p, .x = place_gates(s, p)};
    t.weight = side_draw(s, SIDE_TABLE, 3, (int64_t[]){z->heads, z->size, 4 * z->size}, 0,
                         0.7 / sqrt((double)z->size));
    t.bias = side_draw(s, SIDE_TABLE, 2, (int64_t[]){4, width_of(z)}, 0.2, 0.5);
    t.out = side_poison(s, 2, (int64_t[]){recurrent_tokens(z), width_of(z)});
    side_output(s, "out", &t.out);
    for (int i = 0; i < (p->lstm ? 2 : 4); i++) {
        t.state[i] = place_state(s, p, i);
        if (i == 3)
            side_output_exponent(s, names[i], &t.state[i]);
        else
            side_output(s, names[i], &t.state[i]);
    }
    return t;
}

recurrent_tensors recurrent_place_conv(side *s, const recurrent_problem *p) {
    const recurrent_shape *z = p->shape;
    int64_t width = width_of(z), rows = recurrent_tokens(z);
    recurrent_tensors t = {.problem = p,
                           .conv = true,
                           .x = side_draw(s, SIDE_TABLE, 2, (int64_t[]){rows, width}, 0.3, 1),
                           .weight = side_draw(s, SIDE_WEIGHT, 2, (int64_t[]){width, z->taps}, 0,
                                               1 / sqrt((double)z->taps)),
                           .out = side_poison(s, 2, (int64_t[]){rows, width})};
    if (p->bias)
        t.bias = side_draw(s, SIDE_WEIGHT, 1, &width, 0, 0.5);
    side_output(s, "out", &t.out);
    if (z->taps > 1) {
        int64_t shape[] = {z->sequences + SPARE_SLOTS, z->taps - 1, width};
        t.state[0] = side_draw(s, SIDE_TABLE, 3, shape, 0, p->empty ? 0 : 1);
        side_output(s, "state", &t.state[0]);
    }
    return t;
}

/* The tokens of a part follow each other in memory if it is one sequence or whole ones. */
static ops_batch batch_of(side *s, const recurrent_problem *p, const recurrent_part *part,
                          int64_t *first_token) {
    int32_t slot[RECURRENT_MOST_SEQUENCES], start[RECURRENT_MOST_SEQUENCES + 1] = {0};
    int64_t position[RECURRENT_MOST_SEQUENCES], longest = 0;
    *first_token = part->from;
    for (int i = 0; i < part->first; i++)
        *first_token += p->shape->lengths[i];
    for (int i = 0; i < part->count; i++) {
        int64_t length = (part->to ? part->to : p->shape->lengths[part->first + i]) - part->from;
        slot[i] = recurrent_slot(p->shape, part->first + i);
        start[i + 1] = start[i] + (int32_t)length;
        position[i] = part->from + 7 * i;
        longest = length > longest ? length : longest;
    }
    return (ops_batch){.sequences = part->count,
                       .tokens = start[part->count],
                       .longest = longest,
                       .slot = side_i32(s, part->count, slot),
                       .start = side_i32(s, part->count + 1, start),
                       .position = side_i64(s, part->count, position)};
}

void recurrent_run(side *s, const recurrent_tensors *t, const recurrent_part *part) {
    const recurrent_problem *p = t->problem;
    int64_t first, heads = p->shape->heads, size = p->shape->size;
    ops_batch batch = batch_of(s, p, part, &first);
    ops_tensor x = ops_tensor_rows(&t->x, first, batch.tokens);
    ops_tensor out = ops_tensor_rows(&t->out, first, batch.tokens);
    if (t->conv) {
        s->as.device->ops.causal_conv(s->stream,
                                      &(struct ops_causal_conv){.batch = batch,
                                                                .x = x,
                                                                .weight = t->weight,
                                                                .bias = t->bias,
                                                                .activation = p->activation,
                                                                .state = t->state[0],
                                                                .out = out});
        return;
    }
    struct ops_slstm op = {.batch = batch,
                           .lstm = p->lstm,
                           .recurrent = t->weight,
                           .bias = t->bias,
                           .clip = p->clip,
                           .y = t->state[0],
                           .c = t->state[1],
                           .n = t->state[2],
                           .m = t->state[3],
                           .out = ops_tensor_split(&out, heads, size)};
    for (int g = 0; g < 4; g++) {
        ops_tensor columns = side_columns(&x, g * heads * size, heads * size);
        op.input[g] = ops_tensor_split(&columns, heads, size);
    }
    s->as.device->ops.slstm(s->stream, &op);
}
