/* What the files of the Objective-C test device share: violations, counters, and objects that are not of Apple's API. */
#ifndef METAL_DEVICE_OBJECTS_H
#define METAL_DEVICE_OBJECTS_H

#import <Metal/Metal.h>
#include <pthread.h>

#include "control.h"

/* ---- foundation.m ----------------------------------------------------------------------------- */

NSError *device_error(NSString *domain, NSInteger code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Sets *out, where there is one, to an error. */
#define DEVICE_FAIL(out, ...)                                                                      \
    do {                                                                                           \
        if ((out) != NULL)                                                                         \
            *(out) = device_error(__VA_ARGS__);                                                    \
    } while (0)
NSString *device_string(const char *text);

/* ---- options.m, resources.m, device.m ------------------------------------------------------ */

/* Memory outlives its buffer while commands name it, so that their use of a dead buffer is found and harms nothing. */
typedef struct device_memory {
    int holders;
    bool dead; /* the buffer is gone */
    bool untracked, in_place;
    void *base;
    size_t length;
    char label[64];
} device_memory;

device_memory *device_memory_hold(device_memory *memory);
void device_memory_drop(device_memory *memory);

/* Whether a selector is newer than the macOS that the device pretends to be. */
bool device_too_new(SEL selector);
/* The same as a violation, for the beginning of such methods. */
bool device_refuses(const char *method);

/* What all objects of Metal have. */
@interface DeviceObject : NSObject {
  @public
    NSString *label;
    id<MTLDevice> device;
}
- (instancetype)initWithDevice:(id<MTLDevice>)owner;
@property(copy, atomic) NSString *label;
@property(readonly) id<MTLDevice> device;
@end
/* "name" of an object in messages. */
const char *device_name(id object);

@interface DeviceBuffer : DeviceObject <MTLBuffer> {
  @public
    device_memory *memory;
    MTLResourceOptions options;
    void (^deallocator)(void *pointer, NSUInteger length);
}
- (instancetype)initWithMemory:(void *)base
                        length:(NSUInteger)length
                       options:(MTLResourceOptions)choice
                         owner:(id<MTLDevice>)owner;
@end

@interface DevicePipeline : DeviceObject <MTLComputePipelineState> {
  @public
    const gpu_kernel *kernel;
    char name[128];
    NSUInteger most;
}
@end

@interface DeviceEvent : DeviceObject <MTLSharedEvent> {
  @public
    uint64_t value;
}
@end

@interface DeviceResidencySet : DeviceObject <MTLResidencySet> {
  @public
    id *members;
    NSUInteger memberCount, memberRoom;
    bool committed;
}
@end

#endif
