/* The op mlstm: checks, and a call of the code that the kernel library uses too (mlstm_core.h). Chunks
 * and rings begin at absolute positions, and after every piece the state is what is stored, so that a
 * prompt that is cut at a border gives the same bits. */
#include "ops/cpu/internal.h"

#include "ops/cpu/mlstm_core.h"

/* Rows of a tensor [T][heads][width] or [T][heads]: sequences follow each other. */
static cpu_rows token_rows(const ops_tensor *t) {
    return (cpu_rows){ops_data(t), 0, t->rank > 2 ? t->stride[1] : 1, t->stride[0]};
}

/* Of a tensor [slots][heads], [slots][heads][d_qk] or [slots][heads][rows][width]. */
static cpu_rows state_rows(const ops_tensor *t) {
    return (cpu_rows){ops_data(t), t->stride[0], t->rank > 2 ? t->stride[1] : 1,
                      t->rank > 3 ? t->stride[2] : 0};
}

static cpu_ring ring_rows(const struct ops_mlstm *op) {
    if (op->deferred == 0)
        return (cpu_ring){0};
    cpu_ring ring = {op->deferred, state_rows(&op->ring_k), state_rows(&op->ring_v),
                     state_rows(&op->ring_i), state_rows(&op->ring_f)};
    ring.i.row = ring.f.row = 1;
    return ring;
}

/* Fills the stream's table of sequences; returns the most tokens of one. */
static int64_t list_sequences(const ops_batch *batch, cpu_sequence *sequences) {
    const int32_t *start = ops_data(&batch->start), *slot = ops_data(&batch->slot);
    const int64_t *position = ops_data(&batch->position);
    int64_t longest = 1;
    for (int i = 0; i < batch->sequences; i++) {
        int64_t tokens = start[i + 1] - start[i];
        sequences[i] = (cpu_sequence){slot[i], start[i], tokens, position[i]};
        longest = tokens > longest ? tokens : longest;
    }
    return longest;
}

int64_t cpu_mlstm_scratch(const cpu_library *library, const ops_limits *limits, int threads) {
    size_t most = 0;
    cpu_mlstm_call call = {.threads = threads,
                           .sequence_count = limits->sequences,
                           .heads = limits->heads,
                           .d_qk = limits->head_dim_qk,
                           .d_v = limits->head_dim_v,
                           .longest = limits->tokens,
                           .c = {.data = &most}}; /* there is one */
    for (call.chunk_size = 1; call.chunk_size <= CPU_LONGEST_CHUNK; call.chunk_size++)
        for (int with_ring = 0; with_ring < 2; with_ring++) {
            call.ring.length = with_ring ? limits->deferred : 0;
            size_t size = library->mlstm_forward_scratch(&call);
            most = size > most ? size : most;
        }
    return most > INT64_MAX ? INT64_MAX : (int64_t)most;
}

void cpu_mlstm(ops_stream *stream, const struct ops_mlstm *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_mlstm(&s->check, op))
        return;
    cpu_mlstm_call call = {.pool = s->pool,
                           .threads = thread_pool_size(s->pool),
                           .sequences = s->sequences,
                           .sequence_count = op->batch.sequences,
                           .heads = op->q.shape[1],
                           .d_qk = op->q.shape[2],
                           .d_v = op->v.shape[2],
                           .longest = list_sequences(&op->batch, s->sequences),
                           .chunk_size = op->chunk_size ? op->chunk_size : CPU_CHUNK,
                           .normalize = true,
                           .round_states = true,
                           .eps = op->eps,
                           .state = op->c.dtype,
                           .ring = ring_rows(op),
                           .q = token_rows(&op->q),
                           .k = token_rows(&op->k),
                           .v = token_rows(&op->v),
                           .h = token_rows(&op->h),
                           .i = token_rows(&op->input_gate),
                           .f = token_rows(&op->forget_gate),
                           .c0 = state_rows(&op->c),
                           .n0 = state_rows(&op->n),
                           .m0 = state_rows(&op->m),
                           .c = state_rows(&op->c),
                           .n = state_rows(&op->n),
                           .m = state_rows(&op->m)};
    s->kernels->f32->mlstm_forward(&call, s->mlstm);
}
