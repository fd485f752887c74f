/* Encoders of the Metal test device. Everything that Metal's validation would object to is found when it is encoded;
 * what a kernel does wrong is found when it runs. */
#import "commands.h"

#include <stdlib.h>
#include <string.h>

/* ---- What both have --------------------------------------------------------------------------- */

@implementation DeviceEncoder
- (instancetype)initWithBuffer:(DeviceCommandBuffer *)commands {
    self = [super initWithDevice:commands->device];
    buffer = [commands retain];
    buffer->encoder = self;
    device_count(&device_counts.encoders, 1);
    return self;
}
- (void)dealloc {
    if (!ended) {
        [buffer wrong:"an encoder is released without endEncoding"];
        buffer->encoder = nil;
    }
    [buffer release];
    [super dealloc];
}
- (bool)open:(const char *)method {
    if (ended) {
        [buffer wrong:"%s after endEncoding", method];
    }
    return !ended;
}
/* Metal orders the encoders that use the same memory, unless it was told not to track its hazards. */
- (void)endEncoding {
    if (![self open:"endEncoding"]) {
        return;
    }
    if (debugGroups > 0) {
        [buffer wrong:"endEncoding: a debug group is not popped"];
    }
    if (!untracked) {
        (void)[buffer add:COMMAND_FENCE];
    }
    ended = true;
    buffer->encoder = nil;
}
- (void)insertDebugSignpost:(NSString *)string {
    (void)string;
    (void)[self open:"insertDebugSignpost:"];
}
- (void)pushDebugGroup:(NSString *)string {
    (void)string;
    debugGroups += [self open:"pushDebugGroup:"];
}
- (void)popDebugGroup {
    if ([self open:"popDebugGroup"] && debugGroups-- == 0) {
        debugGroups = 0;
        [buffer wrong:"popDebugGroup: there is none"];
    }
}
@end

/* ---- Kernels ---------------------------------------------------------------------------------- */

@implementation DeviceComputeEncoder
- (void)unbind:(NSUInteger)index {
    free(bound[index].bytes);
    if (bound[index].memory != NULL) {
        device_memory_drop(bound[index].memory);
    }
    memset(&bound[index], 0, sizeof bound[index]);
}
- (void)dealloc {
    for (NSUInteger i = 0; i < GPU_BUFFERS; i++) {
        [self unbind:i];
    }
    [self forgetWritten];
    free(written);
    [pipeline release];
    [super dealloc];
}
- (MTLDispatchType)dispatchType {
    return type;
}
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state {
    if (![self open:"setComputePipelineState:"]) {
        return;
    }
    if (state == nil) {
        [buffer wrong:"setComputePipelineState: the pipeline is nil"];
        return;
    }
    [(id)state retain];
    [pipeline release];
    pipeline = (DevicePipeline *)state;
    if (buffer->retaining) {
        [buffer keep:state];
    }
}

/* ---- Arguments */

- (bool)slot:(NSUInteger)index method:(const char *)method {
    if (![self open:method]) {
        return false;
    }
    if (index >= GPU_BUFFERS) {
        [buffer wrong:"%s index %lu is above 30", method, index];
    }
    return index < GPU_BUFFERS;
}
- (void)setBytes:(const void *)bytes length:(NSUInteger)length atIndex:(NSUInteger)index {
    if (![self slot:index method:"setBytes:"]) {
        return;
    }
    if (bytes == NULL || length == 0 || length > 4096) {
        [buffer wrong:"setBytes: at index %lu: %lu bytes at %p; from 1 to 4096 are possible", index,
                      length, bytes];
        return;
    }
    [self unbind:index];
    bound[index].bytes = malloc(length);
    if (bound[index].bytes == NULL) {
        abort();
    }
    memcpy(bound[index].bytes, bytes, length);
    bound[index].size = length;
}
- (bool)offset:(NSUInteger)offset
            in:(const device_memory *)memory
         index:(NSUInteger)index
        method:(const char *)method {
    if (offset % 4 != 0 || offset >= memory->length) {
        [buffer wrong:"%s at index %lu: offset %lu of buffer %s must be a multiple of 4 below its "
                      "length, %zu",
                      method, index, offset, memory->label, memory->length];
        return false;
    }
    return true;
}
- (void)setBuffer:(id<MTLBuffer>)resource offset:(NSUInteger)offset atIndex:(NSUInteger)index {
    const char *method = "setBuffer:";
    if (![self slot:index method:method]) {
        return;
    }
    if (resource == nil) {
        [self unbind:index];
        return;
    }
    if (![resource isKindOfClass:[DeviceBuffer class]]) {
        [buffer wrong:"setBuffer: at index %lu: it is no buffer", index];
        return;
    }
    device_memory *memory = ((DeviceBuffer *)resource)->memory;
    if (![self offset:offset in:memory index:index method:method]) {
        return;
    }
    [self unbind:index];
    bound[index].memory = device_memory_hold(memory);
    bound[index].offset = offset;
    if (buffer->retaining) {
        [buffer keep:resource];
    }
}
- (void)setBufferOffset:(NSUInteger)offset atIndex:(NSUInteger)index {
    const char *method = "setBufferOffset:";
    if (![self slot:index method:method]) {
        return;
    }
    if (bound[index].memory == NULL) {
        [buffer wrong:"setBufferOffset: at index %lu: no buffer is bound there", index];
    } else if ([self offset:offset in:bound[index].memory index:index method:method]) {
        bound[index].offset = offset;
    }
}
- (void)setBuffers:(const id<MTLBuffer>[])buffers
           offsets:(const NSUInteger[])offsets
         withRange:(NSRange)range {
    for (NSUInteger i = 0; i < range.length; i++) {
        [self setBuffer:buffers[i] offset:offsets[i] atIndex:range.location + i];
    }
}
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)index {
    if (![self slot:index method:"setThreadgroupMemoryLength:"]) {
        return;
    }
    if (length % 16 != 0 || length > GPU_THREADGROUP_BYTES) {
        [buffer wrong:"setThreadgroupMemoryLength: %lu must be a multiple of 16 and at most %d",
                      length, GPU_THREADGROUP_BYTES];
        return;
    }
    threadgroup_bytes[index] = (uint32_t)length;
}
- (void)useResource:(id<MTLResource>)resource usage:(MTLResourceUsage)usage {
    if ([self open:"useResource:"] && (resource == nil || usage == 0)) {
        [buffer wrong:"useResource: no resource, or no usage"];
    }
}

/* ---- Dispatch */

- (bool)size:(MTLSize)groups threads:(MTLSize)threads {
    if (groups.width == 0 || groups.height == 0 || groups.depth == 0 || threads.width == 0 ||
        threads.height == 0 || threads.depth == 0) {
        [buffer wrong:"dispatch of %s: %lu x %lu x %lu threadgroups of %lu x %lu x %lu threads",
                      pipeline->name, groups.width, groups.height, groups.depth, threads.width,
                      threads.height, threads.depth];
        return false;
    }
    NSUInteger all = threads.width * threads.height * threads.depth;
    if (threads.width > GPU_MOST_THREADS || threads.height > GPU_MOST_THREADS ||
        threads.depth > GPU_MOST_THREADS || all > pipeline->most) {
        [buffer wrong:"dispatch of %s: %lu threads a threadgroup; the pipeline takes %lu "
                      "(maxTotalThreadsPerThreadgroup)",
                      pipeline->name, all, pipeline->most];
        return false;
    }
    if (groups.width > UINT32_MAX / threads.width || groups.height > UINT32_MAX / threads.height ||
        groups.depth > UINT32_MAX / threads.depth) {
        [buffer wrong:"dispatch of %s: positions in the grid do not fit 32 bits", pipeline->name];
        return false;
    }
    return true;
}
- (bool)arguments {
    for (NSUInteger i = 0; i < GPU_BUFFERS; i++) {
        bool writes = false;
        if (!gpu_kernel_uses(pipeline->kernel, (int)i, &writes)) {
            continue;
        }
        if (bound[i].memory == NULL && bound[i].bytes == NULL) {
            [buffer wrong:"dispatch of %s: nothing is bound to buffer(%lu)", pipeline->name, i];
            return false;
        }
        if (bound[i].bytes != NULL && writes) {
            [buffer wrong:"dispatch of %s: buffer(%lu) can be written, and is bound by setBytes:",
                          pipeline->name, i];
            return false;
        }
    }
    uint32_t shared = gpu_kernel_threadgroup_bytes(pipeline->kernel);
    for (NSUInteger i = 0; i < GPU_BUFFERS; i++) {
        shared += threadgroup_bytes[i];
    }
    if (shared > GPU_THREADGROUP_BYTES) {
        [buffer wrong:"dispatch of %s: %u bytes of threadgroup memory, more than %d",
                      pipeline->name, shared, GPU_THREADGROUP_BYTES];
        return false;
    }
    return true;
}
- (void)forgetWritten {
    for (size_t i = 0; i < writtenCount; i++) {
        device_memory_drop(written[i]);
    }
    writtenCount = 0;
}
- (void)writes:(device_memory *)memory {
    if (writtenCount == writtenRoom) {
        writtenRoom = writtenRoom == 0 ? 16 : 2 * writtenRoom;
        written = realloc(written, writtenRoom * sizeof *written);
        if (written == NULL) {
            abort();
        }
    }
    written[writtenCount++] = device_memory_hold(memory);
}
/* What is bound to arguments of the kernel goes with the command; the bytes of setBytes: are copied once more, since
 * the next dispatch may have others. */
- (void)record:(struct command *)command {
    gpu_launch *launch = &command->dispatch.launch;
    size_t bytes = 0;
    for (NSUInteger i = 0; i < GPU_BUFFERS; i++) {
        bytes += (bound[i].size + 15) / 16 * 16;
    }
    if (posix_memalign(&command->dispatch.bytes, 16, bytes + 16) != 0) {
        abort();
    }
    char *copy = command->dispatch.bytes;
    for (NSUInteger i = 0; i < GPU_BUFFERS; i++) {
        bool writes = false;
        if (!gpu_kernel_uses(pipeline->kernel, (int)i, &writes)) {
            continue;
        }
        if (bound[i].bytes != NULL) {
            memcpy(copy, bound[i].bytes, bound[i].size);
            launch->buffer[i] = (gpu_bound){.base = copy, .length = bound[i].size, .bytes = true};
            copy += (bound[i].size + 15) / 16 * 16;
            continue;
        }
        device_memory *memory = bound[i].memory;
        launch->buffer[i] =
            (gpu_bound){.base = memory->base, .length = memory->length, .offset = bound[i].offset};
        command->dispatch.memory[i] = device_memory_hold(memory);
        untracked = untracked || memory->untracked;
        if (writes) {
            [self writes:memory];
        }
    }
}
- (void)dispatchThreadgroups:(MTLSize)threadgroupsPerGrid
       threadsPerThreadgroup:(MTLSize)threadsPerThreadgroup {
    if (![self open:"dispatchThreadgroups:"]) {
        return;
    }
    if (pipeline == nil) {
        [buffer wrong:"dispatchThreadgroups: no pipeline is set"];
        return;
    }
    if (![self size:threadgroupsPerGrid threads:threadsPerThreadgroup] || ![self arguments]) {
        return;
    }
    struct command *command = [buffer add:COMMAND_DISPATCH];
    gpu_launch *launch = &command->dispatch.launch;
    launch->kernel = pipeline->kernel;
    memcpy(command->dispatch.name, pipeline->name, sizeof pipeline->name);
    memcpy(launch->threadgroup_bytes, threadgroup_bytes, sizeof threadgroup_bytes);
    launch->groups[0] = (uint32_t)threadgroupsPerGrid.width;
    launch->groups[1] = (uint32_t)threadgroupsPerGrid.height;
    launch->groups[2] = (uint32_t)threadgroupsPerGrid.depth;
    launch->threads[0] = (uint32_t)threadsPerThreadgroup.width;
    launch->threads[1] = (uint32_t)threadsPerThreadgroup.height;
    launch->threads[2] = (uint32_t)threadsPerThreadgroup.depth;
    [self record:command];
    if (type == MTLDispatchTypeSerial) {
        (void)[buffer add:COMMAND_FENCE];
        [self forgetWritten];
    }
}
- (void)dispatchThreads:(MTLSize)threadsPerGrid threadsPerThreadgroup:(MTLSize)threads {
    if (threads.width == 0 || threads.height == 0 || threads.depth == 0 ||
        threadsPerGrid.width % threads.width != 0 || threadsPerGrid.height % threads.height != 0 ||
        threadsPerGrid.depth % threads.depth != 0) {
        [buffer wrong:"dispatchThreads: the grid is no multiple of the threadgroup; the test "
                      "device runs whole ones only"];
        return;
    }
    [self dispatchThreadgroups:MTLSizeMake(threadsPerGrid.width / threads.width,
                                           threadsPerGrid.height / threads.height,
                                           threadsPerGrid.depth / threads.depth)
         threadsPerThreadgroup:threads];
}

/* ---- Barriers */

- (void)barrier {
    [buffer add:COMMAND_FENCE]->counted = true;
    [self forgetWritten];
}
- (void)memoryBarrierWithScope:(MTLBarrierScope)scope {
    if (![self open:"memoryBarrierWithScope:"]) {
        return;
    }
    if ((scope & MTLBarrierScopeBuffers) == 0) {
        [buffer wrong:"memoryBarrierWithScope: the scope does not include buffers"];
        return;
    }
    [self barrier];
}
/* The processor knows only barriers for all memory: a barrier for some is one for all if it names all that was
 * written. */
- (void)memoryBarrierWithResources:(const id<MTLResource>[])resources count:(NSUInteger)count {
    if (![self open:"memoryBarrierWithResources:"]) {
        return;
    }
    for (size_t w = 0; w < writtenCount; w++) {
        bool named = false;
        for (NSUInteger i = 0; i < count; i++) {
            named = named || ((DeviceBuffer *)resources[i])->memory == written[w];
        }
        if (!named) {
            [buffer wrong:"memoryBarrierWithResources: it leaves out memory that was written since "
                          "the last barrier, "
                          "which the test device cannot check"];
            return;
        }
    }
    [self barrier];
}
@end

/* ---- Copies ----------------------------------------------------------------------------------- */

@implementation DeviceBlitEncoder
- (bool)range:(id<MTLBuffer>)resource
         from:(NSUInteger)offset
         size:(NSUInteger)size
       method:(const char *)method {
    if (resource == nil) {
        [buffer wrong:"%s: a buffer is nil", method];
        return false;
    }
    NSUInteger length = resource.length;
    if (size == 0 || offset % 4 != 0 || size % 4 != 0 || offset > length ||
        size > length - offset) {
        [buffer wrong:"%s: %lu bytes from %lu of buffer %s with %lu: both must be multiples of 4, "
                      "inside it and not none",
                      method, size, offset, device_name(resource), length];
        return false;
    }
    return true;
}
- (device_memory *)name:(id<MTLBuffer>)resource {
    device_memory *memory = ((DeviceBuffer *)resource)->memory;
    untracked = untracked || memory->untracked;
    if (buffer->retaining) {
        [buffer keep:resource];
    }
    return device_memory_hold(memory);
}
- (void)copyFromBuffer:(id<MTLBuffer>)source
          sourceOffset:(NSUInteger)sourceOffset
              toBuffer:(id<MTLBuffer>)destination
     destinationOffset:(NSUInteger)destinationOffset
                  size:(NSUInteger)size {
    const char *method = "copyFromBuffer:";
    if (![self open:method] || ![self range:source from:sourceOffset size:size method:method] ||
        ![self range:destination from:destinationOffset size:size method:method]) {
        return;
    }
    if (source == destination && sourceOffset < destinationOffset + size &&
        destinationOffset < sourceOffset + size) {
        [buffer wrong:"copyFromBuffer: the ranges overlap"];
        return;
    }
    struct command *command = [buffer add:COMMAND_COPY];
    command->blit.from = [self name:source];
    command->blit.to = [self name:destination];
    command->blit.from_offset = sourceOffset;
    command->blit.to_offset = destinationOffset;
    command->blit.size = size;
}
- (void)fillBuffer:(id<MTLBuffer>)resource range:(NSRange)range value:(uint8_t)value {
    const char *method = "fillBuffer:";
    if (![self open:method] || ![self range:resource
                                       from:range.location
                                       size:range.length
                                     method:method]) {
        return;
    }
    struct command *command = [buffer add:COMMAND_FILL];
    command->blit.to = [self name:resource];
    command->blit.to_offset = range.location;
    command->blit.size = range.length;
    command->blit.value = value;
}
- (void)synchronizeResource:(id<MTLResource>)resource {
    (void)resource;
    [buffer wrong:"synchronizeResource: it is for managed storage"];
}
@end
