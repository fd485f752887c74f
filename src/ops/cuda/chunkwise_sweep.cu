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
 * too. Without it, O in memory of its own, blocks run further apart and X and Y no longer come from the cache: slower.)
 *
 * A block that has all values of a head makes P or dS of X and Y itself: both warpgroups all of it, for the sums of rows,
 * and each lays out one half of the columns. Two warps beside the one that fetches carry the normalizer, ahead of those
 * that compute; nobody shares X and Y, and the copy engine takes O away. */
#include "ops/cuda/chunkwise_carry.h"

#if CUDA_WGMMA

/* ---- Fetching ---- */

/* X or Y of a chunk into a slot. */
static __device__ __forceinline__ void fetch_keys(const sweep_arguments &a, const tile_map *map,
                                                  unsigned char *to, int bytes, int token, int head,
                                                  int batch, uint64_t *full) {
    barrier_arrive_for(full, (unsigned)bytes);
    for (int tile = (int)cluster_rank(); tile < bytes / TILE_BYTES; tile += a.sharing)
        if (a.sharing > 1)
            tile_load_shared(to + tile * TILE_BYTES, map, tile * TILE_COLUMNS, token, head, batch,
                             full, (1u << a.sharing) - 1);
        else
            tile_load(to + tile * TILE_BYTES, map, tile * TILE_COLUMNS, token, head, batch, full);
}

/* All else of it into a stage. */
template <class FORM>
static __device__ __forceinline__ void fetch_stage(const sweep_arguments &a, const sweep_task &t,
                                                   unsigned char *stage, float *factors, int token,
                                                   int64_t at, uint64_t *full) {
    int head = t.head, batch = t.sequence.batch;
    unsigned bytes =
        FORM::value_tiles * TILE_BYTES * (FORM::dots ? 2 : 1) + sizeof(struct chunk_factors);
    struct sweep_scores *scores = (struct sweep_scores *)((char *)factors + FACTOR_BYTES);
    const unsigned gate_bytes = 3 * sizeof scores->row, vector_bytes = sizeof scores->vector;
    if (FORM::scores)
        bytes += gate_bytes + (FORM::carries ? 0 : vector_bytes);
    else if (FORM::reads)
        bytes += TILE_BYTES;
    barrier_arrive_for(full, bytes);
    for (int tile = 0; tile < FORM::value_tiles; tile++) {
        int column = t.first_value + tile * TILE_COLUMNS;
        tile_load(stage + tile * TILE_BYTES, &a.z, column, token, head, batch, full);
        if (FORM::dots)
            tile_load(stage + FORM::other_at + tile * TILE_BYTES, &a.other, column, token, head,
                      batch, full);
    }
    copy_bulk(factors, a.shape.at.factors + at, sizeof(struct chunk_factors), full);
    if (FORM::scores)
        copy_bulk(scores->row, a.shape.at.gates[at].row, gate_bytes, full);
    if (FORM::scores && !FORM::carries)
        copy_bulk(scores->vector, a.shape.at.denominator + at * CHUNK, vector_bytes, full);
    if (FORM::reads && !FORM::scores)
        copy_bulk(stage + FORM::score_at, a.scores + at * SCORES, TILE_BYTES, full);
}

template <class FORM>
static __device__ void fetch_all(const sweep_arguments &a, const sweep_task &t,
                                 unsigned char *slots, unsigned char *stages, float *factors,
                                 struct sweep_barriers *b) {
    int item = 0;
    for (int i = t.from; i < t.to; i++) {
        int index = chunk_of(t, i), token = t.sequence.first + chunk_at(t.sequence, index).first;
        int stage = (i - t.from) % FORM::stages, turn = (i - t.from) / FORM::stages;
        int64_t at = (int64_t)(t.sequence.place + index) * a.shape.heads + t.head;
        for (int which = FORM::reads ? 0 : 1; which < 2; which++, item++) {
            int slot = item % FORM::slots;
            barrier_wait(b->slot_empty + slot, (unsigned)(item / FORM::slots & 1) ^ 1);
            fetch_keys(a, which ? &a.y : &a.x, slots + slot * FORM::slot_bytes, FORM::slot_bytes,
                       token, t.head, t.sequence.batch, b->slot_full + slot);
            if (which != (FORM::reads ? 0 : 1))
                continue;
            barrier_wait(b->stage_empty + stage, (unsigned)(turn & 1) ^ 1);
            fetch_stage<FORM>(a, t, stages + stage * FORM::stage_bytes,
                              factors + stage * (FORM::factor_bytes / 4), token, at,
                              b->stage_full + stage);
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

/* The scores of a chunk from X and Y: each warpgroup makes all, for the sums of rows, and lays out one half of the
 * columns. */
template <class FORM>
static __device__ __forceinline__ void
make_scores(const sweep_arguments &a, int group, int tokens, int64_t at, const unsigned char *x,
            const unsigned char *y, const float *read, struct sweep_scores *s, unsigned char *tile,
            uint64_t *vector_full, unsigned turn) {
    float sums[CHUNK / 2];
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < FORM::slot_bytes / TILE_BYTES; step++) {
        uint64_t rows = tile_straight(x + step * TILE_BYTES);
        uint64_t columns = tile_straight(y + step * TILE_BYTES);
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            wgmma_shared<0, 0>(sums, tile_advance(rows, 32 * i), tile_advance(columns, 32 * i),
                               step || i);
    }
    wgmma_commit();
    if (FORM::carries)
        barrier_wait(vector_full, turn);
    wgmma_wait<0>();
    wgmma_settle(sums);
    int thread = (int)threadIdx.x % WARPGROUP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = thread / WARP * 16 + thread % WARP / 4 + 8 * half;
        bool there = row < tokens;
        if (FORM::carries) {
            struct score_row r = finish_scores(a.shape, sums, half, row, there, s->row[row],
                                               s->column, s->m[row], read[row] * s->vector[row]);
            if (thread % 4 == 0)
                s->read[row] = read[row] * r.reciprocal;
            if (a.keeps && group == 0 && thread % 4 == 0) {
                a.shape.at.denominator[at * CHUNK + row] = r.denominator;
                a.shape.at.factors[at].read[row] = read[row] * r.reciprocal;
            }
            lay_scores(sums, r.reciprocal, half, row, 4 * group, 4 * group + 4, tile);
        } else {
            float factor = a.shape.scale * reciprocal_of(a.shape, s->vector[row], s->m[row]);
            weigh(sums, half, row, there, s->row[row], s->column, factor, 0.0f);
            lay_scores(sums, 1.0f, half, row, 4 * group, 4 * group + 4, tile);
        }
    }
    fence_async();
    threads_sync(3, COMPUTING);
    if (threadIdx.x == 0 && (!FORM::carries || a.keeps)) {
        copy_bulk_out(a.scores + at * SCORES, tile, TILE_BYTES);
        tile_stores_commit();
        if (tokens < CHUNK)
            tile_stores_wait<0>();
    }
}

/* P is as it is or TRANSPOSED: without other things to do it is what h takes, or dV's. */
template <int KEYS, int ROWS, bool SPLIT, int KIND, bool TRANSPOSED>
static __device__ void compute(const sweep_arguments &a, const sweep_task &t, unsigned char *slots,
                               unsigned char *stages, const float *all_factors,
                               struct sweep_barriers *b) {
    using form = sweep_form<KEYS, ROWS, SPLIT, KIND>;
    const int group = (int)threadIdx.x / WARPGROUP;
    float state[ROWS][form::width / 2];
    load_state<KEYS, ROWS, SPLIT, KIND>(a, t, group, state);
    int item = 0;
    for (int i = t.from; i < t.to; i++) {
        int index = chunk_of(t, i), stage = (i - t.from) % form::stages;
        struct chunk c = chunk_at(t.sequence, index);
        int64_t at = (int64_t)(t.sequence.place + index) * a.shape.heads + t.head;
        unsigned char *z_tiles = stages + stage * form::stage_bytes;
        unsigned char *scores = z_tiles + form::score_at;
        const struct chunk_factors *factors =
            (const struct chunk_factors *)(all_factors + stage * (form::factor_bytes / 4));
        struct sweep_scores *own = (struct sweep_scores *)((char *)factors + FACTOR_BYTES);
        constexpr bool divided = KIND == SWEEP_READS && !TRANSPOSED; /* h by its largest scores */
        const float *read = a.backward ? factors->write : factors->read;
        const float *write = a.backward ? factors->read : factors->write;
        int x_item = item, y_item = item + (form::reads ? 1 : 0);
        item = y_item + 1;
        unsigned char *x = slots + x_item % form::slots * form::slot_bytes;
        unsigned char *y = slots + y_item % form::slots * form::slot_bytes;
        if (SPLIT) {
            x += group * (form::width / TILE_COLUMNS) * TILE_BYTES;
            y += group * (form::width / TILE_COLUMNS) * TILE_BYTES;
        }
        if (form::reads)
            barrier_wait(b->slot_full + x_item % form::slots, (unsigned)(x_item / form::slots & 1));
        barrier_wait(b->stage_full + stage, (unsigned)((i - t.from) / form::stages & 1));
        if (c.tokens < CHUNK) {
            barrier_wait(b->slot_full + y_item % form::slots, (unsigned)(y_item / form::slots & 1));
            if (form::reads)
                clear_rows(slots + x_item % form::slots * form::slot_bytes,
                           form::slot_bytes / TILE_BYTES, c.tokens);
            clear_rows(slots + y_item % form::slots * form::slot_bytes,
                       form::slot_bytes / TILE_BYTES, c.tokens);
            clear_rows(z_tiles, form::value_tiles, c.tokens);
            fence_async();
            threads_sync(3, COMPUTING);
        }
        if (form::scores) {
            barrier_wait(b->slot_full + y_item % form::slots, (unsigned)(y_item / form::slots & 1));
            make_scores<form>(a, group, c.tokens, at, x, y, read, own, scores,
                              b->vector_full + stage, (unsigned)((i - t.from) / form::stages & 1));
            read = form::carries ? own->read : read;
        }
        if (divided)
            read = factors->before;
        bool by_engine = form::bulk && c.tokens == CHUNK;
        float keep = factors->keep;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            unsigned char *z_tile = z_tiles + (SPLIT ? 0 : group * ROWS + r) * TILE_BYTES;
            float o[CHUNK / 2];
            uint32_t weighed[4][4];
            float2 vector = make_float2(0.0f, 0.0f);
            if (form::reads) {
                if (a.vectors && !(SPLIT && group))
                    vector = vector_of(a, at, t.first_value + (SPLIT ? 0 : group * ROWS + r) * 64);
                read_state(state[r], o, x);
            }
#pragma unroll
            for (int j = 0; j < form::width / 2; j++)
                state[r][j] *= keep;
            if (!form::late)
                weigh_values(weighed, z_tile, write);
            if (form::reads) {
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
            if (form::late)
                weigh_values(weighed, z_tile, write);
            if (r == 0)
                barrier_wait(b->slot_full + y_item % form::slots,
                             (unsigned)(y_item / form::slots & 1));
            wgmma_begin();
            uint64_t keys = tile_transposed(y, TILE_BYTES);
#pragma unroll
            for (unsigned k = 0; k < 4; k++)
                wgmma_registers<1>(state[r], weighed[k], tile_advance(keys, 2048 * k), 1);
            wgmma_commit();
            if (!form::reads)
                continue;
            wgmma_wait<1>();
            wgmma_settle(o);
            if (divided)
                multiply_tokens(o, factors->after);
            unsigned char *other =
                z_tiles + form::other_at + (SPLIT ? 0 : group * ROWS + r) * TILE_BYTES;
            float *dots = a.dots + (at * (a.values / TILE_COLUMNS) + t.first_value / TILE_COLUMNS +
                                    (SPLIT ? 0 : group * ROWS + r)) *
                                       CHUNK;
            uint16_t *out = (uint16_t *)a.out.data +
                            element_of(a.out, t.sequence, c.first, t.head) + t.first_value;
            if (SPLIT) {
                float kept[CHUNK / 4];
                unsigned char *give = group ? z_tile : scores, *get = group ? scores : z_tile;
                exchange(o, kept, group, (float *)give, (const float *)get);
                lay_out<CHUNK / 2>(kept, get);
                if (form::dots)
                    multiply_rows<CHUNK / 2>(kept, other, (unsigned)group * (CHUNK / 2));
                threads_sync(1 + group, WARPGROUP);
                if (form::dots)
                    add_dots<CHUNK / 2>(other, (unsigned)group * (CHUNK / 2), dots);
                store_rows(get, out + group * (CHUNK / 2) * a.out.token, a.out.token,
                           c.tokens - group * (CHUNK / 2), CHUNK / 2);
            } else {
                lay_out<CHUNK>(o, z_tile);
                if (form::dots)
                    multiply_rows<CHUNK>(o, other, 0);
                if (by_engine)
                    fence_async();
                threads_sync(1 + group, WARPGROUP);
                if (form::dots)
                    add_dots<CHUNK>(other, 0, dots);
                if (!by_engine) {
                    store_rows(z_tile, out + (group * ROWS + r) * 64, a.out.token, c.tokens, CHUNK);
                } else if (threadIdx.x % WARPGROUP == 0) {
                    tile_store(&a.o, z_tile, t.first_value + (group * ROWS + r) * 64,
                               t.sequence.first + c.first, t.head, t.sequence.batch);
                    tile_stores_commit();
                }
            }
        }
        if (!by_engine)
            fence_async();
        else if (threadIdx.x % WARPGROUP == 0)
            tile_stores_wait<0>();
        warp_arrive(b->stage_empty + stage);
        wgmma_wait<0>();
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            wgmma_settle(state[r]);
        warp_arrive_shared(b->slot_empty + y_item % form::slots, a.sharing);
    }
    store_state<KEYS, ROWS, SPLIT, KIND>(a, t, group, state);
}

#endif

template <int KEYS, int ROWS, bool SPLIT, int KIND, bool TRANSPOSED>
static __global__
__launch_bounds__(SWEEP_THREADS,
                  1) void chunkwise_sweep(const __grid_constant__ sweep_arguments a) {
#if CUDA_WGMMA
    using form = sweep_form<KEYS, ROWS, SPLIT, KIND>;
    extern __shared__ __align__(1024) unsigned char memory[];
    unsigned char *stages = memory + form::slots * form::slot_bytes;
    float *factors = (float *)(stages + form::stages * form::stage_bytes);
    struct sweep_barriers *b =
        (struct sweep_barriers *)((unsigned char *)factors + form::stages * form::factor_bytes);
    float *normalizer = (float *)((unsigned char *)b + BARRIER_BYTES);
    constexpr bool room = form::carries && !form::reads;
    const int readers = (COMPUTING_WARPS + (form::carries ? NORMALIZER_WARPS : 0)) * WARP_ARRIVALS;
    if (threadIdx.x == 0) {
        for (int i = 0; i < form::slots; i++) {
            barrier_make(b->slot_full + i, 1);
            barrier_make(b->slot_empty + i, (unsigned)(readers * a.sharing));
        }
        for (int i = 0; i < form::stages; i++) {
            barrier_make(b->stage_full + i, 1);
            barrier_make(b->stage_empty + i, (unsigned)readers);
            barrier_make(b->vector_full + i, NORMALIZER_WARPS * WARP_ARRIVALS);
        }
        barrier_made();
    }
    cuda_wait();
    if (a.sharing > 1)
        cluster_sync();
    else
        __syncthreads();
    struct sweep_task t = task_of<form::values>(a);
    if (!form::reads)
        skip_forgotten(a, &t);
    if (threadIdx.x >= COMPUTING) {
        registers_fewer<room ? REGISTERS_CARRYING : REGISTERS_FETCHING>();
        int warp = ((int)threadIdx.x - COMPUTING) / WARP;
        if (threadIdx.x == COMPUTING)
            fetch_all<form>(a, t, memory, stages, factors, b);
        if (form::carries && warp > 0 && warp <= NORMALIZER_WARPS)
            carry_normalizer<form>(a, t, memory, factors, normalizer, b);
    } else {
        registers_more<room ? REGISTERS_BESIDE : REGISTERS_COMPUTING>();
        compute<KEYS, ROWS, SPLIT, KIND, TRANSPOSED>(a, t, memory, stages, factors, b);
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
    float *normalizers; /* of the borders; the last blocks have them. NULL: there are none */
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
    bool vector = a.normalizers && blockIdx.x == gridDim.x - 1;
    if (vector && (int)threadIdx.x >= a.shape.d_qk)
        return;
    float *borders = vector ? a.normalizers : a.borders;
    int64_t whole = vector ? a.shape.d_qk : a.whole;
    int64_t step = (int64_t)a.shape.sequences * a.shape.heads * whole;
    int64_t at = ((int64_t)sequence * a.shape.heads + head) * whole +
                 (vector ? 0 : (int64_t)blockIdx.x * BORDER_THREADS) + threadIdx.x;
    float before = borders[step + at];
    for (int i = 1; i < a.segments - 1; i++) {
        before = borders[(i + 1) * step + at] + product[i] * before;
        borders[(i + 1) * step + at] = before;
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

template <int KEYS, int ROWS, bool SPLIT, int KIND, bool TRANSPOSED>
static struct sweep_choice choice(void) {
    using form = sweep_form<KEYS, ROWS, SPLIT, KIND>;
    struct sweep_choice s = {chunkwise_sweep<KEYS, ROWS, SPLIT, KIND, TRANSPOSED>, form::values,
                             form::shared_bytes};
    return s;
}

template <int KEYS, int ROWS, bool SPLIT>
static struct sweep_choice choose(enum sweep_kind kind, bool transposed) {
    if (kind == SWEEP_PASSES)
        return choice<KEYS, ROWS, SPLIT, SWEEP_PASSES, false>();
    if (kind == SWEEP_DOTS)
        return transposed ? choice<KEYS, 1, SPLIT, SWEEP_DOTS, true>()
                          : choice<KEYS, 1, SPLIT, SWEEP_DOTS, false>();
    return transposed ? choice<KEYS, ROWS, SPLIT, SWEEP_READS, true>()
                      : choice<KEYS, ROWS, SPLIT, SWEEP_READS, false>();
}

static struct sweep_choice form_of(int keys, int values, enum sweep_kind kind, bool transposed) {
    if (kind == SWEEP_CARRIES)
        return choice<128, 2, false, SWEEP_CARRIES, false>();
    if (kind == SWEEP_H)
        return choice<128, 2, false, SWEEP_H, false>();
    if (kind == SWEEP_DQ)
        return choice<256, 1, false, SWEEP_DQ, false>();
    if (keys == 512)
        return choose<512, 1, true>(kind, transposed);
    if (keys == 128 && values % 256 == 0 && kind != SWEEP_DOTS)
        return choose<128, 2, false>(kind, transposed);
    if (keys == 128)
        return choose<128, 1, false>(kind, transposed);
    return choose<256, 1, false>(kind, transposed);
}

static xlstm_status launch(const cuda_chunkwise *c, const char *name, struct sweep_arguments *a,
                           int keys, int segments, enum sweep_kind kind) {
    struct sweep_choice s = form_of(keys, a->values, kind, a->backward);
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
    a.normalizer_borders = a.shape.at.normalizers;
    a.first_normalizer = first->n;
    a.first_normalizer_slot = first->n_slot;
    a.first_normalizer_head = first->n_head;
    a.last_normalizer = last->n;
    a.last_normalizer_slot = last->n_slot;
    a.last_normalizer_head = last->n_head;
    return a;
}

xlstm_status chunkwise_run_borders(const cuda_chunkwise *c, bool backward) {
    struct sweep_arguments a = begin(c, backward, false);
    if (a.segments == 1)
        return XLSTM_OK;
    bool carries = !backward && chunkwise_whole_heads(c);
    xlstm_status status = chunkwise_map(&a.y, c, backward ? &c->q : &c->k, c->d_qk);
    if (status == XLSTM_OK)
        status = chunkwise_map(&a.z, c, backward ? &c->dh : &c->v, c->d_v);
    a.x = a.y;
    if (status == XLSTM_OK)
        status = launch(c, "chunkwise_sweep (borders)", &a, c->d_qk, a.segments - 1,
                        carries ? SWEEP_CARRIES : SWEEP_PASSES);
    if (status != XLSTM_OK)
        return status;
    struct borders_arguments b = {a.shape,    a.borders,
                                  a.segments, (int64_t)c->d_qk * c->d_v,
                                  backward,   carries ? a.normalizer_borders : NULL};
    dim3 grid((unsigned)(b.whole / BORDER_THREADS) + (carries ? 1 : 0), (unsigned)c->heads,
              (unsigned)c->sequences);
    return chunkwise_launch(c, "chunkwise_borders", chunkwise_borders, grid, BORDER_THREADS, 0, b);
}

static enum sweep_kind kind_of(const cuda_chunkwise *c, enum chunkwise_target target) {
    if (target == CHUNKWISE_DV)
        return SWEEP_READS;
    if (target == CHUNKWISE_H)
        return chunkwise_whole_heads(c) ? SWEEP_H : SWEEP_READS;
    return target == CHUNKWISE_DQ && chunkwise_whole_heads(c) && !c->exact ? SWEEP_DQ : SWEEP_DOTS;
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
    if (target == CHUNKWISE_H && !chunkwise_whole_heads(c))
        a.scores = chunkwise_h_scores(c, &a.shape.at);
    if (transposed && a.shape.exact)
        a.vectors = target == CHUNKWISE_DQ ? a.shape.at.normalizer : a.shape.at.dnormalizer;
    a.weigh_vectors = target == CHUNKWISE_DQ;
    enum sweep_kind kind = kind_of(c, target);
    a.keeps = c->dh.data != NULL;
    if (transposed) /* the last states are written where they lie by rows */
        a.last = NULL;
    xlstm_status status = chunkwise_map(&a.x, c, x[target], keys);
    if (status == XLSTM_OK)
        status = chunkwise_map(&a.y, c, y[target], keys);
    if (status == XLSTM_OK)
        status = chunkwise_map(&a.z, c, z[target], a.values);
    if (status == XLSTM_OK && kind != SWEEP_READS)
        status = chunkwise_map(&a.o, c, out[target], a.values);
    if (status == XLSTM_OK && transposed) {
        bool query = target == CHUNKWISE_DQ;
        status = chunkwise_map(&a.other, c, query ? &c->q : &c->k, a.values);
        a.dots = query ? a.shape.at.query_dots : a.shape.at.key_dots;
    }
    return status == XLSTM_OK ? launch(c, names[target], &a, keys, a.segments, kind) : status;
}
