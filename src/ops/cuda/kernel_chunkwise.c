/* The kernel library's chunkwise mLSTM on tensor cores: which calls go there (bf16 arrays whose layout the copy engine
 * takes), and what they need besides what the caller gave. */
#include "ops/cuda/kernel_chunkwise.h"

#include <stddef.h>

#include "ops/cuda/chunkwise.h"

static bool is(const kernel_call *call, int argument, xlstm_dtype type) {
    return !kernel_has(call, argument) || call->array[argument].dtype == type;
}

/* What is given, as the kernels see it; memory for what they need besides is taken from w. */
typedef struct preparation {
    const kernel_call *call;
    cuda_workspace w;
    cuda_chunkwise c;
} preparation;

static chunkwise_array array_of(const kernel_call *call, int argument) {
    const xlstm_array *x = &call->array[argument];
    if (!x->data)
        return (chunkwise_array){0};
    return (chunkwise_array){x->data, x->stride[0], x->stride[2], x->stride[1]};
}

/* bf16 [B, NH, S, width], the caller's or one of the workspace. */
static chunkwise_array matrix(preparation *p, int argument, int64_t width) {
    const int64_t *shape = p->call->array[MLSTM_Q].shape;
    if (kernel_has(p->call, argument))
        return array_of(p->call, argument);
    int64_t head = shape[2] * width;
    return (chunkwise_array){cuda_workspace_take(&p->w, shape[0] * shape[1] * head, 2),
                             shape[1] * head, width, head};
}

static chunkwise_state state_of(const kernel_call *call, int c, int n, int m) {
    const xlstm_array *ac = &call->array[c], *an = &call->array[n], *am = &call->array[m];
    return (chunkwise_state){
        .c = ac->data,
        .n = an->data,
        .m = (float *)am->data,
        .type = DTYPE_F32,
        .c_slot = ac->stride[0],
        .c_head = ac->stride[1],
        .n_slot = an->stride[0],
        .n_head = an->stride[1],
        .m_slot = am->stride[0],
        .m_head = am->stride[1],
    };
}

/* C and n that are needed and not given. */
static void complete(preparation *p, chunkwise_state *s) {
    const cuda_chunkwise *c = &p->c;
    int64_t heads = c->sequences * c->heads;
    if (!s->c) {
        s->c_head = (int64_t)c->d_qk * c->d_v;
        s->c_slot = s->c_head * c->heads;
        s->c = cuda_workspace_take(&p->w, heads * s->c_head, sizeof(float));
    }
    if (!s->n) {
        s->n_head = c->d_qk;
        s->n_slot = s->n_head * c->heads;
        s->n = cuda_workspace_take(&p->w, heads * s->n_head, sizeof(float));
    }
}

static void prepare_backward(preparation *p) {
    const kernel_call *call = p->call;
    cuda_chunkwise *c = &p->c;
    c->exact = call->options.backward == XLSTM_BACKWARD_EXACT;
    c->dh = array_of(call, MLSTM_DH);
    c->dq = matrix(p, MLSTM_DQ, c->d_qk);
    c->dk = matrix(p, MLSTM_DK, c->d_qk);
    c->dv = matrix(p, MLSTM_DV, c->d_v);
    c->di = array_of(call, MLSTM_DI);
    c->df = array_of(call, MLSTM_DF);
    c->di_type = cuda_kernel_type(&call->array[MLSTM_DI]);
    c->df_type = cuda_kernel_type(&call->array[MLSTM_DF]);
    c->dlast = state_of(call, MLSTM_DC, MLSTM_DN, MLSTM_DM);
    c->dinitial = state_of(call, MLSTM_DC0, MLSTM_DN0, MLSTM_DM0);
    if (c->exact && (c->dlast.c || c->dlast.n))
        complete(p, &c->last);
    if (c->exact && c->dinitial.m)
        complete(p, &c->dinitial);
}

static xlstm_status prepare(preparation *p, const kernel_call *call) {
    const xlstm_array *q = &call->array[MLSTM_Q];
    cuda_kernel_gpu gpu;
    xlstm_status status = cuda_kernel_gpu_now(&gpu);
    if (status != XLSTM_OK)
        return status;
    *p = (preparation){.call = call, .w = cuda_workspace_of(call)};
    cuda_chunkwise *c = &p->c;
    c->stream = (cudaStream_t)call->options.stream;
    c->processors = gpu.processors;
    c->major = gpu.major;
    c->sequences = q->shape[0];
    c->heads = (int)q->shape[1];
    c->tokens = q->shape[2];
    c->d_qk = (int)q->shape[3];
    c->d_v = (int)call->array[MLSTM_V].shape[3];
    c->sigmoid = call->sigmoid;
    c->normalize = !call->sigmoid || call->options.normalize;
    c->eps = call->options.eps;
    c->q = array_of(call, MLSTM_Q);
    c->k = array_of(call, MLSTM_K);
    c->v = array_of(call, MLSTM_V);
    c->input_gate = array_of(call, MLSTM_I);
    c->forget_gate = array_of(call, MLSTM_F);
    c->gate_type = cuda_kernel_type(&call->array[MLSTM_I]);
    c->h = matrix(p, MLSTM_H, c->d_v);
    c->initial = state_of(call, MLSTM_C0, MLSTM_N0, MLSTM_M0);
    c->last = state_of(call, MLSTM_C, MLSTM_N, MLSTM_M);
    bool backward = call->options.backward != XLSTM_FORWARD;
    if (backward)
        prepare_backward(p);
    size_t bytes = cuda_chunkwise_workspace(c, backward);
    c->workspace = cuda_workspace_take(&p->w, (int64_t)bytes, 1);
    return XLSTM_OK;
}

bool cuda_kernel_takes_chunkwise(const kernel_call *call) {
    static const int matrices[] = {MLSTM_Q,  MLSTM_K,  MLSTM_V,  MLSTM_H,
                                   MLSTM_DH, MLSTM_DQ, MLSTM_DK, MLSTM_DV};
    static const int states[] = {MLSTM_C0, MLSTM_N0, MLSTM_M0, MLSTM_C,   MLSTM_N,   MLSTM_M,
                                 MLSTM_DC, MLSTM_DN, MLSTM_DM, MLSTM_DC0, MLSTM_DN0, MLSTM_DM0};
    bool backward = call->options.backward != XLSTM_FORWARD;
    if (call->form != KERNEL_CHUNKWISE || call->options.stored_states ||
        kernel_has(call, MLSTM_ALL_C) || kernel_has(call, MLSTM_ALL_N) ||
        kernel_has(call, MLSTM_ALL_M) || call->array[MLSTM_I].dtype != call->array[MLSTM_F].dtype ||
        call->options.accumulate != XLSTM_ACCUMULATE_PLAIN ||
        (backward && !kernel_has(call, MLSTM_DH)))
        return false;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        const xlstm_array *x = &call->array[matrices[i]];
        if (!is(call, matrices[i], XLSTM_BF16) || (x->data && x->stride[3] != 1))
            return false;
    }
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        const xlstm_array *x = &call->array[states[i]];
        bool whole = !x->data || x->stride[x->rank - 1] == 1 || x->shape[x->rank - 1] == 1;
        bool rows = !x->data || x->rank != 4 || x->stride[2] == x->shape[3];
        if (!is(call, states[i], XLSTM_F32) || !whole || !rows)
            return false;
    }
    preparation p;
    return prepare(&p, call) == XLSTM_OK && cuda_chunkwise_takes(&p.c, NULL);
}

xlstm_status cuda_kernel_chunkwise_workspace(const kernel_call *call, size_t *bytes) {
    kernel_call counted = *call;
    counted.options.workspace = NULL;
    preparation p;
    xlstm_status status = prepare(&p, &counted);
    *bytes = p.w.used;
    return status;
}

xlstm_status cuda_kernel_chunkwise(const kernel_call *call) {
    preparation p;
    xlstm_status status = prepare(&p, call);
    if (status == XLSTM_OK)
        status = cuda_chunkwise_forward(&p.c);
    if (status == XLSTM_OK && call->options.backward != XLSTM_FORWARD)
        status = cuda_chunkwise_backward(&p.c);
    return status;
}
