/* Projections: products with weight matrices, and what is done to each output on the way out. In the profile fast
 * many tokens go over tensor cores (products.cu); everything else is streamed (gemv.h). */
#include "ops/cuda/project.h"

#include "ops/cuda/chain.h"
#include "ops/cuda/gemv.h"

/* Nothing: rows are laid where they are multiplied. */
void cuda_place_project(cuda_carver *, const ops_stream_options *, cuda_scratch *) {
}

/* ---- Checks ---- */

enum {
    MATRICES = OPS_MATRICES & ~(1 << DTYPE_F64),
    VECTORS = 1 << DTYPE_F32 | 1 << DTYPE_BF16 | 1 << DTYPE_F16
};

static bool check_vector(ops_check *c, const char *op, const char *name, const ops_tensor *t,
                         int64_t size) {
    return !ops_present(t) || ops_expect1(c, op, name, t, VECTORS, size);
}

/* `types`: of the outputs. */
static bool check_matrix(ops_check *c, const char *op, const ops_tensor *weight,
                         const ops_tensor *bias, int64_t tokens, int64_t rows, int64_t width,
                         const ops_tensor *out, int types) {
    return ops_expect2(c, op, "a weight", weight, MATRICES, rows, width) &&
           check_vector(c, op, "a bias", bias, weight->shape[0]) &&
           ops_expect2(c, op, "out", out, types, tokens, weight->shape[0]);
}

static bool check_norm(ops_check *c, const char *op, const ops_norm *norm, int64_t width) {
    return ops_expect_norm(c, op, norm, width) &&
           (norm->kind == OPS_NORM_NONE ||
            (check_vector(c, op, "the norm's weight", &norm->weight, width) &&
             check_vector(c, op, "the norm's bias", &norm->bias, width)));
}

static bool check_input(ops_check *c, const char *op, const ops_tensor *x, int types,
                        const ops_norm *norm) {
    return !ops_failed(c) && ops_expect2(c, op, "x", x, types, -1, -1) &&
           ops_expect_limits(c, op, x->shape[0], x->shape[1]) &&
           check_norm(c, op, norm, x->shape[1]);
}

/* ---- Arguments of the kernel ---- */

static bool is_halves(const ops_tensor *t) {
    return ops_present(t) && t->dtype == DTYPE_BF16;
}

static bool at_fours(const ops_tensor *t) {
    return !ops_present(t) || (!is_halves(t) && (uintptr_t)cuda_at(t) % 16 == 0 &&
                               (t->rank < 2 || t->stride[0] % 4 == 0));
}

static input_arguments arguments_of_input(const cuda_input *in) {
    bool normed = in->norm.kind != OPS_NORM_NONE;
    input_arguments a = {};
    a.x = cuda_at(&in->x);
    a.gate = cuda_at(&in->gate);
    a.x_halves = is_halves(&in->x);
    a.gate_halves = is_halves(&in->gate);
    a.skip = (const float *)cuda_at(&in->skip);
    a.skip_input = (const float *)cuda_at(&in->skip_input);
    a.x_stride = in->x.stride[0];
    a.gate_stride = in->gate.stride[0];
    a.skip_input_stride = in->skip_input.stride[0];
    a.tokens = in->x.shape[0];
    a.width = (int)in->x.shape[1];
    a.kind = in->norm.kind;
    a.groups = normed ? in->norm.groups : 1;
    a.eps = (float)in->norm.eps;
    a.activation = in->activation;
    if (normed) {
        a.weight = cuda_at(&in->norm.weight);
        a.weight_type = in->norm.weight.dtype;
        a.bias = cuda_at(&in->norm.bias);
        a.bias_type = in->norm.bias.dtype;
    }
    a.fours = a.width / a.groups % 4 == 0 && at_fours(&in->x) && at_fours(&in->gate);
    a.weight_fours = normed && a.width / a.groups % 4 == 0 &&
                     (uintptr_t)a.weight % (4 * dtype_size(in->norm.weight.dtype)) == 0;
    return a;
}

static gemv_matrix matrix_of(const ops_tensor *weight, const ops_tensor *bias) {
    gemv_matrix m = {};
    m.weight = (const uint8_t *)cuda_at(weight);
    m.row_bytes = ops_row_bytes(weight);
    m.bias = cuda_at(bias);
    m.bias_type = bias->dtype;
    int aligned = dtype_block(weight->dtype) > 1 ? 4 : 16;
    m.wide = (uintptr_t)m.weight % (unsigned)aligned == 0 && m.row_bytes % aligned == 0;
    return m;
}

/* ---- Launches ---- */

static int round_up(int x, int to) {
    return (x + to - 1) / to * to;
}

enum { FEW_TOKENS = 4 };

/* Shared memory of a block for `tokens` tokens. */
template <class W> static size_t shared_bytes(const gemv_arguments *a, int tokens, int depth) {
    return ((size_t)tokens * (size_t)a->row_floats + WARP) * sizeof(float) +
           (size_t)depth * INPUT_WARPS * gemv_shape<W>::stage;
}

template <class W, int tokens, bool halves>
static void launch(cuda_stream *s, const char *name, const gemv_arguments *a, size_t shared) {
    const int blocks = (a->rows + INPUT_WARPS - 1) / INPUT_WARPS, most = s->gpu->processors;
    const dim3 grid((unsigned)(blocks < most ? blocks : most),
                    (unsigned)((a->input.tokens + tokens - 1) / tokens));
    cuda_run(s, name, gemv<W, tokens, halves>, grid,
             INPUT_THREADS + (a->few_rows > 0 ? (unsigned)WARP : 0u), shared, *a);
}

static const float *row_at(const void *rows, int64_t row, int64_t stride) {
    return rows ? (const float *)rows + row * stride : NULL;
}

/* Token by token, by chains. */
static void run_tokens(cuda_stream *s, const char *name, int type, const gemv_arguments *all) {
    gemv_arguments a = *all;
    const input_arguments *in = &all->input;
    a.input.tokens = 1;
    for (int64_t t = 0; t < in->tokens; t++) {
        a.input.x = row_at(in->x, t, in->x_stride);
        a.input.gate = row_at(in->gate, t, in->gate_stride);
        a.input.skip_input = row_at(in->skip_input, t, in->skip_input_stride);
        for (int i = 0; i < a.parts + a.few_parts; i++) {
            const gemv_part *from = &all->part[i];
            a.part[i].out = (void *)row_at(from->out, t, from->out_stride);
            a.part[i].residual = row_at(from->residual, t, from->residual_stride);
        }
        chain_project(s, name, type, &a);
    }
}

/* Rows of bf16 come here where a matrix is too small for tensor cores: one token a block will do. */
static bool has_halves(const gemv_arguments *a) {
    bool halves = a->input.x_halves || a->input.gate_halves;
    for (int i = 0; i < a->parts + a->few_parts; i++)
        halves |= a->part[i].halves;
    return halves;
}

/* Stages of the ring that fit beside the input of so many tokens. */
template <class W> static int depth_for(const cuda_stream *s, const gemv_arguments *a, int tokens) {
    int depth = W::depth;
    while (depth > 0 && shared_bytes<W>(a, tokens, depth) > s->gpu->shared_bytes)
        depth--;
    return depth;
}

template <class W> static void run_as(cuda_stream *s, const char *name, gemv_arguments *a) {
    a->used_bytes = (int)dtype_bytes((dtype)W::type, a->input.width);
    a->input.padded = round_up(a->input.width, W::elements);
    a->row_floats = round_up(input_place(a->input.padded), 4);
    const bool halves = has_halves(a);
    a->depth = depth_for<W>(s, a, halves ? 1 : FEW_TOKENS);
    if (halves && a->depth < 1)
        ops_fail(
            &s->check, XLSTM_UNSUPPORTED,
            "%s: a row of %d values does not fit in the %zu bytes of shared memory of this GPU",
            name, a->input.width, s->gpu->shared_bytes);
    else if (halves)
        launch<W, 1, true>(s, name, a, shared_bytes<W>(a, 1, a->depth));
    else if (a->input.tokens == 1 || a->depth < 1)
        run_tokens(s, name, W::type, a);
    else
        launch<W, FEW_TOKENS, false>(s, name, a, shared_bytes<W>(a, FEW_TOKENS, a->depth));
}

static void run(cuda_stream *s, const char *name, dtype type, gemv_arguments *a) {
    switch (type) {
    case DTYPE_BF16:
        return run_as<bf16_weights>(s, name, a);
    case DTYPE_F16:
        return run_as<f16_weights>(s, name, a);
    case DTYPE_Q8_0:
        return run_as<q8_0_weights>(s, name, a);
    case DTYPE_Q5_0:
        return run_as<q5_0_weights>(s, name, a);
    case DTYPE_Q5_1:
        return run_as<q5_1_weights>(s, name, a);
    case DTYPE_Q4_0:
        return run_as<q4_0_weights>(s, name, a);
    case DTYPE_Q4_1:
        return run_as<q4_1_weights>(s, name, a);
    case DTYPE_IQ4_NL:
        return run_as<iq4_nl_weights>(s, name, a);
    default:
        return run_as<f32_weights>(s, name, a);
    }
}

/* ---- Several matrices ---- */

static void add_part(gemv_arguments *a, const ops_projection *p, bool few) {
    gemv_part *part = &a->part[a->parts + a->few_parts];
    int *rows = few ? &a->few_rows : &a->rows;
    *part = {};
    part->matrix = matrix_of(&p->weight, &p->bias);
    part->type = p->weight.dtype;
    part->first = *rows;
    part->rows = (int)p->weight.shape[0];
    part->out = cuda_at(&p->out);
    part->out_stride = p->out.stride[0];
    part->halves = is_halves(&p->out);
    part->soft_cap = (float)p->soft_cap;
    *rows += part->rows;
    (*(few ? &a->few_parts : &a->parts))++;
}

/* Whether these rows go with those of another type. */
static bool is_few(const cuda_stream *s, const ops_projection *p) {
    return dtype_block(p->weight.dtype) == 1 && p->weight.shape[0] <= s->gpu->processors;
}

/* Those of `count` projections that are of this type, and the few of others if `few`. */
static void run_type(cuda_stream *s, const char *name, const cuda_input *in,
                     const ops_projection *projection, int count, dtype type, bool few) {
    gemv_arguments a = {};
    a.input = arguments_of_input(in);
    a.ending = GEMV_CAP;
    for (int i = 0; i < count; i++)
        if (projection[i].weight.dtype == type)
            add_part(&a, &projection[i], false);
    for (int i = 0; few && i < count; i++)
        if (projection[i].weight.dtype != type && is_few(s, &projection[i]))
            add_part(&a, &projection[i], true);
    run(s, name, type, &a);
}

/* The type that the few go with: that of the most rows. */
static dtype main_type(const ops_projection *projection, int count) {
    int best = 0;
    for (int i = 1; i < count; i++)
        if (projection[i].weight.shape[0] > projection[best].weight.shape[0])
            best = i;
    return projection[best].weight.dtype;
}

static bool is_first_of_its_type(const ops_projection *projection, int i) {
    for (int j = 0; j < i; j++)
        if (projection[j].weight.dtype == projection[i].weight.dtype)
            return false;
    return true;
}

static void run_streamed(cuda_stream *s, const char *name, const cuda_input *in,
                         const ops_projection *projection, int count) {
    dtype main = main_type(projection, count);
    run_type(s, name, in, projection, count, main, true);
    for (int i = 0; i < count; i++) {
        ops_projection rest[OPS_MAX_PROJECTIONS];
        int left = 0;
        dtype type = projection[i].weight.dtype;
        if (type == main || !is_first_of_its_type(projection, i))
            continue;
        for (int j = i; j < count; j++)
            if (projection[j].weight.dtype == type && !is_few(s, &projection[j]))
                rest[left++] = projection[j];
        if (left > 0)
            run_type(s, name, in, rest, left, type, false);
    }
}

static void run_projections(cuda_stream *s, const char *name, const cuda_input *in,
                            const ops_projection *projection, int count) {
    ops_projection rest[OPS_MAX_PROJECTIONS];
    cuda_product products[OPS_MAX_PROJECTIONS];
    int left = 0, taken = 0;
    for (int i = 0; i < count; i++) {
        const ops_projection *p = &projection[i];
        if (!cuda_takes_product(s, in, &p->weight)) {
            rest[left++] = *p;
            continue;
        }
        cuda_product *product = &products[taken++];
        *product = {};
        product->ending = CUDA_CAP;
        product->weight = &p->weight;
        product->bias = &p->bias;
        product->soft_cap = (float)p->soft_cap;
        product->out = &p->out;
        product->later = p->later;
    }
    if (taken > 0)
        cuda_run_products(s, in, products, taken);
    if (left > 0)
        run_streamed(s, name, in, rest, left);
}

void cuda_norm_project(ops_stream *stream, const struct ops_norm_project *op) {
    cuda_stream *s = (cuda_stream *)stream;
    const char *name = "norm_project";
    if (!check_input(&s->check, name, &op->x, OPS_F32, &op->norm))
        return;
    if (op->count < 1 || op->count > OPS_MAX_PROJECTIONS) {
        ops_fail(&s->check, XLSTM_INVALID_ARGUMENT, "%s: %d projections, 1 to %d are possible",
                 name, op->count, OPS_MAX_PROJECTIONS);
        return;
    }
    for (int i = 0; i < op->count; i++) {
        const ops_projection *p = &op->projection[i];
        if (!check_matrix(&s->check, name, &p->weight, &p->bias, op->x.shape[0], -1, op->x.shape[1],
                          &p->out, ops_wide(&s->check)))
            return;
    }
    cuda_input in = {};
    in.x = op->x;
    in.norm = op->norm;
    run_projections(s, name, &in, op->projection, op->count);
}

/* ---- One matrix ---- */

typedef struct addition {
    const ops_tensor *weight, *bias, *residual, *out;
    float sign;
    bool multiply; /* out = act(z) * residual, both of one type */
    enum ops_activation activation;
} addition;

static void run_addition(cuda_stream *s, const char *name, const cuda_input *in,
                         const addition *add) {
    if (!add->multiply && cuda_takes_product(s, in, add->weight)) {
        cuda_product product = {};
        product.ending = CUDA_ADD;
        product.weight = add->weight;
        product.bias = add->bias;
        product.residual = add->residual;
        product.sign = add->sign;
        product.out = add->out;
        cuda_run_products(s, in, &product, 1);
        return;
    }
    gemv_arguments a = {};
    a.input = arguments_of_input(in);
    a.ending = add->multiply ? GEMV_MULTIPLY : GEMV_ADD;
    a.sign = add->sign;
    a.activation = add->activation;
    ops_projection projection = {*add->weight, *add->bias, 0.0, *add->out, false};
    add_part(&a, &projection, false);
    a.part[0].residual = cuda_at(add->residual);
    a.part[0].residual_stride = add->residual->stride[0];
    run(s, name, add->weight->dtype, &a);
}

/* ---- Gated ---- */

static void run_gated(cuda_stream *s, const char *name, const cuda_input *in,
                      const struct ops_norm_project_gated *op) {
    gemv_arguments a = {};
    a.input = arguments_of_input(in);
    a.ending = GEMV_GATED;
    a.activation = op->activation;
    ops_projection projection = {op->gate_weight, op->gate_bias, 0.0, op->out, false};
    add_part(&a, &projection, false);
    a.part[0].up = matrix_of(&op->up_weight, &op->up_bias);
    run(s, name, op->gate_weight.dtype, &a);
}

/* Gate and up of two types: up first, then the gate times that. */
static void run_gated_apart(cuda_stream *s, const char *name, const cuda_input *in,
                            const struct ops_norm_project_gated *op) {
    ops_projection up = {op->up_weight, op->up_bias, 0.0, op->out, false};
    run_streamed(s, name, in, &up, 1);
    addition add = {&op->gate_weight, &op->gate_bias, &op->out, &op->out, 0.0f, true,
                    op->activation};
    run_addition(s, name, in, &add);
}

void cuda_norm_project_gated(ops_stream *stream, const struct ops_norm_project_gated *op) {
    cuda_stream *s = (cuda_stream *)stream;
    const char *name = "norm_project_gated";
    if (!check_input(&s->check, name, &op->x, OPS_F32, &op->norm) ||
        !ops_expect_activation(&s->check, name, op->activation))
        return;
    int64_t tokens = op->x.shape[0], width = op->x.shape[1];
    int types = ops_wide(&s->check);
    if (!check_matrix(&s->check, name, &op->gate_weight, &op->gate_bias, tokens, -1, width,
                      &op->out, types) ||
        !check_matrix(&s->check, name, &op->up_weight, &op->up_bias, tokens,
                      op->gate_weight.shape[0], width, &op->out, types))
        return;
    cuda_input in = {};
    in.x = op->x;
    in.norm = op->norm;
    bool same = op->gate_weight.dtype == op->up_weight.dtype;
    if (cuda_takes_product(s, &in, &op->gate_weight) &&
        cuda_takes_product(s, &in, &op->up_weight)) {
        cuda_product product = {};
        product.ending = CUDA_GATED;
        product.weight = &op->gate_weight;
        product.bias = &op->gate_bias;
        product.up_weight = &op->up_weight;
        product.up_bias = &op->up_bias;
        product.activation = op->activation;
        product.out = &op->out;
        cuda_run_products(s, &in, &product, 1);
    } else if (same) {
        run_gated(s, name, &in, op);
    } else {
        run_gated_apart(s, name, &in, op);
    }
}

/* ---- With a residual ---- */

static bool check_addition(ops_check *c, const char *name, const cuda_input *in,
                           const addition *add) {
    return check_matrix(c, name, add->weight, add->bias, in->x.shape[0], -1, in->x.shape[1],
                        add->out, OPS_F32) &&
           (!ops_present(add->residual) ||
            ops_expect2(c, name, "the residual", add->residual, OPS_F32, in->x.shape[0],
                        add->weight->shape[0]));
}

void cuda_project_add(ops_stream *stream, const struct ops_project_add *op) {
    cuda_stream *s = (cuda_stream *)stream;
    const char *name = "project_add";
    cuda_input in = {};
    in.x = op->x;
    in.norm.kind = OPS_NORM_NONE;
    addition add = {&op->weight,     &op->bias, &op->residual, &op->out,
                    (float)op->sign, false,     OPS_IDENTITY};
    if (check_input(&s->check, name, &op->x, ops_wide(&s->check), &in.norm) &&
        check_addition(&s->check, name, &in, &add))
        run_addition(s, name, &in, &add);
}

void cuda_mlstm_output(ops_stream *stream, const struct ops_mlstm_output *op) {
    cuda_stream *s = (cuda_stream *)stream;
    const char *name = "mlstm_output";
    if (ops_failed(&s->check) || !ops_expect_mlstm_output(&s->check, op))
        return;
    cuda_input in = {};
    in.x = op->h;
    in.norm = op->norm;
    in.gate = op->output_gate;
    in.skip = op->skip;
    in.skip_input = op->skip_input;
    in.activation = op->activation;
    in.x.rank = 2;
    in.x.shape[1] = op->h.shape[1] * op->h.shape[2];
    in.x.stride[1] = 1;
    addition add = {&op->weight,     &op->bias, &op->residual, &op->out,
                    (float)op->sign, false,     OPS_IDENTITY};
    if (check_norm(&s->check, name, &op->norm, in.x.shape[1]) &&
        check_addition(&s->check, name, &in, &add))
        run_addition(s, name, &in, &add);
}
