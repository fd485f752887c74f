/* How fast the mLSTM kernels of the CPU are, at the head shape of xLSTM-7B: 8 heads of 256 and 512.
 *
 *     bench_kernels [THREADS] [ROUNDS]
 *
 * Each line tells the operations or bytes that are needed, and the percentage of what this machine was
 * measured to do in the same rounds: the kernels take turns with the measurement of the machine, and the
 * medians are compared. Needed are, per head and chunk of L tokens,
 *     forward   L (L + 1) (d_qk + d_v) + 4 L d_qk d_v operations; backward 2.5 times as many
 *     step      C read and written once
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/median.h"
#include "base/threads.h"
#include "engine/machine.h"
#include "xlstm_kernels.h"

enum { HEADS = 8, D_QK = 256, D_V = 512, TOKENS = 4096, STEP_SEQUENCES = 256, MOST_ROUNDS = 99 };

static const int lengths[] = {32, 64, 128, 256};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "bench_kernels: %s\n", what);
    exit(1);
}

/* Values between -1 and 1, times `scale`, plus `offset`. */
static float *random_array(int64_t count, float scale, float offset) {
    static uint32_t state = 1;
    float *data = malloc((size_t)count * sizeof *data);
    if (!data)
        fail("out of memory");
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = scale * ((float)(state >> 8) / 8388608.0f - 1) + offset;
    }
    return data;
}

typedef struct call {
    const char *name;
    xlstm_kernel_options options;
    xlstm_argument arguments[24];
    int count;
} call;

static void give(call *c, const char *name, float *data, int rank, const int64_t *shape) {
    c->arguments[c->count++] =
        (xlstm_argument){name, xlstm_array_make(data, XLSTM_F32, rank, shape)};
}

/* With 1 token the states too, updated in place. */
static call make_call(const char *name, int64_t batch, int64_t tokens, int threads) {
    const int64_t qk[] = {batch, HEADS, tokens, D_QK}, value[] = {batch, HEADS, tokens, D_V};
    const int64_t state[] = {batch, HEADS, D_QK, D_V}, one[] = {batch, HEADS, 1};
    int64_t rows = batch * HEADS * tokens;
    call c = {.name = name, .options = xlstm_kernel_defaults()};
    c.options.threads = threads;
    give(&c, "q", random_array(rows * D_QK, 1, 0), 4, qk);
    give(&c, "k", random_array(rows * D_QK, 1, 0), 4, qk);
    give(&c, "v", random_array(rows * D_V, 1, 0), 4, value);
    give(&c, "i", random_array(rows, 1, 0), 3, qk);
    give(&c, "f", random_array(rows, 1, 3), 3, qk);
    give(&c, "h", random_array(rows * D_V, 1, 0), 4, value);
    if (tokens > 1)
        return c;
    float *states = random_array(batch * HEADS * D_QK * D_V, 1, 0);
    float *n = random_array(batch * HEADS * D_QK, 1, 0), *m = random_array(batch * HEADS, 1, 0);
    give(&c, "c0", states, 4, state);
    give(&c, "c", states, 4, state);
    give(&c, "n0", n, 3, state);
    give(&c, "n", n, 3, state);
    give(&c, "m0", m, 3, one);
    give(&c, "m", m, 3, one);
    return c;
}

static void add_gradients(call *c) {
    const int64_t qk[] = {1, HEADS, TOKENS, D_QK}, value[] = {1, HEADS, TOKENS, D_V};
    c->options.backward = XLSTM_BACKWARD_EXACT;
    c->count--; /* h is not wanted */
    int64_t rows = HEADS * TOKENS;
    give(c, "dh", random_array(rows * D_V, 1, 0), 4, value);
    give(c, "dq", random_array(rows * D_QK, 1, 0), 4, qk);
    give(c, "dk", random_array(rows * D_QK, 1, 0), 4, qk);
    give(c, "dv", random_array(rows * D_V, 1, 0), 4, value);
    give(c, "di", random_array(rows, 1, 0), 3, qk);
    give(c, "df", random_array(rows, 1, 0), 3, qk);
}

static double seconds_of(const call *c) {
    double start = clock_seconds();
    if (xlstm_kernel_run(c->name, &c->options, c->arguments, c->count) != XLSTM_OK)
        fail(xlstm_last_error());
    return clock_seconds() - start;
}

/* As the machine's read-modify-write is measured: a run that does not count, then the median of three. */
static double seconds_warm(const call *c) {
    enum { RUNS = 3 };
    double runs[RUNS];
    seconds_of(c);
    for (int i = 0; i < RUNS; i++)
        runs[i] = seconds_of(c);
    return median(runs, RUNS);
}

static double operations(int length) {
    double chunk = (double)length * (length + 1) * (D_QK + D_V) + 4.0 * length * D_QK * D_V;
    return chunk * HEADS * TOKENS / length;
}

/* Seconds by chunk length and round. */
static double forward[LENGTHS][MOST_ROUNDS], backward[LENGTHS][MOST_ROUNDS], step[MOST_ROUNDS];
static double peak[MOST_ROUNDS], bandwidth[MOST_ROUNDS];

static void measure(int threads, int rounds) {
    call fw = make_call("chunkwise--cpu", 1, TOKENS, threads);
    call bw = make_call("chunkwise--cpu", 1, TOKENS, threads);
    call one = make_call("step--cpu", STEP_SEQUENCES, 1, threads);
    add_gradients(&bw);
    for (int round = 0; round < rounds; round++) {
        machine_limits limits;
        if (machine_measure(threads, 0.3, &limits) != XLSTM_OK)
            fail(xlstm_last_error());
        peak[round] = limits.fma_flops_per_second;
        bandwidth[round] = limits.update_bytes_per_second;
        step[round] = seconds_warm(&one);
        for (int i = 0; i < LENGTHS; i++) {
            fw.options.chunk_size = bw.options.chunk_size = lengths[i];
            forward[i][round] = seconds_of(&fw);
            backward[i][round] = seconds_of(&bw);
        }
    }
}

static void print_chunkwise(const char *name, double seconds[][MOST_ROUNDS], double factor,
                            double limit, int rounds) {
    int fastest = 0;
    double medians[LENGTHS];
    for (int i = 0; i < LENGTHS; i++) {
        medians[i] = median(seconds[i], rounds);
        fastest = medians[i] < medians[fastest] ? i : fastest;
    }
    for (int i = 0; i < LENGTHS; i++) {
        double needed = factor * operations(lengths[i]);
        printf("%-22s chunks of %3d  %6.2f GFLOP %8.1f ms %7.1f GFLOP/s  %5.1f %% of the "
               "multiply-add peak%s\n",
               name, lengths[i], 1e-9 * needed, 1e3 * medians[i], 1e-9 * needed / medians[i],
               100 * needed / medians[i] / limit, i == fastest ? "  <- fastest" : "");
    }
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 0, rounds = argc > 2 ? atoi(argv[2]) : 7;
    if (threads < 0 || rounds < 1 || rounds > MOST_ROUNDS) {
        fprintf(stderr, "usage: bench_kernels [THREADS] [ROUNDS]\n");
        return 2;
    }
    threads = threads ? threads : threads_available();
    measure(threads, rounds);
    double limit = median(peak, rounds), memory = median(bandwidth, rounds);
    printf("mLSTM kernels, cpu, f32, %d heads of %d and %d, %d threads, medians of %d rounds\n"
           "this machine: multiply-add peak %.1f GFLOP/s, read-modify-write %.2f GB/s\n",
           HEADS, D_QK, D_V, threads, rounds, 1e-9 * limit, 1e-9 * memory);
    print_chunkwise("chunkwise, 4096 tokens", forward, 1, limit, rounds);
    print_chunkwise("  backward, exact", backward, 2.5, limit, rounds);
    double bytes = 2.0 * sizeof(float) * STEP_SEQUENCES * HEADS * D_QK * D_V;
    double seconds = median(step, rounds);
    printf("%-22s %d sequences  %6.2f GB %11.1f ms %7.2f GB/s  %9.1f %% of read-modify-write\n",
           "step", STEP_SEQUENCES, 1e-9 * bytes, 1e3 * seconds, 1e-9 * bytes / seconds,
           100 * bytes / seconds / memory);
    return 0;
}
