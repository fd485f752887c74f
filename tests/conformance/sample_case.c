/* Sampling as a case of the table: rows of random logits under random rules. Every other row is
 * rounded to quarters, which makes ties, or all are the same. */
#include "conformance/cases.h"

#include <math.h>
#include <stdlib.h>

#include "base/random.h"

static const struct {
    int64_t rows, vocab;
} sizes[SAMPLE_VARIANTS] = {{1, 1},    {40, 7},   {40, 64},   {40, 1000}, {3, 50304}, {40, 2},
                            {40, 131}, {40, 257}, {20, 4097}, {40, 33},   {40, 500},  {5, 20011}};

ops_limits sample_case_limits(int variant) {
    return (ops_limits){.tokens = sizes[variant].rows,
                        .sequences = (int)sizes[variant].rows,
                        .width = sizes[variant].vocab,
                        .heads = 1,
                        .head_dim_qk = 1,
                        .head_dim_v = 1,
                        .vocab = sizes[variant].vocab};
}

enum { LISTED = 24 };

static struct ops_sample_row draw_rule(uint64_t seed, int64_t row, int64_t vocab) {
    static const float temperatures[] = {0, 0.7f, 1, 1, 1.3f, 1e-30f, 1e30f, 0.05f};
    static const float top_ps[] = {0, 0.9f, 1, 0.5f, 0.1f, 0.999f};
    static const float min_ps[] = {0, 0.05f, 0.5f, 1};
    static const float penalties[] = {1, 0, 1.3f, 0.8f, 3};
    uint64_t at = (uint64_t)row * 16;
    struct ops_sample_row rule = {
        .limit = (int32_t)(1 + (row % 3 ? vocab - 1 : draw_integer(seed, at, vocab))),
        .top_k = row % 4 ? 0 : (int32_t)draw_integer(seed, at + 1, vocab + 2),
        .temperature = row % 16 == 15 ? 0 : temperatures[draw_integer(seed, at + 2, 8)],
        .top_p = top_ps[draw_integer(seed, at + 3, 6)],
        .min_p = min_ps[draw_integer(seed, at + 4, 4)],
        .penalty = penalties[draw_integer(seed, at + 5, 5)],
        .uniform = row % 7 == 6 ? 0 : random_uniform(seed, 78, at),
        .penalised_first = (int32_t)draw_integer(seed, at + 6, LISTED),
    };
    rule.penalised_count = (int32_t)draw_integer(seed, at + 7, LISTED - rule.penalised_first + 1);
    return rule;
}

void sample_case_run(side *s, int variant) {
    int64_t rows = sizes[variant].rows, vocab = sizes[variant].vocab;
    double *logits = must_allocate((size_t)(rows * vocab) * sizeof *logits);
    struct ops_sample_row *rules = must_allocate((size_t)rows * sizeof *rules);
    int32_t listed[LISTED];
    for (int i = 0; i < LISTED; i++) /* some beyond the vocabulary, some twice */
        listed[i] = (int32_t)draw_integer(s->seed, 5000 + (uint64_t)i, vocab + 2) - 1;
    for (int64_t row = 0; row < rows; row++) {
        rules[row] = draw_rule(s->seed, row, vocab);
        double *z = logits + row * vocab;
        draw_normal(s->seed, (uint64_t)row, 0, vocab, 0, 3, z);
        for (int64_t id = 0; id < vocab; id++) {
            double step = row % 8 == 7 ? 1000 : 0.25;
            z[id] = row % 2 ? rint(z[id] / step) * step : z[id];
            z[id] = row % 5 == 4 && id % 3 == 1 ? -INFINITY : z[id];
        }
    }
    struct ops_sample op = {
        .logits = side_place(s, s->as.activation, 2, (int64_t[]){rows, vocab}, logits),
        .rows = rules,
        .penalised = side_i32(s, LISTED, listed),
        .out = side_i32(s, rows, NULL)};
    side_output(s, "out", &op.out);
    s->as.device->ops.sample(s->stream, &op);
    memset(rules, 0xFF, (size_t)rows * sizeof *rules); /* they were to be read before the return */
    free(rules);
    free(logits);
}

/* ---- Ended sequences ---- */

static const struct {
    int64_t sequences, ends;
} retired[RETIRE_VARIANTS] = {{1, 1}, {1, 3}, {5, 2}, {31, 1}, {33, 7}, {64, 64}, {100, 13}};

ops_limits retire_case_limits(int variant) {
    return (ops_limits){.tokens = retired[variant].sequences,
                        .sequences = (int)retired[variant].sequences,
                        .width = 1,
                        .heads = 1,
                        .head_dim_qk = 1,
                        .head_dim_v = 1,
                        .vocab = 1};
}

void retire_case_run(side *s, int variant) {
    int32_t ids[100], slots[100], ends[64];
    int64_t sequences = retired[variant].sequences, count = retired[variant].ends;
    for (int64_t i = 0; i < sequences; i++) {
        ids[i] = (int32_t)draw_integer(s->seed, (uint64_t)i, 4 * count + 1);
        slots[i] = (int32_t)(sequences - 1 - i);
    }
    for (int64_t i = 0; i < count; i++)
        ends[i] = (int32_t)draw_integer(s->seed, 1000 + (uint64_t)i, 4 * count + 1);
    struct ops_retire op = {.ids = side_i32(s, sequences, ids),
                            .ends = side_i32(s, count, ends),
                            .spare = (int32_t)sequences + 5,
                            .slot = side_i32(s, sequences, slots)};
    side_output(s, "slot", &op.slot);
    s->as.device->ops.retire(s->stream, &op);
}
