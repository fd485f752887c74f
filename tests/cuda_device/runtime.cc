/* The runtime of the test device: streams and what is enqueued on them, events, launches. Memory is in memory.cc. */
#include "machine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host.h"

using namespace cuda_device;

enum op_kind { LAUNCH, COPY, FILL, RECORD, WAIT };

struct op {
    op_kind kind;
    op *next;
    launch *kernel;
    void *to;
    const void *from;
    void *staged; /* what `from` held when it was enqueued */
    size_t bytes;
    int value;
    cudaEvent_t event;
    uint64_t count; /* of the event's records */
};

struct CUstream_st {
    op *first, *last;
    running *begun; /* a kernel that is not done */
    bool blocking;
    CUstream_st *next;
};

struct CUevent_st {
    uint64_t recorded, done;
    CUstream_st *stream;
    double time;
};

namespace cuda_device {

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static thread_local cudaError_t last_error;
static CUstream_st legacy = {nullptr, nullptr, nullptr, true, nullptr};
static CUstream_st *streams = &legacy;
static bool known, present, late;

static void read_environment() {
    if (known)
        return;
    const char *device = getenv("XLSTM_CUDA_TEST_DEVICE"),
               *order = getenv("XLSTM_CUDA_TEST_SCHEDULE"), *tardy = getenv("XLSTM_CUDA_TEST_LATE"),
               *traced = getenv("XLSTM_CUDA_TEST_TRACE");
    present = device == nullptr || strcmp(device, "none") != 0;
    late = tardy != nullptr && strcmp(tardy, "1") == 0;
    trace = traced != nullptr && strcmp(traced, "1") == 0;
    if (order != nullptr && strncmp(order, "random", 6) == 0) {
        schedule = RANDOM;
        seed = order[6] == ':' ? strtoull(order + 7, nullptr, 10) * 2 + 1 : 1;
    } else if (order != nullptr && strcmp(order, "reverse") == 0) {
        schedule = REVERSE;
    }
    known = true;
}

guard::guard() {
    pthread_mutex_lock(&mutex);
    read_environment();
}
guard::~guard() {
    pthread_mutex_unlock(&mutex);
}
bool is_present() {
    return present;
}

cudaError_t result(cudaError_t error) {
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

/* ---- What was enqueued ---- */

static double seconds() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void end_kernel(CUstream_st *s) {
    running *r = s->begun;
    s->begun = nullptr;
    if (r != nullptr)
        kernel_end(r);
}

static void run_kernel(CUstream_st *s, const launch *l) {
    for (CUstream_st *each = streams; each != nullptr; each = each->next)
        if (each != s || !l->programmatic)
            end_kernel(each);
    if (trace)
        fprintf(stderr,
                "cuda test device: %s, %u x %u x %u blocks (clusters of %u) of %u threads, %zu "
                "bytes%s\n",
                report_function(l->kernel), l->grid.x, l->grid.y, l->grid.z, l->cluster,
                l->threads.x * l->threads.y * l->threads.z, l->shared,
                l->programmatic ? "" : ", alone");
    running *r = kernel_begin(l);
    end_kernel(s);
    s->begun = r;
}

static bool step(CUstream_st *s) {
    op *o = s->first;
    if (o == nullptr) {
        end_kernel(s);
        return false;
    }
    s->first = o->next;
    if (s->first == nullptr)
        s->last = nullptr;
    if (o->kind != LAUNCH)
        end_kernel(s);
    switch (o->kind) {
    case LAUNCH:
        run_kernel(s, o->kernel);
        free(o->kernel);
        break;
    case COPY:
        memmove(o->to, o->staged != nullptr ? o->staged : o->from, o->bytes);
        free(o->staged);
        break;
    case FILL:
        memset(o->to, o->value, o->bytes);
        break;
    case RECORD:
        o->event->done = o->count;
        o->event->time = seconds();
        break;
    case WAIT:
        while (o->event->done < o->count && step(o->event->stream)) {
        }
        break;
    }
    free(o);
    return true;
}
static void drain(CUstream_st *s) {
    while (step(s)) {
    }
}
void drain_all() {
    for (CUstream_st *s = streams; s != nullptr; s = s->next)
        drain(s);
}

static CUstream_st *stream_of(cudaStream_t s) {
    if (s == nullptr || s == cudaStreamLegacy || s == cudaStreamPerThread)
        return &legacy;
    for (CUstream_st *each = streams; each != nullptr; each = each->next)
        if (each == s)
            return each;
    return nullptr;
}

static cudaError_t enqueue(cudaStream_t stream, const op &what) {
    CUstream_st *s = stream_of(stream);
    if (s == nullptr)
        return result(cudaErrorInvalidResourceHandle);
    if (s == &legacy)
        for (CUstream_st *each = streams; each != nullptr; each = each->next)
            if (each->blocking)
                drain(each);
    op *o = (op *)malloc(sizeof *o);
    if (o == nullptr)
        return result(cudaErrorMemoryAllocation);
    *o = what;
    o->next = nullptr;
    (s->last != nullptr ? s->last->next : s->first) = o;
    s->last = o;
    if (!late)
        while (s->first != nullptr)
            step(s);
    return cudaSuccess;
}

static cudaError_t enqueue_copy(void *to, const void *from, size_t bytes, cudaStream_t stream) {
    op o = {};
    o.kind = COPY;
    o.to = to;
    o.from = from;
    o.bytes = bytes;
    if (bytes == 0)
        return cudaSuccess;
    if (!is_accessible(to, bytes) || !is_accessible(from, bytes))
        return result(cudaErrorInvalidValue);
    if (!is_device_or_pinned(from)) {
        o.staged = malloc(bytes);
        if (o.staged == nullptr)
            return result(cudaErrorMemoryAllocation);
        memcpy(o.staged, from, bytes);
    }
    cudaError_t error = enqueue(stream, o);
    /* To memory that is not page-locked, the call returns when it is done. */
    if (error == cudaSuccess && !is_device_or_pinned(to))
        drain(stream_of(stream));
    return error;
}

} // namespace cuda_device

/* ---- Streams ---- */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    guard g;
    if (!present)
        return result(cudaErrorNoDevice);
    auto *s = (CUstream_st *)calloc(1, sizeof(CUstream_st));
    s->blocking = (flags & cudaStreamNonBlocking) == 0;
    s->next = streams->next;
    streams->next = s;
    *stream = s;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    guard g;
    for (CUstream_st *each = streams; each->next != nullptr; each = each->next)
        if (each->next == stream) {
            drain(stream);
            each->next = stream->next;
            free(stream);
            return cudaSuccess;
        }
    return result(cudaErrorInvalidResourceHandle);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    guard g;
    CUstream_st *s = stream_of(stream);
    if (s == nullptr)
        return result(cudaErrorInvalidResourceHandle);
    drain(s);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    return cudaStreamSynchronize(stream);
}
cudaError_t cudaDeviceSynchronize(void) {
    guard g;
    if (!present)
        return result(cudaErrorNoDevice);
    drain_all();
    return cudaSuccess;
}

/* ---- Events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    guard g;
    if (!present)
        return result(cudaErrorNoDevice);
    *event = (cudaEvent_t)calloc(1, sizeof(CUevent_st));
    return *event != nullptr ? cudaSuccess : result(cudaErrorMemoryAllocation);
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    guard g;
    while (event->done < event->recorded && step(event->stream)) {
    }
    free(event);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    guard g;
    op o = {};
    o.kind = RECORD;
    o.event = event;
    o.count = ++event->recorded;
    event->stream = stream_of(stream);
    return enqueue(stream, o);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    guard g;
    if (event->recorded == 0)
        return cudaSuccess;
    op o = {};
    o.kind = WAIT;
    o.event = event;
    o.count = event->recorded;
    return enqueue(stream, o);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    guard g;
    if (event == nullptr)
        return result(cudaErrorInvalidResourceHandle);
    while (event->done < event->recorded && step(event->stream)) {
    }
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    return cudaEventSynchronize(event);
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    guard g;
    if (start->done == 0 || end->done == 0)
        return result(cudaErrorInvalidResourceHandle);
    *milliseconds = (float)((end->time - start->time) * 1e3);
    return cudaSuccess;
}

/* ---- Copies ---- */

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t stream) {
    guard g;
    return enqueue_copy(to, from, bytes, stream);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind) {
    guard g;
    cudaError_t error = enqueue_copy(to, from, bytes, nullptr);
    drain(&legacy);
    return error;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind,
                              cudaStream_t stream) {
    guard g;
    cudaError_t error = cudaSuccess;
    for (size_t i = 0; i < height && error == cudaSuccess; i++)
        error = enqueue_copy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width,
                             stream);
    return error;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    guard g;
    op o = {};
    o.kind = FILL;
    o.to = p;
    o.value = value;
    o.bytes = bytes;
    if (bytes == 0)
        return cudaSuccess;
    if (!is_device_or_pinned(p) || !is_accessible(p, bytes))
        return result(cudaErrorInvalidValue);
    return enqueue(stream, o);
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    return cudaMemsetAsync(p, value, bytes, nullptr);
}

/* ---- Launches ---- */

static struct allowed {
    const void *kernel;
    int shared;
} allowed[4096];

static struct allowed *allowed_of(const void *kernel) {
    for (auto &each : allowed)
        if (each.kernel == nullptr || each.kernel == kernel) {
            each.kernel = kernel;
            return &each;
        }
    cuda_device_fail("more than 4096 kernels");
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    guard g;
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || value > (int)shared_limit())
            return result(cudaErrorInvalidValue);
        allowed_of(kernel)->shared = value;
    }
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel) {
    guard g;
    if (!present)
        return result(cudaErrorNoDevice);
    *attributes = {};
    attributes->maxThreadsPerBlock = MOST_THREADS;
    attributes->binaryVersion = attributes->ptxVersion = 90;
    int shared = allowed_of(kernel)->shared;
    attributes->maxDynamicSharedSizeBytes = shared > DEFAULT_SHARED ? shared : DEFAULT_SHARED;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *, int threads,
                                                          size_t shared) {
    int by_threads = 2048 / (threads > 0 ? threads : 1),
        by_shared = (int)(233472 / (shared + 1024));
    *count = by_threads < by_shared ? by_threads : by_shared;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel,
                                void **arguments) {
    guard g;
    const dim3 *grid = &config->gridDim, *threads = &config->blockDim;
    if (!present)
        return result(cudaErrorNoDevice);
    uint64_t count = (uint64_t)threads->x * threads->y * threads->z;
    if (count == 0 || count > MOST_THREADS || threads->z > 64 || grid->x == 0 || grid->y == 0 ||
        grid->z == 0 || grid->x > 0x7fffffff || grid->y > 65535 || grid->z > 65535)
        return result(cudaErrorInvalidConfiguration);
    struct allowed *most = allowed_of(kernel);
    size_t limit = most->shared > DEFAULT_SHARED ? (size_t)most->shared : DEFAULT_SHARED;
    if (config->dynamicSmemBytes > limit)
        return result(cudaErrorInvalidValue);
    op o = {};
    o.kind = LAUNCH;
    o.kernel = (launch *)calloc(1, sizeof(launch));
    *o.kernel = {kernel, *grid, *threads, 1, config->dynamicSmemBytes, false, false, {}};
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const cudaLaunchAttribute *a = &config->attrs[i];
        if (a->id == cudaLaunchAttributeProgrammaticStreamSerialization)
            o.kernel->programmatic = a->val.programmaticStreamSerializationAllowed != 0;
        if (a->id == cudaLaunchAttributeCooperative)
            o.kernel->together = a->val.cooperative != 0;
        if (a->id == cudaLaunchAttributeClusterDimension)
            o.kernel->cluster = a->val.clusterDim.x * a->val.clusterDim.y * a->val.clusterDim.z;
    }
    if (o.kernel->cluster > MOST_CLUSTER || o.kernel->cluster == 0 ||
        grid->x % o.kernel->cluster != 0) {
        free(o.kernel);
        return result(cudaErrorInvalidConfiguration);
    }
    const uint64_t blocks = (uint64_t)grid->x * grid->y * grid->z;
    if (o.kernel->together && (blocks > processors() || blocks > MOST_CLUSTER ||
                               o.kernel->cluster > 1 || o.kernel->programmatic)) {
        free(o.kernel);
        return result(cudaErrorCooperativeLaunchTooLarge);
    }
    copy_arguments(o.kernel->arguments, arguments[0]);
    const char *failing = getenv("XLSTM_CUDA_TEST_FAIL"); /* tests change it as they go */
    const bool fails = failing != nullptr && strstr(report_function(kernel), failing) != nullptr;
    const cudaError_t error = enqueue(config->stream, o);
    return fails && error == cudaSuccess ? result(cudaErrorLaunchFailure) : error;
}

/* ---- Errors ---- */

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}
static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorCooperativeLaunchTooLarge, "cudaErrorCooperativeLaunchTooLarge",
     "too many blocks in cooperative launch"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};
const char *cudaGetErrorName(cudaError_t error) {
    for (const auto &each : errors)
        if (each.error == error)
            return each.name;
    return "cudaErrorUnknown";
}
const char *cudaGetErrorString(cudaError_t error) {
    for (const auto &each : errors)
        if (each.error == error)
            return each.text;
    return "unknown error";
}
