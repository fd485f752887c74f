/* Projections of many tokens in the profile fast: tiles (tiles.metal). */
#include "ops/metal/project.h"

#include <stdio.h>

static const ops_tensor absent;

/* Fewer tokens, or rows, would leave most of a tile empty. */
enum { LEAST_TOKENS = 17, LEAST_ROWS = 33 };

bool metal_is_for_tiles(const metal_stream *s, const metal_input *in, const ops_tensor *weight) {
    return s->base.options.profile == OPS_FAST && in->x.shape[0] >= LEAST_TOKENS &&
           weight->shape[0] >= LEAST_ROWS;
}

/* Whether these weights, and the tokens they meet, are halves in the tiles. */
static bool in_halves(dtype type) {
    return type == DTYPE_F16 || dtype_block(type) > 1;
}

static int64_t padded(int64_t width) {
    return (width + TILE_DEPTH - 1) / TILE_DEPTH * TILE_DEPTH;
}

static ops_tensor halves_of(const metal_stream *s, const metal_input *in) {
    ops_tensor halves = ops_tensor_rows(&s->scratch.halves, 0, in->x.shape[0]);
    halves.shape[1] = halves.stride[0] = padded(in->x.shape[1]);
    return halves;
}

void metal_lay_halves(metal_stream *s, const metal_input *in) {
    ops_tensor halves = halves_of(s, in);
    struct normalize_arguments a = {.input = metal_input_arguments(in),
                                    .out_first = metal_first(&halves),
                                    .halves_stride = (uint32_t)halves.stride[0]};
    metal_dispatch d = {.kernel = "rows_to_halves",
                        .arguments = &a,
                        .argument_bytes = sizeof a,
                        .groups = {metal_tokens(in)},
                        .threads = METAL_PROJECT_THREADS};
    metal_bind(&d, &in->x, false);
    metal_bind(&d, &halves, true);
    metal_bind(&d, &s->scratch.factors, true);
    metal_run(s, &d);
}

void metal_run_tiles(metal_stream *s, const metal_input *in, const metal_tiles *t) {
    bool halves = in_halves(t->weight->dtype), gated = t->ending == TILE_GATED;
    const ops_tensor x = halves ? halves_of(s, in) : in->x;
    const ops_tensor *residual = t->residual ? t->residual : &absent;
    struct tiles_arguments a = {
        .low = metal_matrix_arguments(t->weight, t->bias),
        .tokens = metal_tokens(in),
        .width = metal_width(in),
        .x_first = metal_first(&x),
        .x_stride = (uint32_t)x.stride[0],
        .ending = t->ending,
        .activation = (uint32_t)t->activation,
        .soft_cap = t->soft_cap,
        .sign = t->sign,
        .has_residual = ops_present(residual),
        .out_first = metal_first(t->out),
        .out_stride = (uint32_t)t->out->stride[0],
    };
    if (gated)
        a.high = metal_matrix_arguments(t->up_weight, t->up_bias);
    if (a.has_residual) {
        a.residual_first = metal_first(residual);
        a.residual_stride = (uint32_t)residual->stride[0];
    }
    char name[64];
    snprintf(name, sizeof name, "tiles_%s", dtype_name(t->weight->dtype));
    const uint32_t rows = gated ? TILE_ROWS / 2 : TILE_ROWS;
    metal_dispatch d = {
        .kernel = name,
        .arguments = &a,
        .argument_bytes = sizeof a,
        .groups = {(a.tokens + TILE_TOKENS - 1) / TILE_TOKENS, (a.low.rows + rows - 1) / rows},
        .threads = METAL_PROJECT_THREADS};
    metal_bind(&d, &x, false);
    metal_bind(&d, halves ? &s->scratch.factors : &absent, false);
    metal_bind(&d, t->weight, false);
    metal_bind(&d, t->bias, false);
    metal_bind(&d, gated ? t->up_weight : &absent, false);
    metal_bind(&d, gated ? t->up_bias : &absent, false);
    metal_bind(&d, residual, false);
    metal_bind(&d, t->out, true);
    metal_run(s, &d);
}

bool metal_tiles_need_halves(const metal_tiles *t) {
    return in_halves(t->weight->dtype);
}

void metal_place_project(metal_carver *c, const ops_stream_options *o, metal_scratch *s) {
    const int64_t tokens = o->limits.tokens;
    s->rows = metal_carve(c, DTYPE_F32, 2, (int64_t[]){tokens, o->limits.width});
    if (o->profile != OPS_FAST)
        return;
    s->halves = metal_carve(c, DTYPE_F16, 2, (int64_t[]){tokens, padded(o->limits.width)});
    s->factors = metal_carve(c, DTYPE_F32, 1, &tokens);
}
