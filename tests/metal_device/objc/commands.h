/* Commands of the Metal test device: recorded by encoders (commands.m, encoders.m), executed later by a thread that is
 * the GPU (execute.m). */
#ifndef METAL_DEVICE_COMMANDS_H
#define METAL_DEVICE_COMMANDS_H

#import "objects.h"

enum command_kind {
    COMMAND_DISPATCH,
    COMMAND_FENCE,
    COMMAND_COPY,
    COMMAND_FILL,
    COMMAND_SIGNAL,
    COMMAND_AWAIT
};

struct command {
    enum command_kind kind;
    bool counted; /* a fence that the host asked for */
    union {
        struct {
            gpu_launch launch;
            device_memory *memory[GPU_BUFFERS];
            void *bytes; /* of setBytes, one after the other */
            char name[128];
        } dispatch;
        struct {
            device_memory *from, *to;
            size_t from_offset, to_offset, size;
            uint8_t value;
        } blit;
        struct {
            DeviceEvent *event;
            uint64_t value;
        } event;
    };
};

@interface DeviceQueue : DeviceObject <MTLCommandQueue> {
  @public
    NSUInteger most, unfinished; /* command buffers that are made and not done */
    id sets[32];
}
- (instancetype)initWithDevice:(id<MTLDevice>)owner most:(NSUInteger)count;
@end

@interface DeviceCommandBuffer : DeviceObject <MTLCommandBuffer> {
  @public
    DeviceQueue *queue;
    bool retaining;
    id encoder; /* the open one; it holds this */
    struct command *commands;
    size_t count, room, at; /* at: the next to be executed */
    id *kept;               /* objects that are held until the commands are done */
    size_t keptCount, keptRoom;
    MTLCommandBufferHandler *handlers[2]; /* scheduled, completed */
    size_t handlerCount[2];
    char doom[512]; /* why it must fail: what was done wrong while it was encoded */

    /* Below: under the lock of execute.m once it is committed. */
    MTLCommandBufferStatus state;
    NSError *failure;
    DeviceCommandBuffer *next;
    bool wanted, done, counted, failing;
    size_t fail_at;
    NSInteger fail_code;
    uint64_t blocked_since; /* milliseconds; 0: it does not wait for an event */
    double began, ended;
}
- (instancetype)initWithQueue:(DeviceQueue *)owner retaining:(bool)retains;
- (struct command *)add:(enum command_kind)kind;
- (void)keep:(id)object;
- (void)letGo; /* of commands, handlers and what they hold */
/* A violation that makes these commands fail. */
- (void)wrong:(const char *)format, ... __attribute__((format(printf, 1, 2)));
@end

/* What both kinds of encoders have. */
@interface DeviceEncoder : DeviceObject <MTLCommandEncoder> {
  @public
    DeviceCommandBuffer *buffer;
    bool ended, untracked; /* untracked: it names memory whose hazards Metal does not track */
    int debugGroups;
}
- (instancetype)initWithBuffer:(DeviceCommandBuffer *)commands;
/* Whether commands may still be recorded; a violation otherwise. */
- (bool)open:(const char *)method;
@end

@interface DeviceComputeEncoder : DeviceEncoder <MTLComputeCommandEncoder> {
  @public
    MTLDispatchType type;
    DevicePipeline *pipeline;
    struct {
        device_memory *memory;
        NSUInteger offset, size;
        void *bytes;
    } bound[GPU_BUFFERS];
    uint32_t threadgroup_bytes[GPU_BUFFERS];
    device_memory **written; /* since the last barrier */
    size_t writtenCount, writtenRoom;
}
@end

@interface DeviceBlitEncoder : DeviceEncoder <MTLBlitCommandEncoder>
@end

/* ---- execute.m -------------------------------------------------------------------------------- */

/* The thread, which lives to the end of the process. */
void device_start(void);
void device_commit(DeviceCommandBuffer *commands);
/* Blocks until they are scheduled, or done. */
void device_wait_for(DeviceCommandBuffer *commands, bool scheduled);
MTLCommandBufferStatus device_status(DeviceCommandBuffer *commands);
NSError *device_failure(DeviceCommandBuffer *commands);
/* Room for one more command buffer; blocks as Metal does. false: it would block forever. */
bool device_reserve(DeviceQueue *queue);
void device_unreserve(DeviceQueue *queue);
void device_free_command(struct command *command);

/* Lets the GPU execute what was committed, and waits until the event has the value, at most so long. */
bool device_wait_for_event(DeviceEvent *event, uint64_t value, uint64_t milliseconds);
uint64_t device_event_value(DeviceEvent *event);
void device_set_event(DeviceEvent *event, uint64_t value);

#endif
