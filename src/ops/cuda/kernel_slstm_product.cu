/* The gradients of the weights of the sLSTM and the LSTM on tensor cores: dR [p][j] = sum over all tokens of y[p] dx[j], y
 * being that before the token. A block sums a tile of dR over some of the tokens; the parts, of which there are as many
 * for a shape on every GPU, are added in order. */
#include "ops/cuda/kernel_slstm_tiles.h"

enum {
    ROWS = 64, /* of dR, in a block */
    COLUMNS = 128,
    TOKENS = 32, /* in shared memory at a time */
    STAGES = 4,
    THREADS = 256,
    Y_PITCH = ROWS + 8,
    X_PITCH = COLUMNS + 8,
    TOKENS_A_SPLIT = 1024,
    MOST_SPLITS = 16
};

int cuda_slstm_splits(const slstm_job *job) {
    int64_t splits = (job->batch * job->tokens + TOKENS_A_SPLIT - 1) / TOKENS_A_SPLIT;
    return splits > MOST_SPLITS ? MOST_SPLITS : (int)splits;
}

/* What a thread brings of TOKENS tokens of y and dx: one piece of 8 values of y, two of dx. */
enum { Y_LINE = ROWS / 8, X_LINE = COLUMNS / 8, X_ROWS = THREADS / X_LINE };
static_assert(TOKENS * Y_LINE == THREADS && TOKENS * X_LINE == 2 * THREADS,
              "a piece of y, two of dx");
typedef struct product_pieces {
    const uint16_t *y, *x[2];
    int64_t y_token, x_token[2],
        last;        /* of the pieces; tokens from `last` on are not the block's */
    int64_t time[2]; /* of the tokens of dx, in their sequences */
    int64_t y_step;  /* elements from token to token */
    bool has_y, has_x;
} product_pieces;

static __device__ product_pieces begin_pieces(const slstm_tiles *tiles, int64_t head, int64_t p0,
                                              int64_t j0, int64_t first, int64_t last) {
    const slstm_job *a = &tiles->job;
    product_pieces b;
    int64_t p = p0 + threadIdx.x % Y_LINE * 8, j = j0 + threadIdx.x % X_LINE * 8;
    b.last = last;
    b.has_y = p < a->size;
    b.has_x = j < SLSTM_GATES * a->size;
    b.y_step = a->heads * a->size;
    b.y_token = first + threadIdx.x / Y_LINE;
    b.y = tiles->y + (b.has_y ? b.y_token * b.y_step + head * a->size + p : 0);
    for (int i = 0; i < 2; i++) {
        b.x_token[i] = first + threadIdx.x / X_LINE + i * X_ROWS;
        b.time[i] = b.x_token[i] % a->tokens;
        b.x[i] = (const uint16_t *)a->dx.data;
        if (b.has_x)
            b.x[i] += b.x_token[i] / a->tokens * a->dx.stride[0] + b.time[i] * a->dx.stride[1] +
                      j / a->size * a->dx.stride[2] + head * a->dx.stride[3] + j % a->size;
    }
    return b;
}

/* The next TOKENS tokens; 0 where there is none. */
static __device__ __forceinline__ void fetch(const slstm_job *a, product_pieces *b, uint16_t *y,
                                             uint16_t *x) {
    copy_16(y + threadIdx.x / Y_LINE * Y_PITCH + threadIdx.x % Y_LINE * 8, b->y,
            b->has_y && b->y_token < b->last);
    b->y += TOKENS * b->y_step;
    b->y_token += TOKENS;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        copy_16(x + (threadIdx.x / X_LINE + i * X_ROWS) * X_PITCH + threadIdx.x % X_LINE * 8,
                b->x[i], b->has_x && b->x_token[i] < b->last);
        b->x[i] += TOKENS * a->dx.stride[1];
        b->x_token[i] += TOKENS;
        b->time[i] += TOKENS;
        for (; b->time[i] >= a->tokens; b->time[i] -= a->tokens)
            b->x[i] += a->dx.stride[0] - a->tokens * a->dx.stride[1];
    }
    copies_commit();
}

/* A warp: 32 rows by 32 columns. */
static __device__ __forceinline__ void multiply(const uint16_t *y, const uint16_t *x,
                                                float (*sum)[4][4]) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint16_t *rows =
        y + (lane % 8 + lane / 16 * 8) * Y_PITCH + warp / 4 * 32 + lane / 8 % 2 * 8;
    const uint16_t *columns =
        x + (lane % 8 + lane / 8 % 2 * 8) * X_PITCH + warp % 4 * 32 + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < TOKENS; k += 16) {
        uint32_t left[2][4], right[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            load_matrices_turned(left[i], rows + k * Y_PITCH + 16 * i);
            load_matrices_turned(right[i], columns + k * X_PITCH + 16 * i);
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                mma_bf16(sum[i][j], left[i], right[j / 2] + j % 2 * 2);
    }
}

static __global__ void __launch_bounds__(THREADS)
    slstm_product(const __grid_constant__ struct slstm_tiles tiles) {
    extern __shared__ uint4 shared[];
    uint16_t *y = (uint16_t *)shared, *x = y + STAGES * TOKENS * Y_PITCH;
    const slstm_job *a = &tiles.job;
    int64_t width = SLSTM_GATES * a->size, tokens = a->batch * a->tokens;
    int64_t columns = (width + COLUMNS - 1) / COLUMNS;
    int64_t share = ((tokens + tiles.splits - 1) / tiles.splits + TOKENS - 1) / TOKENS * TOKENS;
    int64_t head = blockIdx.y, p0 = blockIdx.x / columns * ROWS,
            j0 = blockIdx.x % columns * COLUMNS;
    int64_t first = blockIdx.z * share, last = first + share < tokens ? first + share : tokens;
    product_pieces pieces = begin_pieces(&tiles, head, p0, j0, first, last);
    float sum[2][4][4] = {};
    cuda_wait();
    for (int s = 0; s < STAGES - 1; s++)
        fetch(a, &pieces, y + s * TOKENS * Y_PITCH, x + s * TOKENS * X_PITCH);
    int stage = 0;
    for (int64_t token = first; token < last; token += TOKENS) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        int next = (stage + STAGES - 1) % STAGES;
        fetch(a, &pieces, y + next * TOKENS * Y_PITCH, x + next * TOKENS * X_PITCH);
        multiply(y + stage * TOKENS * Y_PITCH, x + stage * TOKENS * X_PITCH, sum);
        stage = (stage + 1) % STAGES;
    }
    copies_wait<0>();
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float *out = tiles.weight + (blockIdx.z * a->heads + head) * a->size * width;
#pragma unroll
    for (int i = 0; i < 32; i++) {
        int64_t p = p0 + warp / 4 * 32 + i / 16 * 16 + i % 4 / 2 * 8 + lane / 4;
        int64_t j = j0 + warp % 4 * 32 + i / 4 % 4 * 8 + lane % 4 * 2 + i % 2;
        if (p < a->size && j < width)
            out[p * width + j] = sum[i / 16][i / 4 % 4][i % 4];
    }
}

/* The parts together: dR an element a thread, then db. */
static __global__ void slstm_add_parts(const __grid_constant__ struct slstm_tiles tiles) {
    const slstm_job *a = &tiles.job;
    int64_t width = SLSTM_GATES * a->size, count = a->heads * a->size * width;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f;
    cuda_wait();
    if (i < count && a->dr.data) {
        for (int s = 0; s < tiles.splits; s++)
            sum += tiles.weight[s * count + i];
        store_as(a->dr.data, a->dr.type,
                 i / width / a->size * a->dr.stride[0] + i / width % a->size * a->dr.stride[1] +
                     i % width * a->dr.stride[2],
                 sum);
    } else if (i >= count && i < count + a->heads * width && a->db.data) {
        i -= count;
        for (int64_t s = 0; s < a->batch; s++)
            sum += tiles.bias[s * a->heads * width + i];
        int64_t j = i % width;
        store_as(a->db.data, a->db.type,
                 j / a->size * a->db.stride[0] + i / width * a->db.stride[1] +
                     j % a->size * a->db.stride[2],
                 sum);
    }
}

xlstm_status cuda_slstm_sum_weights(const kernel_call *call, const slstm_tiles *tiles) {
    const slstm_job *a = &tiles->job;
    int64_t width = SLSTM_GATES * a->size;
    xlstm_status status = XLSTM_OK;
    unsigned cells = (unsigned)((a->size + ROWS - 1) / ROWS * ((width + COLUMNS - 1) / COLUMNS));
    if (a->dr.data)
        cuda_kernel_run(call, &status, "slstm_product", slstm_product,
                        dim3(cells, (unsigned)a->heads, (unsigned)tiles->splits), THREADS,
                        STAGES * TOKENS * (Y_PITCH + X_PITCH) * 2, *tiles);
    cuda_kernel_run(call, &status, "slstm_add_parts", slstm_add_parts,
                    dim3((unsigned)((a->heads * width * (a->size + 1) + THREADS - 1) / THREADS)),
                    THREADS, 0, *tiles);
    return status;
}
