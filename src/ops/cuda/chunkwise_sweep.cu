/* The chunkwise mLSTM: the sweep over chunks, with the state in registers (chunkwise_parts.h).
 *
 *     O_j = sum_l P_jl Z_l + read_j X_j S,   S <- keep S + sum_l write_l Y_l Z_l^T,   S [keys][values]
 *
 * A block has a slice of the values of one head of a sequence (or of a segment of it), and goes through the chunks. One
 * warpgroup fetches tiles, two compute. Each of the two holds its part of S transposed, values as rows: the f32
 * accumulators of S turn into the bf16 operand A of S^T X^T within their own thread, so that S never touches memory.
 * O and S stay transposed throughout; on the way out O is turned by stmatrix. S is carried in f32, and only its copy as
 * an operand is bf16; X, Y, Z are multiplied as they came, and all weights are applied in f32 (write to Z: rounded once
 * more).
 *
 * Up to 256 keys each warpgroup has all keys and its own 64 values (or twice 64). With 512 keys both have the same 64
 * values and half of the keys each; their parts of O are added through shared memory.
 *
 * X and Y come in turn through one ring of slots of a whole tile row each; Z, P and the factors of a chunk through
 * another one. Where Z lay, O is laid out for its way to device memory. (The fence that this wants waits for the stores,
 * too. Without it, O in memory of its own, blocks run further apart and X and Y no longer come from the cache: slower.) */
#include "ops/cuda/chunkwise_sweep.h"

#if CUDA_WGMMA

/* ---- Fetching ---- */

template <class FORM, bool READS>
static __device__ void fetch_all(const sweep_arguments &a, const sweep_task &t,
                                 unsigned char *slots, unsigned char *stages, float *factors,
                                 struct sweep_barriers *b) {
    int item = 0, head = t.head, batch = t.sequence.batch, rank = (int)cluster_rank();
    for (int i = t.from; i < t.to; i++) {
        int index = chunk_of(t, i), token = t.sequence.first + chunk_at(t.sequence, index).first;
        int stage = (i - t.from) % FORM::stages, turn = (i - t.from) / FORM::stages;
        for (int which = READS ? 0 : 1; which < 2; which++, item++) {
            int slot = item % FORM::slots;
            unsigned char *to = slots + slot * FORM::slot_bytes;
            barrier_wait(b->slot_empty + slot, (unsigned)(item / FORM::slots & 1) ^ 1);
            barrier_arrive_for(b->slot_full + slot, FORM::slot_bytes);
            for (int tile = rank; tile < FORM::slot_bytes / TILE_BYTES; tile += a.sharing)
                if (a.sharing > 1)
                    tile_load_shared(to + tile * TILE_BYTES, which ? &a.y : &a.x,
                                     tile * TILE_COLUMNS, token, head, batch, b->slot_full + slot,
                                     (1u << a.sharing) - 1);
                else
                    tile_load(to + tile * TILE_BYTES, which ? &a.y : &a.x, tile * TILE_COLUMNS,
                              token, head, batch, b->slot_full + slot);
            if (which != (READS ? 0 : 1))
                continue;
            int64_t at = (int64_t)(t.sequence.place + index) * a.shape.heads + head;
            unsigned char *z = stages + stage * FORM::stage_bytes;
            uint64_t *full = b->stage_full + stage;
            unsigned bytes = FORM::value_tiles * TILE_BYTES + sizeof(struct chunk_factors);
            barrier_wait(b->stage_empty + stage, (unsigned)(turn & 1) ^ 1);
            barrier_arrive_for(full, bytes + (READS ? TILE_BYTES : 0));
            for (int tile = 0; tile < FORM::value_tiles; tile++)
                tile_load(z + tile * TILE_BYTES, &a.z, t.first_value + tile * TILE_COLUMNS, token,
                          head, batch, full);
            copy_bulk(factors + stage * (FACTOR_BYTES / 4), a.shape.at.factors + at,
                      sizeof(struct chunk_factors), full);
            if (READS)
                copy_bulk(z + FORM::value_tiles * TILE_BYTES, a.scores + at * SCORES, TILE_BYTES,
                          full);
        }
    }
}

/* ---- Computing ---- */

/* Rows that a chunk lacks may be another sequence's: 0 instead, so that what is NaN there stays there. All computing
 * threads. */
static __device__ void clear_rows(unsigned char *tiles, int count, int rows) {
    int pieces = TILE_BYTES / 16, from = rows * (TILE_ROW_BYTES / 16);
    for (int tile = 0; tile < count; tile++)
        for (int i = from + (int)threadIdx.x; i < pieces; i += COMPUTING)
            ((uint4 *)(tiles + tile * TILE_BYTES))[i] = make_uint4(0, 0, 0, 0);
}

/* One form for what is read out (READS, with P as it is or TRANSPOSED), one for what only passes the state on. */
template <int KEYS, int ROWS, bool SPLIT, bool READS, bool TRANSPOSED>
static __device__ void compute(const sweep_arguments &a, const sweep_task &t, unsigned char *slots,
                               unsigned char *stages, const float *all_factors,
                               struct sweep_barriers *b) {
    using form = sweep_form<KEYS, ROWS, SPLIT, READS>;
    const int group = (int)threadIdx.x / WARPGROUP;
    float state[ROWS][form::width / 2];
    load_state<KEYS, ROWS, SPLIT, READS>(a, t, group, state);
    int item = 0;
    for (int i = t.from; i < t.to; i++) {
        int index = chunk_of(t, i), stage = (i - t.from) % form::stages;
        struct chunk c = chunk_at(t.sequence, index);
        int64_t at = (int64_t)(t.sequence.place + index) * a.shape.heads + t.head;
        unsigned char *z_tiles = stages + stage * form::stage_bytes;
        unsigned char *scores = z_tiles + form::value_tiles * TILE_BYTES;
        const struct chunk_factors *factors =
            (const struct chunk_factors *)(all_factors + stage * (FACTOR_BYTES / 4));
        const float *read = a.backward ? factors->write : factors->read;
        const float *write = a.backward ? factors->read : factors->write;
        int x_item = item, y_item = item + (READS ? 1 : 0);
        item = y_item + 1;
        unsigned char *x = slots + x_item % form::slots * form::slot_bytes;
        unsigned char *y = slots + y_item % form::slots * form::slot_bytes;
        if (SPLIT) {
            x += group * (form::width / TILE_COLUMNS) * TILE_BYTES;
            y += group * (form::width / TILE_COLUMNS) * TILE_BYTES;
        }
        if (READS)
            barrier_wait(b->slot_full + x_item % form::slots, (unsigned)(x_item / form::slots & 1));
        barrier_wait(b->stage_full + stage, (unsigned)((i - t.from) / form::stages & 1));
        if (c.tokens < CHUNK) {
            barrier_wait(b->slot_full + y_item % form::slots, (unsigned)(y_item / form::slots & 1));
            if (READS)
                clear_rows(slots + x_item % form::slots * form::slot_bytes,
                           form::slot_bytes / TILE_BYTES, c.tokens);
            clear_rows(slots + y_item % form::slots * form::slot_bytes,
                       form::slot_bytes / TILE_BYTES, c.tokens);
            clear_rows(z_tiles, form::value_tiles, c.tokens);
            fence_async();
            threads_sync(3, COMPUTING);
        }
        float keep = factors->keep;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            unsigned char *z_tile = z_tiles + (SPLIT ? 0 : group * ROWS + r) * TILE_BYTES;
            float o[CHUNK / 2];
            uint32_t weighed[4][4];
            float2 vector = make_float2(0.0f, 0.0f);
            if (READS) {
                if (a.vectors && !(SPLIT && group))
                    vector = vector_of(a, at, t.first_value + (SPLIT ? 0 : group * ROWS + r) * 64);
                read_state(state[r], o, x);
            }
#pragma unroll
            for (int j = 0; j < form::width / 2; j++)
                state[r][j] *= keep;
            weigh_values(weighed, z_tile, write);
            if (READS) {
                wgmma_wait<0>();
                wgmma_settle(o);
                if (r == ROWS - 1)
                    warp_arrive_shared(b->slot_empty + x_item % form::slots, a.sharing);
                weigh_tokens(o, read, a.weigh_vectors ? factors->share : NULL, vector);
                uint32_t z[SPLIT ? 2 : 4][4];
#pragma unroll
                for (int k = 0; k < (SPLIT ? 2 : 4); k++)
                    load_values(z[k], z_tile, SPLIT ? 2 * group + k : k);
                wgmma_begin();
#pragma unroll
                for (int k = 0; k < (SPLIT ? 2 : 4); k++) {
                    int step = SPLIT ? 2 * group + k : k;
                    uint64_t p = TRANSPOSED ? tile_transposed(scores + 2048 * step, 0)
                                            : tile_straight(scores + 32 * step);
                    wgmma_registers<TRANSPOSED>(o, z[k], p, 1);
                }
                wgmma_commit();
            }
            if (r == 0)
                barrier_wait(b->slot_full + y_item % form::slots,
                             (unsigned)(y_item / form::slots & 1));
            wgmma_begin();
            uint64_t keys = tile_transposed(y, TILE_BYTES);
#pragma unroll
            for (unsigned k = 0; k < 4; k++)
                wgmma_registers<1>(state[r], weighed[k], tile_advance(keys, 2048 * k), 1);
            wgmma_commit();
            if (!READS)
                continue;
            wgmma_wait<1>();
            wgmma_settle(o);
            uint16_t *out = (uint16_t *)a.out.data +
                            element_of(a.out, t.sequence, c.first, t.head) + t.first_value;
            if (SPLIT) {
                float kept[CHUNK / 4];
                unsigned char *give = group ? z_tile : scores, *get = group ? scores : z_tile;
                exchange(o, kept, group, (float *)give, (const float *)get);
                lay_out<CHUNK / 2>(kept, get);
                threads_sync(1 + group, WARPGROUP);
                store_rows(get, out + group * (CHUNK / 2) * a.out.token, a.out.token,
                           c.tokens - group * (CHUNK / 2), CHUNK / 2);
            } else {
                lay_out<CHUNK>(o, z_tile);
                threads_sync(1 + group, WARPGROUP);
                store_rows(z_tile, out + (group * ROWS + r) * 64, a.out.token, c.tokens, CHUNK);
            }
        }
        fence_async();
        warp_arrive(b->stage_empty + stage);
        wgmma_wait<0>();
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            wgmma_settle(state[r]);
        warp_arrive_shared(b->slot_empty + y_item % form::slots, a.sharing);
    }
    store_state<KEYS, ROWS, SPLIT, READS>(a, t, group, state);
}

#endif

template <int KEYS, int ROWS, bool SPLIT, bool READS, bool TRANSPOSED>
static __global__
__launch_bounds__(SWEEP_THREADS,
                  1) void chunkwise_sweep(const __grid_constant__ sweep_arguments a) {
#if CUDA_WGMMA
    using form = sweep_form<KEYS, ROWS, SPLIT, READS>;
    extern __shared__ __align__(1024) unsigned char memory[];
    unsigned char *stages = memory + form::slots * form::slot_bytes;
    float *factors = (float *)(stages + form::stages * form::stage_bytes);
    struct sweep_barriers *b =
        (struct sweep_barriers *)((unsigned char *)factors + form::stages * FACTOR_BYTES);
    if (threadIdx.x == 0) {
        for (int i = 0; i < form::slots; i++) {
            barrier_make(b->slot_full + i, 1);
            barrier_make(b->slot_empty + i, (unsigned)(COMPUTING_WARPS * a.sharing));
        }
        for (int i = 0; i < form::stages; i++) {
            barrier_make(b->stage_full + i, 1);
            barrier_make(b->stage_empty + i, COMPUTING_WARPS);
        }
        barrier_made();
    }
    cuda_wait();
    if (a.sharing > 1)
        cluster_sync();
    else
        __syncthreads();
    struct sweep_task t = task_of<form::values>(a);
    if (threadIdx.x >= COMPUTING) {
        registers_fewer<REGISTERS_FETCHING>();
        if (threadIdx.x == COMPUTING)
            fetch_all<form, READS>(a, t, memory, stages, factors, b);
    } else {
        registers_more<REGISTERS_COMPUTING>();
        compute<KEYS, ROWS, SPLIT, READS, TRANSPOSED>(a, t, memory, stages, factors, b);
    }
    if (a.sharing > 1) /* the others still arrive at this block's barriers */
        cluster_sync();
#endif
}

/* ---- States at the borders of segments ---- */

struct borders_arguments {
    struct chunk_shape shape;
    float *borders;
    int segments;
    int64_t whole;
    bool backward;
};

/* Segments after the first were swept from 0: the state after one <- its own + (product of keep) the state before. */
static __global__ void chunkwise_borders(const __grid_constant__ borders_arguments a) {
    int head = (int)blockIdx.y, sequence = (int)blockIdx.z;
    __shared__ float product[CHUNKWISE_SEGMENTS];
    cuda_wait();
    struct chunk_sequence s = sequence_at(a.shape, sequence);
    int segment = 1 + (int)threadIdx.x / WARP;
    if (segment < a.segments - 1) {
        int from = (int)((int64_t)s.chunks * segment / a.segments);
        int to = (int)((int64_t)s.chunks * (segment + 1) / a.segments);
        float p = 1.0f;
        for (int i = from + (int)threadIdx.x % WARP; i < to; i += WARP) {
            int chunk = a.backward ? s.chunks - 1 - i : i;
            p *= a.shape.at.factors[(int64_t)(s.place + chunk) * a.shape.heads + head].keep;
        }
        for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
            p *= __shfl_xor_sync(ALL_LANES, p, lanes);
        product[segment] = p;
    }
    __syncthreads();
    int64_t step = (int64_t)a.shape.sequences * a.shape.heads * a.whole;
    int64_t at = ((int64_t)sequence * a.shape.heads + head) * a.whole +
                 (int64_t)blockIdx.x * BORDER_THREADS + threadIdx.x;
    float before = a.borders[step + at];
    for (int i = 1; i < a.segments - 1; i++) {
        before = a.borders[(i + 1) * step + at] + product[i] * before;
        a.borders[(i + 1) * step + at] = before;
    }
}

/* ---- Launches ---- */

/* Two slices of a head fetch X and Y for each other, where so many processors want tiles that it counts. (Four: slower,
 * each waits for the slowest.) */
enum { MANY_PROCESSORS = 64 };

typedef void sweep_kernel(sweep_arguments);

struct sweep_choice {
    sweep_kernel *kernel;
    int values;
    size_t shared;
};

template <int KEYS, int ROWS, bool SPLIT>
static struct sweep_choice choose(bool reads, bool transposed) {
    using reading = sweep_form<KEYS, ROWS, SPLIT, true>;
    using passing = sweep_form<KEYS, ROWS, SPLIT, false>;
    struct sweep_choice s = {!reads       ? chunkwise_sweep<KEYS, ROWS, SPLIT, false, false>
                             : transposed ? chunkwise_sweep<KEYS, ROWS, SPLIT, true, true>
                                          : chunkwise_sweep<KEYS, ROWS, SPLIT, true, false>,
                             reading::values,
                             reads ? reading::shared_bytes : passing::shared_bytes};
    return s;
}

static struct sweep_choice form_of(int keys, int values, bool reads, bool transposed) {
    if (keys == 512)
        return choose<512, 1, true>(reads, transposed);
    if (keys == 128 && values % 256 == 0)
        return choose<128, 2, false>(reads, transposed);
    if (keys == 128)
        return choose<128, 1, false>(reads, transposed);
    return choose<256, 1, false>(reads, transposed);
}

static xlstm_status launch(const cuda_chunkwise *c, const char *name, struct sweep_arguments *a,
                           int keys, int segments, bool reads) {
    struct sweep_choice s = form_of(keys, a->values, reads, a->backward);
    int slices = a->values / s.values;
    dim3 grid((unsigned)(slices * segments), (unsigned)a->shape.heads,
              (unsigned)a->shape.sequences);
    if (slices % 2 != 0)
        a->sharing = 1;
    return chunkwise_launch(c, name, s.kernel, grid, SWEEP_THREADS, s.shared, *a,
                            (unsigned)a->sharing);
}

/* The parts of the arguments that hang on C or dC alone. `transposed`: the state's keys are d_v. */
static struct sweep_arguments begin(const cuda_chunkwise *c, bool backward, bool transposed) {
    const chunkwise_state *first = backward ? &c->dlast : &c->initial;
    const chunkwise_state *last = backward ? &c->dinitial : &c->last;
    struct sweep_arguments a = {};
    a.shape = chunkwise_shape(c);
    a.backward = backward;
    a.segments = chunkwise_segments(c);
    a.sharing = c->processors >= MANY_PROCESSORS ? 2 : 1;
    a.values = transposed ? c->d_qk : c->d_v;
    a.key_stride = transposed ? 1 : c->d_v;
    a.value_stride = transposed ? c->d_v : 1;
    a.first = first->c;
    a.first_type = first->type;
    a.first_slot = first->c_slot;
    a.first_head = first->c_head;
    a.last = last->c;
    a.last_type = last->type;
    a.last_slot = last->c_slot;
    a.last_head = last->c_head;
    a.borders = backward ? a.shape.at.dstates : a.shape.at.states;
    return a;
}

xlstm_status chunkwise_run_borders(const cuda_chunkwise *c, bool backward) {
    struct sweep_arguments a = begin(c, backward, false);
    if (a.segments == 1)
        return XLSTM_OK;
    xlstm_status status = chunkwise_map(&a.y, c, backward ? &c->q : &c->k, c->d_qk);
    if (status == XLSTM_OK)
        status = chunkwise_map(&a.z, c, backward ? &c->dh : &c->v, c->d_v);
    a.x = a.y;
    if (status == XLSTM_OK)
        status = launch(c, "chunkwise_sweep (borders)", &a, c->d_qk, a.segments - 1, false);
    if (status != XLSTM_OK)
        return status;
    struct borders_arguments b = {a.shape, a.borders, a.segments, (int64_t)c->d_qk * c->d_v,
                                  backward};
    dim3 grid((unsigned)(b.whole / BORDER_THREADS), (unsigned)c->heads, (unsigned)c->sequences);
    return chunkwise_launch(c, "chunkwise_borders", chunkwise_borders, grid, BORDER_THREADS, 0, b);
}

xlstm_status chunkwise_run_sweep(const cuda_chunkwise *c, enum chunkwise_target target) {
    static const char *const names[] = {"chunkwise_sweep (h)", "chunkwise_sweep (dq)",
                                        "chunkwise_sweep (dk)", "chunkwise_sweep (dv)"};
    const chunkwise_array *x[] = {&c->q, &c->dh, &c->v, &c->k};
    const chunkwise_array *y[] = {&c->k, &c->v, &c->dh, &c->q};
    const chunkwise_array *z[] = {&c->v, &c->k, &c->q, &c->dh};
    const chunkwise_array *out[] = {&c->h, &c->dq, &c->dk, &c->dv};
    bool backward = target == CHUNKWISE_DK || target == CHUNKWISE_DV;
    bool transposed = target == CHUNKWISE_DQ || target == CHUNKWISE_DK;
    struct sweep_arguments a = begin(c, backward, transposed);
    int keys = transposed ? c->d_v : c->d_qk;
    a.out = *out[target];
    a.scores = transposed ? a.shape.at.dscores : a.shape.at.scores;
    if (transposed && a.shape.exact)
        a.vectors = target == CHUNKWISE_DQ ? a.shape.at.normalizer : a.shape.at.dnormalizer;
    a.weigh_vectors = target == CHUNKWISE_DQ;
    if (transposed) /* the last states are written where they lie by rows */
        a.last = NULL;
    xlstm_status status = chunkwise_map(&a.x, c, x[target], keys);
    if (status == XLSTM_OK)
        status = chunkwise_map(&a.y, c, y[target], keys);
    if (status == XLSTM_OK)
        status = chunkwise_map(&a.z, c, z[target], a.values);
    return status == XLSTM_OK ? launch(c, names[target], &a, keys, a.segments, true) : status;
}
