/* See fixture.h. */
#import "fixture.h"

#include <stdlib.h>
#include <string.h>

id<MTLLibrary> fixture_library(id<MTLDevice> device, NSError **error) {
    MTLCompileOptions *options = [[MTLCompileOptions alloc] init];
    if ([options respondsToSelector:@selector(setMathMode:)]) {
        options.mathMode = MTLMathModeSafe;
    } else {
        options.fastMathEnabled = NO;
    }
    NSString *source = [[NSString alloc] initWithUTF8String:plain_gpu_source];
    id<MTLLibrary> library = [device newLibraryWithSource:source options:options error:error];
    [source release];
    [options release];
    return library;
}

id<MTLComputePipelineState> fixture_pipeline(id<MTLDevice> device, id<MTLLibrary> library,
                                             const char *name) {
    NSString *text = [[NSString alloc] initWithUTF8String:name];
    id<MTLFunction> function = [library newFunctionWithName:text];
    [text release];
    assert_non_null(function);
    id<MTLComputePipelineState> pipeline = [device newComputePipelineStateWithFunction:function
                                                                                 error:NULL];
    [function release];
    assert_non_null(pipeline);
    return pipeline;
}

void fixture_open(struct fixture *f) {
    f->device = MTLCreateSystemDefaultDevice();
    assert_non_null(f->device);
    f->queue = [f->device newCommandQueue];
    f->library = fixture_library(f->device, NULL);
    assert_non_null(f->library);
    f->scale = fixture_pipeline(f->device, f->library, "scale");
    f->count = fixture_pipeline(f->device, f->library, "count");
    f->shared = fixture_pipeline(f->device, f->library, "shared");
}

void fixture_close(struct fixture *f) {
    [f->scale release];
    [f->count release];
    [f->shared release];
    [f->library release];
    [f->queue release];
    [f->device release];
}

int fixture_setup(void **state) {
    metal_device_config config = metal_device_default();
    metal_device_configure(&config);
    metal_device_catch(true);
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    @autoreleasepool {
        fixture_open(f);
    }
    *state = f;
    return 0;
}

int fixture_teardown(void **state) {
    struct fixture *f = *state;
    fixture_close(f);
    free(f);
    const char *violation = metal_device_violation();
    if (violation != NULL) {
        print_error("violation: %s\n", violation);
    }
    if (metal_device_live_objects() > 0) {
        metal_device_print_live(stderr);
    }
    return violation != NULL || metal_device_live_objects() > 0 || metal_device_live_bytes() > 0;
}

id<MTLBuffer> fixture_floats(id<MTLDevice> device, NSUInteger n) {
    id<MTLBuffer> buffer = [device newBufferWithLength:n * sizeof(float)
                                               options:MTLResourceStorageModeShared];
    assert_non_null(buffer);
    for (NSUInteger i = 0; i < n; i++) {
        ((float *)buffer.contents)[i] = (float)i;
    }
    return buffer;
}

void fixture_scale(id<MTLComputeCommandEncoder> encoder, const struct fixture *f, id<MTLBuffer> x,
                   id<MTLBuffer> y, uint32_t n, float factor) {
    const struct {
        uint32_t n;
        float factor;
    } arguments = {n, factor};
    [encoder setComputePipelineState:f->scale];
    [encoder setBytes:&arguments length:sizeof arguments atIndex:0];
    [encoder setBuffer:x offset:0 atIndex:1];
    [encoder setBuffer:y offset:0 atIndex:2];
    [encoder dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
}

void fixture_count(id<MTLComputeCommandEncoder> encoder, const struct fixture *f, id<MTLBuffer> x) {
    [encoder setComputePipelineState:f->count];
    [encoder setBuffer:x offset:0 atIndex:0];
    [encoder dispatchThreadgroups:MTLSizeMake(2, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 2, 1)];
}

void expect_violation(const char *words) {
    const char *violation = metal_device_violation();
    if (violation == NULL || strstr(violation, words) == NULL) {
        fail_msg("expected a violation with \"%s\", got %s", words,
                 violation == NULL ? "none" : violation);
    }
}

void expect_no_violation(void) {
    const char *violation = metal_device_violation();
    if (violation != NULL) {
        fail_msg("violation: %s", violation);
    }
}
