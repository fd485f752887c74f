/* How fast the kernels of the library are on this machine's GPU, on arrays in its memory: the chunkwise mLSTM at the
 * shapes of xLSTM-7B and of half its heads' sizes, and the sLSTM.
 *
 *     cuda_kernels
 *
 * Times are medians of RUNS runs behind a warm-up, by events of the GPU. Operations of the mLSTM are those of chunks of
 * 64 tokens, 4 d_qk d_v + 64 (d_qk + d_v) a token and head forward, 2.5 times that backward; bytes are each array once.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#include "xlstm_kernels.h"

enum { RUNS = 20, WARM = 3, MOST_ARGUMENTS = 24, PATTERN = 1 << 22 /* values, then they repeat */ };

static _Noreturn void stop(const char *what, const char *why) {
    fprintf(stderr, "cuda_kernels: %s: %s\n", what, why);
    exit(1);
}

static void check(cudaError_t error, const char *call) {
    if (error != cudaSuccess)
        stop(call, cudaGetErrorString(error));
}

typedef struct call {
    const char *name;
    xlstm_kernel_options options;
    xlstm_argument arguments[MOST_ARGUMENTS];
    int count;
    double bytes;
} call;

static int64_t elements(const xlstm_array *a) {
    int64_t n = 1;
    for (int i = 0; i < a->rank; i++)
        n *= a->shape[i];
    return n;
}

/* Bits of a bf16 or f32 between -1 and 1, times scale, plus offset. */
static void fill(void *device, xlstm_dtype type, int64_t count, float scale, float offset) {
    static uint32_t state = 1;
    int64_t part = count < PATTERN ? count : PATTERN;
    size_t size = type == XLSTM_F32 ? 4 : 2;
    char *host = malloc((size_t)part * size);
    if (!host)
        stop("memory", "none left");
    for (int64_t i = 0; i < part; i++) {
        union {
            float value;
            uint32_t bits;
        } x;
        state = state * 1664525u + 1013904223u;
        x.value = scale * ((float)(state >> 8) / 8388608.0f - 1) + offset;
        if (size == 4)
            ((float *)(void *)host)[i] = x.value;
        else
            ((uint16_t *)(void *)host)[i] = (uint16_t)(x.bits >> 16);
    }
    for (int64_t at = 0; at < count; at += part) {
        int64_t now = count - at < part ? count - at : part;
        check(cudaMemcpy((char *)device + (size_t)at * size, host, (size_t)now * size,
                         cudaMemcpyHostToDevice),
              "cudaMemcpy");
    }
    free(host);
}

static void give(call *c, const char *name, xlstm_dtype type, int rank, const int64_t *shape,
                 float scale, float offset) {
    xlstm_array a = xlstm_array_make(NULL, type, rank, shape);
    int64_t count = elements(&a);
    size_t size = type == XLSTM_F32 ? 4 : 2;
    check(cudaMalloc(&a.data, (size_t)count * size), "cudaMalloc");
    fill(a.data, type, count, scale, offset);
    c->arguments[c->count++] = (xlstm_argument){name, a};
    c->bytes += (double)count * (double)size;
}

/* Median milliseconds. */
static double time_call(call *c, cudaStream_t stream) {
    float ms[RUNS];
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "cudaEventCreate");
    check(cudaEventCreate(&end), "cudaEventCreate");
    c->options.stream = stream;
    if (xlstm_kernel_workspace(c->name, &c->options, c->arguments, c->count,
                               &c->options.workspace_size) != XLSTM_OK)
        stop(c->name, xlstm_last_error());
    if (c->options.workspace_size > 0)
        check(cudaMalloc(&c->options.workspace, c->options.workspace_size), "cudaMalloc");
    for (int run = -WARM; run < RUNS; run++) {
        check(cudaEventRecord(begin, stream), "cudaEventRecord");
        if (xlstm_kernel_run(c->name, &c->options, c->arguments, c->count) != XLSTM_OK)
            stop(c->name, xlstm_last_error());
        check(cudaEventRecord(end, stream), "cudaEventRecord");
        check(cudaEventSynchronize(end), "cudaEventSynchronize");
        float now;
        check(cudaEventElapsedTime(&now, begin, end), "cudaEventElapsedTime");
        int at = run;
        for (; at > 0 && ms[at - 1] > now; at--)
            ms[at] = ms[at - 1];
        if (at >= 0)
            ms[at] = now;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return (double)ms[RUNS / 2];
}

static void drop(call *c) {
    for (int i = 0; i < c->count; i++)
        cudaFree(c->arguments[i].array.data);
    cudaFree(c->options.workspace);
}

static void time_mlstm(const char *name, int64_t heads, int64_t d_qk, int64_t d_v, int64_t batch,
                       int64_t tokens, bool backward, cudaStream_t stream) {
    const int64_t qk[4] = {batch, heads, tokens, d_qk}, value[4] = {batch, heads, tokens, d_v};
    const int64_t gate[3] = {batch, heads, tokens};
    call c = {.name = name, .options = xlstm_kernel_defaults()};
    static const char *const read[] = {"q", "k", "v"}, *const made[] = {"dq", "dk", "dv"};
    for (int i = 0; i < 3; i++)
        give(&c, read[i], XLSTM_BF16, 4, i < 2 ? qk : value, 1.7f, 0);
    give(&c, "i", XLSTM_F32, 3, gate, 1.7f, 0);
    give(&c, "f", XLSTM_F32, 3, gate, 1.7f, 0);
    give(&c, "h", XLSTM_BF16, 4, value, 0, 0);
    double flops = (double)(batch * heads * tokens) *
                   (4.0 * (double)(d_qk * d_v) + 64.0 * (double)(d_qk + d_v));
    if (backward) {
        c.options.backward = XLSTM_BACKWARD_UPSTREAM;
        give(&c, "dh", XLSTM_BF16, 4, value, 1, 0);
        for (int i = 0; i < 3; i++)
            give(&c, made[i], XLSTM_BF16, 4, i < 2 ? qk : value, 0, 0);
        give(&c, "di", XLSTM_F32, 3, gate, 0, 0);
        give(&c, "df", XLSTM_F32, 3, gate, 0, 0);
        flops *= 3.5;
    }
    double ms = time_call(&c, stream);
    printf("%-22s %2lld heads %3lld/%3lld  B %2lld S %5lld  %-18s %7.3f ms  %6.1f TFLOP/s  %6.0f "
           "GB/s\n",
           name, (long long)heads, (long long)d_qk, (long long)d_v, (long long)batch,
           (long long)tokens, backward ? "forward + backward" : "forward", ms, flops / ms / 1e9,
           c.bytes / ms / 1e6);
    drop(&c);
}

static void time_slstm(int64_t heads, int64_t d, bool backward, cudaStream_t stream) {
    enum { B = 16, T = 1024 };
    const int64_t x[5] = {B, T, 4, heads, d}, r[3] = {heads, d, 4 * d}, b[3] = {4, heads, d};
    const int64_t y[4] = {B, T, heads, d};
    call c = {.name = "slstm_sequence--cuda", .options = xlstm_kernel_defaults()};
    give(&c, "x", XLSTM_BF16, 5, x, 1, 0);
    give(&c, "r", XLSTM_BF16, 3, r, 0.1f, 0);
    give(&c, "b", XLSTM_F32, 3, b, 0.5f, 0);
    give(&c, "y", XLSTM_BF16, 4, y, 0, 0);
    if (backward) {
        c.options.backward = XLSTM_BACKWARD_EXACT;
        give(&c, "dy", XLSTM_BF16, 4, y, 1, 0);
        give(&c, "dx", XLSTM_BF16, 5, x, 0, 0);
        give(&c, "dr", XLSTM_F32, 3, r, 0, 0);
        give(&c, "db", XLSTM_F32, 3, b, 0, 0);
    }
    double ms = time_call(&c, stream);
    printf("%-22s %2lld x %3lld  B 16 T 1024  %-18s %7.3f ms  %5.2f us a step\n", c.name,
           (long long)heads, (long long)d, backward ? "forward + backward" : "forward", ms,
           ms * 1000 / T);
    drop(&c);
}

int main(void) {
    static const int64_t heads[2][3] = {{8, 256, 512}, {16, 128, 256}};
    static const int64_t lengths[3][2] = {{32, 2048}, {8, 8192}, {1, 65536}};
    static const int64_t cells[4][2] = {{12, 64}, {4, 128}, {3, 256}, {1, 512}};
    static const char *const names[2] = {"chunkwise--cuda", "chunkwise_sig--cuda"};
    cudaStream_t stream;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (int shape = 0; shape < 2; shape++)
        for (int name = 0; name < 2; name++)
            for (int length = 0; length < 3; length++)
                for (int backward = 0; backward < 2; backward++)
                    time_mlstm(names[name], heads[shape][0], heads[shape][1], heads[shape][2],
                               lengths[length][0], lengths[length][1], backward, stream);
    for (int cell = 0; cell < 4; cell++)
        for (int backward = 0; backward < 2; backward++)
            time_slstm(cells[cell][0], cells[cell][1], backward, stream);
    cudaStreamDestroy(stream);
    return 0;
}
