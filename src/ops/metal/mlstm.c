/* The op mlstm: checks, and the dispatches (mlstm_step.metal, mlstm_chunks.metal).
 *
 * Single tokens, and chunks of one, are stepped through, whatever the profile: two dispatches. Longer
 * sequences take three more or less: the gates, the scores, the columns of C. With a ring, what fills it up and
 * what is left over is stepped through before and after. Where the ring's length does not divide that of
 * the chunks, all is. */
#include <math.h>
#include <stdio.h>

#include "ops/metal/internal.h"
#include "ops/metal/mlstm_arguments.h"

_Static_assert(sizeof(mlstm_arguments) % 16 == 0, "structs that kernels read are multiples of 16");
_Static_assert((int)OPS_MAX_DEFERRED <= (int)MLSTM_LONGEST,
               "a ring is no longer than the kernels' arrays");
_Static_assert(MLSTM_QUADS *MLSTM_ROW_GROUPS == MLSTM_THREADS && MLSTM_QUADS * 4 == MLSTM_COLUMNS,
               "threads share the columns and rows of C");

/* ---- Checks ---- */

/* The kernels count in 32 bits. */
static bool check_strides(ops_check *c, const struct ops_mlstm *op) {
    const ops_tensor *tensors[] = {
        &op->q, &op->k, &op->v,      &op->h,      &op->c,      &op->input_gate, &op->forget_gate,
        &op->n, &op->m, &op->ring_k, &op->ring_v, &op->ring_i, &op->ring_f};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        for (int d = 0; ops_present(tensors[i]) && d < tensors[i]->rank; d++)
            if (tensors[i]->stride[d] < 0 || tensors[i]->stride[d] > UINT32_MAX)
                return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                                "mlstm: a stride of %lld elements; the metal device takes 0 to "
                                "4294967295",
                                (long long)tensors[i]->stride[d]);
    if (op->q.shape[2] > 4096)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "mlstm: keys of %lld values; the metal device takes up to 4096",
                        (long long)op->q.shape[2]);
    return true;
}

/* ---- Scratch ---- */

void metal_place_mlstm(metal_carver *c, const ops_stream_options *o, metal_scratch *s) {
    const ops_limits *limits = &o->limits;
    int64_t tokens = limits->tokens, heads = limits->heads;
    int64_t borders = tokens / MLSTM_SHORTEST + 2 * (int64_t)limits->sequences;
    if (tokens < 1 || heads < 1 || limits->head_dim_qk < 1)
        return; /* a model without it */
    s->mlstm_gates = metal_carve(c, DTYPE_F32, 3, (int64_t[]){tokens, heads, MLSTM_TABLE});
    s->mlstm_states =
        metal_carve(c, DTYPE_F32, 3, (int64_t[]){borders, heads, limits->head_dim_qk});
    s->mlstm_sums = metal_carve(c, DTYPE_F32, 3, (int64_t[]){tokens, heads, MLSTM_LONGEST});
}

/* ---- Dispatches ---- */

/* Whether 4 elements at a multiple of 4 can be taken at once. */
static bool is_wide(const ops_tensor *t) {
    bool wide = metal_first(t) % 4 == 0 && t->shape[t->rank - 1] % 4 == 0;
    for (int d = 0; d + 1 < t->rank; d++)
        wide = wide && t->stride[d] % 4 == 0;
    return wide;
}

static uint32_t first_of(const ops_tensor *t) {
    return ops_present(t) ? metal_first(t) : 0;
}

static uint32_t stride_of(const ops_tensor *t, int dimension) {
    return ops_present(t) ? (uint32_t)t->stride[dimension] : 0;
}

static mlstm_arguments arguments_of(const metal_stream *s, const struct ops_mlstm *op, int chunk) {
    const metal_scratch *scratch = &s->scratch;
    return (mlstm_arguments){
        .heads = (uint32_t)op->q.shape[1],
        .d_qk = (uint32_t)op->q.shape[2],
        .d_v = (uint32_t)op->v.shape[2],
        .ring = op->deferred ? (uint32_t)op->deferred : 1,
        .chunk = (uint32_t)chunk,
        .wide_c = is_wide(&op->c),
        .wide_v = is_wide(&op->v),
        .eps = (float)op->eps,
        .scale = (float)(1 / sqrt((double)op->q.shape[2])),
        .q_first = first_of(&op->q),
        .k_first = first_of(&op->k),
        .v_first = first_of(&op->v),
        .i_first = first_of(&op->input_gate),
        .f_first = first_of(&op->forget_gate),
        .h_first = first_of(&op->h),
        .c_first = first_of(&op->c),
        .n_first = first_of(&op->n),
        .m_first = first_of(&op->m),
        .ring_k_first = first_of(&op->ring_k),
        .ring_v_first = first_of(&op->ring_v),
        .ring_i_first = first_of(&op->ring_i),
        .ring_f_first = first_of(&op->ring_f),
        .slot_first = first_of(&op->batch.slot),
        .start_first = first_of(&op->batch.start),
        .position_first = first_of(&op->batch.position),
        .tables_first = first_of(&scratch->mlstm_gates),
        .borders_first = first_of(&scratch->mlstm_states),
        .scores_first = first_of(&scratch->mlstm_sums),
        .q_token = stride_of(&op->q, 0),
        .q_head = stride_of(&op->q, 1),
        .k_token = stride_of(&op->k, 0),
        .k_head = stride_of(&op->k, 1),
        .v_token = stride_of(&op->v, 0),
        .v_head = stride_of(&op->v, 1),
        .h_token = stride_of(&op->h, 0),
        .h_head = stride_of(&op->h, 1),
        .i_token = stride_of(&op->input_gate, 0),
        .f_token = stride_of(&op->forget_gate, 0),
        .c_slot = stride_of(&op->c, 0),
        .c_head = stride_of(&op->c, 1),
        .c_row = stride_of(&op->c, 2),
        .n_slot = stride_of(&op->n, 0),
        .n_head = stride_of(&op->n, 1),
        .m_slot = stride_of(&op->m, 0),
        .ring_k_slot = stride_of(&op->ring_k, 0),
        .ring_k_head = stride_of(&op->ring_k, 1),
        .ring_k_row = stride_of(&op->ring_k, 2),
        .ring_v_slot = stride_of(&op->ring_v, 0),
        .ring_v_head = stride_of(&op->ring_v, 1),
        .ring_v_row = stride_of(&op->ring_v, 2),
        .ring_i_slot = stride_of(&op->ring_i, 0),
        .ring_i_head = stride_of(&op->ring_i, 1),
        .ring_f_slot = stride_of(&op->ring_f, 0),
        .ring_f_head = stride_of(&op->ring_f, 1),
    };
}

/* What a dispatch adds to the names, the arguments and the threads that all have. */
static void run(metal_stream *s, const struct ops_mlstm *op, const mlstm_arguments *arguments,
                const char *kernel, bool typed, metal_dispatch d) {
    char name[64];
    snprintf(name, sizeof name, "%s%s%s", kernel, typed ? "_" : "",
             typed ? dtype_name(op->c.dtype) : "");
    d.kernel = name;
    d.arguments = arguments;
    d.argument_bytes = sizeof *arguments;
    d.threads = MLSTM_THREADS;
    while (d.operands < METAL_MOST_OPERANDS && d.operand[d.operands].tensor)
        d.operands++;
    metal_run(s, &d);
}

static uint32_t column_groups(const mlstm_arguments *a) {
    return (a->d_v + MLSTM_COLUMNS - 1) / MLSTM_COLUMNS;
}

/* Token by token. */
static void run_steps(metal_stream *s, const struct ops_mlstm *op, mlstm_arguments a,
                      enum mlstm_span span) {
    uint32_t sequences = (uint32_t)op->batch.sequences;
    const ops_batch *batch = &op->batch;
    bool ring = op->deferred > 0;
    const ops_tensor none = {0};
    const ops_tensor *ring_k = ring ? &op->ring_k : &none, *ring_v = ring ? &op->ring_v : &none;
    const ops_tensor *ring_i = ring ? &op->ring_i : &none, *ring_f = ring ? &op->ring_f : &none;
    a.span = span;
    run(s, op, &a, "mlstm_step", true,
        (metal_dispatch){.operand = {{&op->q, false},
                                     {&op->k, false},
                                     {&op->v, false},
                                     {&op->input_gate, false},
                                     {&op->forget_gate, false},
                                     {&batch->slot, false},
                                     {&batch->start, false},
                                     {&batch->position, false},
                                     {&op->c, true},
                                     {&op->n, false},
                                     {&op->m, false},
                                     {ring_k, false},
                                     {ring_v, false},
                                     {ring_i, false},
                                     {ring_f, false},
                                     {&op->h, true}},
                         .groups = {column_groups(&a), a.heads, sequences},
                         .threadgroup_bytes = (a.d_qk + 3) / 4 * 16});
    run(s, op, &a, "mlstm_settle", true,
        (metal_dispatch){.operand = {{&op->k, false},
                                     {&op->v, false},
                                     {&op->input_gate, false},
                                     {&op->forget_gate, false},
                                     {&batch->slot, false},
                                     {&batch->start, false},
                                     {&batch->position, false},
                                     {&op->n, true},
                                     {&op->m, true},
                                     {ring_k, ring},
                                     {ring_v, ring},
                                     {ring_i, ring},
                                     {ring_f, ring}},
                         .groups = {a.heads, sequences, 1}});
}

static void run_chunks(metal_stream *s, const struct ops_mlstm *op, mlstm_arguments a) {
    uint32_t sequences = (uint32_t)op->batch.sequences;
    const ops_batch *batch = &op->batch;
    const metal_scratch *scratch = &s->scratch;
    a.span = MLSTM_BODY;
    run(s, op, &a, "mlstm_gates", true,
        (metal_dispatch){.operand = {{&op->k, false},
                                     {&op->input_gate, false},
                                     {&op->forget_gate, false},
                                     {&batch->slot, false},
                                     {&batch->start, false},
                                     {&batch->position, false},
                                     {&op->n, true},
                                     {&op->m, true},
                                     {&scratch->mlstm_gates, true},
                                     {&scratch->mlstm_states, true}},
                         .groups = {a.heads, sequences, 1}});
    run(s, op, &a, "mlstm_scores", false,
        (metal_dispatch){
            .operand = {{&op->q, false},
                        {&op->k, false},
                        {&batch->slot, false},
                        {&batch->start, false},
                        {&batch->position, false},
                        {&scratch->mlstm_gates, true},
                        {&scratch->mlstm_states, false},
                        {&scratch->mlstm_sums, true}},
            .groups = {(uint32_t)(op->batch.longest / a.chunk + 2), a.heads, sequences}});
    run(s, op, &a, "mlstm_columns", true,
        (metal_dispatch){.operand = {{&op->q, false},
                                     {&op->k, false},
                                     {&op->v, false},
                                     {&batch->slot, false},
                                     {&batch->start, false},
                                     {&batch->position, false},
                                     {&op->c, true},
                                     {&scratch->mlstm_gates, false},
                                     {&scratch->mlstm_sums, false},
                                     {&op->h, true}},
                         .groups = {column_groups(&a), a.heads, sequences}});
}

/* Of the chunks that the kernels take: those longer than they can are cut in two. */
static int chunk_length(const metal_stream *s, const struct ops_mlstm *op) {
    int length = op->chunk_size ? op->chunk_size : s->base.device->chunk_size;
    return length > MLSTM_LONGEST ? length / 2 : length;
}

void metal_mlstm(ops_stream *stream, const struct ops_mlstm *op) {
    metal_stream *s = (metal_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_mlstm(&s->check, op) || !check_strides(&s->check, op))
        return;
    int length = chunk_length(s, op), ring = op->deferred ? op->deferred : 1;
    mlstm_arguments a = arguments_of(s, op, length);
    if (length == 1 || op->batch.longest == 1 || op->batch.longest < ring || length % ring != 0) {
        run_steps(s, op, a, MLSTM_ALL);
        return;
    }
    if (ring > 1)
        run_steps(s, op, a, MLSTM_LEAD);
    run_chunks(s, op, a);
    if (ring > 1)
        run_steps(s, op, a, MLSTM_TAIL);
}
