/* Queues and command buffers of the Metal test device: what is recorded, and in which order. Nothing is executed
 * here. */
#import "commands.h"

#include <Block.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- Queues ----------------------------------------------------------------------------------- */

@implementation DeviceQueue
- (instancetype)initWithDevice:(id<MTLDevice>)owner most:(NSUInteger)count {
    self = [super initWithDevice:owner];
    most = count;
    return self;
}
- (void)dealloc {
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        [sets[i] release];
    }
    [super dealloc];
}
- (id<MTLCommandBuffer>)make:(bool)retaining {
    if (device_fails(METAL_FAULT_COMMAND_BUFFER, NULL)) {
        return nil;
    }
    if (!device_reserve(self)) {
        device_violation("queue %s: all %lu command buffers are made and none is committed: this "
                         "would block forever",
                         device_name(self), most);
        return nil;
    }
    device_count(&device_counts.command_buffers, 1);
    return [[[DeviceCommandBuffer alloc] initWithQueue:self retaining:retaining] autorelease];
}
- (id<MTLCommandBuffer>)commandBuffer {
    return [self make:true];
}
- (id<MTLCommandBuffer>)commandBufferWithUnretainedReferences {
    return [self make:false];
}
- (id<MTLCommandBuffer>)commandBufferWithDescriptor:(MTLCommandBufferDescriptor *)descriptor {
    return [self make:descriptor.retainedReferences];
}
- (void)addResidencySet:(id<MTLResidencySet>)residencySet {
    if (device_refuses("addResidencySet:")) {
        return;
    }
    if (residencySet == nil || !((DeviceResidencySet *)residencySet)->committed) {
        device_violation(
            "queue %s: a residency set is added that is nil, or whose changes are not committed",
            device_name(self));
        return;
    }
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (sets[i] == nil || sets[i] == residencySet) {
            sets[i] = sets[i] == nil ? [residencySet retain] : sets[i];
            return;
        }
    }
    device_violation("queue %s: more than 32 residency sets", device_name(self));
}
- (void)removeResidencySet:(id<MTLResidencySet>)residencySet {
    if (device_refuses("removeResidencySet:")) {
        return;
    }
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (sets[i] == residencySet) {
            [sets[i] release];
            sets[i] = nil;
        }
    }
}
@end

/* ---- Command buffers -------------------------------------------------------------------------- */

static void *grown(void *array, size_t *room, size_t size) {
    *room = *room == 0 ? 16 : 2 * *room;
    array = realloc(array, *room * size);
    if (array == NULL) {
        abort();
    }
    return array;
}

@implementation DeviceCommandBuffer
- (instancetype)initWithQueue:(DeviceQueue *)owner retaining:(bool)retains {
    self = [super initWithDevice:owner->device];
    queue = [owner retain];
    retaining = retains;
    return self;
}
- (void)dealloc {
    if (!done) {
        device_unreserve(queue);
    }
    [self letGo];
    [failure release];
    [queue release];
    [super dealloc];
}
- (void)letGo {
    for (size_t i = 0; i < count; i++) {
        device_free_command(&commands[i]);
    }
    for (size_t i = 0; i < keptCount; i++) {
        [kept[i] release];
    }
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < handlerCount[kind]; i++) {
            Block_release(handlers[kind][i]);
        }
        free(handlers[kind]);
        handlers[kind] = NULL;
        handlerCount[kind] = 0;
    }
    free(commands);
    free(kept);
    commands = NULL;
    kept = NULL;
    count = room = keptCount = keptRoom = 0;
}
- (struct command *)add:(enum command_kind)kind {
    if (count == room) {
        commands = grown(commands, &room, sizeof *commands);
    }
    struct command *command = &commands[count++];
    memset(command, 0, sizeof *command);
    command->kind = kind;
    return command;
}
- (void)keep:(id)object {
    if (keptCount == keptRoom) {
        kept = grown(kept, &keptRoom, sizeof *kept);
    }
    kept[keptCount++] = [object retain];
}
- (void)wrong:(const char *)format, ... {
    char text[sizeof doom];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (doom[0] == '\0') {
        memcpy(doom, text, sizeof doom);
    }
    device_violation("command buffer %s: %s", device_name(self), text);
}
- (id<MTLCommandQueue>)commandQueue {
    return queue;
}
- (BOOL)retainedReferences {
    return retaining;
}
- (CFTimeInterval)GPUStartTime {
    return began;
}
- (CFTimeInterval)GPUEndTime {
    return ended;
}
- (MTLCommandBufferStatus)status {
    return device_status(self);
}
- (NSError *)error {
    return device_failure(self);
}

- (bool)encoding:(const char *)method {
    if (state != MTLCommandBufferStatusNotEnqueued) {
        [self wrong:"%s after commit", method];
    } else if (encoder != nil) {
        [self wrong:"%s while an encoder is open", method];
    }
    return state == MTLCommandBufferStatusNotEnqueued && encoder == nil;
}
- (id<MTLBlitCommandEncoder>)blitCommandEncoder {
    if (![self encoding:"blitCommandEncoder"] || device_fails(METAL_FAULT_ENCODER, NULL)) {
        return nil;
    }
    return [[[DeviceBlitEncoder alloc] initWithBuffer:self] autorelease];
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
    return [self computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:
    (MTLDispatchType)dispatchType {
    if (![self encoding:"computeCommandEncoder"] || device_fails(METAL_FAULT_ENCODER, NULL)) {
        return nil;
    }
    DeviceComputeEncoder *made = [[[DeviceComputeEncoder alloc] initWithBuffer:self] autorelease];
    made->type = dispatchType;
    return made;
}
- (void)event:(id<MTLEvent>)event
        value:(uint64_t)value
         kind:(enum command_kind)kind
       method:(const char *)method {
    if (![self encoding:method]) {
        return;
    }
    if (event == nil) {
        [self wrong:"%s: the event is nil", method];
        return;
    }
    [self keep:event];
    struct command *command = [self add:kind];
    command->event.event = (DeviceEvent *)event;
    command->event.value = value;
}
- (void)encodeWaitForEvent:(id<MTLEvent>)event value:(uint64_t)value {
    [self event:event value:value kind:COMMAND_AWAIT method:"encodeWaitForEvent:"];
}
- (void)encodeSignalEvent:(id<MTLEvent>)event value:(uint64_t)value {
    [self event:event value:value kind:COMMAND_SIGNAL method:"encodeSignalEvent:"];
}
- (void)useResidencySet:(id<MTLResidencySet>)residencySet {
    if (device_refuses("useResidencySet:")) {
        return;
    }
    if (residencySet == nil || !((DeviceResidencySet *)residencySet)->committed) {
        [self wrong:"useResidencySet: the set is nil, or its changes are not committed"];
        return;
    }
    [self keep:residencySet];
}

- (void)handler:(MTLCommandBufferHandler)block kind:(int)kind method:(const char *)method {
    if (state != MTLCommandBufferStatusNotEnqueued) {
        [self wrong:"%s after commit", method];
        return;
    }
    handlers[kind] = realloc(handlers[kind], (handlerCount[kind] + 1) * sizeof *handlers[kind]);
    if (handlers[kind] == NULL) {
        abort();
    }
    handlers[kind][handlerCount[kind]++] = Block_copy(block);
}
- (void)addScheduledHandler:(MTLCommandBufferHandler)block {
    [self handler:block kind:0 method:"addScheduledHandler:"];
}
- (void)addCompletedHandler:(MTLCommandBufferHandler)block {
    [self handler:block kind:1 method:"addCompletedHandler:"];
}
- (void)commit {
    if (state != MTLCommandBufferStatusNotEnqueued) {
        [self wrong:"commit for the second time"];
        return;
    }
    if (encoder != nil) {
        [self wrong:"commit while an encoder is open"];
    }
    device_commit(self);
}
- (void)waitUntilScheduled {
    if (state == MTLCommandBufferStatusNotEnqueued) {
        [self wrong:"waitUntilScheduled before commit: this would block forever"];
        return;
    }
    device_wait_for(self, true);
}
- (void)waitUntilCompleted {
    if (state == MTLCommandBufferStatusNotEnqueued) {
        [self wrong:"waitUntilCompleted before commit: this would block forever"];
        return;
    }
    device_wait_for(self, false);
}
@end
