/* Projections: products with weight matrices, and what is done to each output on the way out.
 *
 * One token: the norm is part of the product's kernel. Several: a dispatch of its own lays the rows
 * first, and each threadgroup of the product takes a few of them, with the same bits. In the profile
 * fast many tokens go another way (project_tiles.c), but for matrices of a few rows: those are gates,
 * which are sensitive, and cost nothing. */
#include "ops/metal/project.h"

#include <stdio.h>

static const ops_tensor absent;

static int64_t blocks_of(const metal_input *in, int64_t rows) {
    int64_t most = metal_tokens(in) == 1 ? PROJECT_ROWS : PROJECT_TOKENS_ROWS;
    return (rows + most - 1) / most;
}

/* Threadgroups: token by token next to each other, so that weights that are read again are near. */
static void set_grid(metal_dispatch *d, const metal_input *in, int64_t blocks) {
    d->groups[0] = (metal_tokens(in) + PROJECT_TOKENS - 1) / PROJECT_TOKENS;
    d->groups[1] = (uint32_t)blocks;
    d->threads = METAL_PROJECT_THREADS;
}

static void name_kernel(char name[64], const char *op, const metal_input *in, const char *type) {
    snprintf(name, 64, "%s_%s_%s", op, metal_tokens(in) == 1 ? "one" : "few", type);
}

struct matrix_arguments metal_matrix_arguments(const ops_tensor *weight, const ops_tensor *bias) {
    uint32_t first = metal_first(weight);
    if (dtype_block(weight->dtype) == 1)
        first *= (uint32_t)dtype_size(weight->dtype);
    uint32_t row_bytes = (uint32_t)ops_row_bytes(weight);
    return (struct matrix_arguments){
        .type = metal_type_of(weight->dtype),
        .rows = (uint32_t)weight->shape[0],
        .weight_first = first,
        .row_bytes = row_bytes,
        .wide = first % 16 == 0 && row_bytes % 16 == 0,
        .bias_first = ops_present(bias) ? metal_first(bias) : 0,
        .bias_type = metal_type_of(bias->dtype),
        .has_bias = ops_present(bias),
    };
}

/* Whether the product's kernel can take the norm along. */
static bool norms_on_the_way(const metal_input *in) {
    if (metal_tokens(in) > 1)
        return false;
    if (in->norm.kind == OPS_NORM_NONE || in->norm.groups == 1)
        return true;
    return in->norm.groups <= PROJECT_NORM_GROUPS && in->x.shape[1] / in->norm.groups % 4 == 0;
}

/* `in` as the product's kernels take it: rows are laid into scratch memory where need be. */
static metal_input prepare(metal_stream *s, const metal_input *in) {
    bool plain = in->norm.kind == OPS_NORM_NONE && !ops_present(&in->gate);
    if (plain || norms_on_the_way(in))
        return *in;
    ops_tensor rows = ops_tensor_rows(&s->scratch.rows, 0, in->x.shape[0]);
    rows.shape[1] = rows.stride[0] = in->x.shape[1];
    metal_lay_rows(s, in, &rows);
    return (metal_input){.x = rows, .norm = {.kind = OPS_NORM_NONE}};
}

/* ---- Several matrices ---- */

/* Those of `count` projections that are of this type, or where `floats` says so of a floating-point
 * one, as one dispatch. */
static void run_parts(metal_stream *s, const metal_input *in, const ops_projection *projection,
                      int count, dtype type, bool floats) {
    struct norm_project_arguments a = {.input = metal_input_arguments(in)};
    char name[64];
    metal_dispatch d = {.kernel = name, .arguments = &a, .argument_bytes = sizeof a};
    metal_bind_input(&d, in);
    int64_t blocks = 0;
    for (int i = 0; i < count; i++) {
        const ops_projection *p = &projection[i];
        bool is_block = dtype_block(p->weight.dtype) > 1;
        if (is_block ? p->weight.dtype != type : !floats)
            continue;
        a.part[a.count++] = (struct part_arguments){
            .matrix = metal_matrix_arguments(&p->weight, &p->bias),
            .first_block = (uint32_t)blocks,
            .out_first = metal_first(&p->out),
            .out_stride = (uint32_t)p->out.stride[0],
            .soft_cap = (float)p->soft_cap,
        };
        blocks += blocks_of(in, p->weight.shape[0]);
        metal_bind(&d, &p->weight, false);
        metal_bind(&d, &p->bias, false);
        metal_bind(&d, &p->out, true);
    }
    for (uint32_t i = a.count * 3; i < PROJECT_PARTS * 3; i++)
        metal_bind(&d, &absent, false);
    name_kernel(name, "norm_project", in, dtype_block(type) > 1 ? dtype_name(type) : "floats");
    set_grid(&d, in, blocks);
    metal_run(s, &d);
}

static bool is_first_of_its_type(const ops_projection *projection, int i) {
    for (int j = 0; j < i; j++)
        if (projection[j].weight.dtype == projection[i].weight.dtype)
            return false;
    return true;
}

/* One dispatch a type of blocks; floating-point matrices go with the first. */
static void run_products(metal_stream *s, const metal_input *in, const ops_projection *projection,
                         int count) {
    bool floats = true;
    for (int i = 0; i < count; i++) {
        dtype type = projection[i].weight.dtype;
        if (dtype_block(type) > 1 && is_first_of_its_type(projection, i)) {
            run_parts(s, in, projection, count, type, floats);
            floats = false;
        }
    }
    if (floats)
        run_parts(s, in, projection, count, DTYPE_F32, true);
}

/* Tiles where that is the way, one after the other, and the rest together. */
static void run_projections(metal_stream *s, const metal_input *in,
                            const ops_projection *projection, int count) {
    ops_projection rest[OPS_MAX_PROJECTIONS];
    int left = 0;
    bool laid = false;
    for (int i = 0; i < count; i++) {
        const ops_projection *p = &projection[i];
        if (!metal_is_for_tiles(s, in, &p->weight)) {
            rest[left++] = *p;
            continue;
        }
        metal_tiles t = {.ending = TILE_CAP,
                         .weight = &p->weight,
                         .bias = &p->bias,
                         .soft_cap = (float)p->soft_cap,
                         .out = &p->out};
        if (metal_tiles_need_halves(&t) && !laid) {
            metal_lay_halves(s, in);
            laid = true;
        }
        metal_run_tiles(s, in, &t);
    }
    if (left > 0)
        run_products(s, in, rest, left);
}

static bool check_matrix(metal_stream *s, const char *op, const ops_tensor *weight,
                         const ops_tensor *bias, int64_t tokens, int64_t rows, int64_t width,
                         const ops_tensor *out) {
    ops_check *c = &s->check;
    return ops_expect2(c, op, "a weight", weight, OPS_MATRICES, rows, width) &&
           metal_expect_type(s, op, "a weight", weight) &&
           ops_expect_optional(c, op, "a bias", bias, weight->shape[0]) &&
           metal_expect_type(s, op, "a bias", bias) &&
           ops_expect2(c, op, "out", out, OPS_F32, tokens, weight->shape[0]) &&
           metal_expect_type(s, op, "out", out);
}

static bool check_input(metal_stream *s, const char *op, const ops_tensor *x,
                        const ops_norm *norm) {
    ops_check *c = &s->check;
    return !ops_failed(c) && ops_expect2(c, op, "x", x, OPS_F32, -1, -1) &&
           metal_expect_type(s, op, "x", x) && ops_expect_limits(c, op, x->shape[0], x->shape[1]) &&
           metal_expect_norm(s, op, norm, x->shape[1]);
}

void metal_norm_project(ops_stream *stream, const struct ops_norm_project *op) {
    metal_stream *s = (metal_stream *)stream;
    const char *name = "norm_project";
    if (!check_input(s, name, &op->x, &op->norm))
        return;
    if (op->count < 1 || op->count > OPS_MAX_PROJECTIONS) {
        ops_fail(&s->check, XLSTM_INVALID_ARGUMENT, "%s: %d projections, 1 to %d are possible",
                 name, op->count, OPS_MAX_PROJECTIONS);
        return;
    }
    for (int i = 0; i < op->count; i++) {
        const ops_projection *p = &op->projection[i];
        if (!check_matrix(s, name, &p->weight, &p->bias, op->x.shape[0], -1, op->x.shape[1],
                          &p->out))
            return;
    }
    metal_input in = prepare(s, &(metal_input){.x = op->x, .norm = op->norm});
    run_projections(s, &in, op->projection, op->count);
}

/* ---- One matrix ---- */

static void run_tiles(metal_stream *s, const metal_input *in, const metal_tiles *t) {
    if (metal_tiles_need_halves(t))
        metal_lay_halves(s, in);
    metal_run_tiles(s, in, t);
}

typedef struct addition {
    const ops_tensor *weight, *bias, *residual, *out;
    float sign;
    bool multiply; /* out = act(z) * residual */
    enum ops_activation activation;
} addition;

static void run_addition(metal_stream *s, const metal_input *in, const addition *add) {
    if (metal_is_for_tiles(s, in, add->weight)) {
        run_tiles(s, in,
                  &(metal_tiles){.ending = add->multiply ? TILE_MULTIPLY : TILE_ADD,
                                 .weight = add->weight,
                                 .bias = add->bias,
                                 .residual = add->residual,
                                 .sign = add->sign,
                                 .activation = add->activation,
                                 .out = add->out});
        return;
    }
    struct project_add_arguments a = {
        .input = metal_input_arguments(in),
        .matrix = metal_matrix_arguments(add->weight, add->bias),
        .multiply = add->multiply,
        .activation = (uint32_t)add->activation,
        .sign = add->sign,
        .has_residual = ops_present(add->residual),
        .out_first = metal_first(add->out),
        .out_stride = (uint32_t)add->out->stride[0],
    };
    if (a.has_residual) {
        a.residual_first = metal_first(add->residual);
        a.residual_stride = (uint32_t)add->residual->stride[0];
    }
    char name[64];
    name_kernel(name, "project_add", in, dtype_name(add->weight->dtype));
    metal_dispatch d = {.kernel = name, .arguments = &a, .argument_bytes = sizeof a};
    metal_bind_input(&d, in);
    metal_bind_gate(&d, in);
    metal_bind(&d, add->weight, false);
    metal_bind(&d, add->bias, false);
    metal_bind(&d, add->residual, false);
    metal_bind(&d, add->out, true);
    set_grid(&d, in, blocks_of(in, add->weight->shape[0]));
    metal_run(s, &d);
}

/* ---- Gated ---- */

static void run_gated(metal_stream *s, const metal_input *in,
                      const struct ops_norm_project_gated *op) {
    if (metal_is_for_tiles(s, in, &op->gate_weight)) {
        run_tiles(s, in,
                  &(metal_tiles){.ending = TILE_GATED,
                                 .weight = &op->gate_weight,
                                 .bias = &op->gate_bias,
                                 .up_weight = &op->up_weight,
                                 .up_bias = &op->up_bias,
                                 .activation = op->activation,
                                 .out = &op->out});
        return;
    }
    struct project_gated_arguments a = {
        .input = metal_input_arguments(in),
        .gate = metal_matrix_arguments(&op->gate_weight, &op->gate_bias),
        .up = metal_matrix_arguments(&op->up_weight, &op->up_bias),
        .activation = (uint32_t)op->activation,
        .out_first = metal_first(&op->out),
        .out_stride = (uint32_t)op->out.stride[0],
    };
    char name[64];
    name_kernel(name, "norm_project_gated", in, dtype_name(op->gate_weight.dtype));
    metal_dispatch d = {.kernel = name, .arguments = &a, .argument_bytes = sizeof a};
    metal_bind_input(&d, in);
    metal_bind(&d, &op->gate_weight, false);
    metal_bind(&d, &op->gate_bias, false);
    metal_bind(&d, &op->up_weight, false);
    metal_bind(&d, &op->up_bias, false);
    metal_bind(&d, &op->out, true);
    set_grid(&d, in, blocks_of(in, 2 * op->gate_weight.shape[0]));
    metal_run(s, &d);
}

/* Gate and up of two types: up first, then the gate times that. */
static void run_gated_apart(metal_stream *s, const metal_input *in,
                            const struct ops_norm_project_gated *op) {
    run_projections(
        s, in, &(ops_projection){.weight = op->up_weight, .bias = op->up_bias, .out = op->out}, 1);
    run_addition(s, in,
                 &(addition){.weight = &op->gate_weight,
                             .bias = &op->gate_bias,
                             .residual = &op->out,
                             .multiply = true,
                             .activation = op->activation,
                             .out = &op->out});
}

void metal_norm_project_gated(ops_stream *stream, const struct ops_norm_project_gated *op) {
    metal_stream *s = (metal_stream *)stream;
    const char *name = "norm_project_gated";
    if (!check_input(s, name, &op->x, &op->norm) ||
        !ops_expect_activation(&s->check, name, op->activation))
        return;
    int64_t tokens = op->x.shape[0], width = op->x.shape[1];
    if (!check_matrix(s, name, &op->gate_weight, &op->gate_bias, tokens, -1, width, &op->out) ||
        !check_matrix(s, name, &op->up_weight, &op->up_bias, tokens, op->gate_weight.shape[0],
                      width, &op->out))
        return;
    metal_input in = prepare(s, &(metal_input){.x = op->x, .norm = op->norm});
    if (op->gate_weight.dtype == op->up_weight.dtype)
        run_gated(s, &in, op);
    else
        run_gated_apart(s, &in, op);
}

/* ---- With a residual ---- */

static bool check_addition(metal_stream *s, const char *name, const metal_input *in,
                           const addition *add) {
    return check_matrix(s, name, add->weight, add->bias, in->x.shape[0], -1, in->x.shape[1],
                        add->out) &&
           (!ops_present(add->residual) ||
            (ops_expect2(&s->check, name, "the residual", add->residual, OPS_F32, in->x.shape[0],
                         add->weight->shape[0]) &&
             metal_expect_type(s, name, "the residual", add->residual)));
}

void metal_project_add(ops_stream *stream, const struct ops_project_add *op) {
    metal_stream *s = (metal_stream *)stream;
    const char *name = "project_add";
    metal_input in = {.x = op->x, .norm = {.kind = OPS_NORM_NONE}};
    addition add = {.weight = &op->weight,
                    .bias = &op->bias,
                    .residual = &op->residual,
                    .sign = (float)op->sign,
                    .out = &op->out};
    if (check_input(s, name, &op->x, &in.norm) && check_addition(s, name, &in, &add))
        run_addition(s, &in, &add);
}

/* What the kernels of Metal ask for beyond that. */
static bool check_output(metal_stream *s, const struct ops_mlstm_output *op) {
    const char *name = "mlstm_output";
    return ops_expect_mlstm_output(&s->check, op) && metal_expect_type(s, name, "h", &op->h) &&
           (!ops_present(&op->skip) || metal_expect_type(s, name, "skip_input", &op->skip_input)) &&
           metal_expect_type(s, name, "the output gate", &op->output_gate) &&
           metal_expect_norm(s, name, &op->norm, op->h.shape[1] * op->h.shape[2]);
}

void metal_mlstm_output(ops_stream *stream, const struct ops_mlstm_output *op) {
    metal_stream *s = (metal_stream *)stream;
    const char *name = "mlstm_output";
    if (ops_failed(&s->check) || !check_output(s, op))
        return;
    metal_input in = {.x = op->h,
                      .norm = op->norm,
                      .gate = op->output_gate,
                      .skip = op->skip,
                      .skip_input = op->skip_input,
                      .activation = op->activation};
    in.x.rank = 2;
    in.x.shape[1] = op->h.shape[1] * op->h.shape[2];
    in.x.stride[1] = 1;
    addition add = {.weight = &op->weight,
                    .bias = &op->bias,
                    .residual = &op->residual,
                    .sign = (float)op->sign,
                    .out = &op->out};
    if (!check_addition(s, name, &in, &add))
        return;
    metal_input rows = prepare(s, &in);
    run_addition(s, &rows, &add);
}
