/* Chains on the host's side: steps are gathered, and launched together (chain.h). */
#include "ops/cuda/chain.h"

extern "C" {
#include "base/error.h"
}
#include "ops/cuda/beside.h"
#include "ops/cuda/host.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Chains whose steps are in device memory: tokens that are computed ahead take two by turns. */
enum { KEPT = 4 };

struct kept_chain {
    chain_step *steps; /* as they are in device memory */
    int count;         /* 0: none */
    unsigned used;     /* the number of the launch that took it last */
};

struct cuda_chain {
    chain_step *steps; /* those that are not launched yet */
    int count;
    int type;        /* of the weights; -1 where none has any */
    bool plain;      /* all steps are */
    int x_floats;    /* of the step that needs most */
    int chunk_items; /* the same */
    unsigned base;   /* of the counter of the grid */
    bool lost;       /* a launch failed: whether its blocks have counted is not known */
    int claims;      /* which counters of claims the next launch takes, of two by turns */
    unsigned launches;
    struct kept_chain kept[KEPT];
};

static int larger(int a, int b) {
    return a > b ? a : b;
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* ---- Memory ---- */

void cuda_place_chain(cuda_carver *c, const ops_stream_options *, cuda_scratch *s) {
    const int64_t bytes = (int64_t)KEPT * CHAIN_STEPS * (int64_t)sizeof(chain_step);
    const int64_t words[2] = {bytes / 4, 1 + 2 * CHAIN_STEPS};
    s->chain = cuda_carve(c, DTYPE_I32, 1, &words[0]);
    s->chain_counters = cuda_carve(c, DTYPE_I32, 1, &words[1]);
}

void cuda_chain_free(struct cuda_chain *chain) {
    if (!chain)
        return;
    free(chain->steps);
    for (int i = 0; i < KEPT; i++)
        free(chain->kept[i].steps);
    free(chain);
}

xlstm_status cuda_chain_create(struct cuda_chain **out) {
    const size_t size = CHAIN_STEPS * sizeof(chain_step);
    cuda_chain *chain = (cuda_chain *)calloc(1, sizeof *chain);
    bool ok = chain && (chain->steps = (chain_step *)calloc(1, size)) != NULL;
    for (int i = 0; i < KEPT && ok; i++)
        ok = (chain->kept[i].steps = (chain_step *)calloc(1, size)) != NULL;
    if (!ok) {
        cuda_chain_free(chain);
        return error_memory(size, "the steps of a stream");
    }
    chain->type = -1;
    chain->plain = true;
    *out = chain;
    return XLSTM_OK;
}

/* ---- Launching ---- */

/* Integers take room beside the floats that they are made of, and stages of more rows, which GPUs with 100 KB of shared
 * memory do not have. */
static chain_variant variant_of(const cuda_stream *s, int type) {
    const size_t enough = 160 << 10;
    const bool integers = s->base.options.profile == OPS_FAST && s->gpu->shared_bytes >= enough;
    chain_variant v = chain_of_floats(type < 0 ? (int)DTYPE_BF16 : type);
    if (!v.kernel)
        v = chain_of_four_bits(type, integers);
    return v.kernel ? v : chain_of_more_bits(type, integers);
}

/* Shared memory for a step's input. */
static int input_floats(const chain_variant *v, const gemv_arguments *a) {
    return a->row_floats + a->input.padded / v->elements * v->unit_bytes / (int)sizeof(float);
}

/* Shared memory of a block but for the rings, which begin behind it. */
static size_t fixed_bytes(int chunk_items, int x_floats) {
    const size_t bytes = sizeof(chain_head) +
                         (size_t)(CHAIN_CLAIMS * chunk_items) * sizeof(chain_item) +
                         (size_t)x_floats * sizeof(float);
    return (bytes + CHAIN_LINE - 1) / CHAIN_LINE * CHAIN_LINE;
}

/* Stages that fit beside the input; less than 1: the input itself is too long. */
static int depth_of(const cuda_stream *s, const chain_variant *v, int chunk_items, int x_floats) {
    const size_t fixed = fixed_bytes(chunk_items, x_floats), most = s->gpu->shared_bytes;
    const int fit =
        fixed < most ? (int)((most - fixed) / (size_t)(CHAIN_WARPS * v->stage_bytes)) : 0;
    return fit < v->depth ? fit : v->depth;
}

/* Where the steps lie in device memory; they are sent there if they do not yet. */
static const chain_step *steps_in_memory(cuda_stream *s) {
    cuda_chain *chain = s->chain;
    const size_t size = (size_t)chain->count * sizeof(chain_step);
    chain_step *memory = (chain_step *)cuda_at(&s->scratch.chain);
    int oldest = 0;
    for (int i = 0; i < KEPT; i++) {
        struct kept_chain *kept = &chain->kept[i];
        if (kept->count == chain->count && memcmp(kept->steps, chain->steps, size) == 0) {
            kept->used = chain->launches;
            return memory + i * CHAIN_STEPS;
        }
        if (chain->launches - kept->used > chain->launches - chain->kept[oldest].used)
            oldest = i;
    }
    struct kept_chain *kept = &chain->kept[oldest];
    kept->used = chain->launches;
    kept->count = chain->count;
    memcpy(kept->steps, chain->steps, size);
    cuda_upload(s, memory + oldest * CHAIN_STEPS, kept->steps, size);
    if (ops_failed(&s->check))
        kept->count = 0;
    return memory + oldest * CHAIN_STEPS;
}

/* Counters as they were at first. */
static void clear_counters(cuda_stream *s) {
    cuda_chain *chain = s->chain;
    const size_t size = (1 + 2 * CHAIN_STEPS) * sizeof(unsigned);
    if (!cuda_check(s, cudaMemsetAsync(cuda_at(&s->scratch.chain_counters), 0, size, s->stream),
                    "cudaMemsetAsync"))
        return;
    chain->base = 0;
    chain->claims = 0;
    chain->lost = false;
}

static void launch_chain(cuda_stream *s, const struct chain_arguments *a, const chain_variant *v,
                         bool plain) {
    cuda_launch launch = {};
    launch.kernel = (const void *)(plain ? v->plain : v->kernel);
    launch.name = "chain";
    launch.arguments = a;
    launch.grid[0] = (unsigned)s->gpu->processors;
    launch.threads = CHAIN_THREADS;
    launch.shared = (size_t)(a->rings + a->depth * CHAIN_WARPS * v->stage_bytes);
    launch.together = true;
    cuda_run_launch(s, &launch);
}

extern "C" void cuda_flush(cuda_stream *s) {
    cuda_beside_join(s);
    cuda_chain *chain = s->chain;
    if (!chain || chain->count == 0) /* streams that take no ops have none (product_limit.cu) */
        return;
    const chain_variant v = variant_of(s, chain->type);
    struct chain_arguments a = {};
    if (cuda_enter(s->gpu) != XLSTM_OK)
        ops_fail(&s->check, XLSTM_DEVICE_ERROR, "%s", xlstm_last_error());
    if (chain->lost && !ops_failed(&s->check))
        clear_counters(s);
    if (!ops_failed(&s->check)) {
        chain->launches++;
        a.steps = steps_in_memory(s);
        a.count = chain->count;
        a.chunk_items = chain->chunk_items;
        a.rings = (int)fixed_bytes(a.chunk_items, chain->x_floats);
        a.depth = depth_of(s, &v, a.chunk_items, chain->x_floats);
        a.counter = (unsigned *)cuda_at(&s->scratch.chain_counters);
        a.claims = a.counter + 1 + chain->claims * CHAIN_STEPS;
        a.clear = a.counter + 1 + (1 - chain->claims) * CHAIN_STEPS;
        a.base = chain->base;
        a.fetches = s->gpu->major == 9;
    }
    const bool plain = chain->plain;
    chain->plain = true;
    chain->count = chain->x_floats = chain->chunk_items = 0; /* before the launch, which flushes */
    chain->type = -1;
    if (ops_failed(&s->check))
        return;
    launch_chain(s, &a, &v, plain);
    if (ops_failed(&s->check)) {
        chain->lost = true;
        return;
    }
    chain->base += (unsigned)(a.count - 1) * (unsigned)s->gpu->processors;
    chain->claims = 1 - chain->claims;
}

/* ---- Steps ---- */

static int round_up(int x, int to) {
    return (x + to - 1) / to * to;
}

/* A step at the end of the chain. */
static chain_step *append(cuda_stream *s, int x_floats) {
    cuda_chain *chain = s->chain;
    chain->x_floats = larger(chain->x_floats, round_up(x_floats, 4));
    chain_step *step = &chain->steps[chain->count++];
    memset((void *)step, 0, sizeof *step);
    return step;
}

/* Shared memory for the results of a block's groups, in floats (chain_results). */
static int result_floats(const chain_variant *v, const chain_division *d) {
    return d->most * d->chunk_groups * (1 + v->rows + d->group_lines * d->pieces);
}

/* For chain_quotient(). */
static unsigned inverse_of(int n) {
    return n > 1 ? UINT_MAX / (unsigned)n + 1 : 0;
}

/* How rows are dealt out. In the profile exact a row is one warp's; in fast a piece is a slice, or as many as let results
 * fit. A block takes twice its share of chunks at most, where chunks are claimed: all blocks together can take all. Where
 * that many results take too much room, rows that are one warp's are put out at once, and gated ones are shared out evenly. */
static chain_division divide(const cuda_stream *s, const chain_variant *v, const gemv_arguments *a,
                             int input) {
    enum {
        CHUNK_BYTES = 32 << 10,
        CHUNKS_A_BLOCK = 8,
        LEAST_BYTES = 14 << 10, /* a claim takes as long as these bytes */
        FEW_CHUNKS = 4,
        RESULT_FLOATS = 6144
    };
    const bool gated = a->ending == GEMV_GATED, fast = s->base.options.profile == OPS_FAST;
    const int blocks = s->gpu->processors, slices = (a->used_bytes + v->span - 1) / v->span;
    chain_division d = {};
    d.group_lines = gated ? 2 * v->rows : v->rows;
    d.groups = (a->rows + v->rows - 1) / v->rows;
    const int group_bytes = d.group_lines * a->used_bytes, a_block = d.groups / blocks;
    const int few = smaller(a_block / FEW_CHUNKS, LEAST_BYTES / group_bytes);
    d.chunk_groups = smaller(CHUNK_BYTES / group_bytes, larger(a_block / CHUNKS_A_BLOCK, few));
    d.chunk_groups = larger(d.chunk_groups, 1);
    d.chunks = (d.groups + d.chunk_groups - 1) / d.chunk_groups;
    const int share = (d.chunks + blocks - 1) / blocks;
    d.most = (s->gpu->major == 9 ? 2 : 1) * share;
    d.piece_slices = fast ? 1 : slices;
    do {
        d.pieces = (slices + d.piece_slices - 1) / d.piece_slices;
        d.piece_slices *= 2;
    } while (d.pieces > 1 && result_floats(v, &d) > RESULT_FLOATS);
    d.piece_slices /= 2;
    if (result_floats(v, &d) > RESULT_FLOATS)
        d.most = gated ? share : 0;
    d.group_items = d.group_lines / v->rows * d.pieces;
    d.by_group_items = inverse_of(d.group_items);
    d.by_pieces = inverse_of(d.pieces);
    d.sums = input;
    return d;
}

/* What most models have: the kernel for it has no other code (chain_kernel.h). */
static bool plain_project(const gemv_arguments *a) {
    const bool bare = a->input.kind == OPS_NORM_NONE && !a->input.gate;
    return input_has_plain_weights(a->input) && a->ending != GEMV_MULTIPLY &&
           (a->ending != GEMV_GATED || a->activation == OPS_SILU) &&
           (bare ? input_is_bare(a->input) : input_is_plain(a->input));
}

void chain_project(cuda_stream *s, const char *name, int type, const gemv_arguments *a) {
    cuda_chain *chain = s->chain;
    const chain_variant v = variant_of(s, type);
    const chain_division d = divide(s, &v, a, round_up(input_floats(&v, a), 4));
    const int floats = d.sums + result_floats(&v, &d), items = d.chunk_groups * d.group_items;
    if (ops_failed(&s->check))
        return;
    if (depth_of(s, &v, items, floats) < 1) {
        ops_fail(
            &s->check, XLSTM_UNSUPPORTED,
            "%s: a row of %d values does not fit in the %zu bytes of shared memory of this GPU",
            name, a->input.width, s->gpu->shared_bytes);
        return;
    }
    if (s->rehearsing) {
        struct chain_arguments loaded = {};
        loaded.chunk_items = items;
        loaded.rings = (int)fixed_bytes(items, floats);
        loaded.depth = depth_of(s, &v, items, floats);
        launch_chain(s, &loaded, &v, false);
        launch_chain(s, &loaded, &v, true);
        return;
    }
    if (chain->count == CHAIN_STEPS || (chain->type >= 0 && chain->type != type) ||
        depth_of(s, &v, larger(chain->chunk_items, items), larger(chain->x_floats, floats)) < 1)
        cuda_flush(s);
    chain->chunk_items = larger(chain->chunk_items, items);
    chain_step *step = append(s, floats);
    step->kind = CHAIN_PROJECT;
    step->division = d;
    step->project = *a;
    chain->type = type;
    chain->plain = chain->plain && plain_project(a);
}

/* What a block has in the place of the input. */
static int mlstm_floats(const mlstm_arguments *a) {
    const int columns = a->c.type == DTYPE_F32 ? (int)mlstm_vector<DTYPE_F32>::COLUMNS
                                               : (int)mlstm_vector<DTYPE_BF16>::COLUMNS;
    return (int)(sizeof(mlstm_step_shared) / sizeof(float)) + 3 * a->d_qk + MLSTM_WARPS * columns;
}

bool chain_takes_mlstm(const mlstm_arguments *a) {
    return a->batch.tokens == 1 && a->batch.sequences == 1 && a->ring == 0 &&
           (a->c.type == DTYPE_F32 || a->c.type == DTYPE_BF16);
}

/* A token in f32, vectors of C that are there as a whole, no more of its rows than threads hold. */
static bool plain_mlstm(const mlstm_arguments *a) {
    const mlstm_rows *rows[] = {&a->q, &a->k, &a->v, &a->i, &a->f, &a->h};
    const int together = a->c.type == DTYPE_F32 ? (int)mlstm_vector<DTYPE_F32>::COUNT
                                                : (int)mlstm_vector<DTYPE_BF16>::COUNT;
    bool plain = a->wide && a->d_v % together == 0 && a->d_qk <= MLSTM_KEYS;
    for (const mlstm_rows *row : rows)
        plain = plain && row->type == DTYPE_F32;
    return plain;
}

void chain_mlstm(cuda_stream *s, const mlstm_arguments *a) {
    cuda_chain *chain = s->chain;
    if (ops_failed(&s->check) || s->rehearsing) /* kernels are loaded by projections */
        return;
    const chain_variant v = variant_of(s, chain->type);
    const int floats = mlstm_floats(a);
    /* Steps of the mLSTM read states early: not behind one that may write them. */
    const bool follows = chain->count > 0 && chain->steps[chain->count - 1].kind == CHAIN_MLSTM;
    if (follows || chain->count == CHAIN_STEPS ||
        depth_of(s, &v, chain->chunk_items, larger(chain->x_floats, floats)) < 1)
        cuda_flush(s);
    chain_step *step = append(s, floats);
    step->kind = CHAIN_MLSTM;
    step->mlstm = *a;
    chain->plain = chain->plain && plain_mlstm(a);
}
