/* Launches. Kernels follow each other with programmatic serialisation, so that one may begin, and fetch what is constant,
 * while the one before it ends (internal.h). */
#include "ops/cuda/internal.h"

#include "base/error.h"
#include "ops/cuda/beside.h"
#include "ops/cuda/host.h"

#include <pthread.h>
#include <stddef.h>

/* ---- Shared memory beyond what a block may have without asking ---- */

enum { UNASKED_BYTES = 48 << 10, MOST_ALLOWED = 512 };

/* Kernels that were allowed so much, per GPU. */
static struct allowed {
    const void *kernel;
    int ordinal;
    size_t bytes;
} allowed[MOST_ALLOWED];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct allowed *entry_of(const void *kernel, int ordinal) {
    size_t at = ((uintptr_t)kernel >> 4) * 2654435761u % MOST_ALLOWED;
    for (int i = 0; i < MOST_ALLOWED; i++, at = (at + 1) % MOST_ALLOWED)
        if (!allowed[at].kernel || (allowed[at].kernel == kernel && allowed[at].ordinal == ordinal))
            return &allowed[at];
    return NULL;
}

static xlstm_status allow(const cuda_launch *launch) {
    int ordinal;
    xlstm_status status = cuda_status(cudaGetDevice(&ordinal), "cudaGetDevice");
    if (status != XLSTM_OK)
        return status;
    pthread_mutex_lock(&lock);
    struct allowed *entry = entry_of(launch->kernel, ordinal);
    if (!entry || entry->bytes < launch->shared) {
        status = cuda_status(cudaFuncSetAttribute(launch->kernel,
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  (int)launch->shared),
                             "cudaFuncSetAttribute");
        if (status == XLSTM_OK && launch->cluster > 8)
            status =
                cuda_status(cudaFuncSetAttribute(launch->kernel,
                                                 cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
                            "cudaFuncSetAttribute");
        if (status == XLSTM_OK && entry)
            *entry = (struct allowed){launch->kernel, ordinal, launch->shared};
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static xlstm_status prepare(const cuda_launch *launch) {
    bool asks = launch->shared > UNASKED_BYTES || launch->cluster > 8;
    xlstm_status status = asks ? allow(launch) : XLSTM_OK;
    return status == XLSTM_OK ? status : error_prefix(status, "%s", launch->name);
}

/* ---- Launching ---- */

xlstm_status cuda_enqueue(cudaStream_t stream, const cuda_launch *launch) {
    xlstm_status status = prepare(launch);
    if (status != XLSTM_OK)
        return status;
    cudaLaunchAttribute attributes[3];
    cudaLaunchConfig_t config = {
        .gridDim = {launch->grid[0] ? launch->grid[0] : 1, launch->grid[1] ? launch->grid[1] : 1,
                    launch->grid[2] ? launch->grid[2] : 1},
        .blockDim = {launch->threads, 1, 1},
        .dynamicSmemBytes = launch->shared,
        .stream = stream,
        .attrs = attributes,
    };
    if (launch->together)
        attributes[config.numAttrs++] =
            (cudaLaunchAttribute){.id = cudaLaunchAttributeCooperative, .val.cooperative = 1};
    else if (!launch->alone)
        attributes[config.numAttrs++] =
            (cudaLaunchAttribute){.id = cudaLaunchAttributeProgrammaticStreamSerialization,
                                  .val.programmaticStreamSerializationAllowed = 1};
    if (launch->cluster)
        attributes[config.numAttrs++] = (cudaLaunchAttribute){
            .id = cudaLaunchAttributeClusterDimension, .val.clusterDim = {launch->cluster, 1, 1}};
    void *arguments[1] = {(void *)(uintptr_t)launch->arguments};
    return cuda_status(cudaLaunchKernelExC(&config, launch->kernel, arguments), launch->name);
}

/* Loads the kernel, which the runtime otherwise does at its first launch. */
static xlstm_status load(const cuda_launch *launch) {
    struct cudaFuncAttributes attributes;
    xlstm_status status =
        cuda_status(cudaFuncGetAttributes(&attributes, launch->kernel), launch->name);
    return status == XLSTM_OK ? prepare(launch) : status;
}

void cuda_run_launch(cuda_stream *s, const cuda_launch *launch) {
    cuda_flush(s);
    cuda_flush_writes(s);
    if (ops_failed(&s->check))
        return;
    cuda_launch next = *launch;
    next.alone = launch->alone || s->written;
    s->written = false;
    s->enqueued++;
    cudaStream_t stream = cuda_beside_stream(s);
    xlstm_status status = cuda_enter(s->gpu);
    if (status == XLSTM_OK)
        status = s->rehearsing         ? load(launch)
                 : cuda_times_wanted() ? cuda_enqueue_timed(stream, &next)
                                       : cuda_enqueue(stream, &next);
    if (status != XLSTM_OK)
        ops_fail(&s->check, status, "%s", xlstm_last_error());
}
