/* Resources of the Metal test device: buffers, events, residency sets, and the memory behind buffers. New memory is
 * full of 0xff, which is NaN, so that whoever relies on zeros finds out. */
#import "commands.h"

#include <Block.h>
#include <stdlib.h>
#include <string.h>

/* ---- Memory ----------------------------------------------------------------------------------- */

device_memory *device_memory_hold(device_memory *memory) {
    __atomic_fetch_add(&memory->holders, 1, __ATOMIC_RELAXED);
    return memory;
}

void device_memory_drop(device_memory *memory) {
    if (__atomic_sub_fetch(&memory->holders, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    if (!memory->in_place) {
        free(memory->base);
    }
    free(memory);
}

/* What the processor knows of these addresses is of memory that was there before, or is gone. */
static void forget(const device_memory *memory) {
    device_gpu_lock();
    gpu *processor = device_gpu(NULL);
    if (processor != NULL) {
        gpu_forget(processor, memory->base, memory->length);
    }
    device_gpu_unlock();
}

/* ---- What all have ---------------------------------------------------------------------------- */

@implementation DeviceObject
- (instancetype)initWithDevice:(id<MTLDevice>)owner {
    device = [owner retain];
    return self;
}
- (void)dealloc {
    [label release];
    [device release];
    [super dealloc];
}
- (NSString *)label {
    return label;
}
- (void)setLabel:(NSString *)text {
    NSString *copy = [text copy];
    [label release];
    label = copy;
}
- (id<MTLDevice>)device {
    return device;
}
- (BOOL)respondsToSelector:(SEL)selector {
    return !device_too_new(selector) && [super respondsToSelector:selector];
}
@end

const char *device_name(id object) {
    NSString *label = object != nil ? ((DeviceObject *)object)->label : nil;
    return label != nil ? label.UTF8String : "(no label)";
}

/* ---- Buffers ---------------------------------------------------------------------------------- */

@implementation DeviceBuffer
- (instancetype)initWithMemory:(void *)base
                        length:(NSUInteger)length
                       options:(MTLResourceOptions)choice
                         owner:(id<MTLDevice>)owner {
    self = [super initWithDevice:owner];
    memory = calloc(1, sizeof *memory);
    if (memory == NULL) {
        abort();
    }
    memory->holders = 1;
    strcpy(memory->label, device_name(self));
    memory->length = length;
    memory->in_place = base != NULL;
    memory->untracked = (choice & MTLResourceHazardTrackingModeUntracked) != 0;
    options = choice;
    size_t page = (size_t)device_config.page;
    if (base != NULL) {
        memory->base = base;
    } else if (posix_memalign(&memory->base, page, (length + page - 1) / page * page) == 0) {
        memset(memory->base, 0xff, length);
        device_count(&device_live_bytes, length);
    } else {
        memory->base = NULL;
        [self release];
        return nil;
    }
    device_count(&device_counts.buffers, 1);
    device_count(&device_counts.buffer_bytes, length);
    if (device_config.trace)
        fprintf(stderr, "buffer of %lu bytes%s\n", length, base != NULL ? " in place" : "");
    forget(memory);
    return self;
}
- (void)dealloc {
    if (memory->base != NULL) {
        forget(memory);
        if (!memory->in_place) {
            device_count(&device_live_bytes, -(uint64_t)memory->length);
        }
    }
    if (deallocator != NULL) {
        deallocator(memory->base, memory->length);
        Block_release(deallocator);
    }
    memory->dead = true;
    device_memory_drop(memory);
    [super dealloc];
}
- (void)setLabel:(NSString *)text {
    [super setLabel:text];
    snprintf(memory->label, sizeof memory->label, "%s", device_name(self));
}
- (NSUInteger)length {
    return memory->length;
}
- (NSUInteger)allocatedSize {
    return memory->length;
}
- (void *)contents {
    return self.storageMode == MTLStorageModePrivate ? NULL : memory->base;
}
- (void)didModifyRange:(NSRange)range {
    (void)range;
    device_violation("didModifyRange: of buffer %s: it is for managed storage", device_name(self));
}
- (uint64_t)gpuAddress {
    return (uint64_t)(uintptr_t)memory->base;
}
- (MTLCPUCacheMode)cpuCacheMode {
    return (MTLCPUCacheMode)(options & 15);
}
- (MTLStorageMode)storageMode {
    return (MTLStorageMode)(options >> 4 & 15);
}
- (MTLHazardTrackingMode)hazardTrackingMode {
    return (MTLHazardTrackingMode)(options >> 8 & 3);
}
- (MTLResourceOptions)resourceOptions {
    return options;
}
@end

/* ---- Events ----------------------------------------------------------------------------------- */

@implementation DeviceEvent
- (uint64_t)signaledValue {
    return device_event_value(self);
}
- (void)setSignaledValue:(uint64_t)signaled {
    device_set_event(self, signaled);
}
- (BOOL)waitUntilSignaledValue:(uint64_t)awaited timeoutMS:(uint64_t)milliseconds {
    return device_wait_for_event(self, awaited, milliseconds);
}
@end

/* ---- Residency sets --------------------------------------------------------------------------- */

@implementation DeviceResidencySet
- (void)dealloc {
    [self removeAllAllocations];
    free(members);
    [super dealloc];
}
- (uint64_t)allocatedSize {
    uint64_t size = 0;
    for (NSUInteger i = 0; i < memberCount; i++) {
        size += [members[i] allocatedSize];
    }
    return size;
}
- (void)requestResidency {
    if (!committed) {
        device_violation("residency of set %s is requested before its changes are committed",
                         device_name(self));
    }
}
- (void)endResidency {
}
- (void)addAllocation:(id<MTLAllocation>)allocation {
    if (![allocation isKindOfClass:[DeviceBuffer class]]) {
        device_violation("what is added to residency set %s is no resource", device_name(self));
        return;
    }
    if ([self containsAllocation:allocation]) {
        return;
    }
    if (memberCount == memberRoom) {
        memberRoom = memberRoom == 0 ? 16 : 2 * memberRoom;
        members = realloc(members, memberRoom * sizeof *members);
        if (members == NULL) {
            abort();
        }
    }
    members[memberCount++] = [allocation retain];
    committed = false;
}
- (void)addAllocations:(const id<MTLAllocation>[])allocations count:(NSUInteger)count {
    for (NSUInteger i = 0; i < count; i++) {
        [self addAllocation:allocations[i]];
    }
}
- (void)removeAllocation:(id<MTLAllocation>)allocation {
    for (NSUInteger i = 0; i < memberCount; i++) {
        if (members[i] == allocation) {
            [members[i] release];
            members[i] = members[--memberCount];
            committed = false;
            return;
        }
    }
}
- (void)removeAllocations:(const id<MTLAllocation>[])allocations count:(NSUInteger)count {
    for (NSUInteger i = 0; i < count; i++) {
        [self removeAllocation:allocations[i]];
    }
}
- (void)removeAllAllocations {
    while (memberCount > 0) {
        [self removeAllocation:members[memberCount - 1]];
    }
}
- (BOOL)containsAllocation:(id<MTLAllocation>)allocation {
    for (NSUInteger i = 0; i < memberCount; i++) {
        if (members[i] == allocation) {
            return YES;
        }
    }
    return NO;
}
- (NSArray<id<MTLAllocation>> *)allAllocations {
    return [NSArray arrayWithObjects:members count:memberCount];
}
- (NSUInteger)allocationCount {
    return memberCount;
}
- (void)commit {
    committed = true;
}
@end
