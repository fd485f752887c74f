/* The op mlstm through the chunkwise kernels (mlstm_chunkwise.h).
 *
 * These read starts, slots and positions wherever they need them, and check nothing. So the first kernel of the op copies
 * what the batch says, if it is right; if it is not, all sequences of the copy are empty and have no state, and the kernels
 * behind it touch nothing. */
#include "ops/cuda/mlstm_chunkwise.h"

#include "ops/cuda/beside.h"

enum { ADMIT_THREADS = 256, CHUNK_TOKENS = 64, MOST_PROCESSORS = 144 /* of a GH100 */ };

/* The copy; the chunkwise workspace stands behind it. */
struct admitted {
    int64_t *position;     /* [sequences] */
    int32_t *start, *slot; /* [sequences + 1], [sequences] */
    char *workspace;
};

/* Returns the bytes of the copy. */
static size_t place_admitted(char *base, int64_t sequences, struct admitted *a) {
    size_t positions = (size_t)sequences * sizeof(int64_t);
    size_t starts = (size_t)(sequences + 1) * sizeof(int32_t);
    size_t bytes = (positions + 2 * starts + 255) / 256 * 256;
    a->position = (int64_t *)base;
    a->start = (int32_t *)(base + positions);
    a->slot = (int32_t *)(base + positions + starts);
    a->workspace = base + bytes;
    return bytes;
}

struct admit_arguments {
    cuda_batch batch;
    struct admitted to;
};

static __global__
__launch_bounds__(ADMIT_THREADS) void mlstm_admit(const __grid_constant__ admit_arguments a) {
    cuda_wait();
    bool sound = batch_is_sound(a.batch);
    for (int i = (int)threadIdx.x; i <= a.batch.sequences; i += ADMIT_THREADS) {
        a.to.start[i] = sound ? a.batch.start[i] : 0;
        if (i == a.batch.sequences)
            continue;
        a.to.slot[i] = sound ? a.batch.slot[i] : -1;
        a.to.position[i] = sound ? a.batch.position[i] : 0;
    }
}

/* ---- Scratch ---- */

void cuda_place_mlstm_chunkwise(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s) {
    const ops_limits *l = &o->limits;
    const int64_t narrowest = 128;
    if (o->profile != OPS_FAST || l->deferred || l->tokens < MLSTM_CHUNKWISE_FROM ||
        l->head_dim_qk < narrowest || l->head_dim_v < narrowest)
        return;
    struct admitted none;
    int64_t bytes = (int64_t)place_admitted(NULL, l->sequences, &none) +
                    (int64_t)cuda_chunkwise_most(l->tokens, l->sequences, l->heads, l->head_dim_qk,
                                                 l->head_dim_v, MOST_PROCESSORS);
    int64_t words = (bytes + 3) / 4;
    s->chunkwise = cuda_carve(c, DTYPE_I32, 1, &words);
}

/* ---- The op ---- */

static chunkwise_array array_of(const ops_tensor *t) {
    chunkwise_array a = {cuda_at(t), 0, t->stride[0], t->rank > 2 ? t->stride[1] : 1};
    return a;
}

static chunkwise_state state_of(const struct ops_mlstm *op) {
    chunkwise_state s = {};
    s.c = cuda_at(&op->c);
    s.n = cuda_at(&op->n);
    s.m = (float *)cuda_at(&op->m);
    s.type = op->c.dtype;
    s.c_slot = op->c.stride[0];
    s.c_head = op->c.stride[1];
    s.n_slot = op->n.stride[0];
    s.n_head = op->n.stride[1];
    s.m_slot = op->m.stride[0];
    s.m_head = op->m.stride[1];
    return s;
}

static cuda_chunkwise call_of(cuda_stream *s, const struct ops_mlstm *op,
                              const struct admitted *batch) {
    const int most = MOST_PROCESSORS;
    cuda_chunkwise c = {};
    c.op = s;
    c.processors = cuda_beside_processors(s) < most ? cuda_beside_processors(s) : most;
    c.major = s->gpu->major;
    c.sequences = op->batch.sequences;
    c.tokens = op->batch.tokens;
    c.heads = (int)op->q.shape[1];
    c.d_qk = (int)op->q.shape[2];
    c.d_v = (int)op->v.shape[2];
    c.start = batch->start;
    c.positions = batch->position;
    c.slot = batch->slot;
    c.eps = op->eps;
    c.q = array_of(&op->q);
    c.k = array_of(&op->k);
    c.v = array_of(&op->v);
    c.h = array_of(&op->h);
    c.input_gate = array_of(&op->input_gate);
    c.forget_gate = array_of(&op->forget_gate);
    c.gate_type = DTYPE_F32;
    c.initial = c.last = state_of(op);
    c.workspace = batch->workspace;
    return c;
}

static bool are_bf16(const struct ops_mlstm *op) {
    return op->q.dtype == DTYPE_BF16 && op->k.dtype == DTYPE_BF16 && op->v.dtype == DTYPE_BF16 &&
           op->h.dtype == DTYPE_BF16;
}

static bool run(cuda_stream *s, const struct ops_mlstm *op) {
    struct admit_arguments a = {};
    a.batch = cuda_batch_of(s, &op->batch, op->c.shape[0]);
    place_admitted((char *)cuda_at(&s->scratch.chunkwise), op->batch.sequences, &a.to);
    cuda_chunkwise c = call_of(s, op, &a.to);
    if (!cuda_chunkwise_takes(&c, NULL))
        return false;
    if (cuda_mlstm_short(s, &c, &a.batch, op->batch.longest))
        return true;
    cuda_run(s, "mlstm_admit", mlstm_admit, dim3(1), ADMIT_THREADS, 0, a);
    xlstm_status status = cuda_chunkwise_forward(&c);
    if (status != XLSTM_OK)
        ops_fail(&s->check, status, "mlstm: %s", xlstm_last_error());
    return true;
}

bool cuda_mlstm_chunkwise(cuda_stream *s, const struct ops_mlstm *op) {
    int chunk = op->chunk_size ? op->chunk_size : s->base.device->chunk_size;
    if (!ops_present(&s->scratch.chunkwise) || chunk != CHUNK_TOKENS || op->deferred ||
        op->batch.longest < MLSTM_CHUNKWISE_FROM || !are_bf16(op) ||
        op->c.stride[2] != op->c.shape[3])
        return false;
    cuda_beside_hold(s);
    const bool taken = run(s, op);
    cuda_beside_release(s);
    return taken;
}
