/* The sLSTM and the LSTM: one dispatch where heads are small, else one a token. */
#include "ops/metal/internal.h"
#include "ops/metal/slstm_arguments.h"

enum { THREADS = 256, FINISH_THREADS = 64 };

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
    if (ops_failed(&s->check) || !ops_expect_slstm(&s->check, op))
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
