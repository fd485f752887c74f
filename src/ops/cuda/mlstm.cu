/* The op mlstm: checks, and the launches.
 *
 * Single tokens of a batch take a kernel that needs no C (mlstm_prepare.h) and one by which C passes (mlstm_stream.h).
 * Longer sequences keep C in registers (mlstm_sequence.h); where keys are too long for that, they go through memory
 * (mlstm_step.h), and a single token of such keys as well. Prompts in the profile fast go through the chunkwise kernels
 * where these take them (mlstm_chunkwise.h). */
#include "ops/cuda/chain.h"
#include "ops/cuda/mlstm_chunkwise.h"
#include "ops/cuda/mlstm_stream.h"

#include <math.h>

/* ---- Scratch ---- */

void cuda_place_mlstm(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s) {
    int64_t heads = (int64_t)o->limits.sequences * o->limits.heads;
    int64_t bytes = (int64_t)sizeof(mlstm_digest) + (int64_t)sizeof(unsigned);
    if (o->limits.deferred)
        bytes += (int64_t)sizeof(mlstm_folds) + o->limits.head_dim_v * (int64_t)sizeof(float);
    int64_t words = heads * bytes / 4;
    s->mlstm = cuda_carve(c, DTYPE_I32, 1, &words);
    cuda_place_mlstm_chunkwise(c, o, s);
}

/* ---- Launches ---- */

static struct mlstm_rows rows_of(const ops_tensor *t) {
    struct mlstm_rows r = {};
    r.data = (char *)cuda_at(t);
    r.type = t->dtype;
    if (!ops_present(t))
        return r;
    r.outer = t->stride[0];
    r.head = t->rank > 2 ? t->stride[1] : 0;
    r.row = t->rank > 3 ? t->stride[2] : 0;
    return r;
}

/* Whether a row's vectors lie at multiples of 16 bytes. */
static bool is_wide(const ops_tensor *c) {
    int64_t most = c->dtype == DTYPE_F32 ? 4 : 8;
    return (uintptr_t)cuda_at(c) % 16 == 0 && c->stride[0] % most == 0 &&
           c->stride[1] % most == 0 && c->stride[2] % most == 0;
}

static mlstm_arguments arguments_of(const cuda_stream *s, const struct ops_mlstm *op) {
    int chunk = op->chunk_size ? op->chunk_size : s->base.device->chunk_size;
    mlstm_arguments a = {};
    a.heads = (int)op->q.shape[1];
    a.d_qk = (int)op->q.shape[2];
    a.d_v = (int)op->v.shape[2];
    a.ring = op->deferred;
    a.interval = op->deferred && chunk % op->deferred ? op->deferred : chunk;
    a.wide = is_wide(&op->c);
    a.eps = (float)op->eps;
    a.scale = (float)(1 / sqrt((double)a.d_qk));
    a.q = rows_of(&op->q);
    a.k = rows_of(&op->k);
    a.v = rows_of(&op->v);
    a.h = rows_of(&op->h);
    a.i = rows_of(&op->input_gate);
    a.f = rows_of(&op->forget_gate);
    a.c = rows_of(&op->c);
    a.n = rows_of(&op->n);
    a.m = rows_of(&op->m);
    a.ring_k = rows_of(&op->ring_k);
    a.ring_v = rows_of(&op->ring_v);
    a.ring_i = rows_of(&op->ring_i);
    a.ring_f = rows_of(&op->ring_f);
    a.batch = cuda_batch_of(s, &op->batch, op->c.shape[0]);
    const ops_limits *limits = &s->base.options.limits;
    const int64_t heads = (int64_t)limits->sequences * limits->heads;
    a.digests = (mlstm_digest *)cuda_at(&s->scratch.mlstm);
    a.arrivals = (unsigned *)(a.digests + heads);
    a.folds = (mlstm_folds *)(a.arrivals + heads);
    a.terms = (float *)(a.folds + heads);
    return a;
}

static bool check_sizes(ops_check *c, const struct ops_mlstm *op) {
    const int64_t most = 65535; /* blocks along a grid's second and third dimension */
    if (op->q.shape[2] > MLSTM_LONGEST_KEY)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "mlstm: keys of %lld values; the cuda device takes up to %d",
                        (long long)op->q.shape[2], (int)MLSTM_LONGEST_KEY);
    if (op->q.shape[1] > most || op->batch.sequences > most)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "mlstm: %lld heads of %d sequences; the cuda device takes up to %lld of "
                        "either",
                        (long long)op->q.shape[1], op->batch.sequences, (long long)most);
    return true;
}

extern "C" void cuda_mlstm(ops_stream *stream, const struct ops_mlstm *op) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_mlstm(&s->check, op) || !check_sizes(&s->check, op))
        return;
    if (cuda_mlstm_chunkwise(s, op))
        return;
    mlstm_arguments a = arguments_of(s, op);
    if (chain_takes_mlstm(&a)) {
        chain_mlstm(s, &a);
        return;
    }
    if (op->c.dtype == DTYPE_F32)
        mlstm_run_f32(s, op, a);
    else if (op->c.dtype == DTYPE_BF16)
        mlstm_run_bf16(s, op, a);
    else
        mlstm_run_f16(s, op, a);
}
