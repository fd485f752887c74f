/* What the tests of the Objective-C test device share: a device with a queue and the three kernels of plain_gpu.h,
 * and the check that nothing of a test stays alive. */
#ifndef METAL_DEVICE_FIXTURE_H
#define METAL_DEVICE_FIXTURE_H

#import <Metal/Metal.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "device.h"
#include "plain_gpu.h"

struct fixture {
    id<MTLDevice> device;
    id<MTLCommandQueue> queue;
    id<MTLLibrary> library;
    id<MTLComputePipelineState> scale, count, shared;
};

/* For cmocka: the configuration of the environment, violations caught. */
int fixture_setup(void **state);
/* Releases all; fails where objects live on, or a violation was not asked for. */
int fixture_teardown(void **state);
/* The same for another configuration: one call after the other. */
void fixture_open(struct fixture *f);
void fixture_close(struct fixture *f);

id<MTLLibrary> fixture_library(id<MTLDevice> device, NSError **error);
id<MTLComputePipelineState> fixture_pipeline(id<MTLDevice> device, id<MTLLibrary> library,
                                             const char *name);
/* A buffer with n floats, 0, 1, 2, ...; released by the caller. */
id<MTLBuffer> fixture_floats(id<MTLDevice> device, NSUInteger n);

/* The kernel on one threadgroup of 32. */
void fixture_scale(id<MTLComputeCommandEncoder> encoder, const struct fixture *f, id<MTLBuffer> x,
                   id<MTLBuffer> y, uint32_t n, float factor);
void fixture_count(id<MTLComputeCommandEncoder> encoder, const struct fixture *f, id<MTLBuffer> x);

/* The first violation since the last look has this in it. */
void expect_violation(const char *words);
void expect_no_violation(void);

#endif
