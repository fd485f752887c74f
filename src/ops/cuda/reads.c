/* Reads of the host, and what kernels found wrong.
 *
 * A read waits for everything, except of bytes that an op has announced (cuda_expect_read): those travel on a stream of
 * their own as soon as that op is done, while the GPU works on what was enqueued behind it. */
#include "base/error.h"
#include "ops/cuda/host.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_EXPECTED = 4, BOUNCE_BYTES = 1 << 20 };

typedef struct expected {
    const char *address; /* NULL: none */
    size_t size;
    unsigned freed; /* cuda_buffers_freed() then */
    cudaEvent_t written;
} expected;

struct cuda_reads {
    cudaStream_t stream;
    expected list[MOST_EXPECTED];
    int next;
    char *bounce;    /* page-locked */
    unsigned *words; /* of the faults, page-locked */
};

xlstm_status cuda_reads_create(cuda_reads **out) {
    *out = NULL;
    cuda_reads *r = calloc(1, sizeof *r);
    if (!r)
        return error_memory(sizeof *r, "a stream");
    xlstm_status status = cuda_status(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking),
                                      "cudaStreamCreateWithFlags");
    for (int i = 0; i < MOST_EXPECTED && status == XLSTM_OK; i++)
        status = cuda_status(cudaEventCreateWithFlags(&r->list[i].written, cudaEventDisableTiming),
                             "cudaEventCreateWithFlags");
    if (status == XLSTM_OK)
        status = cuda_status(cudaMallocHost((void **)&r->bounce, BOUNCE_BYTES), "cudaMallocHost");
    if (status == XLSTM_OK)
        status = cuda_status(cudaMallocHost((void **)&r->words, CUDA_FAULTS * sizeof *r->words),
                             "cudaMallocHost");
    if (status != XLSTM_OK) {
        cuda_reads_free(r);
        return status;
    }
    memset(r->words, 0, CUDA_FAULTS * sizeof *r->words);
    *out = r;
    return XLSTM_OK;
}

void cuda_reads_free(cuda_reads *r) {
    if (!r)
        return;
    for (int i = 0; i < MOST_EXPECTED; i++)
        if (r->list[i].written)
            cudaEventDestroy(r->list[i].written);
    if (r->stream)
        cudaStreamDestroy(r->stream);
    if (r->bounce)
        cudaFreeHost(r->bounce);
    if (r->words)
        cudaFreeHost(r->words);
    free(r);
}

/* ---- Expected reads ---- */

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

void cuda_expect_read(cuda_stream *s, const ops_tensor *out) {
    cuda_reads *r = s->reads;
    size_t size = (size_t)dtype_bytes(out->dtype, ops_tensor_elements(out));
    cuda_flush(s);
    cuda_flush_writes(s);
    if (ops_failed(&s->check) || s->rehearsing)
        return;
    cuda_reads_forget(r, cuda_at(out), size);
    expected *e = &r->list[r->next];
    r->next = (r->next + 1) % MOST_EXPECTED;
    e->address = NULL;
    if (!cuda_check(s, cudaEventRecord(e->written, s->stream), "cudaEventRecord"))
        return;
    e->address = cuda_at(out);
    e->size = size;
    e->freed = cuda_buffers_freed();
}

/* The entry that these bytes are part of; it counts once. */
static const expected *take_expected(cuda_reads *r, const char *from, size_t size) {
    for (int i = 0; i < MOST_EXPECTED; i++) {
        expected *e = &r->list[i];
        if (e->address && e->address <= from && from + size <= e->address + e->size) {
            e->address = NULL;
            return e->freed == cuda_buffers_freed() ? e : NULL;
        }
    }
    return NULL;
}

/* ---- Reading ---- */

static bool fetch_words(cuda_stream *s, cudaStream_t stream) {
    return cuda_check(s,
                      cudaMemcpyAsync(s->reads->words, cuda_fault_words(s),
                                      CUDA_FAULTS * sizeof *s->reads->words, cudaMemcpyDeviceToHost,
                                      stream),
                      "cudaMemcpyAsync");
}

bool cuda_read(cuda_stream *s, void *to, const void *from, size_t size) {
    cuda_reads *r = s->reads;
    const expected *e = take_expected(r, from, size);
    cudaStream_t stream = e ? r->stream : s->stream;
    if (e && !cuda_check(s, cudaStreamWaitEvent(r->stream, e->written, 0), "cudaStreamWaitEvent"))
        return false;
    if (!fetch_words(s, stream))
        return false;
    for (size_t at = 0; at < size; at += BOUNCE_BYTES) {
        size_t part = size - at < BOUNCE_BYTES ? size - at : BOUNCE_BYTES;
        if (!cuda_check(s,
                        cudaMemcpyAsync(r->bounce, (const char *)from + at, part,
                                        cudaMemcpyDeviceToHost, stream),
                        "cudaMemcpyAsync") ||
            !cuda_check(s, cudaStreamSynchronize(stream), "cudaStreamSynchronize"))
            return false;
        memcpy((char *)to + at, r->bounce, part);
    }
    return true;
}

/* ---- Faults ---- */

bool cuda_has_faults(const cuda_stream *s) {
    for (int kind = 0; kind < CUDA_FAULTS; kind++)
        if (s->reads->words[kind] != 0)
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
    unsigned *words = s->reads->words;
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
    if (fetch_words(s, s->stream) &&
        cuda_check(s, cudaStreamSynchronize(s->stream), "cudaStreamSynchronize") &&
        cuda_has_faults(s))
        take_faults(s);
}
