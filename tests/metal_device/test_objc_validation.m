/* Every rule of the Objective-C test device's validation: the wrong call is told, does nothing, and the commands that it
 * belongs to fail. */
#import "objc/tests/fixture.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Command buffer and encoder of a test, and two buffers of 64 bytes. */
struct setting {
    id<MTLBuffer> x, y;
    id<MTLCommandBuffer> commands;
    id<MTLComputeCommandEncoder> encoder;
    id<MTLBlitCommandEncoder> blit;
};

typedef void wrong_use(const struct fixture *f, struct setting *s);

enum kind { SERIAL, CONCURRENT, BLIT, NO_ENCODER };

static void open_setting(const struct fixture *f, struct setting *s, enum kind kind) {
    memset(s, 0, sizeof *s);
    s->x = fixture_floats(f->device, 16);
    s->y = fixture_floats(f->device, 16);
    s->commands = [f->queue commandBuffer];
    if (kind == BLIT) {
        s->blit = [s->commands blitCommandEncoder];
    } else if (kind != NO_ENCODER) {
        s->encoder = [s->commands
            computeCommandEncoderWithDispatchType:kind == SERIAL ? MTLDispatchTypeSerial
                                                                 : MTLDispatchTypeConcurrent];
    }
}

/* The violation is told, and fails the commands with the same words. */
static void expect_failure(const struct fixture *f, enum kind kind, wrong_use *use,
                           const char *words) {
    @autoreleasepool {
        struct setting s;
        open_setting(f, &s, kind);
        use(f, &s);
        [s.encoder endEncoding];
        [s.blit endEncoding];
        expect_violation(words);
        if (s.commands.status == MTLCommandBufferStatusNotEnqueued) {
            [s.commands commit];
        }
        [s.commands waitUntilCompleted];
        assert_int_equal(s.commands.status, MTLCommandBufferStatusError);
        assert_int_equal(s.commands.error.code, MTLCommandBufferErrorInvalidResource);
        assert_non_null(strstr(s.commands.error.localizedDescription.UTF8String, words));
        expect_no_violation();
        [s.x release];
        [s.y release];
    }
}

static void dispatch(id<MTLComputeCommandEncoder> encoder, NSUInteger groups, NSUInteger threads) {
    [encoder dispatchThreadgroups:MTLSizeMake(groups, 1, 1)
            threadsPerThreadgroup:MTLSizeMake(threads, 1, 1)];
}

/* ---- Arguments -------------------------------------------------------------------------------- */

static void set_no_bytes(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder setBytes:"" length:0 atIndex:0];
}

static void set_many_bytes(const struct fixture *f, struct setting *s) {
    (void)f;
    char bytes[4100] = "";
    [s->encoder setBytes:bytes length:sizeof bytes atIndex:0];
}

static void set_bytes_past_the_table(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder setBytes:"abcd" length:4 atIndex:31];
}

static void set_buffer_past_the_table(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder setBuffer:s->x offset:0 atIndex:31];
}

static void set_odd_offset(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder setBuffer:s->x offset:6 atIndex:0];
}

static void set_offset_past_the_end(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder setBuffer:s->x offset:64 atIndex:0];
}

static void move_offset_past_the_end(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder setBuffer:s->x offset:0 atIndex:0];
    [s->encoder setBufferOffset:68 atIndex:0];
}

static void move_offset_of_nothing(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder setBufferOffset:0 atIndex:3];
}

static void set_odd_threadgroup_memory(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder setThreadgroupMemoryLength:24 atIndex:0];
}

static void set_much_threadgroup_memory(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder setThreadgroupMemoryLength:32768 + 16 atIndex:0];
}

static void set_no_pipeline(const struct fixture *f, struct setting *s) {
    (void)f;
    id<MTLComputePipelineState> none = nil;
    [s->encoder setComputePipelineState:none];
}

static void arguments_are_looked_at(void **state) {
    const struct fixture *f = *state;
    expect_failure(f, SERIAL, set_no_bytes, "from 1 to 4096");
    expect_failure(f, SERIAL, set_many_bytes, "from 1 to 4096");
    expect_failure(f, SERIAL, set_bytes_past_the_table, "index 31 is above 30");
    expect_failure(f, SERIAL, set_buffer_past_the_table, "index 31 is above 30");
    expect_failure(f, SERIAL, set_odd_offset, "multiple of 4");
    expect_failure(f, SERIAL, set_offset_past_the_end, "below its length, 64");
    expect_failure(f, SERIAL, move_offset_past_the_end, "below its length, 64");
    expect_failure(f, SERIAL, move_offset_of_nothing, "no buffer is bound there");
    expect_failure(f, SERIAL, set_odd_threadgroup_memory, "multiple of 16");
    expect_failure(f, SERIAL, set_much_threadgroup_memory, "at most 32768");
    expect_failure(f, SERIAL, set_no_pipeline, "the pipeline is nil");
}

/* ---- Dispatches ------------------------------------------------------------------------------- */

static void dispatch_nothing(const struct fixture *f, struct setting *s) {
    (void)f;
    dispatch(s->encoder, 1, 32);
}

static void dispatch_no_groups(const struct fixture *f, struct setting *s) {
    [s->encoder setComputePipelineState:f->count];
    [s->encoder setBuffer:s->x offset:0 atIndex:0];
    dispatch(s->encoder, 0, 32);
}

static void dispatch_too_many_threads(const struct fixture *f, struct setting *s) {
    [s->encoder setComputePipelineState:f->count];
    [s->encoder setBuffer:s->x offset:0 atIndex:0];
    [s->encoder dispatchThreadgroups:MTLSizeMake(1, 1, 1)
               threadsPerThreadgroup:MTLSizeMake(64, 32, 1)];
}

static void dispatch_a_huge_grid(const struct fixture *f, struct setting *s) {
    [s->encoder setComputePipelineState:f->count];
    [s->encoder setBuffer:s->x offset:0 atIndex:0];
    dispatch(s->encoder, (NSUInteger)1 << 28, 32);
}

static void dispatch_with_nothing_bound(const struct fixture *f, struct setting *s) {
    [s->encoder setComputePipelineState:f->scale];
    [s->encoder setBytes:"abcdefgh" length:8 atIndex:0];
    [s->encoder setBuffer:s->x offset:0 atIndex:1];
    dispatch(s->encoder, 1, 32);
}

static void dispatch_with_nil_bound(const struct fixture *f, struct setting *s) {
    id<MTLBuffer> none = nil;
    [s->encoder setComputePipelineState:f->count];
    [s->encoder setBuffer:s->x offset:0 atIndex:0];
    [s->encoder setBuffer:none offset:0 atIndex:0];
    dispatch(s->encoder, 1, 32);
}

static void dispatch_that_writes_bytes(const struct fixture *f, struct setting *s) {
    [s->encoder setComputePipelineState:f->count];
    [s->encoder setBytes:"abcd" length:4 atIndex:0];
    dispatch(s->encoder, 1, 32);
}

static void dispatch_with_much_threadgroup_memory(const struct fixture *f, struct setting *s) {
    [s->encoder setComputePipelineState:f->shared]; /* 30,000 of its own */
    [s->encoder setBuffer:s->x offset:0 atIndex:0];
    [s->encoder setThreadgroupMemoryLength:2048 atIndex:0];
    [s->encoder setThreadgroupMemoryLength:1024 atIndex:1];
    dispatch(s->encoder, 1, 32);
}

static void dispatch_a_ragged_grid(const struct fixture *f, struct setting *s) {
    [s->encoder setComputePipelineState:f->count];
    [s->encoder setBuffer:s->x offset:0 atIndex:0];
    [s->encoder dispatchThreads:MTLSizeMake(40, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
}

static void dispatches_are_looked_at(void **state) {
    const struct fixture *f = *state;
    expect_failure(f, SERIAL, dispatch_nothing, "no pipeline is set");
    expect_failure(f, SERIAL, dispatch_no_groups, "0 x 1 x 1 threadgroups");
    expect_failure(f, SERIAL, dispatch_too_many_threads, "the pipeline takes 1024");
    expect_failure(f, SERIAL, dispatch_a_huge_grid, "do not fit 32 bits");
    expect_failure(f, SERIAL, dispatch_with_nothing_bound, "nothing is bound to buffer(2)");
    expect_failure(f, SERIAL, dispatch_with_nil_bound, "nothing is bound to buffer(0)");
    expect_failure(f, SERIAL, dispatch_that_writes_bytes, "is bound by setBytes:");
    expect_failure(f, SERIAL, dispatch_with_much_threadgroup_memory, "33072 bytes");
    expect_failure(f, SERIAL, dispatch_a_ragged_grid, "whole ones only");
}

/* ---- Encoders --------------------------------------------------------------------------------- */

static void open_another_encoder(const struct fixture *f, struct setting *s) {
    (void)f;
    (void)[s->commands blitCommandEncoder];
}

static void encode_after_the_end(const struct fixture *f, struct setting *s) {
    [s->encoder endEncoding];
    fixture_count(s->encoder, f, s->x);
    s->encoder = nil;
}

static void end_twice(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder endEncoding];
}

static void signal_inside_an_encoder(const struct fixture *f, struct setting *s) {
    id<MTLSharedEvent> event = [[f->device newSharedEvent] autorelease];
    [s->commands encodeSignalEvent:event value:1];
}

static void pop_no_group(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder popDebugGroup];
}

static void leave_a_group_open(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder pushDebugGroup:@"a layer"];
    [s->encoder endEncoding];
    s->encoder = nil;
}

static void lose_an_encoder(const struct fixture *f, struct setting *s) {
    (void)f;
    @autoreleasepool {
        (void)[s->commands computeCommandEncoder];
    }
}

static void barrier_for_textures(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->encoder memoryBarrierWithScope:MTLBarrierScopeTextures];
}

static void barrier_for_other_memory(const struct fixture *f, struct setting *s) {
    fixture_count(s->encoder, f, s->x);
    [s->encoder memoryBarrierWithResources:(const id<MTLResource>[]){s->y} count:1];
}

static void encoders_are_looked_at(void **state) {
    const struct fixture *f = *state;
    expect_failure(f, SERIAL, open_another_encoder, "while an encoder is open");
    expect_failure(f, SERIAL, encode_after_the_end, "after endEncoding");
    expect_failure(f, SERIAL, signal_inside_an_encoder, "while an encoder is open");
    expect_failure(f, SERIAL, pop_no_group, "there is none");
    expect_failure(f, SERIAL, leave_a_group_open, "is not popped");
    expect_failure(f, NO_ENCODER, lose_an_encoder, "released without endEncoding");
    expect_failure(f, CONCURRENT, barrier_for_textures, "does not include buffers");
    expect_failure(f, CONCURRENT, barrier_for_other_memory, "leaves out memory");
    @autoreleasepool { /* expect_failure ends it once more */
        struct setting s;
        open_setting(f, &s, SERIAL);
        end_twice(f, &s);
        [s.encoder endEncoding];
        expect_violation("endEncoding after endEncoding");
        [s.x release];
        [s.y release];
    }
}

/* ---- Copies ----------------------------------------------------------------------------------- */

static void copy(struct setting *s, id<MTLBuffer> to, NSUInteger from, NSUInteger at,
                 NSUInteger size) {
    [s->blit copyFromBuffer:s->x sourceOffset:from toBuffer:to destinationOffset:at size:size];
}

static void copy_odd_bytes(const struct fixture *f, struct setting *s) {
    (void)f;
    copy(s, s->y, 0, 0, 6);
}

static void copy_past_the_end(const struct fixture *f, struct setting *s) {
    (void)f;
    copy(s, s->y, 32, 48, 32);
}

static void copy_overlapping(const struct fixture *f, struct setting *s) {
    (void)f;
    copy(s, s->x, 0, 8, 16);
}

static void copy_to_nowhere(const struct fixture *f, struct setting *s) {
    (void)f;
    copy(s, nil, 0, 0, 16);
}

static void fill_past_the_end(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->blit fillBuffer:s->x range:NSMakeRange(32, 36) value:0];
}

static void fill_nothing(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->blit fillBuffer:s->x range:NSMakeRange(32, 0) value:0];
}

static void synchronize(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->blit synchronizeResource:s->x];
}

static void copies_are_looked_at(void **state) {
    const struct fixture *f = *state;
    expect_failure(f, BLIT, copy_odd_bytes, "multiples of 4");
    expect_failure(f, BLIT, copy_past_the_end, "32 bytes from 48");
    expect_failure(f, BLIT, copy_overlapping, "overlap");
    expect_failure(f, BLIT, copy_to_nowhere, "a buffer is nil");
    expect_failure(f, BLIT, fill_past_the_end, "36 bytes from 32");
    expect_failure(f, BLIT, fill_nothing, "0 bytes from 32");
    expect_failure(f, BLIT, synchronize, "managed storage");
}

/* ---- Command buffers -------------------------------------------------------------------------- */

static void commit_while_open(const struct fixture *f, struct setting *s) {
    (void)f;
    [s->commands commit];
}

static void commits_are_looked_at(void **state) {
    const struct fixture *f = *state;
    expect_failure(f, SERIAL, commit_while_open, "commit while an encoder is open");
    @autoreleasepool {
        struct setting s;
        open_setting(f, &s, NO_ENCODER);
        [s.commands waitUntilCompleted];
        expect_violation("before commit: this would block forever");
        [s.commands waitUntilScheduled];
        expect_violation("before commit: this would block forever");
        s.commands = [f->queue commandBuffer];
        [s.commands commit];
        [s.commands commit];
        expect_violation("commit for the second time");
        [s.commands addCompletedHandler:^(id<MTLCommandBuffer> done) {
          (void)done;
        }];
        expect_violation("addCompletedHandler: after commit");
        assert_null([s.commands computeCommandEncoder]);
        expect_violation("computeCommandEncoder after commit");
        [s.commands waitUntilCompleted];
        [s.x release];
        [s.y release];
    }
}

static void handlers_may_not_wait(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLCommandBuffer> commands = [f->queue commandBuffer];
        [commands addCompletedHandler:^(id<MTLCommandBuffer> done) {
          [done waitUntilCompleted];
        }];
        [commands commit];
        [commands waitUntilCompleted];
        expect_violation("its own handler");
    }
}

static void queues_may_not_be_used_up(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLCommandQueue> queue = [f->device newCommandQueueWithMaxCommandBufferCount:2];
        assert_non_null([queue commandBuffer]);
        assert_non_null([queue commandBuffer]);
        assert_null([queue commandBuffer]);
        expect_violation("none is committed");
        [queue release];
    }
}

static void released_memory_is_found(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLBuffer> x = fixture_floats(f->device, 1);
        x.label = @"weights";
        id<MTLCommandBuffer> commands = [f->queue commandBufferWithUnretainedReferences];
        assert_false(commands.retainedReferences);
        id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
        fixture_count(encoder, f, x);
        [encoder endEncoding];
        [x release];
        assert_int_equal(metal_device_live_bytes(), 0);
        [commands commit];
        [commands waitUntilCompleted];
        assert_int_equal(commands.status, MTLCommandBufferStatusError);
        assert_non_null(strstr(commands.error.localizedDescription.UTF8String,
                               "buffer weights, which was released"));
    }
}

static void events_that_never_come(void **state) {
    struct fixture *f = *state;
    fixture_close(f);
    metal_device_config config = metal_device_default();
    config.patience = 30;
    metal_device_configure(&config);
    @autoreleasepool {
        fixture_open(f);
        id<MTLSharedEvent> event = [f->device newSharedEvent];
        event.signaledValue = 4;
        id<MTLCommandBuffer> commands = [f->queue commandBuffer];
        [commands encodeWaitForEvent:event value:5];
        [commands commit];
        [commands waitUntilCompleted];
        expect_violation("waits for value 5 of event (no label), which has 4");
        assert_int_equal(commands.error.code, MTLCommandBufferErrorTimeout);
        event.signaledValue = 3;
        expect_violation("from 4 back to 3");
        [event release];
    }
}

/* ---- Resources -------------------------------------------------------------------------------- */

static void buffers_are_looked_at(void **state) {
    const struct fixture *f = *state;
    const MTLResourceOptions shared = MTLResourceStorageModeShared;
    const size_t page = (size_t)metal_device_default().page;
    assert_null([f->device newBufferWithLength:0 options:shared]);
    expect_violation("the length is 0");
    assert_null([f->device newBufferWithLength:f->device.maxBufferLength + 1 options:shared]);
    expect_violation("more than maxBufferLength");
    assert_null([f->device newBufferWithLength:16 options:MTLResourceStorageModeManaged]);
    expect_violation("storage mode 1");
    assert_null([f->device newBufferWithBytes:"ab" length:2 options:MTLResourceStorageModePrivate]);
    expect_violation("storage mode 2");
    char *memory = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    assert_int_equal(munmap(memory + page, page), 0);
    assert_null([f->device newBufferWithBytesNoCopy:memory + 64
                                             length:page
                                            options:shared
                                        deallocator:nil]);
    expect_violation("multiples of the page");
    assert_null([f->device newBufferWithBytesNoCopy:memory
                                             length:page - 64
                                            options:shared
                                        deallocator:nil]);
    expect_violation("multiples of the page");
    assert_null([f->device newBufferWithBytesNoCopy:memory
                                             length:2 * page
                                            options:shared
                                        deallocator:nil]);
    expect_violation("are mapped");
    munmap(memory, page);
    munmap(memory + 2 * page, page);
    id<MTLBuffer> buffer = fixture_floats(f->device, 4);
    [buffer didModifyRange:NSMakeRange(0, 4)];
    expect_violation("managed storage");
    [buffer release];
}

static void residency_is_looked_at(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        MTLResidencySetDescriptor *descriptor =
            [[[MTLResidencySetDescriptor alloc] init] autorelease];
        id<MTLResidencySet> set = [f->device newResidencySetWithDescriptor:descriptor error:NULL];
        id<MTLBuffer> x = fixture_floats(f->device, 4);
        [set addAllocation:x];
        [set requestResidency];
        expect_violation("before its changes are committed");
        [f->queue addResidencySet:set];
        expect_violation("whose changes are not committed");
        [set addAllocation:(id<MTLAllocation>)f->queue];
        expect_violation("is no resource");
        [x release];
        [set release];
    }
}

static void pipelines_are_looked_at(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLFunction> none = nil;
        assert_null([f->device newComputePipelineStateWithFunction:none error:NULL]);
        expect_violation("made of no function");
        MTLComputePipelineDescriptor *descriptor =
            [[[MTLComputePipelineDescriptor alloc] init] autorelease];
        descriptor.computeFunction = [[f->library newFunctionWithName:@"count"] autorelease];
        descriptor.maxTotalThreadsPerThreadgroup = 2048;
        assert_null([f->device newComputePipelineStateWithDescriptor:descriptor
                                                             options:MTLPipelineOptionNone
                                                          reflection:NULL
                                                               error:NULL]);
        expect_violation("2048, above 1024");
        descriptor.maxTotalThreadsPerThreadgroup = 96;
        id<MTLComputePipelineState> pipeline =
            [f->device newComputePipelineStateWithDescriptor:descriptor
                                                     options:MTLPipelineOptionNone
                                                  reflection:NULL
                                                       error:NULL];
        assert_int_equal(pipeline.maxTotalThreadsPerThreadgroup, 96);
        [pipeline release];
        assert_null([f->library newFunctionWithName:@"no such kernel"]);
        assert_int_equal(f->library.functionNames.count, 3);
    }
}

static void fast_math_must_be_asked_for(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        NSString *source = [NSString stringWithUTF8String:plain_gpu_source];
        [[f->device newLibraryWithSource:source options:nil error:NULL] release];
        expect_violation("fast math is on");
        MTLCompileOptions *options = [[[MTLCompileOptions alloc] init] autorelease];
        [[f->device newLibraryWithSource:source options:options error:NULL] release];
        expect_violation("fast math is on");
        options.mathMode = MTLMathModeSafe;
        [[f->device newLibraryWithSource:source options:options error:NULL] release];
        expect_no_violation();
    }
}

/* Uncaught, a violation ends the process. */
static void violations_end_the_process(void **state) {
    (void)state;
    pid_t child = fork();
    assert_int_not_equal(child, -1);
    if (child == 0) {
        (void)freopen("/dev/null", "w", stderr);
        signal(SIGABRT, SIG_DFL);
        metal_device_catch(false);
        (void)[[MTLCreateSystemDefaultDevice() newCommandQueue] autorelease]; /* no pool */
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(violations_end_the_process),
        TEST(arguments_are_looked_at),
        TEST(dispatches_are_looked_at),
        TEST(encoders_are_looked_at),
        TEST(copies_are_looked_at),
        TEST(commits_are_looked_at),
        TEST(handlers_may_not_wait),
        TEST(queues_may_not_be_used_up),
        TEST(released_memory_is_found),
        TEST(events_that_never_come),
        TEST(buffers_are_looked_at),
        TEST(residency_is_looked_at),
        TEST(pipelines_are_looked_at),
        TEST(fast_math_must_be_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
