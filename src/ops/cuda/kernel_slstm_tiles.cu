/* The sLSTM and the LSTM on tensor cores: the way there, and the call. kernel_slstm_tiles.h says how. */
#include "ops/cuda/kernel_slstm_tiles.h"

/* ---- What is kept ---- */

/* weight [gate][16 units of y]: R transposed, rows the units of this warp. */
template <class T, int TILES>
static __device__ void load_weights(const slstm_job *a, const tile_place &p,
                                    uint32_t (*weight)[TILES][4]) {
    const uint16_t *r = (const uint16_t *)a->r.data + p.head * a->r.stride[0];
#pragma unroll
    for (int g = 0; g < SLSTM_GATES; g++)
#pragma unroll
        for (int k = 0; k < TILES; k++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int unit = p.rank * T::units + 16 * p.tile + p.row + 8 * (j % 2);
                int from = 16 * (p.part * TILES + k) + 2 * p.pair + 8 * (j / 2);
                bool there = unit < a->size && from < a->size;
                const uint16_t *at = r + from * a->r.stride[1] + g * a->size + unit;
                weight[g][k][j] = there ? tile_pair(at, at + a->r.stride[1]) : 0;
            }
}

typedef struct cell_place {
    int64_t sequence;
    int unit;  /* of the head */
    bool live; /* there is such a cell */
    float bias[SLSTM_GATES], c, n, m, y;
    uint16_t *out, *next; /* bf16: y of this token; before the next one. NULL: nobody wants it */
} cell_place;

template <class T>
static __device__ void begin_cell(const slstm_tiles *tiles, const tile_place &p, int value,
                                  cell_place *cell) {
    const slstm_job *a = &tiles->job;
    int64_t sequence = p.first + tile_sequence<T>(p, value);
    int unit = p.rank * T::units + tile_unit<T>(p, value);
    cell->live = sequence < a->batch && unit < a->size;
    cell->sequence = tile_clamp<T>(a, sequence);
    cell->unit = unit < a->size ? unit : 0;
    for (int g = 0; g < SLSTM_GATES; g++)
        cell->bias[g] =
            unit < a->size
                ? load_as(a->b.data, a->b.type,
                          g * a->b.stride[0] + p.head * a->b.stride[1] + unit * a->b.stride[2])
                : 0.0f;
    float state[SLSTM_STATES] = {};
#pragma unroll
    for (int i = 0; i < SLSTM_STATES; i++)
        if (i < a->states && a->s0.data && unit < a->size)
            state[i] = load_as(a->s0.data, a->s0.type,
                               i * a->s0.stride[0] + cell->sequence * a->s0.stride[1] +
                                   p.head * a->s0.stride[2] + unit * a->s0.stride[3]);
    cell->y = state[0];
    cell->c = state[1];
    cell->n = state[2];
    cell->m = state[3];
    cell->out = cell->next = NULL;
    if (cell->live && a->y.data && a->y.type == DTYPE_BF16)
        cell->out = (uint16_t *)a->y.data + cell->sequence * a->y.stride[0] +
                    p.head * a->y.stride[2] + unit * a->y.stride[3];
    if (cell->live && tiles->y)
        cell->next =
            tiles->y + ((cell->sequence * a->tokens + 1) * a->heads + p.head) * a->size + unit;
}

/* The states after the last token. */
static __device__ void end_cell(const slstm_job *a, const tile_place &p, const cell_place &cell) {
    const float values[SLSTM_STATES] = {cell.y, cell.c, cell.n, cell.m};
#pragma unroll
    for (int i = 0; i < SLSTM_STATES; i++)
        if (i < a->states && a->s.data && cell.live)
            store_as(a->s.data, a->s.type,
                     i * a->s.stride[0] + cell.sequence * a->s.stride[1] + p.head * a->s.stride[2] +
                         cell.unit * a->s.stride[3],
                     values[i]);
}

/* y before the first token, of the whole head; in both buffers, so that units that there are not stay 0. */
template <class T>
static __device__ void begin_y(const slstm_tiles *tiles, const tile_place &p, uint16_t *y) {
    const slstm_job *a = &tiles->job;
    for (int i = threadIdx.x; i < T::sequences * T::size; i += T::threads) {
        int unit = i % T::size;
        int64_t sequence = tile_clamp<T>(a, p.first + i / T::size);
        uint16_t value = 0;
        if (unit < a->size && a->s0.data)
            value = to_bf16(load_as(a->s0.data, a->s0.type,
                                    sequence * a->s0.stride[1] + p.head * a->s0.stride[2] +
                                        unit * a->s0.stride[3]));
        y[i / T::size * T::y_pitch + unit] = value;
        y[(T::sequences + i / T::size) * T::y_pitch + unit] = 0;
        if (tiles->y && unit < a->size && p.rank == 0 && p.first + i / T::size < a->batch)
            tiles->y[(sequence * a->tokens * a->heads + p.head) * a->size + unit] = value;
    }
}

/* ---- A token ---- */

/* x of a token for the units of this block: [sequences][gates][units], of which a thread brings some pieces. */
template <class T> struct x_pieces {
    enum { LINE = T::units / 8, COUNT = T::sequences * SLSTM_GATES * LINE };
    enum { EACH = (COUNT + T::threads - 1) / T::threads };
    const uint16_t *from[EACH];
    int to[EACH]; /* within a token's place in the ring; -1: none */
    bool there[EACH];
    int64_t step;
    int stage, left; /* of the ring; tokens */
};

template <class T> static __device__ x_pieces<T> begin_x(const slstm_job *a, const tile_place &p) {
    x_pieces<T> x;
    x.step = a->x.stride[1];
    x.stage = 0;
    x.left = (int)a->tokens;
#pragma unroll
    for (int j = 0; j < x.EACH; j++) {
        int i = threadIdx.x + j * T::threads, unit = i % x.LINE * 8,
            gate = i / x.LINE % SLSTM_GATES;
        int s = i / x.LINE / SLSTM_GATES;
        x.to[j] = i < x.COUNT ? s * T::x_pitch + gate * T::units + unit : -1;
        x.there[j] = i < x.COUNT && p.rank * T::units + unit < a->size;
        x.from[j] = (const uint16_t *)a->x.data;
        if (x.there[j])
            x.from[j] += tile_clamp<T>(a, p.first + s) * a->x.stride[0] + gate * a->x.stride[2] +
                         p.head * a->x.stride[3] + p.rank * T::units + unit;
    }
    return x;
}

template <class T> static __device__ __forceinline__ void fetch_x(x_pieces<T> *x, uint16_t *ring) {
    uint16_t *to = ring + x->stage * (T::sequences * T::x_pitch);
#pragma unroll
    for (int j = 0; j < x->EACH; j++) {
        if (x->left > 0 && x->to[j] >= 0)
            copy_16(to + x->to[j], x->from[j], x->there[j]);
        x->from[j] += x->step;
    }
    copies_commit();
    x->left--;
    x->stage = x->stage + 1 == T::x_stages ? 0 : x->stage + 1;
}

/* All cells of a thread step together. */
template <class T>
static __device__ __forceinline__ void step_cells(bool lstm, float clip,
                                                  const float (*raw)[SLSTM_GATES], cell_place *cell,
                                                  cell_record *record) {
    cell_state state[T::cells];
    if (lstm) {
#pragma unroll
        for (int c = 0; c < T::cells; c++)
            state[c] =
                cell_fast_lstm(raw[c], cell_state{0.0f, cell[c].c, 0.0f, 0.0f}, clip, &record[c]);
    } else {
#pragma unroll
        for (int c = 0; c < T::cells; c++)
            state[c] = cell_fast_slstm(raw[c], cell_state{0.0f, cell[c].c, cell[c].n, cell[c].m},
                                       clip, &record[c]);
    }
#pragma unroll
    for (int c = 0; c < T::cells; c++) {
        cell[c].y = state[c].y;
        cell[c].c = state[c].c;
        cell[c].n = state[c].n;
        cell[c].m = state[c].m;
    }
}

/* What few calls want. */
static __device__ void keep_more(const slstm_job *a, int head, int t, const cell_place &cell) {
    const float values[SLSTM_STATES] = {cell.y, cell.c, cell.n, cell.m};
    if (a->y.data && a->y.type != DTYPE_BF16)
        store_as(a->y.data, a->y.type,
                 cell.sequence * a->y.stride[0] + t * a->y.stride[1] + head * a->y.stride[2] +
                     cell.unit * a->y.stride[3],
                 cell.y);
#pragma unroll
    for (int i = 0; i < SLSTM_STATES; i++)
        if (i < a->states && a->all_s.data)
            store_as(a->all_s.data, a->all_s.type,
                     i * a->all_s.stride[0] + cell.sequence * a->all_s.stride[1] +
                         t * a->all_s.stride[2] + head * a->all_s.stride[3] +
                         cell.unit * a->all_s.stride[4],
                     values[i]);
}

/* What the cells leave for others than the next token: while that one's products are under way. */
template <class T>
static __device__ __forceinline__ void keep_cells(const slstm_tiles &tiles, const tile_place &p,
                                                  int t, bool more, cell_place *cell,
                                                  const cell_record *kept, uint4 *record) {
    const slstm_job &a = tiles.job;
    bool last = t + 1 == (int)a.tokens;
#pragma unroll
    for (int c = 0; c < T::cells; c++) {
        uint16_t rounded = to_bf16(cell[c].y);
        if (cell[c].out)
            *cell[c].out = rounded;
        cell[c].out += cell[c].out ? a.y.stride[1] : 0;
        if (cell[c].next && !last)
            *cell[c].next = rounded;
        cell[c].next += cell[c].next ? a.heads * a.size : 0;
    }
    if (record)
#pragma unroll
        for (int c = 0; c < T::cells; c++) {
            const uint4 *words = (const uint4 *)&kept[c];
            record[c * 2 * T::threads] = words[0];
            record[(c * 2 + 1) * T::threads] = words[1];
        }
    if (more)
#pragma unroll
        for (int c = 0; c < T::cells; c++)
            if (cell[c].live)
                keep_more(&a, p.head, t, cell[c]);
}

template <int SIZE, int CTAS, int PARTS, int SEQS>
static __global__ void __launch_bounds__(tiling<SIZE, CTAS, PARTS, SEQS>::threads, 1)
    slstm_tiles_forward(const __grid_constant__ struct slstm_tiles tiles) {
    typedef tiling<SIZE, CTAS, PARTS, SEQS> T;
    enum { TILES = SIZE / 16 / PARTS };
    extern __shared__ uint4 shared[];
    uint64_t *full = (uint64_t *)shared; /* y of the next token is there, in either buffer */
    uint16_t *y = (uint16_t *)(shared + 2), *x = y + T::y_bytes / 2, *own = x + T::x_bytes / 2;
    float *parts = (float *)(own + T::own_bytes / 2);
    const slstm_job *a = &tiles.job;
    tile_place p = tile_here<T>(a);
    uint32_t weight[SLSTM_GATES][TILES][4];
    cell_place cell[T::cells];
    cuda_wait();
    load_weights<T, TILES>(a, p, weight);
#pragma unroll
    for (int c = 0; c < T::cells; c++)
        begin_cell<T>(&tiles, p, p.part * T::cells + c, &cell[c]);
    begin_y<T>(&tiles, p, y);
    __syncthreads();
    x_pieces<T> pieces = begin_x<T>(a, p);
    for (int t = 0; t < T::x_stages - 1; t++)
        fetch_x<T>(&pieces, x);
    if (CTAS > 1) {
        if (threadIdx.x == 0) {
            cluster_make(&full[0]);
            cluster_make(&full[1]);
        }
        cluster_sync();
    }
    const int tokens = (int)a->tokens;
    const bool more = a->all_s.data || (a->y.data && a->y.type != DTYPE_BF16);
    cell_record kept[T::cells];
    int at_x[T::cells], at_y[T::cells]; /* of the cells, within a token's x, and y of this block */
#pragma unroll
    for (int c = 0; c < T::cells; c++) {
        int unit = tile_unit<T>(p, p.part * T::cells + c),
            s = tile_sequence<T>(p, p.part * T::cells + c);
        at_x[c] = s * T::x_pitch + unit;
        at_y[c] = s * (CTAS == 1 ? (int)T::y_pitch : (int)T::units) + unit;
    }
    const int64_t record_step = (int64_t)gridDim.x * T::cells * 2 * T::threads;
    uint4 *record =
        tiles.record ? tiles.record + blockIdx.x * (T::cells * 2 * T::threads) + threadIdx.x : NULL;
    for (int t = 0, stage = 0; t < tokens; t++, stage = stage + 1 == T::x_stages ? 0 : stage + 1) {
        if (CTAS == 1) {
            copies_wait<T::x_stages - 2>();
            __syncthreads();
        } else if (t > 0) {
            cluster_wait(&full[t & 1], (unsigned)((t - 1) / 2 & 1));
        }
        float sum[SLSTM_GATES][4] = {}, raw[T::cells][SLSTM_GATES];
        tile_multiply<SLSTM_GATES, TILES>(
            sum, weight,
            tile_line<T>(y + (t & 1) * T::sequences * T::y_pitch + p.part * TILES * 16,
                         T::y_pitch));
        fetch_x<T>(&pieces, x);
        if (t > 0) {
            keep_cells<T>(tiles, p, t - 1, more, cell, kept, record);
            record += record ? record_step : 0;
        }
        if (CTAS > 1)
            copies_wait<T::x_stages - 1>();
        tile_gather<T, SLSTM_GATES>(p, sum, parts, raw);
        uint16_t *yt = y + (t + 1 & 1) * T::sequences * T::y_pitch;
#pragma unroll
        for (int c = 0; c < T::cells; c++) {
            const uint16_t *xt = x + stage * (T::sequences * T::x_pitch) + at_x[c];
#pragma unroll
            for (int g = 0; g < SLSTM_GATES; g++)
                raw[c][g] += from_bf16(xt[g * T::units]) + cell[c].bias[g];
        }
        step_cells<T>(a->lstm, a->forward_clip, raw, cell, kept);
#pragma unroll
        for (int c = 0; c < T::cells; c++)
            (CTAS == 1 ? yt : own)[at_y[c]] = to_bf16(cell[c].y);
        if (CTAS > 1 && t + 1 < tokens) {
            if (threadIdx.x == 0)
                cluster_expect(&full[t + 1 & 1], (unsigned)(T::sequences * SIZE * 2));
            __syncthreads();
            tile_give<T, 1>(own, yt, T::y_pitch, &full[t + 1 & 1], p.rank);
        }
    }
    keep_cells<T>(tiles, p, tokens - 1, more, cell, kept, record);
#pragma unroll
    for (int c = 0; c < T::cells; c++)
        end_cell(a, p, cell[c]);
    copies_wait<0>();
    if (CTAS > 1)
        cluster_sync();
}

/* ---- Whether ---- */

/* Rows of whole 16 bytes. */
static bool is_even(const cuda_array *a, int rank) {
    bool even = a->type == DTYPE_BF16 && a->stride[rank - 1] == 1 && (uintptr_t)a->data % 16 == 0;
    for (int i = 0; i < rank - 1; i++)
        even = even && a->stride[i] % 8 == 0;
    return even;
}

bool cuda_slstm_choose_tiling(const slstm_job *job, const cuda_kernel_gpu *gpu,
                              slstm_tiles *tiles) {
    bool fits = job->size % 8 == 0 && job->size <= (gpu->clusters ? 512 : 128) &&
                job->tokens < 1 << 30 && job->r.type == DTYPE_BF16 && job->r.stride[2] == 1 &&
                is_even(&job->x, 5) && (!job->dy.data || is_even(&job->dy, 4)) &&
                (!job->dx.data || is_even(&job->dx, 5));
    if (!fits)
        return false;
    *tiles = slstm_tiles{};
    tiles->job = *job;
    tiles->size = job->size <= 64 ? 64 : job->size <= 128 ? 128 : job->size <= 256 ? 256 : 512;
    int ctas = tiles->size <= 128 ? 1 : tiles->size == 256 ? 4 : 16;
    /* Few cells a thread as long as there are processors for all blocks. */
    bool few = tiles->size < 512 && (job->batch + 3) / 4 * job->heads * ctas <= gpu->processors;
    tiles->sequences = few ? 4 : 8;
    tiles->groups = (int)((job->batch + tiles->sequences - 1) / tiles->sequences);
    tiles->blocks = tiles->groups * job->heads * ctas;
    return true;
}

void cuda_slstm_place_tiles(slstm_tiles *tiles, cuda_workspace *w) {
    slstm_job *job = &tiles->job;
    int64_t row = job->heads * SLSTM_GATES * job->size;
    if (!job->kept)
        return;
    int64_t cells = tiles->blocks * tiles->sequences *
                    (tiles->size == 64    ? 64
                     : tiles->size == 128 ? 128
                     : tiles->size == 256 ? 64
                                          : 32);
    tiles->record = (uint4 *)cuda_workspace_take(w, job->tokens * cells, sizeof(cell_record));
    if (job->db.data)
        tiles->bias = (float *)cuda_workspace_take(w, job->batch * row, sizeof(float));
    if (!job->dr.data)
        return;
    tiles->splits = cuda_slstm_splits(job);
    tiles->y = (uint16_t *)cuda_workspace_take(w, job->batch * job->tokens * job->heads * job->size,
                                               sizeof(uint16_t));
    tiles->weight = (float *)cuda_workspace_take(w, tiles->splits * job->size * row, sizeof(float));
    if (job->dx.data)
        return;
    job->dx.data = cuda_workspace_take(w, job->batch * job->tokens * row, sizeof(uint16_t));
    job->dx.type = DTYPE_BF16;
    job->dx.stride[0] = job->tokens * row;
    job->dx.stride[1] = row;
    job->dx.stride[2] = job->heads * job->size;
    job->dx.stride[3] = job->size;
    job->dx.stride[4] = 1;
}

/* ---- The call ---- */

template <int SIZE, int CTAS, int PARTS, int SEQS>
static void run_forward(const kernel_call *call, const slstm_tiles *tiles, xlstm_status *status) {
    typedef tiling<SIZE, CTAS, PARTS, SEQS> T;
    cuda_launch launch = {};
    launch.kernel = (const void *)slstm_tiles_forward<SIZE, CTAS, PARTS, SEQS>;
    launch.name = "slstm_tiles_forward";
    launch.arguments = tiles;
    launch.grid[0] = (unsigned)tiles->blocks;
    launch.threads = T::threads;
    launch.shared = T::forward_bytes;
    launch.cluster = CTAS > 1 ? CTAS : 0;
    *status = cuda_kernel_launch(call, &launch);
}

xlstm_status cuda_slstm_run_tiles(const kernel_call *call, const slstm_tiles *tiles) {
    xlstm_status status = XLSTM_OK;
    bool few = tiles->sequences == 4;
    if (tiles->size == 64)
        (few ? run_forward<64, 1, 1, 4> : run_forward<64, 1, 1, 8>)(call, tiles, &status);
    else if (tiles->size == 128)
        (few ? run_forward<128, 1, 1, 4> : run_forward<128, 1, 1, 8>)(call, tiles, &status);
    else if (tiles->size == 256)
        (few ? run_forward<256, 4, 2, 4> : run_forward<256, 4, 2, 8>)(call, tiles, &status);
    else
        run_forward<512, 16, 4, 8>(call, tiles, &status);
    if (tiles->job.kept && status == XLSTM_OK)
        status = cuda_slstm_back_tiles(call, tiles);
    if (tiles->job.kept && status == XLSTM_OK && (tiles->job.dr.data || tiles->job.db.data))
        status = cuda_slstm_sum_weights(call, tiles);
    return status;
}
