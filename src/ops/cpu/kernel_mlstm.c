/* The kernel library's mLSTM on the CPU: a call becomes a struct cpu_mlstm_call, which the code for the
 * instruction set and element type computes.
 *
 * The recurrent forms are chunks of one token. The parallel forms are evaluated piece by piece too:
 * their sums over all l <= t are cut, and C and n stand for what lies before a piece. What
 * distinguishes them is that the maximum is one over tokens, without m_0. */
#include "ops/cpu/internal.h"

#include <stdlib.h>

#include "base/error.h"
#include "ops/cpu/mlstm_core.h"
#include "ops/kernel_shape.h"

static cpu_rows rows_of(const kernel_call *call, int argument) {
    const xlstm_array *a = &call->array[argument];
    return (cpu_rows){a->data, a->stride[0], a->stride[1], a->rank > 2 ? a->stride[2] : 1};
}

static void set_forward(const kernel_call *call, cpu_mlstm_call *m) {
    m->q = rows_of(call, MLSTM_Q);
    m->k = rows_of(call, MLSTM_K);
    m->v = rows_of(call, MLSTM_V);
    m->i = rows_of(call, MLSTM_I);
    m->f = rows_of(call, MLSTM_F);
    m->h = rows_of(call, MLSTM_H);
    m->c0 = rows_of(call, MLSTM_C0);
    m->n0 = rows_of(call, MLSTM_N0);
    m->m0 = rows_of(call, MLSTM_M0);
    m->c = rows_of(call, MLSTM_C);
    m->n = rows_of(call, MLSTM_N);
    m->m = rows_of(call, MLSTM_M);
    m->all_c = rows_of(call, MLSTM_ALL_C);
    m->all_n = rows_of(call, MLSTM_ALL_N);
    m->all_m = rows_of(call, MLSTM_ALL_M);
}

static void set_backward(const kernel_call *call, cpu_mlstm_call *m) {
    m->exact = call->options.backward == XLSTM_BACKWARD_EXACT;
    m->dh = rows_of(call, MLSTM_DH);
    m->dc = rows_of(call, MLSTM_DC);
    m->dn = rows_of(call, MLSTM_DN);
    m->dm = rows_of(call, MLSTM_DM);
    m->dq = rows_of(call, MLSTM_DQ);
    m->dk = rows_of(call, MLSTM_DK);
    m->dv = rows_of(call, MLSTM_DV);
    m->di = rows_of(call, MLSTM_DI);
    m->df = rows_of(call, MLSTM_DF);
    m->dc0 = rows_of(call, MLSTM_DC0);
    m->dn0 = rows_of(call, MLSTM_DN0);
    m->dm0 = rows_of(call, MLSTM_DM0);
}

static int64_t chunk_size_of(const kernel_call *call) {
    if (call->form == KERNEL_SEQUENCE || call->form == KERNEL_STEP)
        return 1;
    if (call->form == KERNEL_CHUNKWISE && call->options.chunk_size > 0)
        return call->options.chunk_size;
    return KERNEL_DEFAULT_CHUNK;
}

/* Calls `run` with as much scratch memory as it needs. */
static xlstm_status with_scratch(const cpu_mlstm_call *m, size_t size,
                                 void (*run)(const cpu_mlstm_call *, void *)) {
    cpu_block scratch;
    xlstm_status status = cpu_block_take(size, &scratch);
    if (status != XLSTM_OK)
        return status;
    run(m, scratch.memory);
    cpu_block_give_back(&scratch);
    return XLSTM_OK;
}

/* Whether all_c, all_n and all_m are inputs; a kernel without them has nothing to read. */
bool cpu_mlstm_reads_states(const kernel_call *call) {
    return call->options.stored_states && call->options.backward != XLSTM_FORWARD &&
           kernel_has(call, MLSTM_ALL_C) && kernel_has(call, MLSTM_ALL_N) &&
           (call->sigmoid || kernel_has(call, MLSTM_ALL_M));
}

bool cpu_mlstm_has_forward(const kernel_call *call) {
    bool any = false;
    for (int i = MLSTM_H; i <= (cpu_mlstm_reads_states(call) ? MLSTM_M : MLSTM_ALL_M); i++)
        any = any || kernel_has(call, i);
    return any;
}

/* The backward comes first: a last state may be written where the initial one was. */
static xlstm_status run(const kernel_call *call, const cpu_library *library, cpu_mlstm_call *m) {
    bool stored = cpu_mlstm_reads_states(call);
    xlstm_status status = XLSTM_OK;
    set_forward(call, m);
    if (call->options.backward != XLSTM_FORWARD) {
        set_backward(call, m);
        m->stored_states = stored;
        status = with_scratch(m, library->mlstm_backward_scratch(m), library->mlstm_backward);
        m->stored_states = false;
    }
    if (stored)
        m->all_c.data = m->all_n.data = m->all_m.data = NULL; /* inputs */
    if (status == XLSTM_OK && cpu_mlstm_has_forward(call))
        status = with_scratch(m, library->mlstm_forward_scratch(m), library->mlstm_forward);
    return status;
}

xlstm_status cpu_kernel_mlstm(const kernel_call *call) {
    if (call->options.accumulate == XLSTM_ACCUMULATE_COMPENSATED && call->real == DTYPE_F32)
        return cpu_kernel_mlstm_compensated(call);
    const cpu_kernels *kernels = cpu_kernels_choose();
    if (!kernels)
        return XLSTM_UNSUPPORTED;
    const int64_t *shape = call->array[MLSTM_Q].shape;
    cpu_mlstm_call m = {.sequence_count = shape[0],
                        .heads = shape[1],
                        .d_qk = shape[3],
                        .d_v = call->array[MLSTM_V].shape[3],
                        .longest = shape[2],
                        .chunk_size = chunk_size_of(call),
                        .state = call->real,
                        .sigmoid = call->sigmoid,
                        .normalize = !call->sigmoid || call->options.normalize,
                        .parallel =
                            call->form == KERNEL_PARALLEL || call->form == KERNEL_PARALLEL_STABLE,
                        .eps = call->options.eps};
    cpu_sequence *sequences = calloc((size_t)shape[0], sizeof *sequences);
    if (!sequences)
        return error_memory((size_t)shape[0] * sizeof *sequences, "the mLSTM");
    for (int64_t i = 0; i < shape[0]; i++)
        sequences[i] = (cpu_sequence){.slot = i, .tokens = shape[2]};
    m.sequences = sequences;
    xlstm_status status = cpu_pool_take(call->options.threads, &m.pool);
    if (status == XLSTM_OK) {
        m.threads = thread_pool_size(m.pool);
        status = run(call, call->real == DTYPE_F64 ? kernels->f64 : kernels->f32, &m);
        cpu_pool_give_back(m.pool);
    }
    free(sequences);
    return status;
}
