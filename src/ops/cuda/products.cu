/* Products of many tokens in the profile fast, on tensor cores.
 *
 * Rows are laid as bf16 into scratch memory, normed or gated on the way (product_rows.cu); where they are bf16
 * already and nothing is to be done to them they are used as they lie. Weights of bf16 are used as they lie, too;
 * of other types (or at other alignments) they are unpacked (product_weights.cu), as many rows at a time as fit
 * into scratch memory. Sums are f32, and endings are applied to them before anything is rounded.
 *
 * With the option `fp8` rows and weights are e4m3, where the tokens are more than 128 (fp8.h). */
#include "ops/cuda/beside.h"
#include "ops/cuda/fp8.h"
#include "ops/cuda/products.h"

/* Fewer tokens go faster by project.cu: where weights must be unpacked or a warp multiplies 16 tokens at least, and
 * where kernels take the weights as they lie. Fewer rows are gates: they are not worth unpacking, and in bf16 lose nothing
 * that perplexity shows (docs/SPEED.md), but are not for fp8. */
enum { LEAST_TOKENS = 9, LEAST_TOKENS_READY = 2, LEAST_ROWS = GEMM_NARROW_ROWS + 1 };
/* Rows that are unpacked at a time: a round number, and of the 7B model's matrices as many as 96 MB have. */
enum { ROWS_STEP = 128, UNPACKED_BYTES = 96 << 20 };
enum { MOST_BESIDE_FP8 = 4096 };

static int64_t padded(int64_t width) {
    return (width + GEMM_ALIGNMENT - 1) / GEMM_ALIGNMENT * GEMM_ALIGNMENT;
}
static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Whether a kernel can take the rows as they lie. */
static bool is_ready(const ops_tensor *t) {
    return t->dtype == DTYPE_BF16 && t->shape[1] % GEMM_ALIGNMENT == 0 &&
           t->stride[0] % GEMM_ALIGNMENT == 0 && (uintptr_t)cuda_at(t) % 16 == 0;
}

bool cuda_takes_product(const cuda_stream *s, const cuda_input *in, const ops_tensor *weight) {
    const bool ready = s->gpu->major == 9 && is_ready(weight);
    return s->base.options.profile == OPS_FAST && (ready || weight->shape[0] >= LEAST_ROWS) &&
           in->x.shape[0] >= (ready ? LEAST_TOKENS_READY : LEAST_TOKENS);
}

/* Whether the rows are multiplied as they lie. */
static bool is_laid(const cuda_input *in) {
    return in->norm.kind == OPS_NORM_NONE && !ops_present(&in->gate) && !ops_present(&in->skip) &&
           is_ready(&in->x);
}

/* The rows in bf16, which are to be laid there unless they are already. */
static ops_tensor input_rows(const cuda_stream *s, const cuda_input *in) {
    if (is_laid(in))
        return in->x;
    ops_tensor halves = ops_tensor_rows(&s->scratch.halves, 0, in->x.shape[0]);
    halves.shape[1] = halves.stride[0] = padded(in->x.shape[1]);
    return halves;
}

/* ---- One product, and rows of it ---- */

static const void *row_of(const ops_tensor *t, int64_t row) {
    const char *first = t && ops_present(t) ? (const char *)cuda_at(t) : NULL;
    return first ? first + row * (int64_t)dtype_size(t->dtype) : NULL;
}

/* Whether two neighbours of a row can be moved together, the first of them at an even place. */
static bool is_paired(const void *first, dtype type, int64_t stride) {
    return !first || ((uintptr_t)first % (2 * dtype_size(type)) == 0 && stride % 2 == 0);
}

/* All but the weights, for rows [first, first + count). */
static gemm_part part_of(const cuda_product *p, int64_t first, int64_t count) {
    gemm_part part = {};
    part.rows = (int)count;
    part.ending = p->ending;
    part.activation = p->activation;
    part.sign = p->sign;
    part.soft_cap = p->soft_cap;
    part.bias = row_of(p->bias, first);
    part.bias_type = part.bias ? p->bias->dtype : DTYPE_F32;
    part.out = (void *)row_of(p->out, first);
    part.out_type = p->out->dtype;
    part.out_stride = p->out->stride[0];
    part.paired = count % 2 == 0 && is_paired(part.out, p->out->dtype, part.out_stride);
    if (p->ending == CUDA_GATED) {
        part.up_bias = row_of(p->up_bias, first);
        part.up_bias_type = part.up_bias ? p->up_bias->dtype : DTYPE_F32;
    }
    if (p->ending == CUDA_ADD && ops_present(p->residual)) {
        part.residual = row_of(p->residual, first);
        part.residual_type = p->residual->dtype;
        part.residual_stride = p->residual->stride[0];
        part.paired &= p->residual->dtype == DTYPE_F32 &&
                       is_paired(part.residual, DTYPE_F32, part.residual_stride);
    }
    return part;
}

/* Rows of a matrix as a kernel can take them; `room` is scratch memory for them, if they need it. */
static const uint16_t *weight_rows(cuda_stream *s, const ops_tensor *weight, int64_t first,
                                   int64_t count, const ops_tensor *room, int64_t *stride) {
    if (is_ready(weight)) {
        *stride = weight->stride[0];
        return (const uint16_t *)cuda_at(weight) + first * weight->stride[0];
    }
    cuda_unpack(s, weight, first, count, room);
    *stride = room->stride[0];
    return (const uint16_t *)cuda_at(room);
}

/* Room for `rows` unpacked rows, `index` times as far into the scratch memory. */
static ops_tensor room_for(cuda_stream *s, int64_t rows, int64_t width, int index) {
    ops_tensor room = s->scratch.unpacked;
    const int64_t shape[2] = {rows, padded(width)};
    return ops_tensor_make(room.buffer,
                           room.offset + (size_t)(index * rows * padded(width)) * sizeof(uint16_t),
                           DTYPE_BF16, 2, shape);
}

/* Rows that are unpacked at a time, of each of `matrices`. */
static int64_t rows_that_fit(const cuda_stream *s, int64_t width, int matrices) {
    int64_t rows = s->scratch.unpacked.shape[0] / (padded(width) * matrices);
    return rows > ROWS_STEP ? rows / ROWS_STEP * ROWS_STEP : rows;
}

static void run_gemm(cuda_stream *s, const gemm *g) {
    if (gemm_takes_few(s, g))
        gemm_run_few(s, g, gemm_plan_few(s, g));
    else if (gemm_takes_narrow(g))
        gemm_run_narrow(s, g);
    else if (gemm_takes_wide(s, g))
        gemm_run_wide(s, g);
    else
        gemm_run_plain(s, g);
}

static gemm gemm_of(const ops_tensor *x, int64_t width) {
    gemm g = {};
    g.x = (const uint16_t *)cuda_at(x);
    g.x_stride = x->stride[0];
    g.tokens = (int)x->shape[0];
    g.width = (int)padded(width);
    return g;
}

static void add_part(cuda_stream *s, gemm *g, const cuda_product *p, int64_t first, int64_t count) {
    const int64_t width = p->weight->shape[1];
    gemm_part part = part_of(p, first, count);
    ops_tensor room = room_for(s, count, width, 0);
    part.weight = weight_rows(s, p->weight, first, count, &room, &part.weight_stride);
    if (p->ending == CUDA_GATED) {
        room = room_for(s, count, width, 1);
        part.up = weight_rows(s, p->up_weight, first, count, &room, &part.up_stride);
    }
    g->part[g->parts++] = part;
}

static bool weights_are_ready(const cuda_product *p) {
    return is_ready(p->weight) && (p->ending != CUDA_GATED || is_ready(p->up_weight));
}

/* Weights that are unpacked, as many rows at a time as there is room for. */
static void run_unpacked(cuda_stream *s, const ops_tensor *x, const cuda_product *p) {
    const int64_t rows = p->weight->shape[0], width = p->weight->shape[1];
    const int64_t step = rows_that_fit(s, width, p->ending == CUDA_GATED ? 2 : 1);
    for (int64_t first = 0; first < rows; first += step) {
        gemm g = gemm_of(x, width);
        add_part(s, &g, p, first, smaller(step, rows - first));
        run_gemm(s, &g);
    }
}

/* Whether the kernel for many tokens takes the product, whatever its weights are. */
static bool is_wide(const cuda_stream *s, const cuda_product *p, int64_t tokens) {
    gemm g = {};
    g.tokens = (int)tokens;
    g.parts = 1;
    g.part[0] = part_of(p, 0, p->weight->shape[0]);
    return gemm_takes_wide(s, &g);
}

/* Whether one kernel can run both; those of few tokens and of gates look at each part's cap. */
static bool are_alike(const cuda_stream *s, const cuda_product *a, const cuda_product *b,
                      int64_t tokens) {
    if (a->ending != CUDA_CAP || b->ending != CUDA_CAP)
        return false;
    if (tokens <= GEMM_FEW_TOKENS)
        return true;
    if (b->weight->shape[0] < LEAST_ROWS)
        return is_wide(s, b, tokens);
    return (a->soft_cap == 0.0f) == (b->soft_cap == 0.0f);
}

/* ---- Of fp8 ---- */

static bool find_fp8(cuda_stream *s, const cuda_product *p, fp8_matrix *weight, fp8_matrix *up) {
    return fp8_weights_find(s, p->weight, weight) &&
           (p->ending != CUDA_GATED || fp8_weights_find(s, p->up_weight, up));
}

/* Whether all of them can be of fp8. A rehearsal notes their weights in any case: outputs may be of another type in
 * other runs, and so at other alignments. */
static bool takes_fp8(cuda_stream *s, const cuda_input *in, const cuda_product *products,
                      int count) {
    bool takes = s->fp8 && in->x.shape[0] >= FP8_LEAST_TOKENS;
    for (int i = 0; i < count; i++)
        takes &= products[i].ending != CUDA_CAP || products[i].soft_cap == 0.0f;
    for (int i = 0; i < count && takes && s->rehearsing; i++) {
        fp8_matrix weight, up;
        takes = find_fp8(s, &products[i], &weight, &up);
    }
    for (int i = 0; i < count && takes; i++)
        takes = is_wide(s, &products[i], in->x.shape[0]);
    return takes;
}

/* Rows in e4m3; in bf16, too, where `halves` is not NULL. */
static gemm_fp8 fp8_rows(cuda_stream *s, const cuda_input *in, const ops_tensor *halves) {
    gemm_fp8 f = {};
    f.g.tokens = (int)in->x.shape[0];
    f.g.width = (int)((in->x.shape[1] + FP8_ALIGNMENT - 1) / FP8_ALIGNMENT * FP8_ALIGNMENT);
    f.g.x = (const uint16_t *)cuda_at(&s->scratch.bytes);
    f.g.x_stride = f.g.width;
    f.x_scale = (const float *)cuda_at(&s->scratch.scales);
    cuda_lay_fp8(s, in, (unsigned char *)cuda_at(&s->scratch.bytes), f.g.x_stride,
                 (float *)cuda_at(&s->scratch.scales), halves);
    return f;
}

static void add_fp8_part(cuda_stream *s, gemm_fp8 *f, const cuda_product *p) {
    fp8_matrix weight = {}, up = {};
    if (!find_fp8(s, p, &weight, &up))
        return;
    gemm_part part = part_of(p, 0, p->weight->shape[0]);
    part.weight = (const uint16_t *)weight.values;
    part.weight_stride = weight.stride;
    part.up = (const uint16_t *)up.values;
    part.up_stride = up.stride;
    f->weight_scale[f->g.parts] = weight.scale;
    f->up_scale[f->g.parts] = up.scale;
    f->g.part[f->g.parts++] = part;
}

static void run_fp8(cuda_stream *s, gemm_fp8 f, const cuda_product *products, int count) {
    for (int i = 0; i < count && !ops_failed(&s->check); f.g.parts = 0) {
        const cuda_product *first = &products[i];
        do
            add_fp8_part(s, &f, &products[i]);
        while (++i < count && f.g.parts < GEMM_PARTS &&
               are_alike(s, first, &products[i], f.g.tokens));
        gemm_run_fp8(s, &f);
    }
}

static void run_halves(cuda_stream *s, const ops_tensor *x, const cuda_product *products,
                       int count) {
    for (int i = 0; i < count;) {
        if (!weights_are_ready(&products[i])) {
            run_unpacked(s, x, &products[i++]);
            continue;
        }
        const cuda_product *first = &products[i];
        gemm g = gemm_of(x, first->weight->shape[1]);
        g.constant = true;
        do
            add_part(s, &g, &products[i], 0, products[i].weight->shape[0]);
        while (++i < count && g.parts < GEMM_PARTS && weights_are_ready(&products[i]) &&
               are_alike(s, first, &products[i], g.tokens));
        run_gemm(s, &g);
    }
}

/* ---- What runs when ---- */

/* Products in the order in which they run: those that are needed at once, the gates behind the others, and behind them those
 * that may go on beside the next op. */
struct plan {
    cuda_product product[OPS_MAX_PROJECTIONS];
    int many, gates, beside;
};

/* 0, 1, 2: many rows, gates, beside. */
static int kind_of(const cuda_product *p, bool beside) {
    return p->weight->shape[0] < LEAST_ROWS ? 1 : p->later && beside ? 2 : 0;
}

static struct plan plan_of(const cuda_product *products, int count, bool beside) {
    struct plan p = {};
    int *const counts[] = {&p.many, &p.gates, &p.beside}, done = 0;
    for (int kind = 0; kind < 3; kind++)
        for (int i = 0; i < count; i++)
            if (kind_of(&products[i], beside) == kind) {
                p.product[done++] = products[i];
                (*counts[kind])++;
            }
    return p;
}

/* Whether some of them go on beside the next op. In fp8 products take so much less time than the mLSTM, which is not of fp8,
 * that it pays for short prompts alone. */
static bool goes_beside(const cuda_stream *s, int64_t tokens) {
    return cuda_beside_possible(s) && (!s->fp8 || tokens <= MOST_BESIDE_FP8);
}

/* Leaves the next op half of the multiprocessors, where tokens are few; else a third to a quarter. */
static void begin_beside(cuda_stream *s, const cuda_product *p) {
    const int all = s->gpu->processors, tokens = (int)p->out->shape[0];
    const bool few = tokens <= GEMM_FEW_TOKENS;
    cuda_beside_begin(
        s, few ? all / 2
               : gemm_wide_share(tokens, (int)p->weight->shape[0], all * 2 / 3, all * 3 / 4));
}

void cuda_run_products(cuda_stream *s, const cuda_input *in, const cuda_product *products,
                       int count) {
    const struct plan p = plan_of(products, count, goes_beside(s, in->x.shape[0]));
    const cuda_product *gates = p.product + p.many, *beside = gates + p.gates;
    const ops_tensor x = input_rows(s, in);
    const bool laid = is_laid(in), fp8 = p.many > 0 && takes_fp8(s, in, p.product, p.many) &&
                                         takes_fp8(s, in, beside, p.beside);
    gemm_fp8 rows = {};
    if (fp8)
        rows = fp8_rows(s, in, p.gates > 0 && !laid ? &x : NULL);
    else if (!laid)
        cuda_lay_halves(s, in, &x);
    if (fp8)
        run_fp8(s, rows, p.product, p.many);
    run_halves(s, &x, fp8 ? gates : p.product, p.gates + (fp8 ? 0 : p.many));
    if (p.beside == 0)
        return;
    begin_beside(s, beside);
    if (fp8)
        run_fp8(s, rows, beside, p.beside);
    else
        run_halves(s, &x, beside, p.beside);
    cuda_beside_end(s);
}

void cuda_place_products(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s) {
    if (o->profile != OPS_FAST)
        return;
    const ops_limits *l = &o->limits;
    const int64_t width = padded(l->width);
    const int64_t halves[2] = {l->tokens, width};
    s->halves = cuda_carve(c, DTYPE_BF16, 2, halves);
    if (o->fp8) {
        const int64_t bytes[2] = {l->tokens, width + FP8_ALIGNMENT};
        s->bytes = cuda_carve(c, DTYPE_U8, 2, bytes);
        s->scales = cuda_carve(c, DTYPE_F32, 1, &l->tokens);
    }
    /* Of small models all of a matrix; at least some rows of any. */
    const int64_t rows = l->vocab > 2 * l->width ? l->vocab : 2 * l->width;
    int64_t elements = smaller(rows * width, UNPACKED_BYTES / (int64_t)sizeof(uint16_t));
    if (elements < 2 * width)
        elements = 2 * width;
    s->unpacked = cuda_carve(c, DTYPE_BF16, 1, &elements);
}
