/* Measuring what this machine can do: memory to read that no cache holds, a pool of threads, and a
 * clock around the loops of machine_kernels.c. */
#include "engine/machine.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/median.h"
#include "base/threads.h"
#include "engine/machine_kernels.h"

enum {
    UNEVEN = 1040,                /* floats by which a stream is no multiple of 8 KiB */
    SPAN_STREAM = 65536 + UNEVEN, /* floats of a stream in given memory: 4 MiB a task */
    STEPS = 1 << 15,
    MOST_RUNS = 25
};

static const double sample_seconds = 0.02;

struct machine_meter {
    machine_kernels kernels;
    thread_pool *pool;
    float *data;
    size_t size;  /* bytes of data */
    size_t chunk; /* floats of one task: MACHINE_STREAMS streams */
    int64_t chunks;
    float (*arithmetic)(int steps);
    machine_span spans[MACHINE_SPANS];
    int64_t first_task[MACHINE_SPANS + 1]; /* of each span */
    int span_count;
    _Atomic float sink; /* where results go, so that no compiler can leave the loops out */
};

/* ---- Jobs ---- */

static void read_task(void *context, int64_t task, int worker) {
    machine_meter *m = context;
    (void)worker;
    m->sink = m->kernels.read(m->data + (size_t)task * m->chunk, m->chunk / MACHINE_STREAMS);
}

static void span_task(void *context, int64_t task, int worker) {
    machine_meter *m = context;
    (void)worker;
    int s = 0;
    while (task >= m->first_task[s + 1])
        s++;
    const size_t from = (size_t)(task - m->first_task[s]) * SPAN_STREAM * MACHINE_STREAMS;
    size_t stream = (m->spans[s].size / sizeof(float) - from) / MACHINE_STREAMS;
    stream = stream < SPAN_STREAM ? stream / MACHINE_LANES * MACHINE_LANES : SPAN_STREAM;
    m->sink = m->kernels.read((const float *)m->spans[s].data + from, stream);
}

static void update_task(void *context, int64_t task, int worker) {
    machine_meter *m = context;
    (void)worker;
    m->kernels.update(m->data + (size_t)task * m->chunk, m->chunk / MACHINE_STREAMS);
}

static void arithmetic_task(void *context, int64_t task, int worker) {
    machine_meter *m = context;
    (void)task;
    (void)worker;
    m->sink = m->arithmetic(STEPS);
}

/* Jobs of `amount` bytes or operations until a sample's time is over: units a second. */
static double sample(machine_meter *m, int64_t tasks, thread_task task, double amount) {
    double start = clock_seconds(), passed = 0;
    int jobs = 0;
    for (; passed < sample_seconds; jobs++) {
        thread_pool_run(m->pool, tasks, task, m);
        passed = clock_seconds() - start;
    }
    return jobs * amount / passed;
}

/* Spans begin at a multiple of 64 bytes. */
void machine_read_from(machine_meter *m, const machine_span *spans, int count) {
    m->span_count = count < MACHINE_SPANS ? count : MACHINE_SPANS;
    for (int i = 0; i < m->span_count; i++) {
        const size_t skipped = (size_t)(-(uintptr_t)spans[i].data & 63);
        m->spans[i] = (machine_span){(const char *)spans[i].data + skipped,
                                     spans[i].size > skipped ? spans[i].size - skipped : 0};
        const size_t task = (size_t)SPAN_STREAM * MACHINE_STREAMS * sizeof(float);
        m->first_task[i + 1] = m->first_task[i] + (int64_t)((m->spans[i].size + task - 1) / task);
    }
}

static double sample_spans(machine_meter *m) {
    double bytes = 0;
    if (m->span_count == 0)
        return 0;
    for (int i = 0; i < m->span_count; i++)
        bytes += (double)m->spans[i].size;
    return sample(m, m->first_task[m->span_count], span_task, bytes);
}

static double sample_arithmetic(machine_meter *m, float (*loop)(int steps), double amount) {
    int64_t tasks = (int64_t)machine_threads(m) * 4;
    m->arithmetic = loop;
    return loop ? sample(m, tasks, arithmetic_task, (double)tasks * STEPS * amount) : 0;
}

double machine_sample(machine_meter *m, machine_kind kind) {
    const machine_kernels *k = &m->kernels;
    double bytes = (double)m->chunk * (double)m->chunks * sizeof(float);
    switch (kind) {
    case MACHINE_READ:
        return sample(m, m->chunks, read_task, bytes);
    case MACHINE_WEIGHTS:
        return sample_spans(m);
    case MACHINE_UPDATE:
        return sample(m, m->chunks, update_task, 2 * bytes);
    case MACHINE_FMA:
        return sample_arithmetic(m, k->multiply, k->multiply_flops);
    case MACHINE_AMX_BF16:
        return sample_arithmetic(m, k->amx_bf16, k->amx_bf16_flops);
    case MACHINE_AMX_INT8:
        return sample_arithmetic(m, k->amx_int8, k->amx_int8_flops);
    case MACHINE_KINDS:
        break;
    }
    return 0;
}

bool machine_has(const machine_meter *m, machine_kind kind) {
    return (kind != MACHINE_WEIGHTS || m->span_count > 0) &&
           (kind != MACHINE_AMX_BF16 || m->kernels.amx_bf16) &&
           (kind != MACHINE_AMX_INT8 || m->kernels.amx_int8);
}

int machine_threads(const machine_meter *m) {
    return thread_pool_size(m->pool);
}

/* ---- A machine ---- */

/* A quarter of what is free, between 64 MiB and 1 GiB (2 GiB for many threads): more than any
 * cache. */
static size_t choose_size(int threads) {
    size_t wanted = (size_t)1 << (threads > 16 ? 31 : 30), least = (size_t)64 << 20;
    int64_t available = memory_available();
    if (available > 0 && (size_t)(available / 4) < wanted)
        wanted = (size_t)(available / 4);
    return wanted < least ? least : wanted;
}

static xlstm_status map_memory(machine_meter *m, int threads) {
    size_t tasks = (size_t)threads * 8, size = choose_size(threads);
    size_t stream = size / sizeof(float) / tasks / MACHINE_STREAMS / 2048 * 2048 - 2048 + UNEVEN;
    m->chunk = stream * MACHINE_STREAMS;
    m->chunks = (int64_t)tasks;
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (data == MAP_FAILED)
        return error_memory(size, "measuring this machine's memory");
#ifdef MADV_HUGEPAGE
    /* The limit is what the memory can do, not the page table. */
    madvise(data, size, MADV_HUGEPAGE);
#endif
    m->data = data;
    m->size = size;
    for (size_t i = 0; i < size / sizeof(float); i++)
        m->data[i] = 1.0f; /* a page that was never written is one shared page of zeros */
    return XLSTM_OK;
}

void machine_free(machine_meter *m) {
    if (!m)
        return;
    if (m->data)
        munmap(m->data, m->size);
    thread_pool_free(m->pool);
    free(m);
}

xlstm_status machine_create(int threads, bool pin, machine_meter **result) {
    *result = NULL;
    machine_meter *m = calloc(1, sizeof *m);
    if (!m)
        return error_memory(sizeof *m, "measuring this machine");
    m->kernels = machine_kernels_choose();
    if (threads == 0)
        threads = threads_available();
    xlstm_status status =
        pin ? thread_pool_create_pinned(threads, &m->pool) : thread_pool_create(threads, &m->pool);
    if (status == XLSTM_OK)
        status = map_memory(m, threads);
    if (status != XLSTM_OK) {
        machine_free(m);
        return status;
    }
    *result = m;
    return XLSTM_OK;
}

/* ---- All at once ---- */

/* The median of samples until `seconds` have passed, at least three after one that does not count.
 */
static double measure(machine_meter *m, machine_kind kind, double seconds) {
    double rates[MOST_RUNS];
    int runs = 0;
    if (!machine_has(m, kind))
        return 0;
    machine_sample(m, kind);
    double start = clock_seconds();
    while (runs < MOST_RUNS && (runs < 3 || clock_seconds() - start < seconds))
        rates[runs++] = machine_sample(m, kind);
    return median(rates, runs);
}

void machine_measure_all(machine_meter *m, double seconds, machine_limits *limits) {
    if (seconds <= 0)
        seconds = 2;
    *limits = (machine_limits){
        .read_bytes_per_second = measure(m, MACHINE_READ, 0.35 * seconds),
        .update_bytes_per_second = measure(m, MACHINE_UPDATE, 0.35 * seconds),
        .fma_flops_per_second = measure(m, MACHINE_FMA, 0.1 * seconds),
        .amx_bf16_flops_per_second = measure(m, MACHINE_AMX_BF16, 0.1 * seconds),
        .amx_int8_ops_per_second = measure(m, MACHINE_AMX_INT8, 0.1 * seconds),
        .threads = machine_threads(m),
    };
}

xlstm_status machine_measure(int threads, double seconds, machine_limits *limits) {
    machine_meter *m;
    xlstm_status status = machine_create(threads, false, &m);
    if (status == XLSTM_OK)
        machine_measure_all(m, seconds, limits);
    machine_free(m);
    return status;
}
