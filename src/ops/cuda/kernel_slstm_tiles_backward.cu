/* The sLSTM and the LSTM on tensor cores: the way back. kernel_slstm_tiles.h says how. A token is the product of R with the
 * gradients of all gates, between two of which stands a little arithmetic: functions were computed on the way there. */
#include "ops/cuda/kernel_slstm_tiles.h"

/* ---- What is kept ---- */

/* weight [16 gates of units]: R as it is, rows the units of y of this warp. */
template <class T, int TILES>
static __device__ void load_weights(const slstm_job *a, const tile_place &p,
                                    uint32_t (*weight)[TILES][4]) {
    const uint16_t *r = (const uint16_t *)a->r.data + p.head * a->r.stride[0];
#pragma unroll
    for (int k = 0; k < TILES; k++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int unit = p.rank * T::units + 16 * p.tile + p.row + 8 * (j % 2);
            int column = 16 * (p.part * TILES + k) + 2 * p.pair + 8 * (j / 2);
            int gate = column / T::size, from = column % T::size;
            bool there = unit < a->size && from < a->size;
            const uint16_t *at = r + unit * a->r.stride[1] + gate * a->size + from;
            weight[0][k][j] = there ? tile_pair(at, at + 1) : 0;
        }
}

typedef struct cell_gradients {
    int64_t sequence;
    int unit;                /* of the head */
    bool live;               /* there is such a cell */
    cell_state d;            /* of the states after the token */
    float bias[SLSTM_GATES]; /* sums over the tokens */
} cell_gradients;

template <class T>
static __device__ __forceinline__ int64_t state_place(const cuda_array *array, const tile_place &p,
                                                      const cell_gradients &cell, int state) {
    return state * array->stride[0] + cell.sequence * array->stride[1] + p.head * array->stride[2] +
           cell.unit * array->stride[3];
}

template <class T>
static __device__ void begin_cell(const slstm_job *a, const tile_place &p, int value,
                                  cell_gradients *cell) {
    int64_t sequence = p.first + tile_sequence<T>(p, value);
    int unit = p.rank * T::units + tile_unit<T>(p, value);
    cell->live = sequence < a->batch && unit < a->size;
    cell->sequence = tile_clamp<T>(a, sequence);
    cell->unit = unit;
    float d[SLSTM_STATES] = {};
#pragma unroll
    for (int i = 0; i < SLSTM_STATES; i++) {
        cell->bias[i] = 0.0f;
        if (i < a->states && a->ds.data && cell->live)
            d[i] = load_as(a->ds.data, a->ds.type, state_place<T>(&a->ds, p, *cell, i));
    }
    cell->d.y = d[0];
    cell->d.c = d[1];
    cell->d.n = d[2];
    cell->d.m = d[3];
}

template <class T>
static __device__ void end_cell(const slstm_tiles *tiles, const tile_place &p,
                                const cell_gradients &cell) {
    const slstm_job *a = &tiles->job;
    if (!cell.live)
        return;
    const float d[SLSTM_STATES] = {cell.d.y, cell.d.c, cell.d.n, cell.d.m};
#pragma unroll
    for (int i = 0; i < SLSTM_STATES; i++)
        if (i < a->states && a->ds0.data)
            store_as(a->ds0.data, a->ds0.type, state_place<T>(&a->ds0, p, cell, i), d[i]);
    for (int g = 0; g < SLSTM_GATES && tiles->bias; g++)
        tiles->bias[((cell.sequence * a->heads + p.head) * SLSTM_GATES + g) * a->size + cell.unit] =
            cell.bias[g];
}

/* ---- A token ---- */

/* What a thread brings of a token, from the last one on: its records; and a piece of dy for the units of this block,
 * [sequences][units], if there are enough pieces for it. */
template <class T> struct back_pieces {
    enum { LINE = T::units / 8, COUNT = T::sequences * LINE, DY_PITCH = T::units + 8 };
    const uint4 *record;
    const uint16_t *dy;
    int64_t record_step, dy_step;
    int to, stage, left; /* to: -1, no piece */
    bool there;
};

template <class T>
static __device__ back_pieces<T> begin_pieces(const slstm_tiles *tiles, const tile_place &p) {
    static_assert(back_pieces<T>::COUNT <= T::threads, "a piece a thread");
    const slstm_job *a = &tiles->job;
    back_pieces<T> b;
    int i = threadIdx.x, unit = i % b.LINE * 8, s = i / b.LINE;
    b.record_step = (int64_t)gridDim.x * T::cells * 2 * T::threads;
    b.record = tiles->record + (a->tokens - 1) * b.record_step +
               blockIdx.x * (T::cells * 2 * T::threads) + threadIdx.x;
    b.to = i < b.COUNT ? s * b.DY_PITCH + unit : -1;
    b.there = i < b.COUNT && a->dy.data && p.rank * T::units + unit < a->size;
    b.dy_step = b.there ? a->dy.stride[1] : 0;
    b.dy = (const uint16_t *)a->x.data;
    if (b.there)
        b.dy = (const uint16_t *)a->dy.data + tile_clamp<T>(a, p.first + s) * a->dy.stride[0] +
               (a->tokens - 1) * a->dy.stride[1] + p.head * a->dy.stride[2] + p.rank * T::units +
               unit;
    b.stage = 0;
    b.left = (int)a->tokens;
    return b;
}

template <class T>
static __device__ __forceinline__ void fetch(back_pieces<T> *b, uint4 *records, uint16_t *dy) {
    uint4 *to = records + b->stage * (T::cells * 2 * T::threads) + threadIdx.x;
    if (b->left > 0) {
#pragma unroll
        for (int i = 0; i < T::cells * 2; i++)
            copy_16(to + i * T::threads, b->record + i * T::threads, true);
        if (b->to >= 0)
            copy_16(dy + b->stage * (T::sequences * b->DY_PITCH) + b->to, b->dy, b->there);
    }
    copies_commit();
    b->record -= b->record_step;
    b->dy -= b->dy_step;
    b->left--;
    b->stage = b->stage + 1 == T::record_stages ? 0 : b->stage + 1;
}

/* dx of a token, of which a thread writes some pieces. */
template <class T> struct dx_pieces {
    enum { LINE = T::units / 8, COUNT = T::sequences * SLSTM_GATES * LINE };
    enum { EACH = (COUNT + T::threads - 1) / T::threads };
    uint16_t *to[EACH]; /* NULL: none */
    int from[EACH];
    int64_t step;
};

/* In shared memory a sequence has `pitch` values and a gate `piece`. */
template <class T>
static __device__ dx_pieces<T> begin_dx(const slstm_job *a, const tile_place &p, int pitch,
                                        int piece) {
    dx_pieces<T> d;
    d.step = a->dx.stride[1];
#pragma unroll
    for (int j = 0; j < d.EACH; j++) {
        int i = threadIdx.x + j * T::threads, unit = i % d.LINE * 8,
            gate = i / d.LINE % SLSTM_GATES;
        int s = i / d.LINE / SLSTM_GATES;
        d.from[j] = s * pitch + gate * piece + unit;
        d.to[j] = NULL;
        if (a->dx.data && i < d.COUNT && p.rank * T::units + unit < a->size &&
            p.first + s < a->batch)
            d.to[j] = (uint16_t *)a->dx.data + (p.first + s) * a->dx.stride[0] +
                      (a->tokens - 1) * a->dx.stride[1] + gate * a->dx.stride[2] +
                      p.head * a->dx.stride[3] + p.rank * T::units + unit;
    }
    return d;
}

template <class T>
static __device__ __forceinline__ void give_dx(dx_pieces<T> *d, const uint16_t *from) {
#pragma unroll
    for (int j = 0; j < d->EACH; j++)
        if (d->to[j]) {
            *(uint4 *)d->to[j] = *(const uint4 *)(from + d->from[j]);
            d->to[j] -= d->step;
        }
}

/* All cells of a thread go back together. `record` is the first half of the first cell's record. */
template <class T>
static __device__ __forceinline__ void
back_cells(bool lstm, const uint4 *record, cell_gradients *cell, float (*gradient)[SLSTM_GATES]) {
    cell_record r[T::cells];
#pragma unroll
    for (int c = 0; c < T::cells; c++) {
        ((uint4 *)&r[c])[0] = record[c * 2 * T::threads];
        ((uint4 *)&r[c])[1] = record[(c * 2 + 1) * T::threads];
    }
    if (lstm) {
#pragma unroll
        for (int c = 0; c < T::cells; c++)
            cell[c].d = cell_fast_back(true, &r[c], cell[c].d, gradient[c]);
    } else {
#pragma unroll
        for (int c = 0; c < T::cells; c++)
            cell[c].d = cell_fast_back(false, &r[c], cell[c].d, gradient[c]);
    }
}

template <int SIZE, int CTAS, int PARTS, int SEQS>
static __global__ void __launch_bounds__(tiling<SIZE, CTAS, PARTS, SEQS>::threads, 1)
    slstm_tiles_backward(const __grid_constant__ struct slstm_tiles tiles) {
    typedef tiling<SIZE, CTAS, PARTS, SEQS> T;
    enum { TILES = SIZE / 4 / PARTS, CHAINS = 4, OWN_PITCH = 4 * T::units };
    extern __shared__ uint4 shared[];
    uint64_t *full =
        (uint64_t *)shared; /* the gradients of a token's gates are there, in either buffer */
    uint4 *records = shared + 2;
    float *parts = (float *)(records + T::record_bytes / 16);
    uint16_t *d = (uint16_t *)parts + T::part_bytes / 2, *own = d + T::d_bytes / 2;
    uint16_t *dy = own + T::own_bytes / 2;
    const slstm_job *a = &tiles.job;
    tile_place p = tile_here<T>(a);
    uint32_t weight[1][TILES][4];
    cell_gradients cell[T::cells];
    cuda_wait();
    load_weights<T, TILES>(a, p, weight);
#pragma unroll
    for (int c = 0; c < T::cells; c++)
        begin_cell<T>(a, p, p.part * T::cells + c, &cell[c]);
    for (int i = threadIdx.x; i < T::d_bytes / 2; i += T::threads)
        d[i] = 0; /* units that there are not */
    __syncthreads();
    back_pieces<T> pieces = begin_pieces<T>(&tiles, p);
    for (int n = 0; n < T::record_stages - 1; n++)
        fetch<T>(&pieces, records, dy);
    if (CTAS > 1) {
        if (threadIdx.x == 0) {
            cluster_make(&full[0]);
            cluster_make(&full[1]);
        }
        cluster_sync();
    }
    copies_wait<T::record_stages - 2>();
    __syncthreads();
    const int tokens = (int)a->tokens, pitch = CTAS == 1 ? (int)T::d_pitch : (int)OWN_PITCH;
    const int piece = CTAS == 1 ? SIZE : (int)T::units;
    dx_pieces<T> dx = begin_dx<T>(a, p, pitch, piece);
    int at_dy[T::cells],
        at_d[T::cells]; /* of the cells, within a token's dy, and the gradients of its gates */
#pragma unroll
    for (int c = 0; c < T::cells; c++) {
        int unit = tile_unit<T>(p, p.part * T::cells + c),
            s = tile_sequence<T>(p, p.part * T::cells + c);
        at_dy[c] = s * (T::units + 8) + unit;
        at_d[c] = s * pitch + unit;
    }
    for (int n = 0, stage = 0; n < tokens; n++) {
        uint16_t *now = d + (n & 1) * T::sequences * T::d_pitch;
        uint16_t *to = CTAS == 1 ? now : own;
        float gradient[T::cells][SLSTM_GATES];
#pragma unroll
        for (int c = 0; c < T::cells; c++)
            cell[c].d.y += from_bf16(dy[stage * (T::sequences * (T::units + 8)) + at_dy[c]]);
        back_cells<T>(a->lstm, records + stage * (T::cells * 2 * T::threads) + threadIdx.x, cell,
                      gradient);
#pragma unroll
        for (int c = 0; c < T::cells; c++)
#pragma unroll
            for (int g = 0; g < SLSTM_GATES; g++) {
                to[at_d[c] + g * piece] = to_bf16(gradient[c][g]);
                cell[c].bias[g] += gradient[c][g];
            }
        copies_wait<T::record_stages - 3>();
        if (CTAS > 1 && threadIdx.x == 0)
            cluster_expect(&full[n & 1], (unsigned)(T::sequences * SLSTM_GATES * SIZE * 2));
        __syncthreads();
        if (CTAS > 1)
            tile_give<T, SLSTM_GATES>(own, now, T::d_pitch, &full[n & 1], p.rank);
        stage = stage + 1 == T::record_stages ? 0 : stage + 1;
        if (CTAS > 1)
            cluster_wait(&full[n & 1], (unsigned)(n / 2 & 1));
        float sum[CHAINS][4] = {}, mixed[T::cells][1];
        const uint16_t *line = tile_line<T>(now + p.part * TILES * 16, T::d_pitch);
#pragma unroll
        for (int k = 0; k < TILES; k += 2) {
            uint32_t y[4];
            load_matrices(y, line + 16 * k);
            mma_bf16(sum[k % CHAINS], weight[0][k], y);
            mma_bf16(sum[k % CHAINS + 1], weight[0][k + 1], y + 2);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[0][i] = (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
        fetch<T>(&pieces, records, dy);
        give_dx<T>(&dx, to);
        tile_gather<T, 1>(p, sum, parts, mixed);
#pragma unroll
        for (int c = 0; c < T::cells; c++)
            cell[c].d.y = a->cut ? 0.0f : cell_clip(mixed[c][0], a->gradient_clip);
    }
#pragma unroll
    for (int c = 0; c < T::cells; c++)
        end_cell<T>(&tiles, p, cell[c]);
    copies_wait<0>();
    if (CTAS > 1)
        cluster_sync();
}

/* ---- The call ---- */

template <int SIZE, int CTAS, int PARTS, int SEQS>
static void run_backward(const kernel_call *call, const slstm_tiles *tiles, xlstm_status *status) {
    typedef tiling<SIZE, CTAS, PARTS, SEQS> T;
    cuda_launch launch = {};
    launch.kernel = (const void *)slstm_tiles_backward<SIZE, CTAS, PARTS, SEQS>;
    launch.name = "slstm_tiles_backward";
    launch.arguments = tiles;
    launch.grid[0] = (unsigned)tiles->blocks;
    launch.threads = T::threads;
    launch.shared = T::backward_bytes;
    launch.cluster = CTAS > 1 ? CTAS : 0;
    *status = cuda_kernel_launch(call, &launch);
}

xlstm_status cuda_slstm_back_tiles(const kernel_call *call, const slstm_tiles *tiles) {
    xlstm_status status = XLSTM_OK;
    bool few = tiles->sequences == 4;
    if (tiles->size == 64)
        (few ? run_backward<64, 1, 1, 4> : run_backward<64, 1, 1, 8>)(call, tiles, &status);
    else if (tiles->size == 128)
        (few ? run_backward<128, 1, 1, 4> : run_backward<128, 1, 1, 8>)(call, tiles, &status);
    else if (tiles->size == 256)
        (few ? run_backward<256, 4, 2, 4> : run_backward<256, 4, 2, 8>)(call, tiles, &status);
    else
        run_backward<512, 16, 4, 8>(call, tiles, &status);
    return status;
}
