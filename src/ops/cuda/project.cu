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

static bool check_matrix(ops_check *c, const char *op, const ops_tensor *weight,
                         const ops_tensor *bias, int64_t tokens, int64_t rows, int64_t width,
                         const ops_tensor *out) {
    return ops_expect2(c, op, "a weight", weight, MATRICES, rows, width) &&
           check_vector(c, op, "a bias", bias, weight->shape[0]) &&
           ops_expect2(c, op, "out", out, OPS_F32, tokens, weight->shape[0]);
}

static bool check_norm(ops_check *c, const char *op, const ops_norm *norm, int64_t width) {
    return ops_expect_norm(c, op, norm, width) &&
           (norm->kind == OPS_NORM_NONE ||
            (check_vector(c, op, "the norm's weight", &norm->weight, width) &&
             check_vector(c, op, "the norm's bias", &norm->bias, width)));
}

static bool check_input(ops_check *c, const char *op, const ops_tensor *x, const ops_norm *norm) {
    return !ops_failed(c) && ops_expect2(c, op, "x", x, OPS_F32, -1, -1) &&
           ops_expect_limits(c, op, x->shape[0], x->shape[1]) &&
           check_norm(c, op, norm, x->shape[1]);
}

/* ---- Arguments of the kernel ---- */

static bool at_fours(const ops_tensor *t) {
    return !ops_present(t) ||
           ((uintptr_t)cuda_at(t) % 16 == 0 && (t->rank < 2 || t->stride[0] % 4 == 0));
}

static input_arguments arguments_of_input(const cuda_input *in) {
    bool normed = in->norm.kind != OPS_NORM_NONE;
    input_arguments a = {};
    a.x = (const float *)cuda_at(&in->x);
    a.gate = (const float *)cuda_at(&in->gate);
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

/* Shared memory of a block for FEW_TOKENS tokens. */
template <class W> static size_t shared_bytes(const gemv_arguments *a) {
    return ((size_t)FEW_TOKENS * (size_t)a->row_floats + WARP) * sizeof(float) +
           (size_t)W::depth * INPUT_WARPS * gemv_shape<W>::stage;
}

/* Token by token, by chains. */
static void run_tokens(cuda_stream *s, const char *name, int type, const gemv_arguments *all) {
    gemv_arguments a = *all;
    a.input.tokens = 1;
    for (int64_t t = 0; t < all->input.tokens; t++) {
        a.input.x = all->input.x + t * a.input.x_stride;
        a.input.gate = all->input.gate ? all->input.gate + t * a.input.gate_stride : NULL;
        a.input.skip_input =
            all->input.skip_input ? all->input.skip_input + t * a.input.skip_input_stride : NULL;
        for (int i = 0; i < a.parts + a.few_parts; i++) {
            const gemv_part *from = &all->part[i];
            a.part[i].out = from->out + t * from->out_stride;
            a.part[i].residual = from->residual ? from->residual + t * from->residual_stride : NULL;
        }
        chain_project(s, name, type, &a);
    }
}

template <class W> static void run_as(cuda_stream *s, const char *name, gemv_arguments *a) {
    a->used_bytes = (int)dtype_bytes((dtype)W::type, a->input.width);
    a->input.padded = round_up(a->input.width, W::elements);
    a->row_floats = round_up(input_place(a->input.padded), 4);
    const size_t shared = shared_bytes<W>(a);
    if (a->input.tokens == 1 || shared > s->gpu->shared_bytes) {
        run_tokens(s, name, W::type, a);
        return;
    }
    const int blocks = (a->rows + INPUT_WARPS - 1) / INPUT_WARPS, most = s->gpu->processors;
    dim3 grid((unsigned)(blocks < most ? blocks : most),
              (unsigned)((a->input.tokens + FEW_TOKENS - 1) / FEW_TOKENS));
    cuda_run(s, name, gemv<W, FEW_TOKENS>, grid,
             INPUT_THREADS + (a->few_rows > 0 ? (unsigned)WARP : 0u), shared, *a);
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
    part->out = (float *)cuda_at(&p->out);
    part->out_stride = p->out.stride[0];
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
    }
    if (taken > 0)
        cuda_run_products(s, in, products, taken);
    if (left > 0)
        run_streamed(s, name, in, rest, left);
}

void cuda_norm_project(ops_stream *stream, const struct ops_norm_project *op) {
    cuda_stream *s = (cuda_stream *)stream;
    const char *name = "norm_project";
    if (!check_input(&s->check, name, &op->x, &op->norm))
        return;
    if (op->count < 1 || op->count > OPS_MAX_PROJECTIONS) {
        ops_fail(&s->check, XLSTM_INVALID_ARGUMENT, "%s: %d projections, 1 to %d are possible",
                 name, op->count, OPS_MAX_PROJECTIONS);
        return;
    }
    for (int i = 0; i < op->count; i++) {
        const ops_projection *p = &op->projection[i];
        if (!check_matrix(&s->check, name, &p->weight, &p->bias, op->x.shape[0], -1, op->x.shape[1],
                          &p->out))
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
    bool multiply; /* out = act(z) * residual */
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
    ops_projection projection = {*add->weight, *add->bias, 0.0, *add->out};
    add_part(&a, &projection, false);
    a.part[0].residual = (const float *)cuda_at(add->residual);
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
    ops_projection projection = {op->gate_weight, op->gate_bias, 0.0, op->out};
    add_part(&a, &projection, false);
    a.part[0].up = matrix_of(&op->up_weight, &op->up_bias);
    run(s, name, op->gate_weight.dtype, &a);
}

/* Gate and up of two types: up first, then the gate times that. */
static void run_gated_apart(cuda_stream *s, const char *name, const cuda_input *in,
                            const struct ops_norm_project_gated *op) {
    ops_projection up = {op->up_weight, op->up_bias, 0.0, op->out};
    run_streamed(s, name, in, &up, 1);
    addition add = {&op->gate_weight, &op->gate_bias, &op->out, &op->out, 0.0f, true,
                    op->activation};
    run_addition(s, name, in, &add);
}

void cuda_norm_project_gated(ops_stream *stream, const struct ops_norm_project_gated *op) {
    cuda_stream *s = (cuda_stream *)stream;
    const char *name = "norm_project_gated";
    if (!check_input(&s->check, name, &op->x, &op->norm) ||
        !ops_expect_activation(&s->check, name, op->activation))
        return;
    int64_t tokens = op->x.shape[0], width = op->x.shape[1];
    if (!check_matrix(&s->check, name, &op->gate_weight, &op->gate_bias, tokens, -1, width,
                      &op->out) ||
        !check_matrix(&s->check, name, &op->up_weight, &op->up_bias, tokens,
                      op->gate_weight.shape[0], width, &op->out))
        return;
    cuda_input in = {};
    in.x = op->x;
    in.norm = op->norm;
    bool same = op->gate_weight.dtype == op->up_weight.dtype;
    if (same && cuda_takes_product(s, &in, &op->gate_weight)) {
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
                        add->out) &&
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
    if (check_input(&s->check, name, &op->x, &in.norm) &&
        check_addition(&s->check, name, &in, &add))
        run_addition(s, name, &in, &add);
}

static bool check_output(ops_check *c, const struct ops_mlstm_output *op, int64_t tokens,
                         int64_t width) {
    const char *name = "mlstm_output";
    if (op->h.stride[1] != op->h.shape[2])
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: the heads of h must follow each other",
                        name);
    if (op->activation != OPS_SIGMOID && op->activation != OPS_SILU)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: the activation must be sigmoid or SiLU",
                        name);
    if (ops_present(&op->skip) != ops_present(&op->skip_input))
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: skip and skip_input go together", name);
    if (ops_present(&op->skip) &&
        !(ops_expect1(c, name, "skip", &op->skip, OPS_F32, width) &&
          ops_expect2(c, name, "skip_input", &op->skip_input, OPS_F32, tokens, width)))
        return false;
    return ops_expect2(c, name, "the output gate", &op->output_gate, OPS_F32, tokens, width) &&
           ops_expect_limits(c, name, tokens, width) && check_norm(c, name, &op->norm, width);
}

void cuda_mlstm_output(ops_stream *stream, const struct ops_mlstm_output *op) {
    cuda_stream *s = (cuda_stream *)stream;
    const char *name = "mlstm_output";
    const int64_t any[] = {-1, -1, -1};
    if (ops_failed(&s->check) || !ops_expect(&s->check, name, "h", &op->h, OPS_F32, 3, any))
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
    if (check_output(&s->check, op, in.x.shape[0], in.x.shape[1]) &&
        check_addition(&s->check, name, &in, &add))
        run_addition(s, name, &in, &add);
}
