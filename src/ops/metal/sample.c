/* Choosing ids: the rules of the rows become integers for the kernel, which has no floating point. */
#include "ops/metal/internal.h"
#include "ops/metal/sample_arguments.h"

#include <math.h>

enum { THREADS = 256 };

static int64_t words_of(int64_t vocab) {
    return (vocab + 31) / 32;
}

void metal_place_sample(metal_carver *c, const ops_stream_options *o, metal_scratch *s) {
    int64_t rows = o->limits.sequences < SAMPLE_ROWS ? o->limits.sequences : SAMPLE_ROWS;
    s->sample = metal_carve(c, DTYPE_I32, 2, (int64_t[]){rows, words_of(o->limits.vocab)});
}

/* x 2^power, cut to an integer. */
static void scaled(double x, int power, uint32_t *high, uint32_t *low) {
    uint64_t bits = (uint64_t)ldexp(x, power);
    *high = (uint32_t)(bits >> 32);
    *low = (uint32_t)bits;
}

static sample_rule rule_of(const struct ops_sample_row *row) {
    sample_rule rule = {.limit = row->limit,
                        .top_k = row->top_k > 0 && row->top_k < row->limit ? row->top_k : 0,
                        /* above 1 only the first id is left */
                        .greedy = row->temperature <= 0 || row->min_p > 1,
                        .penalised_first = row->penalised_first,
                        .penalised_count = row->penalised_count};
    if (row->penalty != 0 && row->penalty != 1) {
        double mantissa = frexp((double)row->penalty, &rule.penalty_exponent);
        rule.penalty = (uint32_t)ldexp(mantissa, 24);
        rule.penalty_exponent -= 24;
    }
    if (rule.greedy)
        return rule;
    const double log2_e = 1.4426950408889634;
    double scale = frexp(log2_e / (double)row->temperature, &rule.scale_exponent);
    rule.scale_exponent -= 64;
    scaled(scale, 64, &rule.scale_high, &rule.scale_low);
    scaled(row->uniform, 64, &rule.uniform_high, &rule.uniform_low);
    if (row->top_p > 0 && row->top_p < 1) {
        scaled((double)row->top_p, 64, &rule.top_p_high, &rule.top_p_low);
        rule.top_p_low |= rule.top_p_high == 0 && rule.top_p_low == 0;
    }
    if (row->min_p > 0)
        scaled(ceil(ldexp((double)row->min_p, 62)), 0, &rule.least_high, &rule.least_low);
    return rule;
}

void metal_sample(ops_stream *stream, const struct ops_sample *op) {
    metal_stream *s = (metal_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_sample(&s->check, op))
        return;
    int64_t rows = op->logits.shape[0], most = s->scratch.sample.shape[0];
    for (int64_t first = 0; first < rows; first += most) {
        int64_t count = rows - first < most ? rows - first : most;
        ops_tensor logits = ops_tensor_rows(&op->logits, first, count);
        ops_tensor out = ops_tensor_rows(&op->out, first, count);
        sample_arguments a = {.logits_first = metal_first(&logits),
                              .penalised_first =
                                  ops_present(&op->penalised) ? metal_first(&op->penalised) : 0,
                              .out_first = metal_first(&out),
                              .listed_first = metal_first(&s->scratch.sample),
                              .faults_first = metal_first(&s->scratch.faults),
                              .logits_stride = (uint32_t)logits.stride[0],
                              .first_row = (uint32_t)first,
                              .words = (uint32_t)s->scratch.sample.stride[0]};
        for (int64_t i = 0; i < count; i++)
            a.rule[i] = rule_of(&op->rows[first + i]);
        metal_run(s, &(metal_dispatch){.kernel = "sample_rows",
                                       .arguments = &a,
                                       .argument_bytes = sizeof a,
                                       .operand = {{&logits, false},
                                                   {&op->penalised, false},
                                                   {&s->scratch.sample, true},
                                                   {&out, true},
                                                   {&s->scratch.faults, true}},
                                       .operands = 5,
                                       .groups = {(uint32_t)count},
                                       .threads = THREADS});
    }
}
