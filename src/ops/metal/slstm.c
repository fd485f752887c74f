/* The sLSTM and the LSTM: one dispatch where heads are small, else one a token. */
#include "ops/metal/internal.h"
#include "ops/metal/slstm_arguments.h"

enum { THREADS = 256, FINISH_THREADS = 64 };

static bool check(metal_stream *s, const struct ops_slstm *op) {
    const char *name = "slstm";
    static const char *const inputs[4] = {"input i", "input f", "input z", "input o"};
    if (!ops_expect(&s->check, name, "y", &op->y, OPS_F32, 3, (int64_t[]){-1, -1, -1}))
        return false;
    int64_t heads = op->y.shape[1], size = op->y.shape[2];
    const int64_t rows[] = {op->batch.tokens, heads, size};
    if (size > s->base.options.limits.head_dim_v)
        return ops_fail(&s->check, XLSTM_INVALID_ARGUMENT,
                        "%s: heads of %lld are more than the stream was created for (%lld)", name,
                        (long long)size, (long long)s->base.options.limits.head_dim_v);
    if (!(op->clip >= 0))
        return ops_fail(&s->check, XLSTM_INVALID_ARGUMENT, "%s: clip is %g, must not be negative",
                        name, op->clip);
    for (int g = 0; g < 4; g++)
        if (!ops_expect(&s->check, name, inputs[g], &op->input[g], OPS_F32, 3, rows))
            return false;
    return ops_expect(&s->check, name, "the recurrent weight", &op->recurrent, OPS_F32, 3,
                      (int64_t[]){heads, size, 4 * size}) &&
           ops_expect2(&s->check, name, "the bias", &op->bias, OPS_F32, 4, heads * size) &&
           ops_expect(&s->check, name, "c", &op->c, OPS_F32, 3, op->y.shape) &&
           (op->lstm || (ops_expect(&s->check, name, "n", &op->n, OPS_F32, 3, op->y.shape) &&
                         ops_expect(&s->check, name, "m", &op->m, OPS_F32, 3, op->y.shape))) &&
           ops_expect(&s->check, name, "out", &op->out, OPS_F32, 3, rows) &&
           ops_expect_batch(&s->check, name, &op->batch, op->y.shape[0]);
}

static slstm_arguments arguments_of(const struct ops_slstm *op) {
    slstm_arguments a = {
        .recurrent_first = metal_first(&op->recurrent),
        .recurrent_head_stride = (uint32_t)op->recurrent.stride[0],
        .recurrent_stride = (uint32_t)op->recurrent.stride[1],
        .bias_first = metal_first(&op->bias),
        .bias_stride = (uint32_t)op->bias.stride[0],
        .out_first = metal_first(&op->out),
        .out_stride = (uint32_t)op->out.stride[0],
        .out_head_stride = (uint32_t)op->out.stride[1],
        .slot_first = metal_first(&op->batch.slot),
        .start_first = metal_first(&op->batch.start),
        .sequences = (uint32_t)op->batch.sequences,
        .size = (uint32_t)op->y.shape[2],
        .lstm = op->lstm,
        .clip = op->clip > 3.4e38 ? 0 : (float)op->clip,
    };
    const ops_tensor *states[4] = {&op->y, &op->c, &op->n, &op->m};
    for (int i = 0; i < 4; i++) {
        a.input_first[i] = metal_first(&op->input[i]);
        a.input_stride[i] = (uint32_t)op->input[i].stride[0];
        a.input_head_stride[i] = (uint32_t)op->input[i].stride[1];
        if (i >= 2 && op->lstm)
            continue;
        a.state_first[i] = metal_first(states[i]);
        a.state_stride[i] = (uint32_t)states[i]->stride[0];
        a.state_head_stride[i] = (uint32_t)states[i]->stride[1];
    }
    return a;
}

/* A token each: what a dispatch writes to `out`, the next one reads. */
static void run_steps(metal_stream *s, const struct ops_slstm *op, metal_dispatch *d,
                      slstm_arguments *a) {
    const uint32_t heads = (uint32_t)op->y.shape[1];
    d->kernel = "slstm_step";
    d->threads = THREADS;
    d->groups[0] = (a->size + SLSTM_UNITS - 1) / SLSTM_UNITS;
    d->groups[1] = heads;
    d->groups[2] = (a->sequences + SLSTM_SEQUENCES - 1) / SLSTM_SEQUENCES;
    d->operand[9].written = false; /* y */
    for (int64_t time = 0; time < op->batch.longest; time++) {
        a->time = (uint32_t)time;
        metal_run(s, d);
    }
    metal_run(s, &(metal_dispatch){.kernel = "slstm_finish",
                                   .arguments = a,
                                   .argument_bytes = sizeof *a,
                                   .operand = {{&op->batch.slot, false},
                                               {&op->batch.start, false},
                                               {&op->out, false},
                                               {&op->y, true}},
                                   .operands = 4,
                                   .groups = {(a->size + FINISH_THREADS - 1) / FINISH_THREADS,
                                              heads, a->sequences},
                                   .threads = FINISH_THREADS});
}

void metal_slstm(ops_stream *stream, const struct ops_slstm *op) {
    static const ops_tensor absent = {0};
    metal_stream *s = (metal_stream *)stream;
    if (ops_failed(&s->check) || !check(s, op))
        return;
    slstm_arguments a = arguments_of(op);
    metal_dispatch d = {.kernel = "slstm_sequence",
                        .arguments = &a,
                        .argument_bytes = sizeof a,
                        .operand = {{&op->input[0], false},
                                    {&op->input[1], false},
                                    {&op->input[2], false},
                                    {&op->input[3], false},
                                    {&op->recurrent, false},
                                    {&op->bias, false},
                                    {&op->batch.slot, false},
                                    {&op->batch.start, false},
                                    {&op->out, true},
                                    {&op->y, true},
                                    {&op->c, true},
                                    {op->lstm ? &absent : &op->n, true},
                                    {op->lstm ? &absent : &op->m, true}},
                        .operands = 13};
    if (a.size > SLSTM_SMALL) {
        run_steps(s, op, &d, &a);
        return;
    }
    d.groups[0] = (uint32_t)op->y.shape[1];
    d.groups[1] = a.sequences;
    d.threads = (4 * a.size + METAL_SIMD - 1) / METAL_SIMD * METAL_SIMD;
    metal_run(s, &d);
}
