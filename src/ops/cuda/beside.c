/* Work beside that of the stream (beside.h): a second stream, joined to the first by events. */
#include "ops/cuda/beside.h"

#include "base/error.h"
#include "ops/cuda/host.h"

#include <stdlib.h>

enum { LEAST_PROCESSORS = 8 }; /* for less there is nothing to share */

struct cuda_beside {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    bool begun; /* launches go to it */
    bool open;  /* the stream does not wait for it yet */
    bool held;
    int processors; /* of what goes on beside */
};

xlstm_status cuda_beside_create(struct cuda_beside **beside) {
    struct cuda_beside *b = calloc(1, sizeof *b);
    *beside = b;
    if (!b)
        return error_memory(sizeof *b, "a stream");
    xlstm_status status = cuda_status(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking),
                                      "cudaStreamCreateWithFlags");
    cudaEvent_t *const events[] = {&b->begin, &b->end};
    for (int i = 0; i < 2 && status == XLSTM_OK; i++)
        status = cuda_status(cudaEventCreateWithFlags(events[i], cudaEventDisableTiming),
                             "cudaEventCreateWithFlags");
    return status;
}

void cuda_beside_free(struct cuda_beside *b) {
    if (!b)
        return;
    if (b->stream) {
        cudaStreamSynchronize(b->stream);
        cudaStreamDestroy(b->stream);
    }
    if (b->begin)
        cudaEventDestroy(b->begin);
    if (b->end)
        cudaEventDestroy(b->end);
    free(b);
}

bool cuda_beside_possible(const cuda_stream *s) {
    return s->beside && s->gpu->processors >= LEAST_PROCESSORS;
}

/* What is enqueued on `stream` from here on waits for what `after` has now, even where an op has failed since: its
 * memory must not be taken for others before. */
static void order(cuda_stream *s, cudaStream_t after, cudaEvent_t event, cudaStream_t stream) {
    if (!s->rehearsing && cuda_check(s, cudaEventRecord(event, after), "cudaEventRecord"))
        cuda_check(s, cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
    s->written = true;
}

void cuda_beside_begin(cuda_stream *s, int processors) {
    struct cuda_beside *b = s->beside;
    b->processors = processors;
    cuda_flush(s);
    cuda_flush_writes(s);
    order(s, s->stream, b->begin, b->stream);
    b->begun = true;
}

void cuda_beside_end(cuda_stream *s) {
    s->beside->begun = false;
    s->beside->open = true;
}

void cuda_beside_hold(cuda_stream *s) {
    if (s->beside)
        s->beside->held = s->beside->open;
}

void cuda_beside_release(cuda_stream *s) {
    if (s->beside)
        s->beside->held = false;
}

void cuda_beside_join(cuda_stream *s) {
    struct cuda_beside *b = s->beside;
    if (!b || !b->open || b->held)
        return;
    b->open = false;
    order(s, b->stream, b->end, s->stream);
}

cudaStream_t cuda_beside_stream(const cuda_stream *s) {
    return s->beside && s->beside->begun ? s->beside->stream : s->stream;
}

int cuda_beside_processors(const cuda_stream *s) {
    const int all = s->gpu->processors;
    if (s->beside && s->beside->begun)
        return s->beside->processors;
    return s->beside && s->beside->held ? all - s->beside->processors : all;
}
