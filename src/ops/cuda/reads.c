/* Reads of the host, and what kernels found wrong.
 *
 * A read waits for everything, except of ids that an op has announced (cuda_expect_ids): those the op's kernels tell the host
 * themselves, while the GPU goes on with what was enqueued behind it. */
#include "base/clock.h"
#include "base/error.h"
#include "ops/cuda/host.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_EXPECTED = 4, MOST_TOLD = 256, BOUNCE_BYTES = 1 << 20 };

typedef struct expected {
    const char *address; /* NULL: none */
    size_t size;
    unsigned freed; /* cuda_buffers_freed() then */
    unsigned ended; /* things that have ended when all is told */
    unsigned number;
    unsigned long long *words; /* [MOST_TOLD], page-locked */
} expected;

struct cuda_reads {
    expected list[MOST_EXPECTED];
    unsigned number;           /* of the newest */
    unsigned long long *words; /* of all */
    char *bounce;              /* page-locked */
    unsigned *faults;          /* page-locked */
};

static xlstm_status page_locked(void **memory, size_t size) {
    xlstm_status status = cuda_status(cudaMallocHost(memory, size), "cudaMallocHost");
    if (status == XLSTM_OK)
        memset(*memory, 0, size);
    return status;
}

xlstm_status cuda_reads_create(cuda_reads **out) {
    *out = NULL;
    cuda_reads *r = calloc(1, sizeof *r);
    if (!r)
        return error_memory(sizeof *r, "a stream");
    xlstm_status status =
        page_locked((void **)&r->words, sizeof *r->words * MOST_EXPECTED * MOST_TOLD);
    if (status == XLSTM_OK)
        status = page_locked((void **)&r->bounce, BOUNCE_BYTES);
    if (status == XLSTM_OK)
        status = page_locked((void **)&r->faults, CUDA_FAULTS * sizeof *r->faults);
    if (status != XLSTM_OK) {
        cuda_reads_free(r);
        return status;
    }
    for (int i = 0; i < MOST_EXPECTED; i++)
        r->list[i].words = r->words + (size_t)i * MOST_TOLD;
    *out = r;
    return XLSTM_OK;
}

void cuda_reads_free(cuda_reads *r) {
    if (!r)
        return;
    if (r->words)
        cudaFreeHost(r->words);
    if (r->bounce)
        cudaFreeHost(r->bounce);
    if (r->faults)
        cudaFreeHost(r->faults);
    free(r);
}

/* ---- Ids that are told ---- */

void cuda_reads_forget(cuda_reads *r, const void *address, size_t size) {
    const char *begin = address;
    for (int i = 0; i < MOST_EXPECTED; i++) {
        expected *e = &r->list[i];
        if (e->address && begin < e->address + e->size && e->address < begin + size)
            e->address = NULL;
    }
}

static void forget_all(cuda_reads *r) {
    for (int i = 0; i < MOST_EXPECTED; i++)
        r->list[i].address = NULL;
}

struct cuda_told cuda_expect_ids(cuda_stream *s, const ops_tensor *out, int launches) {
    cuda_reads *r = s->reads;
    const int64_t ids = ops_tensor_elements(out);
    cuda_flush(s);
    cuda_flush_writes(s);
    if (ops_failed(&s->check) || s->rehearsing)
        return (struct cuda_told){0};
    cuda_reads_forget(r, cuda_at(out), (size_t)ids * sizeof(int32_t));
    if (ids > MOST_TOLD)
        return (struct cuda_told){0};
    r->number = (r->number + 1) & INT32_MAX;
    expected *e = &r->list[r->number % MOST_EXPECTED];
    e->address = cuda_at(out);
    e->size = (size_t)ids * sizeof(int32_t);
    e->freed = cuda_buffers_freed();
    e->ended = s->enqueued + (unsigned)launches;
    e->number = r->number;
    return (struct cuda_told){e->words, e->number};
}

/* The entry that these ids are part of; it counts once. */
static expected *take_expected(cuda_reads *r, const char *from, size_t size) {
    for (int i = 0; i < MOST_EXPECTED; i++) {
        expected *e = &r->list[i];
        if (e->address && e->address <= from && from + size <= e->address + e->size) {
            const bool whole =
                (size_t)(from - e->address) % sizeof(int32_t) == 0 && size % sizeof(int32_t) == 0;
            return whole && e->freed == cuda_buffers_freed() ? e : NULL;
        }
    }
    return NULL;
}

/* Looks at the word until it is told. Now and then at the stream, too, since a kernel that failed tells nothing. */
static bool await_word(cuda_stream *s, const unsigned long long *word, unsigned number) {
    enum { LOOKS = 256 };
    static const double between = 5e-4; /* seconds */
    double next = 0;
    for (;;) {
        for (int i = 0; i < LOOKS; i++)
            if (__atomic_load_n(word, __ATOMIC_ACQUIRE) >> CUDA_TOLD_NUMBER == number)
                return true;
        if (clock_seconds() < next)
            continue;
        next = clock_seconds() + between;
        cudaError_t error = cudaStreamQuery(s->stream);
        if (error == cudaErrorNotReady)
            continue;
        return __atomic_load_n(word, __ATOMIC_ACQUIRE) >> CUDA_TOLD_NUMBER == number ||
               (cuda_check(s, error, "cudaStreamQuery") && false);
    }
}

/* False: not all of them were told, or something is wrong. */
static bool read_told(cuda_stream *s, int32_t *to, expected *e, const char *from, size_t size) {
    const size_t first = (size_t)(from - e->address) / sizeof *to, count = size / sizeof *to;
    e->address = NULL;
    for (size_t i = 0; i < count; i++) {
        const unsigned long long *word = e->words + first + i;
        if (!await_word(s, word, e->number) || (*word >> CUDA_TOLD_WRONG & 1) != 0)
            return false;
        to[i] = (int32_t)(uint32_t)*word;
    }
    if (first == 0 && size == e->size)
        s->ended = e->ended;
    return true;
}

/* ---- Reading ---- */

static bool fetch_faults(cuda_stream *s) {
    return cuda_check(s,
                      cudaMemcpyAsync(s->reads->faults, cuda_fault_words(s),
                                      CUDA_FAULTS * sizeof *s->reads->faults,
                                      cudaMemcpyDeviceToHost, s->stream),
                      "cudaMemcpyAsync");
}

bool cuda_read(cuda_stream *s, void *to, const void *from, size_t size) {
    cuda_reads *r = s->reads;
    expected *e = take_expected(r, from, size);
    if (e && read_told(s, to, e, from, size))
        return true;
    if (ops_failed(&s->check) || !fetch_faults(s))
        return false;
    for (size_t at = 0; at < size; at += BOUNCE_BYTES) {
        size_t part = size - at < BOUNCE_BYTES ? size - at : BOUNCE_BYTES;
        if (!cuda_check(s,
                        cudaMemcpyAsync(r->bounce, (const char *)from + at, part,
                                        cudaMemcpyDeviceToHost, s->stream),
                        "cudaMemcpyAsync") ||
            !cuda_check(s, cudaStreamSynchronize(s->stream), "cudaStreamSynchronize"))
            return false;
        memcpy((char *)to + at, r->bounce, part);
    }
    return true;
}

/* ---- Faults ---- */

bool cuda_has_faults(const cuda_stream *s) {
    for (int kind = 0; kind < CUDA_FAULTS; kind++)
        if (s->reads->faults[kind] != 0)
            return true;
    return false;
}

static void take_faults(cuda_stream *s) {
    static const struct {
        xlstm_status status;
        const char *text;
    } faults[CUDA_FAULTS] = {
        [CUDA_FAULT_EMBED] = {XLSTM_INVALID_ARGUMENT,
                              "embed: the id of token %lld is not a row of the table"},
        [CUDA_FAULT_TAKE_ROWS] = {XLSTM_INVALID_ARGUMENT,
                                  "take_rows: index %lld is not a row of the source"},
        [CUDA_FAULT_SAMPLE] = {XLSTM_DEVICE_ERROR, "sample: a logit of row %lld is NaN or +inf"},
        [CUDA_FAULT_EMPTY] = {XLSTM_DEVICE_ERROR, "sample: row %lld has no finite logit"},
        [CUDA_FAULT_BATCH] =
            {XLSTM_INVALID_ARGUMENT,
             "sequence %lld of the batch: starts must rise from 0 to the number of "
             "tokens, slots be among those of the states, positions not negative"},
    };
    unsigned *words = s->reads->faults;
    for (int kind = 0; kind < CUDA_FAULTS; kind++)
        if (words[kind] != 0)
            ops_fail(&s->check, faults[kind].status, faults[kind].text,
                     (long long)(uint32_t)~words[kind]);
    memset(words, 0, CUDA_FAULTS * sizeof *words);
    cuda_check(s, cudaMemsetAsync(cuda_fault_words(s), 0, CUDA_FAULTS * sizeof *words, s->stream),
               "cudaMemsetAsync");
}

void cuda_finish(cuda_stream *s) {
    cuda_flush(s);
    cuda_flush_writes(s);
    forget_all(s->reads);
    if (s->ended == s->enqueued && !ops_failed(&s->check))
        return; /* all of it told the host */
    if (fetch_faults(s) &&
        cuda_check(s, cudaStreamSynchronize(s->stream), "cudaStreamSynchronize") &&
        cuda_has_faults(s))
        take_faults(s);
}
