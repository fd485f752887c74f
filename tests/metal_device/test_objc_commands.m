/* The Objective-C test device used rightly: commands are executed, late and in order; barriers, events, handlers and
 * copies do what they should; what was done is counted. */
#import "objc/tests/fixture.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static id<MTLBuffer> counter(const struct fixture *f) {
    id<MTLBuffer> buffer = [f->device newBufferWithLength:4 options:MTLResourceStorageModeShared];
    *(uint32_t *)buffer.contents = 0;
    return buffer;
}

static uint32_t value(id<MTLBuffer> buffer) {
    return *(const uint32_t *)buffer.contents;
}

static id<MTLCommandBuffer> counting(const struct fixture *f, id<MTLBuffer> buffer) {
    id<MTLCommandBuffer> commands = [f->queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    fixture_count(encoder, f, buffer);
    [encoder endEncoding];
    return commands;
}

/* Nothing is to be seen before the wait, everything after it. */
static void results_come_with_the_wait(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLBuffer> x = fixture_floats(f->device, 8), y = fixture_floats(f->device, 8);
        id<MTLCommandBuffer> commands = [f->queue commandBuffer];
        id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
        fixture_scale(encoder, f, x, y, 8, 3);
        [encoder endEncoding];
        assert_int_equal(commands.status, MTLCommandBufferStatusNotEnqueued);
        [commands commit];
        struct timespec while_later = {0, 20000000};
        nanosleep(&while_later, NULL);
        assert_true(((float *)y.contents)[2] == 2);
        [commands waitUntilCompleted];
        assert_int_equal(commands.status, MTLCommandBufferStatusCompleted);
        assert_null(commands.error);
        for (int i = 0; i < 8; i++) {
            assert_true(((float *)y.contents)[i] == 3 * (float)i);
        }
        [x release];
        [y release];
    }
}

/* What was handed in by setBytes:, and what was bound, is that of the time of the dispatch. */
static void dispatches_keep_their_arguments(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLBuffer> x = fixture_floats(f->device, 8), y = fixture_floats(f->device, 8);
        id<MTLCommandBuffer> commands = [f->queue commandBuffer];
        id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
        fixture_scale(encoder, f, x, y, 8, 3);
        struct {
            uint32_t n;
            float factor;
        } other = {2, 5};
        [encoder setBytes:&other length:sizeof other atIndex:0];
        other.factor = 7;
        [encoder setBufferOffset:16 atIndex:1];
        [encoder setBufferOffset:4 atIndex:2];
        [encoder dispatchThreads:MTLSizeMake(64, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
        [encoder endEncoding];
        [commands commit];
        [commands waitUntilCompleted];
        const float expected[] = {0, 20, 25, 9, 12, 15, 18, 21};
        assert_memory_equal(y.contents, expected, sizeof expected);
        [x release];
        [y release];
    }
}

/* The one that is waited for, and those before it in its queue. */
static void queues_keep_their_order(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLBuffer> buffer = counter(f);
        id<MTLCommandBuffer> first = counting(f, buffer), second = counting(f, buffer),
                             third = counting(f, buffer);
        [first commit];
        [second commit];
        [third commit];
        [second waitUntilCompleted];
        assert_int_equal(first.status, MTLCommandBufferStatusCompleted);
        assert_int_equal(value(buffer), 256);
        [third waitUntilCompleted];
        assert_int_equal(value(buffer), 384);
        [buffer release];
    }
}

static NSError *error_of_two(const struct fixture *f, MTLDispatchType type, int barrier,
                             MTLResourceOptions options) {
    id<MTLBuffer> x = [f->device newBufferWithLength:4 options:options];
    *(uint32_t *)x.contents = 0;
    id<MTLCommandBuffer> commands = [f->queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:type];
    fixture_count(encoder, f, x);
    if (barrier == 1) {
        [encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
    } else if (barrier == 2) {
        [encoder memoryBarrierWithResources:(const id<MTLResource>[]){x} count:1];
    } else if (barrier == 3) {
        [encoder endEncoding];
        encoder = [commands computeCommandEncoderWithDispatchType:type];
    }
    fixture_count(encoder, f, x);
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
    assert_true(commands.error != nil || value(x) == 256);
    assert_int_equal(commands.status, commands.error == nil ? MTLCommandBufferStatusCompleted
                                                            : MTLCommandBufferStatusError);
    [x release];
    return commands.error;
}

static void only_barriers_order_concurrent_dispatches(void **state) {
    const struct fixture *f = *state;
    const MTLResourceOptions tracked = MTLResourceStorageModeShared,
                             untracked = MTLResourceHazardTrackingModeUntracked;
    @autoreleasepool {
        metal_device_counts mark = metal_device_counted();
        assert_null(error_of_two(f, MTLDispatchTypeSerial, 0, tracked));
        assert_int_equal(metal_device_since(&mark).barriers, 0);
        NSError *error = error_of_two(f, MTLDispatchTypeConcurrent, 0, tracked);
        assert_non_null(error);
        assert_true([error.domain isEqualToString:MTLCommandBufferErrorDomain]);
        assert_non_null(strstr(error.localizedDescription.UTF8String, "race"));
        assert_null(error_of_two(f, MTLDispatchTypeConcurrent, 1, tracked));
        assert_null(error_of_two(f, MTLDispatchTypeConcurrent, 2, tracked));
        assert_int_equal(metal_device_since(&mark).barriers, 2);
        assert_null(error_of_two(f, MTLDispatchTypeConcurrent, 3, tracked));
        assert_non_null(error_of_two(f, MTLDispatchTypeConcurrent, 3, untracked));
        assert_int_equal(metal_device_since(&mark).failed, 2);
    }
}

static void errors_of_kernels_fail_their_commands(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLBuffer> x = fixture_floats(f->device, 8), y = fixture_floats(f->device, 4);
        id<MTLCommandBuffer> commands = [f->queue commandBuffer];
        id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
        fixture_scale(encoder, f, x, y, 8, 3);
        [encoder endEncoding];
        [commands commit];
        [commands waitUntilCompleted];
        assert_int_equal(commands.status, MTLCommandBufferStatusError);
        assert_string_equal(commands.error.localizedDescription.UTF8String, "scale: out of bounds");
        id<MTLBuffer> n = counter(f);
        id<MTLCommandBuffer> next = counting(f, n);
        [next commit];
        [next waitUntilCompleted];
        assert_int_equal(next.status, MTLCommandBufferStatusCompleted);
        [x release];
        [y release];
        [n release];
    }
}

/* ---- Handlers and events ---------------------------------------------------------------------- */

static void handlers_are_called_without_a_wait(void **state) {
    const struct fixture *f = *state;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t called = PTHREAD_COND_INITIALIZER;
    __block int calls = 0;
    __block MTLCommandBufferStatus seen = MTLCommandBufferStatusNotEnqueued;
    @autoreleasepool {
        id<MTLBuffer> buffer = counter(f);
        id<MTLCommandBuffer> commands = counting(f, buffer);
        [commands addCompletedHandler:^(id<MTLCommandBuffer> done) {
          pthread_mutex_lock(&lock);
          seen = done.status;
          calls += (int)value(buffer);
          pthread_cond_signal(&called);
          pthread_mutex_unlock(&lock);
        }];
        [commands commit];
        [buffer release]; /* the block holds it, and so do the commands */
        pthread_mutex_lock(&lock);
        while (calls == 0) {
            pthread_cond_wait(&called, &lock);
        }
        pthread_mutex_unlock(&lock);
        assert_int_equal(calls, 128);
        assert_int_equal(seen, MTLCommandBufferStatusCompleted);
        [commands waitUntilCompleted];
    }
}

static void events_order_queues(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLCommandQueue> other = [f->device newCommandQueue];
        id<MTLSharedEvent> event = [f->device newSharedEvent];
        id<MTLBuffer> buffer = counter(f);
        id<MTLCommandBuffer> waiting = [f->queue commandBuffer];
        [waiting encodeWaitForEvent:event value:1];
        id<MTLComputeCommandEncoder> encoder = [waiting computeCommandEncoder];
        fixture_count(encoder, f, buffer);
        [encoder endEncoding];
        [waiting encodeSignalEvent:event value:2];
        [waiting commit];
        id<MTLCommandBuffer> signalling = [other commandBuffer];
        [signalling encodeSignalEvent:event value:1];
        [signalling commit];
        assert_true([event waitUntilSignaledValue:2 timeoutMS:10000]);
        assert_int_equal(event.signaledValue, 2);
        assert_int_equal(value(buffer), 128);
        assert_false([event waitUntilSignaledValue:3 timeoutMS:10]);
        event.signaledValue = 3;
        assert_true([event waitUntilSignaledValue:3 timeoutMS:0]);
        [waiting waitUntilCompleted];
        [signalling waitUntilCompleted];
        [buffer release];
        [event release];
        [other release];
    }
}

/* What comes later in a queue does not overtake what waits for an event; other queues go on. */
static void blocked_queues_stay_in_order(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLSharedEvent> event = [f->device newSharedEvent];
        id<MTLBuffer> buffer = counter(f);
        id<MTLCommandBuffer> waiting = [f->queue commandBuffer];
        [waiting encodeWaitForEvent:event value:1];
        [waiting commit];
        id<MTLCommandBuffer> later = counting(f, buffer);
        [later commit];
        assert_false([event waitUntilSignaledValue:1 timeoutMS:50]);
        assert_int_equal(value(buffer), 0);
        event.signaledValue = 1;
        [later waitUntilCompleted];
        assert_int_equal(value(buffer), 128);
        [buffer release];
        [event release];
    }
}

static void done_commands_hold_nothing(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLBuffer> buffer = counter(f);
        id<MTLCommandBuffer> commands = counting(f, buffer);
        [buffer release];
        [commands commit];
        assert_int_equal(metal_device_live_bytes(), 4);
        [commands waitUntilCompleted];
        assert_int_equal(metal_device_live_bytes(), 0);
    }
}

static void polling_gets_there(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLBuffer> buffer = counter(f);
        id<MTLCommandBuffer> commands = counting(f, buffer);
        [commands commit];
        while (commands.status != MTLCommandBufferStatusCompleted) {
            sched_yield();
        }
        assert_int_equal(value(buffer), 128);
        [buffer release];
    }
}

/* 200 command buffers through a queue of 64, which blocks until there is room. */
static void queues_block_when_full(void **state) {
    const struct fixture *f = *state;
    id<MTLCommandBuffer> last = nil;
    id<MTLBuffer> buffer = counter(f);
    for (int i = 0; i < 200; i++) {
        @autoreleasepool {
            [last release];
            last = [counting(f, buffer) retain];
            [last commit];
        }
    }
    [last waitUntilCompleted];
    assert_int_equal(value(buffer), 200 * 128);
    [last release];
    [buffer release];
}

/* ---- Memory ----------------------------------------------------------------------------------- */

static void copies_and_fills(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        metal_device_counts mark = metal_device_counted();
        id<MTLBuffer> x = fixture_floats(f->device, 8), y = fixture_floats(f->device, 8);
        id<MTLCommandBuffer> commands = [f->queue commandBuffer];
        id<MTLBlitCommandEncoder> encoder = [commands blitCommandEncoder];
        [encoder copyFromBuffer:x sourceOffset:16 toBuffer:y destinationOffset:0 size:8];
        [encoder fillBuffer:y range:NSMakeRange(24, 8) value:0];
        [encoder endEncoding];
        [commands commit];
        [commands waitUntilCompleted];
        const float expected[] = {4, 5, 2, 3, 4, 5, 0, 0};
        assert_memory_equal(y.contents, expected, sizeof expected);
        metal_device_counts counts = metal_device_since(&mark);
        assert_int_equal(counts.blits, 2);
        assert_int_equal(counts.read, 8);
        assert_int_equal(counts.written, 16);
        [x release];
        [y release];
    }
}

static void memory_of_the_caller_is_used_in_place(void **state) {
    const struct fixture *f = *state;
    size_t page = (size_t)metal_device_default().page;
    void *memory = aligned_alloc(page, page);
    assert_non_null(memory);
    memset(memory, 0, page);
    __block int freed = 0;
    @autoreleasepool {
        id<MTLBuffer> buffer =
            [f->device newBufferWithBytesNoCopy:memory
                                         length:page
                                        options:MTLResourceStorageModeShared
                                    deallocator:^(void *pointer, NSUInteger length) {
                                      freed += pointer == memory && length == page;
                                    }];
        assert_ptr_equal(buffer.contents, memory);
        assert_int_equal(metal_device_live_bytes(), 0);
        id<MTLCommandBuffer> commands = counting(f, buffer);
        [commands commit];
        [buffer release];
        [commands waitUntilCompleted];
    }
    assert_int_equal(*(uint32_t *)memory, 128);
    assert_int_equal(freed, 1);
    free(memory);
}

static void new_memory_is_not_zero(void **state) {
    const struct fixture *f = *state;
    id<MTLBuffer> buffer = [f->device newBufferWithLength:8 options:MTLResourceStorageModeShared];
    assert_true(((uint32_t *)buffer.contents)[1] == 0xffffffff);
    [buffer release];
    buffer = [f->device newBufferWithBytes:"seven.." length:8 options:MTLResourceStorageModeShared];
    assert_string_equal(buffer.contents, "seven..");
    [buffer release];
    buffer = [f->device newBufferWithLength:8 options:MTLResourceStorageModePrivate];
    assert_null(buffer.contents);
    [buffer release];
}

static void residency_sets_hold_memory(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        MTLResidencySetDescriptor *descriptor =
            [[[MTLResidencySetDescriptor alloc] init] autorelease];
        descriptor.initialCapacity = 4;
        id<MTLResidencySet> set = [f->device newResidencySetWithDescriptor:descriptor error:NULL];
        id<MTLBuffer> x = fixture_floats(f->device, 8), y = fixture_floats(f->device, 8);
        [set addAllocation:x];
        [set addAllocations:(const id<MTLAllocation>[]){x, y} count:2];
        [set commit];
        [set requestResidency];
        assert_int_equal(set.allocationCount, 2);
        assert_int_equal(set.allocatedSize, 64);
        assert_true([set containsAllocation:y]);
        [f->queue addResidencySet:set];
        [set removeAllocation:x];
        [set commit];
        assert_false([set containsAllocation:x]);
        assert_int_equal(set.allAllocations.count, 1);
        [f->queue removeResidencySet:set];
        [x release];
        [y release];
        [set release];
    }
}

static void everything_is_counted(void **state) {
    const struct fixture *f = *state;
    metal_device_counts mark = metal_device_counted();
    uint64_t objects = metal_device_live_objects();
    @autoreleasepool {
        id<MTLBuffer> x = fixture_floats(f->device, 8), y = fixture_floats(f->device, 8);
        assert_int_equal(metal_device_live_bytes(), 64);
        assert_int_equal(f->device.currentAllocatedSize, 64);
        id<MTLCommandBuffer> commands = [f->queue commandBuffer];
        id<MTLComputeCommandEncoder> encoder =
            [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
        fixture_scale(encoder, f, x, y, 8, 3);
        [encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
        fixture_scale(encoder, f, y, x, 4, 3);
        [encoder endEncoding];
        [commands commit];
        [commands waitUntilCompleted];
        [x release];
        [y release];
    }
    metal_device_counts counts = metal_device_since(&mark);
    assert_int_equal(counts.buffers, 2);
    assert_int_equal(counts.buffer_bytes, 64);
    assert_int_equal(counts.command_buffers, 1);
    assert_int_equal(counts.encoders, 1);
    assert_int_equal(counts.dispatches, 2);
    assert_int_equal(counts.barriers, 1);
    assert_int_equal(counts.waits, 1);
    assert_int_equal(counts.read, 32 + 8 + 16 + 8);
    assert_int_equal(counts.written, 32 + 16);
    assert_int_equal(counts.libraries + counts.pipelines + counts.queues + counts.violations, 0);
    assert_int_equal(metal_device_live_objects(), objects);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(results_come_with_the_wait),
        TEST(dispatches_keep_their_arguments),
        TEST(queues_keep_their_order),
        TEST(only_barriers_order_concurrent_dispatches),
        TEST(errors_of_kernels_fail_their_commands),
        TEST(handlers_are_called_without_a_wait),
        TEST(events_order_queues),
        TEST(blocked_queues_stay_in_order),
        TEST(done_commands_hold_nothing),
        TEST(polling_gets_there),
        TEST(queues_block_when_full),
        TEST(copies_and_fills),
        TEST(memory_of_the_caller_is_used_in_place),
        TEST(new_memory_is_not_zero),
        TEST(residency_sets_hold_memory),
        TEST(everything_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
