/* The Objective-C test device as other machines, and as one on which things fail: older systems and GPUs, small memory,
 * no GPU, a GPU that is lost, kernels that do not compile. */
#import "objc/tests/fixture.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The fixture once more, as that machine. */
static void become(struct fixture *f, const metal_device_config *config) {
    fixture_close(f);
    memset(f, 0, sizeof *f);
    metal_device_configure(config);
    @autoreleasepool {
        fixture_open(f);
    }
}

/* ---- Machines --------------------------------------------------------------------------------- */

static void machine_without_gpu(void **state) {
    struct fixture *f = *state;
    fixture_close(f);
    memset(f, 0, sizeof *f);
    metal_device_config config = metal_device_default();
    config.present = false;
    metal_device_configure(&config);
    assert_null(MTLCreateSystemDefaultDevice());
    NSArray *none = MTLCopyAllDevices();
    assert_int_equal(none.count, 0);
    [none release];
}

static void default_machine(void **state) {
    const struct fixture *f = *state;
    assert_true([f->device supportsFamily:MTLGPUFamilyApple7]);
    assert_false([f->device supportsFamily:MTLGPUFamilyApple8]);
    assert_true([f->device supportsFamily:MTLGPUFamilyMetal3]);
    assert_true(f->device.hasUnifiedMemory);
    assert_int_equal(f->device.maxThreadgroupMemoryLength, 32768);
    assert_int_equal(f->device.maxThreadsPerThreadgroup.width, 1024);
    assert_true(f->device.recommendedMaxWorkingSetSize < (uint64_t)12 << 30);
    assert_int_equal(f->scale.threadExecutionWidth, 32);
    assert_int_equal(f->scale.maxTotalThreadsPerThreadgroup, 1024);
    assert_int_equal(f->shared.staticThreadgroupMemoryLength, 30000);
    assert_string_equal(f->device.name.UTF8String, "Linux test device");
    NSArray *all = MTLCopyAllDevices();
    assert_int_equal(all.count, 1);
    assert_ptr_equal(all.firstObject, f->device);
    [all release];
}

static void other_gpus(void **state) {
    struct fixture *f = *state;
    metal_device_config config = metal_device_default();
    config.family = 9;
    config.most_threads = 384;
    config.simd_width = 16;
    config.largest_buffer = 4096;
    become(f, &config);
    assert_true([f->device supportsFamily:MTLGPUFamilyApple9]);
    assert_false([f->device supportsFamily:MTLGPUFamilyApple10]);
    assert_int_equal(f->count.maxTotalThreadsPerThreadgroup, 384);
    assert_int_equal(f->count.threadExecutionWidth, 16);
    assert_int_equal(f->device.maxBufferLength, 4096);
    assert_null([f->device newBufferWithLength:4097 options:MTLResourceStorageModeShared]);
    expect_violation("more than maxBufferLength, 4096");
}

/* macOS 14 has neither residency sets nor mathMode nor language 3.2. */
static void older_system(void **state) {
    struct fixture *f = *state;
    metal_device_config config = metal_device_default();
    config.macos = 14;
    become(f, &config);
    @autoreleasepool {
        SEL residency = @selector(newResidencySetWithDescriptor:error:);
        assert_false([f->device respondsToSelector:residency]);
        assert_false([f->queue respondsToSelector:@selector(addResidencySet:)]);
        assert_true([f->device respondsToSelector:@selector(newSharedEvent)]);
        MTLCompileOptions *options = [[[MTLCompileOptions alloc] init] autorelease];
        assert_false([options respondsToSelector:@selector(setMathMode:)]);
        assert_true([options respondsToSelector:@selector(setFastMathEnabled:)]);
        options.mathMode = MTLMathModeSafe;
        expect_violation("setMathMode: needs macOS 15, and this is macOS 14");
        assert_null([[MTLResidencySetDescriptor alloc] init]);
        expect_violation("MTLResidencySetDescriptor needs macOS 15");
        MTLResidencySetDescriptor *descriptor = nil;
        assert_null([f->device newResidencySetWithDescriptor:descriptor error:NULL]);
        expect_violation("needs macOS 15");
        options.fastMathEnabled = NO;
        options.languageVersion = MTLLanguageVersion3_2;
        NSError *error = nil;
        NSString *source = [NSString stringWithUTF8String:plain_gpu_source];
        assert_null([f->device newLibraryWithSource:source options:options error:&error]);
        assert_non_null(strstr(error.localizedDescription.UTF8String, "no language version 3.2"));
    }
}

static void small_memory(void **state) {
    struct fixture *f = *state;
    metal_device_config config = metal_device_default();
    config.memory = 1000;
    become(f, &config);
    id<MTLBuffer> first = [f->device newBufferWithLength:600 options:MTLResourceStorageModeShared];
    assert_non_null(first);
    assert_null([f->device newBufferWithLength:600 options:MTLResourceStorageModeShared]);
    [first release];
    first = [f->device newBufferWithLength:600 options:MTLResourceStorageModeShared];
    assert_non_null(first);
    [first release];
}

static void environment(void **state) {
    (void)state;
    static const char *const set[][2] = {
        {"MODE", "fastmath"}, {"SCHEDULE", "random:17"}, {"FAMILY", "8"},
        {"MACOS", "14"},      {"BUFFER", "65536"},       {"MEMORY", "3000000"},
        {"PAGE", "16384"},    {"THREADS", "512"},        {"KERNELS", "some/folder"},
        {"DEVICE", "none"}};
    char name[64];
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        snprintf(name, sizeof name, "XLSTM_METAL_TEST_%s", set[i][0]);
        assert_int_equal(setenv(name, set[i][1], 1), 0);
    }
    metal_device_config config = metal_device_default();
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        snprintf(name, sizeof name, "XLSTM_METAL_TEST_%s", set[i][0]);
        unsetenv(name);
    }
    assert_int_equal(config.mode, GPU_FAST_MATH);
    assert_int_equal(config.schedule, GPU_RANDOM);
    assert_int_equal(config.seed, 17);
    assert_int_equal(config.family, 8);
    assert_int_equal(config.macos, 14);
    assert_int_equal(config.largest_buffer, 65536);
    assert_int_equal(config.memory, 3000000);
    assert_int_equal(config.page, 16384);
    assert_int_equal(config.most_threads, 512);
    assert_string_equal(config.kernels, "some/folder");
    assert_false(config.present);
}

/* Exit status of a process of its own, in which nothing was configured before. */
static int in_child(const char *variable, const char *value, int (*act)(void)) {
    pid_t child = fork();
    assert_int_not_equal(child, -1);
    if (child == 0) {
        (void)freopen("/dev/null", "w", stderr);
        setenv(variable, value, 1);
        _exit(act());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Bits: the library, the first buffer, the second buffer are there. */
static int what_is_there(void) {
    @autoreleasepool {
        id<MTLDevice> device = MTLCreateSystemDefaultDevice();
        int bits = fixture_library(device, NULL) != nil;
        for (int i = 0; i < 2; i++) {
            id<MTLBuffer> buffer = [device newBufferWithLength:4
                                                       options:MTLResourceStorageModeShared];
            bits |= (buffer != nil) << (i + 1);
        }
        return bits;
    }
}

static void faults_from_the_environment(void **state) {
    (void)state;
    assert_int_equal(in_child("XLSTM_METAL_TEST_FAIL", "", what_is_there), 7);
    assert_int_equal(in_child("XLSTM_METAL_TEST_FAIL", "library", what_is_there), 6);
    assert_int_equal(in_child("XLSTM_METAL_TEST_FAIL", "buffer:2,pipeline:1:3", what_is_there), 3);
    assert_int_equal(in_child("XLSTM_METAL_TEST_FAIL", "buffer,library", what_is_there), 4);
}

static void wrong_environment(void **state) {
    (void)state;
    assert_int_equal(in_child("XLSTM_METAL_TEST_FAIL", "buffers", what_is_there), 2);
    assert_int_equal(in_child("XLSTM_METAL_TEST_MODE", "slow", what_is_there), 2);
    assert_int_equal(in_child("XLSTM_METAL_TEST_BUFFER", "1G", what_is_there), 2);
    assert_int_equal(in_child("XLSTM_METAL_TEST_SCHEDULE", "randomly", what_is_there), 2);
}

static void configuring_under_live_objects(void **state) {
    (void)state;
    metal_device_config config = metal_device_default();
    metal_device_configure(&config);
    expect_violation("while 6 objects live");
}

/* ---- Libraries and pipelines ------------------------------------------------------------------ */

static const char *why(NSError *error) {
    return error.localizedDescription.UTF8String;
}

static void other_source(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        MTLCompileOptions *options = [[[MTLCompileOptions alloc] init] autorelease];
        options.mathMode = MTLMathModeSafe;
        NSError *error = nil;
        assert_null([f->device newLibraryWithSource:@"kernel void scale() { }"
                                            options:options
                                              error:&error]);
        assert_true([error.domain isEqualToString:MTLLibraryErrorDomain]);
        assert_int_equal(error.code, MTLLibraryErrorCompileFailure);
        assert_non_null(strstr(why(error), "is not what the test device's kernels"));
        assert_null([f->device newLibraryWithSource:@"" options:options error:NULL]);
        options.preprocessorMacros = @{@"A" : @"1"};
        NSString *source = [NSString stringWithUTF8String:plain_gpu_source];
        assert_null([f->device newLibraryWithSource:source options:options error:&error]);
        assert_non_null(strstr(why(error), "without macros"));
    }
}

static void offline_libraries(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        NSError *error = nil;
        assert_null([f->device newLibraryWithURL:[NSURL fileURLWithPath:@"a.metallib"]
                                           error:&error]);
        assert_int_equal(error.code, MTLLibraryErrorFileNotFound);
        /* One of no kind, one of another text; one of this text, used in place until it is let go. */
        dispatch_data_t data =
            dispatch_data_create("AIR", 3, nil, DISPATCH_DATA_DESTRUCTOR_DEFAULT);
        assert_null([f->device newLibraryWithData:data error:&error]);
        assert_non_null(strstr(why(error), "Invalid library file"));
        dispatch_release(data);
        data = dispatch_data_create("MTLB123", 7, nil, DISPATCH_DATA_DESTRUCTOR_DEFAULT);
        assert_null([f->device newLibraryWithData:data error:&error]);
        assert_non_null(strstr(why(error), "is not what the test device's kernels"));
        dispatch_release(data);
        char right[32];
        __block int let_go = 0;
        snprintf(right, sizeof right, "MTLB%016llx", (unsigned long long)gpu_source_hash(NULL));
        data = dispatch_data_create(right, strlen(right), nil, ^{
          let_go++;
        });
        id<MTLLibrary> library = [f->device newLibraryWithData:data error:&error];
        assert_non_null(library);
        [library release];
        dispatch_release(data);
        assert_int_equal(let_go, 1);
        MTLFunctionConstantValues *values = [[[MTLFunctionConstantValues alloc] init] autorelease];
        assert_null([f->library newFunctionWithName:@"scale" constantValues:values error:&error]);
        assert_non_null(strstr(why(error), "without function constants"));
    }
}

static void missing_kernels(void **state) {
    struct fixture *f = *state;
    fixture_close(f);
    memset(f, 0, sizeof *f);
    metal_device_config config = metal_device_default();
    config.kernels = "nowhere";
    metal_device_configure(&config);
    @autoreleasepool {
        f->device = MTLCreateSystemDefaultDevice();
        NSError *error = nil;
        assert_null(fixture_library(f->device, &error));
        assert_string_equal(why(error), "nowhere: no kernels are there");
    }
}

static void libraries_and_pipelines_fail(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        NSError *error = nil;
        metal_device_fail(METAL_FAULT_LIBRARY, 1, 0);
        assert_null(fixture_library(f->device, &error));
        assert_int_equal(error.code, MTLLibraryErrorCompileFailure);
        assert_non_null(strstr(why(error), "error: unknown type name"));
        id<MTLLibrary> library = fixture_library(f->device, &error);
        assert_non_null(library);
        [library release];
        id<MTLFunction> function = [[f->library newFunctionWithName:@"scale"] autorelease];
        metal_device_fail(METAL_FAULT_PIPELINE, 2, 0);
        [[f->device newComputePipelineStateWithFunction:function error:&error] release];
        error = nil;
        assert_null([f->device newComputePipelineStateWithFunction:function error:&error]);
        assert_non_null(strstr(why(error), "scale"));
        metal_device_fail(METAL_FAULT_QUEUE, 1, 0);
        assert_null([f->device newCommandQueue]);
        metal_device_fail(METAL_FAULT_RESIDENCY, 1, 0);
        MTLResidencySetDescriptor *descriptor = [[[MTLResidencySetDescriptor alloc] init] autorelease];
        assert_null([f->device newResidencySetWithDescriptor:descriptor error:&error]);
        assert_non_null(strstr(why(error), "no residency set"));
    }
}

static void nothing_to_encode_into(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        metal_device_fail(METAL_FAULT_COMMAND_BUFFER, 1, 0);
        assert_null([f->queue commandBuffer]);
        metal_device_fail(METAL_FAULT_ENCODER, 2, 0);
        id<MTLCommandBuffer> commands = [f->queue commandBuffer];
        id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
        assert_non_null(encoder);
        [encoder endEncoding];
        assert_null([commands blitCommandEncoder]);
        [commands commit]; /* what did not come is not open */
        [commands waitUntilCompleted];
        assert_null(commands.error);
    }
}

/* ---- Memory and commands ---------------------------------------------------------------------- */

static void the_third_buffer_fails(void **state) {
    const struct fixture *f = *state;
    metal_device_fail(METAL_FAULT_BUFFER, 3, 0);
    for (int i = 1; i <= 5; i++) {
        id<MTLBuffer> buffer = [f->device newBufferWithBytes:"abcd"
                                                      length:4
                                                     options:MTLResourceStorageModeShared];
        assert_int_equal(buffer == nil, i == 3);
        [buffer release];
    }
}

/* How commands that count twice end, and what they have counted. */
static NSError *count_twice(const struct fixture *f, uint32_t *counted) {
    id<MTLBuffer> x = [[f->device newBufferWithBytes:"\0\0\0"
                                              length:4
                                             options:MTLResourceStorageModeShared] autorelease];
    *counted = 0;
    id<MTLCommandBuffer> commands = [f->queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    if (x != nil) {
        fixture_count(encoder, f, x);
        fixture_count(encoder, f, x);
    }
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
    assert_int_equal(commands.status == MTLCommandBufferStatusError, commands.error != nil);
    memcpy(counted, x == nil ? "\0\0\0" : x.contents, sizeof *counted);
    return commands.error;
}

static void commands_fail_in_the_middle(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        uint32_t counted;
        metal_device_fail(METAL_FAULT_COMMANDS, 2, MTLCommandBufferErrorTimeout);
        assert_null(count_twice(f, &counted));
        assert_int_equal(counted, 256);
        NSError *error = count_twice(f, &counted);
        assert_int_equal(error.code, MTLCommandBufferErrorTimeout);
        assert_non_null(strstr(why(error), "Timeout"));
        assert_int_equal(counted, 128);
        assert_null(count_twice(f, &counted));
        metal_device_fail(METAL_FAULT_COMMANDS, 1, 0);
        assert_int_equal(count_twice(f, &counted).code, MTLCommandBufferErrorInternal);
        metal_device_fail(METAL_FAULT_COMMANDS, 1, MTLCommandBufferErrorOutOfMemory);
        assert_non_null(strstr(why(count_twice(f, &counted)), "Insufficient Memory"));
        metal_device_fail(METAL_FAULT_COMMANDS, 1, MTLCommandBufferErrorPageFault);
        assert_non_null(strstr(why(count_twice(f, &counted)), "Address Fault"));
    }
}

static void a_lost_gpu_stays_lost(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        uint32_t counted;
        metal_device_fail(METAL_FAULT_LOST, 2, 0);
        assert_null(count_twice(f, &counted));
        for (int i = 0; i < 3; i++) {
            assert_int_equal(count_twice(f, &counted).code, MTLCommandBufferErrorDeviceRemoved);
            assert_int_equal(counted, 0);
        }
        assert_null([f->device newBufferWithLength:4 options:MTLResourceStorageModeShared]);
        metal_device_fail(METAL_FAULT_LOST, 0, 0);
        assert_null(count_twice(f, &counted));
        assert_int_equal(counted, 256);
    }
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_from_the_environment),
        cmocka_unit_test(wrong_environment),
        TEST(machine_without_gpu),
        TEST(default_machine),
        TEST(other_gpus),
        TEST(older_system),
        TEST(small_memory),
        TEST(environment),
        TEST(configuring_under_live_objects),
        TEST(other_source),
        TEST(offline_libraries),
        TEST(missing_kernels),
        TEST(libraries_and_pipelines_fail),
        TEST(nothing_to_encode_into),
        TEST(the_third_buffer_fails),
        TEST(commands_fail_in_the_middle),
        TEST(a_lost_gpu_stays_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
