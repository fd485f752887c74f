/* The host of the GPU over Apple's Metal: see host.h. Manual retain and release, so that the same text runs on the
 * test device, whose Objective-C has no other; what Metal returns autoreleased lives in a pool of its own call.
 *
 * All memory is shared between processor and GPU, which on Apple silicon is the same memory. Buffers are tracked by
 * Metal from command buffer to command buffer; inside one, where dispatches run concurrently, barriers are ours.
 */
#include "ops/metal/host.h"

#include "base/error.h"

#import <Foundation/Foundation.h>
#import <Metal/Metal.h>
#import <dispatch/dispatch.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if __has_feature(objc_arc)
#error "host.m counts references itself: compile it with -fno-objc-arc"
#endif

/* Apple's headers before those of macOS 15 have no residency sets and no math modes; with later ones, the system that a
 * program finds is asked. */
#define HAS_MACOS_15 (__MAC_OS_X_VERSION_MAX_ALLOWED >= 150000)

enum {
    KERNEL_BUCKETS = 256,
    MOST_IN_FLIGHT = 16, /* command buffers; a queue has 64 */
    LEAST_FAMILY = 7,    /* M1: the first with all that the kernels use */
    LATEST_FAMILY = 10,
    BFLOAT_FAMILY = 9,
    SIMD_WIDTH = 32
};

struct metal_kernel {
    id<MTLComputePipelineState> pipeline;
    uint32_t most_threads;
    struct metal_kernel *next;
    char name[];
};

struct metal_gpu {
    id<MTLDevice> device;
    id<MTLCommandQueue> queue;
    id<MTLLibrary> library; /* nil before the first stream */
    char library_how[400];
    id residency; /* MTLResidencySet of all memory; nil before macOS 15 */
    metal_facts facts;
    struct metal_kernel *kernels[KERNEL_BUCKETS];
};

/* Of the one GPU: its kernels and its set of memory. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static metal_gpu *the_gpu;
static atomic_int users; /* memory and commands, which name the GPU: it stays while they do */

static const char *words(NSError *error) {
    const char *text = error ? [[error localizedDescription] UTF8String] : NULL;
    return text ? text : "Metal gives no reason";
}

/* ---- The GPU ---------------------------------------------------------------------------------- */

static int family_of(id<MTLDevice> device) {
    for (int family = LATEST_FAMILY; family >= 1; family--)
        if ([device supportsFamily:(MTLGPUFamily)(MTLGPUFamilyApple1 + family - 1)])
            return family;
    return 0;
}

static metal_facts facts_of(id<MTLDevice> device) {
    metal_facts facts = {.family = family_of(device),
                         .largest_buffer = [device maxBufferLength],
                         .working_set = [device recommendedMaxWorkingSetSize],
                         .threadgroup_bytes = (uint32_t)[device maxThreadgroupMemoryLength]};
    facts.bfloat = facts.family >= BFLOAT_FAMILY;
    const char *name = [[device name] UTF8String];
    snprintf(facts.name, sizeof facts.name, "%s", name ? name : "a GPU without a name");
    return facts;
}

/* nil where the system has none, or makes none: then Metal keeps what each command buffer uses. */
static id create_residency(metal_gpu *gpu) {
#if HAS_MACOS_15
    if (![gpu->device respondsToSelector:@selector(newResidencySetWithDescriptor:error:)])
        return nil;
    if (@available(macOS 15.0, *)) {
        MTLResidencySetDescriptor *descriptor = [[MTLResidencySetDescriptor alloc] init];
        id<MTLResidencySet> set = [gpu->device newResidencySetWithDescriptor:descriptor error:NULL];
        [descriptor release];
        [set commit];
        if (set)
            [gpu->queue addResidencySet:set];
        return set;
    }
#else
    (void)gpu;
#endif
    return nil;
}

static void gpu_free(metal_gpu *gpu) {
    if (!gpu)
        return;
    for (int i = 0; i < KERNEL_BUCKETS; i++)
        while (gpu->kernels[i]) {
            struct metal_kernel *kernel = gpu->kernels[i];
            gpu->kernels[i] = kernel->next;
            [kernel->pipeline release];
            free(kernel);
        }
#if HAS_MACOS_15
    if (gpu->residency) {
        if (@available(macOS 15.0, *))
            [gpu->queue removeResidencySet:gpu->residency];
    }
#endif
    [gpu->residency release];
    [gpu->library release];
    [gpu->queue release];
    [gpu->device release];
    free(gpu);
}

static void free_the_gpu(void) {
    if (users == 0)
        gpu_free(the_gpu);
    the_gpu = NULL;
}

static xlstm_status open_gpu(metal_gpu *gpu) {
    gpu->device = MTLCreateSystemDefaultDevice();
    if (!gpu->device)
        return error_set(XLSTM_UNSUPPORTED, "this machine has no GPU that Metal can use");
    gpu->facts = facts_of(gpu->device);
    if (gpu->facts.family < LEAST_FAMILY)
        return error_set(XLSTM_UNSUPPORTED,
                         "the GPU \"%s\" is not of Apple silicon: M1 or later is needed",
                         gpu->facts.name);
    gpu->queue = [gpu->device newCommandQueue];
    if (!gpu->queue)
        return error_set(XLSTM_DEVICE_ERROR, "the GPU \"%s\" gives no command queue",
                         gpu->facts.name);
    gpu->residency = create_residency(gpu);
    gpu->facts.residency = gpu->residency != nil;
    return XLSTM_OK;
}

xlstm_status metal_gpu_get(metal_gpu **out) {
    xlstm_status status = XLSTM_OK;
    pthread_mutex_lock(&lock);
    if (!the_gpu) {
        metal_gpu *gpu = calloc(1, sizeof *gpu);
        if (!gpu) {
            status = error_memory(sizeof *gpu, "the GPU");
        } else {
            @autoreleasepool {
                status = open_gpu(gpu);
                if (status != XLSTM_OK)
                    gpu_free(gpu);
            }
        }
        if (status == XLSTM_OK) {
            the_gpu = gpu;
            static bool registered;
            if (!registered)
                atexit(free_the_gpu);
            registered = true;
        }
    }
    *out = the_gpu;
    pthread_mutex_unlock(&lock);
    return status;
}

const metal_facts *metal_gpu_facts(const metal_gpu *gpu) {
    return &gpu->facts;
}

/* ---- Kernels ---------------------------------------------------------------------------------- */

/* Nothing of the kernels depends on fast math, which Metal has on unless it is told. *how: what it was told. */
static MTLCompileOptions *compile_options(const char **how) {
    MTLCompileOptions *options = [[[MTLCompileOptions alloc] init] autorelease];
    [options setLanguageVersion:MTLLanguageVersion3_1];
#if HAS_MACOS_15
    if ([options respondsToSelector:@selector(setMathMode:)]) {
        if (@available(macOS 15.0, *)) {
            [options setMathMode:MTLMathModeSafe];
            [options setMathFloatingPointFunctions:MTLMathFloatingPointFunctionsPrecise];
        }
        *how = "math mode safe, functions precise";
        return options;
    }
#endif
    [options setFastMathEnabled:NO];
    *how = "fast math off";
    return options;
}

/* nil with the cause; of what the build compiled, which lasts as long as the process and so is not copied. */
static id<MTLLibrary> load_library(metal_gpu *gpu, NSError **error) {
    dispatch_data_t data = dispatch_data_create(metal_library, metal_library_size, NULL, ^{
                                                });
    id<MTLLibrary> library = [gpu->device newLibraryWithData:data error:error];
    dispatch_release(data);
    return library;
}

static id<MTLLibrary> compile_source(metal_gpu *gpu, const char **math, NSError **error) {
    NSString *source = [[[NSString alloc] initWithUTF8String:metal_source] autorelease];
    return [gpu->device newLibraryWithSource:source options:compile_options(math) error:error];
}

/* With the lock. */
static xlstm_status compile(metal_gpu *gpu) {
    if (gpu->library)
        return XLSTM_OK;
    NSError *error = nil;
    const char *wish = getenv("XLSTM_METAL_LIBRARY"), *math = "";
    char refused[300] = "";
    if (wish && strcmp(wish, "source") == 0) {
        snprintf(refused, sizeof refused, "as XLSTM_METAL_LIBRARY asks");
    } else if (metal_library_size == 0) {
        snprintf(refused, sizeof refused, "metallib of the build: %s", metal_library_note);
    } else if ((gpu->library = load_library(gpu, &error)) != nil) {
        snprintf(gpu->library_how, sizeof gpu->library_how, "the build's metallib (%s)",
                 metal_library_note);
        return XLSTM_OK;
    } else {
        snprintf(refused, sizeof refused, "the build's metallib does not load: %s", words(error));
    }
    gpu->library = compile_source(gpu, &math, &error);
    if (!gpu->library)
        return error_set(XLSTM_DEVICE_ERROR, "the kernels do not compile for the GPU \"%s\": %s",
                         gpu->facts.name, words(error));
    snprintf(gpu->library_how, sizeof gpu->library_how, "compiled at start, %s (%s)", math,
             refused);
    return XLSTM_OK;
}

xlstm_status metal_gpu_compile(metal_gpu *gpu, const char **how) {
    xlstm_status status;
    pthread_mutex_lock(&lock);
    @autoreleasepool {
        status = compile(gpu);
    }
    pthread_mutex_unlock(&lock);
    *how = gpu->library_how;
    return status;
}

/* A pipeline, which the caller releases. */
static id<MTLComputePipelineState> make_pipeline(metal_gpu *gpu, const char *name) {
    NSError *error = nil;
    NSString *text = [[[NSString alloc] initWithUTF8String:name] autorelease];
    id<MTLFunction> function = [gpu->library newFunctionWithName:text];
    if (!function) {
        error_set(XLSTM_UNSUPPORTED, "this build has no Metal kernel \"%s\"", name);
        return nil;
    }
    id<MTLComputePipelineState> pipeline =
        [gpu->device newComputePipelineStateWithFunction:function error:&error];
    [function release];
    if (!pipeline) {
        error_set(XLSTM_DEVICE_ERROR, "the GPU \"%s\" does not take the kernel \"%s\": %s",
                  gpu->facts.name, name, words(error));
    } else if ([pipeline threadExecutionWidth] != SIMD_WIDTH) {
        error_set(XLSTM_UNSUPPORTED,
                  "the GPU \"%s\" runs the kernel \"%s\" in SIMD-groups of %d, must be %d",
                  gpu->facts.name, name, (int)[pipeline threadExecutionWidth], SIMD_WIDTH);
        [pipeline release];
        pipeline = nil;
    }
    return pipeline;
}

/* With the lock; NULL with an error. */
static struct metal_kernel *make_kernel(metal_gpu *gpu, const char *name) {
    if (compile(gpu) != XLSTM_OK)
        return NULL;
    id<MTLComputePipelineState> pipeline = make_pipeline(gpu, name);
    if (!pipeline)
        return NULL;
    size_t length = strlen(name) + 1;
    struct metal_kernel *kernel = calloc(1, sizeof *kernel + length);
    if (!kernel) {
        error_memory(sizeof *kernel + length, "a kernel");
        [pipeline release];
        return NULL;
    }
    kernel->pipeline = pipeline;
    kernel->most_threads = (uint32_t)[pipeline maxTotalThreadsPerThreadgroup];
    memcpy(kernel->name, name, length);
    return kernel;
}

static unsigned bucket_of(const char *name) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash % KERNEL_BUCKETS;
}

const metal_kernel *metal_kernel_get(metal_gpu *gpu, const char *name) {
    struct metal_kernel **bucket = &gpu->kernels[bucket_of(name)];
    pthread_mutex_lock(&lock);
    struct metal_kernel *kernel = *bucket;
    while (kernel && strcmp(kernel->name, name) != 0)
        kernel = kernel->next;
    if (!kernel) {
        @autoreleasepool {
            kernel = make_kernel(gpu, name);
        }
        if (kernel) {
            kernel->next = *bucket;
            *bucket = kernel;
        }
    }
    pthread_mutex_unlock(&lock);
    return kernel;
}

uint32_t metal_kernel_most_threads(const metal_kernel *kernel) {
    return kernel->most_threads;
}

/* ---- Memory ----------------------------------------------------------------------------------- */

struct metal_memory {
    metal_gpu *gpu;
    unsigned char *host;
    size_t size, step; /* buffer i begins at i * step and reaches over the next's beginning */
    int count;
    id<MTLBuffer> buffers[];
};

/* The set of what the GPU can reach at any time; without it Metal finds out with every command buffer. */
static void make_resident(metal_gpu *gpu, const metal_memory *memory, bool resident) {
#if HAS_MACOS_15
    if (!gpu->residency)
        return;
    if (@available(macOS 15.0, *)) {
        id<MTLResidencySet> set = gpu->residency;
        pthread_mutex_lock(&lock);
        for (int i = 0; i < memory->count; i++)
            if (resident)
                [set addAllocation:memory->buffers[i]];
            else
                [set removeAllocation:memory->buffers[i]];
        [set commit];
        if (resident)
            [set requestResidency];
        pthread_mutex_unlock(&lock);
    }
#else
    (void)gpu, (void)memory, (void)resident;
#endif
}

static void release_buffers(metal_memory *memory) {
    for (int i = 0; i < memory->count; i++)
        [memory->buffers[i] release];
    users--;
    free(memory);
}

static metal_memory *allocate_memory(metal_gpu *gpu, size_t size, int count) {
    size_t bytes = sizeof(metal_memory) + (size_t)count * sizeof(id);
    metal_memory *memory = calloc(1, bytes);
    if (!memory) {
        error_memory(bytes, "a buffer of the GPU");
        return NULL;
    }
    users++;
    memory->gpu = gpu;
    memory->size = size;
    memory->step = SIZE_MAX;
    return memory;
}

static xlstm_status no_buffer(const metal_gpu *gpu, size_t size) {
    return error_set(XLSTM_OUT_OF_MEMORY,
                     "out of memory: the GPU \"%s\" gives no buffer of %zu bytes (its largest is "
                     "%llu, it works well with %llu in all)",
                     gpu->facts.name, size, (unsigned long long)gpu->facts.largest_buffer,
                     (unsigned long long)gpu->facts.working_set);
}

xlstm_status metal_memory_create(metal_gpu *gpu, size_t size, metal_memory **out) {
    *out = NULL;
    size_t length = size > 0 ? size : 1;
    if (length > gpu->facts.largest_buffer)
        return no_buffer(gpu, size);
    metal_memory *memory = allocate_memory(gpu, size, 1);
    if (!memory)
        return XLSTM_OUT_OF_MEMORY;
    @autoreleasepool {
        memory->buffers[0] = [gpu->device newBufferWithLength:length
                                                      options:MTLResourceStorageModeShared];
        if (!memory->buffers[0]) {
            release_buffers(memory);
            return no_buffer(gpu, size);
        }
        memory->count = 1;
        memory->host = [memory->buffers[0] contents];
        memset(memory->host, 0, length);
        make_resident(gpu, memory, true);
    }
    *out = memory;
    return XLSTM_OK;
}

/* Buffers over [host, host + length), both of whole pages. */
static xlstm_status cover(metal_memory *memory, int count, size_t most, size_t length) {
    metal_gpu *gpu = memory->gpu;
    for (int i = 0; i < count; i++) {
        size_t begin = count > 1 ? (size_t)i * memory->step : 0;
        size_t piece = length - begin < most ? length - begin : most;
        id<MTLBuffer> buffer = [gpu->device newBufferWithBytesNoCopy:memory->host + begin
                                                              length:piece
                                                             options:MTLResourceStorageModeShared
                                                         deallocator:nil];
        if (!buffer)
            return no_buffer(gpu, piece);
        memory->buffers[memory->count++] = buffer;
    }
    return XLSTM_OK;
}

xlstm_status metal_memory_wrap(metal_gpu *gpu, void *host, size_t size, metal_memory **out) {
    *out = NULL;
    size_t page = (size_t)getpagesize();
    if (size == 0 || (uintptr_t)host % page != 0) {
        xlstm_status status = metal_memory_create(gpu, size, out);
        if (status == XLSTM_OK && size > 0)
            memcpy((*out)->host, host, size);
        return status;
    }
    size_t length = (size + page - 1) / page * page;
    size_t most = (size_t)gpu->facts.largest_buffer / page * page, step = most / 2 / page * page;
    if (length > most && step == 0)
        return no_buffer(gpu, size);
    size_t count = length <= most ? 1 : (length - most + step - 1) / step + 1;
    if (count > INT32_MAX / sizeof(id))
        return no_buffer(gpu, size);
    metal_memory *memory = allocate_memory(gpu, size, (int)count);
    if (!memory)
        return XLSTM_OUT_OF_MEMORY;
    memory->host = host;
    if (count > 1)
        memory->step = step;
    xlstm_status status;
    @autoreleasepool {
        status = cover(memory, (int)count, most, length);
        if (status == XLSTM_OK)
            make_resident(gpu, memory, true);
        else
            release_buffers(memory);
    }
    if (status == XLSTM_OK)
        *out = memory;
    return status;
}

void *metal_memory_host(const metal_memory *memory) {
    return memory->host;
}

/* Those of a long mapping share half their length: a tensor lies in one of them. */
size_t metal_memory_longest(const metal_memory *memory) {
    return memory->count == 1 ? SIZE_MAX : memory->step;
}

void metal_memory_free(metal_memory *memory) {
    if (!memory)
        return;
    @autoreleasepool {
        make_resident(memory->gpu, memory, false);
        release_buffers(memory);
    }
}

/* ---- Commands --------------------------------------------------------------------------------- */

struct metal_commands {
    metal_gpu *gpu;
    id<MTLCommandBuffer> open; /* nil: nothing was encoded since the last commit */
    id<MTLComputeCommandEncoder> encoder;
    id<MTLCommandBuffer> flight[MOST_IN_FLIGHT]; /* by serial number */
    uint64_t oldest, next;                       /* serial numbers; `next` is that of `open` */
    xlstm_status status;                         /* of what failed and no wait has told yet */
    char message[400];
};

xlstm_status metal_commands_create(metal_gpu *gpu, metal_commands **out) {
    *out = NULL;
    const char *how;
    xlstm_status status = metal_gpu_compile(gpu, &how);
    if (status != XLSTM_OK)
        return status;
    metal_commands *commands = calloc(1, sizeof *commands);
    if (!commands)
        return error_memory(sizeof *commands, "the commands of a stream");
    users++;
    commands->gpu = gpu;
    commands->oldest = commands->next = 1;
    *out = commands;
    return XLSTM_OK;
}

static void end_encoding(metal_commands *c) {
    [c->encoder endEncoding];
    [c->encoder release];
    c->encoder = nil;
}

static xlstm_status begin_encoding(metal_commands *c) {
    if (c->encoder)
        return XLSTM_OK;
    if (!c->open)
        c->open = [[c->gpu->queue commandBuffer] retain];
    c->encoder =
        [[c->open computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent] retain];
    if (c->encoder)
        return XLSTM_OK;
    return error_set(XLSTM_DEVICE_ERROR, "the GPU \"%s\" takes no commands", c->gpu->facts.name);
}

static void bind(const metal_commands *c, const metal_binding *b, NSUInteger index) {
    const metal_memory *m = b->memory;
    size_t piece = m->count > 1 ? b->offset / m->step : 0;
    if (piece >= (size_t)m->count)
        piece = (size_t)m->count - 1;
    [c->encoder setBuffer:m->buffers[piece]
                   offset:m->count > 1 ? b->offset - piece * m->step : b->offset
                  atIndex:index];
}

xlstm_status metal_commands_dispatch(metal_commands *c, const metal_kernel *kernel,
                                     const void *arguments, size_t argument_bytes,
                                     const metal_binding *bindings, int count,
                                     const uint32_t groups[3], uint32_t threads,
                                     uint32_t threadgroup_bytes) {
    if (threads > kernel->most_threads)
        return error_set(XLSTM_DEVICE_ERROR,
                         "the kernel \"%s\" runs with at most %u threads on the GPU \"%s\", not %u",
                         kernel->name, kernel->most_threads, c->gpu->facts.name, threads);
    for (int i = 0; i < count; i++)
        if (bindings[i].size > metal_memory_longest(bindings[i].memory))
            return error_set(XLSTM_UNSUPPORTED,
                             "a tensor of %zu bytes is too large for the GPU \"%s\": %zu are "
                             "possible",
                             bindings[i].size, c->gpu->facts.name,
                             metal_memory_longest(bindings[i].memory));
    @autoreleasepool {
        xlstm_status status = begin_encoding(c);
        if (status != XLSTM_OK)
            return status;
        [c->encoder setComputePipelineState:kernel->pipeline];
        [c->encoder setBytes:arguments length:argument_bytes atIndex:0];
        for (int i = 0; i < count; i++)
            bind(c, &bindings[i], (NSUInteger)i + 1);
        if (threadgroup_bytes > 0)
            [c->encoder setThreadgroupMemoryLength:threadgroup_bytes atIndex:0];
        [c->encoder dispatchThreadgroups:MTLSizeMake(groups[0], groups[1], groups[2])
                   threadsPerThreadgroup:MTLSizeMake(threads, 1, 1)];
    }
    return XLSTM_OK;
}

void metal_commands_barrier(metal_commands *c) {
    if (c->encoder)
        [c->encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
}

/* *advice: what can be done, "" where nothing is known. */
static xlstm_status status_of(NSError *error, const char **cause, const char **advice) {
    *cause = "the GPU failed";
    *advice = "";
    if (!error || ![[error domain] isEqualToString:MTLCommandBufferErrorDomain])
        return XLSTM_DEVICE_ERROR;
    switch ((MTLCommandBufferError)[error code]) {
    case MTLCommandBufferErrorOutOfMemory:
        *cause = "the GPU is out of memory";
        *advice = "; a smaller max_batch_tokens needs less";
        return XLSTM_OUT_OF_MEMORY;
    case MTLCommandBufferErrorTimeout:
        *cause = "the GPU took too long";
        *advice = "; a smaller max_batch_tokens makes its work shorter";
        break;
    case MTLCommandBufferErrorPageFault:
        *cause = "a kernel touched memory that is not there";
        *advice = "; this is a fault of xlstm, please report it";
        break;
    case MTLCommandBufferErrorAccessRevoked:
    case MTLCommandBufferErrorNotPermitted:
        *cause = "the system does not let this process use the GPU";
        break;
    case MTLCommandBufferErrorDeviceRemoved:
        *cause = "the GPU is lost";
        break;
    default:
        break;
    }
    return XLSTM_DEVICE_ERROR;
}

/* Waits for the oldest under way; the first failure is kept. */
static void finish_oldest(metal_commands *c) {
    id<MTLCommandBuffer> *buffer = &c->flight[c->oldest++ % MOST_IN_FLIGHT];
    @autoreleasepool {
        [*buffer waitUntilCompleted];
        if ([*buffer status] != MTLCommandBufferStatusCompleted && c->status == XLSTM_OK) {
            const char *cause, *advice;
            NSError *error = [*buffer error];
            c->status = status_of(error, &cause, &advice);
            snprintf(c->message, sizeof c->message, "%s (\"%s\"): %s%s", cause,
                     c->gpu->facts.name, words(error), advice);
        }
        [*buffer release];
    }
    *buffer = nil;
}

uint64_t metal_commands_commit(metal_commands *c) {
    if (!c->open)
        return 0;
    if (c->next - c->oldest >= MOST_IN_FLIGHT)
        finish_oldest(c);
    @autoreleasepool {
        end_encoding(c);
        [c->open commit];
    }
    c->flight[c->next % MOST_IN_FLIGHT] = c->open;
    c->open = nil;
    return c->next++;
}

xlstm_status metal_commands_wait(metal_commands *c, uint64_t serial) {
    while (c->oldest < c->next && c->oldest <= serial)
        finish_oldest(c);
    xlstm_status status = c->status;
    c->status = XLSTM_OK;
    return status == XLSTM_OK ? XLSTM_OK : error_set(status, "%s", c->message);
}

void metal_commands_free(metal_commands *c) {
    if (!c)
        return;
    while (c->oldest < c->next)
        finish_oldest(c);
    @autoreleasepool {
        if (c->encoder)
            end_encoding(c);
        [c->open release];
    }
    users--;
    free(c);
}
