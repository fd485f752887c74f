/* The Metal test device: the machine it pretends to be, its buffers, the library of kernels, and pipelines. Nothing is
 * compiled here: the text that a host hands in must be the text that the loaded kernels were compiled from. */
#import "commands.h"

#include <Block.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

NSErrorDomain const MTLLibraryErrorDomain = @"MTLLibraryErrorDomain";

@interface DeviceFunction : DeviceObject <MTLFunction> {
  @public
    NSString *name;
    const gpu_kernel *kernel;
}
@end

@interface DeviceLibrary : DeviceObject <MTLLibrary>
@end

@interface TestDevice : NSObject <MTLDevice>
@end

@interface DeviceData : NSObject {
  @public
    void *copied;
    const void *bytes;
    size_t size;
    dispatch_block_t destructor;
}
@end

/* ---- Functions and pipelines ------------------------------------------------------------------ */

@implementation DeviceFunction
- (void)dealloc {
    [name release];
    [super dealloc];
}
- (NSString *)name {
    return name;
}
- (MTLFunctionType)functionType {
    return MTLFunctionTypeKernel;
}
@end

@implementation DeviceLibrary
- (id<MTLFunction>)newFunctionWithName:(NSString *)functionName {
    device_gpu_lock();
    const gpu_kernel *kernel = gpu_find(device_gpu(NULL), functionName.UTF8String);
    device_gpu_unlock();
    if (kernel == NULL) {
        return nil;
    }
    DeviceFunction *function = [[DeviceFunction alloc] initWithDevice:device];
    function->name = [functionName copy];
    function->kernel = kernel;
    device_count(&device_counts.functions, 1);
    return function;
}
- (id<MTLFunction>)newFunctionWithName:(NSString *)name
                        constantValues:(MTLFunctionConstantValues *)constantValues
                                 error:(NSError **)error {
    (void)constantValues;
    DEVICE_FAIL(error, MTLLibraryErrorDomain, MTLLibraryErrorUnsupported,
                "%s: the test device's kernels are compiled without function constants",
                name.UTF8String);
    return nil;
}
- (NSArray<NSString *> *)functionNames {
    id names[1024];
    NSUInteger count = 0;
    device_gpu_lock();
    const char *name;
    while (count < 1024 && (name = gpu_kernel_at(device_gpu(NULL), (int)count)) != NULL) {
        names[count++] = device_string(name);
    }
    device_gpu_unlock();
    return [NSArray arrayWithObjects:names count:count];
}
@end

@implementation DevicePipeline
- (NSUInteger)maxTotalThreadsPerThreadgroup {
    return most;
}
- (NSUInteger)threadExecutionWidth {
    return device_config.simd_width;
}
- (NSUInteger)staticThreadgroupMemoryLength {
    return gpu_kernel_threadgroup_bytes(kernel);
}
@end

/* ---- The device ------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static TestDevice *the_device; /* not retained: gone when its last owner lets go */

@implementation TestDevice
- (void)dealloc {
    pthread_mutex_lock(&lock);
    the_device = nil;
    pthread_mutex_unlock(&lock);
    [super dealloc];
}
- (BOOL)respondsToSelector:(SEL)selector {
    return !device_too_new(selector) && [super respondsToSelector:selector];
}
- (NSString *)name {
    return @"Linux test device";
}
- (uint64_t)registryID {
    return 1;
}
- (MTLSize)maxThreadsPerThreadgroup {
    return MTLSizeMake(GPU_MOST_THREADS, GPU_MOST_THREADS, GPU_MOST_THREADS);
}
- (BOOL)isLowPower {
    return NO;
}
- (BOOL)isHeadless {
    return NO;
}
- (BOOL)isRemovable {
    return NO;
}
- (BOOL)hasUnifiedMemory {
    return YES;
}
- (uint64_t)recommendedMaxWorkingSetSize {
    return device_config.working_set;
}
- (NSUInteger)currentAllocatedSize {
    return metal_device_live_bytes();
}
- (NSUInteger)maxThreadgroupMemoryLength {
    return GPU_THREADGROUP_BYTES;
}
- (NSUInteger)maxBufferLength {
    return device_config.largest_buffer;
}
- (BOOL)supportsFamily:(MTLGPUFamily)family {
    int apple = device_config.family;
    if (family >= MTLGPUFamilyApple1 && family <= MTLGPUFamilyApple10) {
        return family - MTLGPUFamilyApple1 < apple;
    }
    return family == MTLGPUFamilyMac2 ||
           (family >= MTLGPUFamilyCommon1 && family <= MTLGPUFamilyCommon3) ||
           (family == MTLGPUFamilyMetal3 && apple >= 7);
}
- (id<MTLCommandQueue>)newCommandQueue {
    return [self newCommandQueueWithMaxCommandBufferCount:64];
}
- (id<MTLCommandQueue>)newCommandQueueWithMaxCommandBufferCount:(NSUInteger)count {
    if (device_fails(METAL_FAULT_QUEUE, NULL)) {
        return nil;
    }
    device_count(&device_counts.queues, 1);
    return [[DeviceQueue alloc] initWithDevice:self most:count];
}

/* ---- Buffers */

static bool may_create(const char *method, NSUInteger length, MTLResourceOptions options,
                       bool from_processor) {
    MTLStorageMode storage = (MTLStorageMode)(options >> 4 & 15);
    if (length == 0) {
        device_violation("%s: the length is 0", method);
        return false;
    }
    if (length > device_config.largest_buffer) {
        device_violation("%s: %lu bytes are more than maxBufferLength, %llu", method, length,
                         (unsigned long long)device_config.largest_buffer);
        return false;
    }
    if (storage != MTLStorageModeShared && (storage != MTLStorageModePrivate || from_processor)) {
        device_violation("%s: storage mode %lu is not for this buffer", method, storage);
        return false;
    }
    return !device_fails(METAL_FAULT_BUFFER, NULL) && !device_lost();
}

- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
    if (!may_create("newBufferWithLength:", length, options, false) ||
        metal_device_live_bytes() + length > device_config.memory) {
        return nil;
    }
    return [[DeviceBuffer alloc] initWithMemory:NULL length:length options:options owner:self];
}
- (id<MTLBuffer>)newBufferWithBytes:(const void *)pointer
                             length:(NSUInteger)length
                            options:(MTLResourceOptions)options {
    if (pointer == NULL) {
        device_violation("newBufferWithBytes: the pointer is NULL");
        return nil;
    }
    if (!may_create("newBufferWithBytes:", length, options, true) ||
        metal_device_live_bytes() + length > device_config.memory) {
        return nil;
    }
    DeviceBuffer *buffer = [[DeviceBuffer alloc] initWithMemory:NULL
                                                         length:length
                                                        options:options
                                                          owner:self];
    if (buffer != nil) {
        memcpy(buffer->memory->base, pointer, length);
    }
    return buffer;
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void *)pointer
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void *pointer, NSUInteger length))deallocator {
    const char *method = "newBufferWithBytesNoCopy:";
    if (!may_create(method, length, options, true)) {
        return nil;
    }
    if (pointer == NULL || (uintptr_t)pointer % device_config.page != 0 ||
        length % device_config.page != 0) {
        device_violation("%s %p and %lu bytes: both must be multiples of the page, %llu", method,
                         pointer, length, (unsigned long long)device_config.page);
        return nil;
    }
    if (msync(pointer, length, MS_ASYNC) != 0 && errno == ENOMEM) {
        device_violation("%s: not all of the %lu bytes at %p are mapped", method, length, pointer);
        return nil;
    }
    DeviceBuffer *buffer = [[DeviceBuffer alloc] initWithMemory:pointer
                                                         length:length
                                                        options:options
                                                          owner:self];
    buffer->deallocator = Block_copy(deallocator);
    return buffer;
}

/* ---- Libraries */

/* FNV-1a, 64 bits. */
static uint64_t hash(const char *text, size_t length) {
    uint64_t value = 14695981039346656037u;
    for (size_t i = 0; i < length; i++) {
        value = (value ^ (unsigned char)text[i]) * 1099511628211u;
    }
    return value;
}

static bool is_hash_of_shipped_text(uint64_t given, NSError **error) {
    const char *reason = NULL;
    device_gpu_lock();
    gpu *processor = device_gpu(&reason);
    uint64_t right = processor != NULL ? gpu_source_hash(processor) : 0;
    device_gpu_unlock();
    if (processor == NULL) {
        DEVICE_FAIL(error, MTLLibraryErrorDomain, MTLLibraryErrorInternal, "%s", reason);
    } else if (given != right) {
        DEVICE_FAIL(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure,
                    "the source (hash %016llx) is not what the test device's kernels were compiled "
                    "from (%016llx)",
                    (unsigned long long)given, (unsigned long long)right);
    }
    return processor != NULL && given == right;
}

static bool are_possible(MTLCompileOptions *options, NSError **error) {
    if ((options == nil || options.fastMathEnabled) && device_config.mode != GPU_FAST_MATH) {
        device_violation("newLibraryWithSource: fast math is on, which is what Metal takes where "
                         "nobody says otherwise");
    }
    if (options.preprocessorMacros.count > 0) {
        DEVICE_FAIL(error, MTLLibraryErrorDomain, MTLLibraryErrorUnsupported,
                    "the test device's kernels are compiled without macros");
        return false;
    }
    MTLLanguageVersion newest =
        device_config.macos < 15 ? MTLLanguageVersion3_1 : MTLLanguageVersion3_2;
    if (options.languageVersion > newest) {
        DEVICE_FAIL(error, MTLLibraryErrorDomain, MTLLibraryErrorUnsupported,
                    "macOS %d has no language version %lu.%lu", device_config.macos,
                    options.languageVersion >> 16, options.languageVersion & 0xffff);
        return false;
    }
    return true;
}

- (id<MTLLibrary>)newLibraryWithSource:(NSString *)source
                               options:(MTLCompileOptions *)options
                                 error:(NSError **)error {
    if (device_fails(METAL_FAULT_LIBRARY, NULL)) {
        DEVICE_FAIL(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure,
                    "program_source:1:1: error: unknown type name 'injected'");
        return nil;
    }
    if (source == nil) {
        device_violation("newLibraryWithSource: the source is nil");
        return nil;
    }
    if (!are_possible(options, error) ||
        !is_hash_of_shipped_text(hash(source.UTF8String, source.length), error)) {
        return nil;
    }
    device_count(&device_counts.libraries, 1);
    return [[DeviceLibrary alloc] initWithDevice:self];
}
- (id<MTLLibrary>)newLibraryWithURL:(NSURL *)url error:(NSError **)error {
    DEVICE_FAIL(error, MTLLibraryErrorDomain, MTLLibraryErrorFileNotFound,
                "%s: the test device runs no metallib, which only Apple's compiler makes",
                url.path.UTF8String);
    return nil;
}
/* What the test device's xcrun makes: "MTLB", and the hash of the text in hexadecimal digits. */
- (id<MTLLibrary>)newLibraryWithData:(dispatch_data_t)data error:(NSError **)error {
    if (![data isKindOfClass:[DeviceData class]]) {
        device_violation("newLibraryWithData: the data is none of dispatch_data_create");
        return nil;
    }
    const DeviceData *given = (DeviceData *)data;
    char text[32] = "";
    memcpy(text, given->bytes, given->size < sizeof text - 1 ? given->size : sizeof text - 1);
    if (device_fails(METAL_FAULT_LIBRARY, NULL) || strncmp(text, "MTLB", 4) != 0) {
        DEVICE_FAIL(error, MTLLibraryErrorDomain, MTLLibraryErrorUnsupported,
                    "Invalid library file");
        return nil;
    }
    if (!is_hash_of_shipped_text(strtoull(text + 4, NULL, 16), error)) {
        return nil;
    }
    device_count(&device_counts.libraries, 1);
    return [[DeviceLibrary alloc] initWithDevice:self];
}

/* ---- Pipelines */

- (id<MTLComputePipelineState>)newPipeline:(id<MTLFunction>)function
                                      most:(NSUInteger)most
                                     label:(NSString *)text
                                     error:(NSError **)error {
    if (![(id)function isKindOfClass:[DeviceFunction class]]) {
        device_violation("a pipeline is made of no function");
        return nil;
    }
    const DeviceFunction *f = (DeviceFunction *)function;
    if (device_fails(METAL_FAULT_PIPELINE, NULL)) {
        DEVICE_FAIL(error, @"AGXMetalG13X", 3,
                    "Compiler encountered an internal error (injected: %s)", f->name.UTF8String);
        return nil;
    }
    if (most > GPU_MOST_THREADS) {
        device_violation("maxTotalThreadsPerThreadgroup of %s is %lu, above %d", f->name.UTF8String,
                         most, GPU_MOST_THREADS);
        return nil;
    }
    if (gpu_kernel_threadgroup_bytes(f->kernel) > GPU_THREADGROUP_BYTES) {
        DEVICE_FAIL(error, @"AGXMetalG13X", 3, "%s: threadgroup memory of %u bytes is more than %d",
                    f->name.UTF8String, gpu_kernel_threadgroup_bytes(f->kernel),
                    GPU_THREADGROUP_BYTES);
        return nil;
    }
    DevicePipeline *pipeline = [[DevicePipeline alloc] initWithDevice:self];
    pipeline->kernel = f->kernel;
    pipeline->most =
        most > 0 && most < device_config.most_threads ? most : device_config.most_threads;
    strncpy(pipeline->name, f->name.UTF8String, sizeof pipeline->name - 1);
    [pipeline setLabel:text];
    device_count(&device_counts.pipelines, 1);
    return pipeline;
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)function
                                                             error:(NSError **)error {
    return [self newPipeline:function most:0 label:function.label error:error];
}
- (id<MTLComputePipelineState>)
    newComputePipelineStateWithDescriptor:(MTLComputePipelineDescriptor *)descriptor
                                  options:(MTLPipelineOption)options
                               reflection:(MTLAutoreleasedComputePipelineReflection *)reflection
                                    error:(NSError **)error {
    if (options != MTLPipelineOptionNone || reflection != NULL) {
        device_violation("the test device has no reflection of pipelines");
        return nil;
    }
    return [self newPipeline:descriptor.computeFunction
                        most:descriptor.maxTotalThreadsPerThreadgroup
                       label:descriptor.label
                       error:error];
}

/* ---- The rest */

- (id<MTLEvent>)newEvent {
    device_count(&device_counts.events, 1);
    return [[DeviceEvent alloc] initWithDevice:self];
}
- (id<MTLSharedEvent>)newSharedEvent {
    device_count(&device_counts.events, 1);
    return [[DeviceEvent alloc] initWithDevice:self];
}
- (id<MTLResidencySet>)newResidencySetWithDescriptor:(MTLResidencySetDescriptor *)descriptor
                                               error:(NSError **)error {
    if (device_refuses("newResidencySetWithDescriptor:error:")) {
        return nil;
    }
    if (device_fails(METAL_FAULT_RESIDENCY, NULL)) {
        DEVICE_FAIL(error, @"AGXMetalG13X", 1, "no residency set (injected)");
        return nil;
    }
    DeviceResidencySet *set = [[DeviceResidencySet alloc] initWithDevice:self];
    [set setLabel:descriptor.label];
    device_count(&device_counts.residency_sets, 1);
    return set;
}
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void) {
    device_configured();
    if (!device_config.present) {
        return nil;
    }
    pthread_mutex_lock(&lock);
    device_start();
    TestDevice *device = the_device;
    if (device == nil) {
        device = the_device = [[TestDevice alloc] init];
    } else {
        [device retain];
    }
    pthread_mutex_unlock(&lock);
    return device;
}

NSArray<id<MTLDevice>> *MTLCopyAllDevices(void) {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    NSArray<id<MTLDevice>> *all = [[NSArray alloc] initWithObjects:&device count:device != nil];
    [device release];
    return all;
}

/* ---- Data of libdispatch ---------------------------------------------------------------------- */

@implementation DeviceData
- (void)dealloc {
    if (destructor != NULL) {
        destructor();
        Block_release(destructor);
    }
    free(copied);
    [super dealloc];
}
@end

dispatch_data_t dispatch_data_create(const void *buffer, size_t size, dispatch_queue_t queue,
                                     dispatch_block_t destructor) {
    (void)queue;
    DeviceData *data = [[DeviceData alloc] init];
    data->bytes = buffer;
    data->size = size;
    if (destructor != DISPATCH_DATA_DESTRUCTOR_DEFAULT) {
        data->destructor = Block_copy(destructor);
    } else if ((data->copied = malloc(size > 0 ? size : 1)) != NULL) {
        data->bytes = memcpy(data->copied, buffer, size);
    } else {
        data->size = 0;
    }
    return data;
}

void dispatch_release(dispatch_data_t object) {
    [object release];
}
