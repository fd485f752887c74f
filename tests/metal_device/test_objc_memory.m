/* What the Objective-C test device finds in manual counting of references, and what it has of Foundation. */
#import "objc/tests/fixture.h"

#include <Block.h>
#include <string.h>

static void nothing_is_caught_unasked(void **state) {
    (void)state;
    expect_no_violation();
    assert_int_equal(metal_device_live_objects(), 6); /* of the fixture */
}

static void leaks_are_counted(void **state) {
    const struct fixture *f = *state;
    uint64_t before = metal_device_live_objects();
    id<MTLBuffer> buffer = fixture_floats(f->device, 4);
    assert_int_equal(metal_device_live_objects(), before + 1);
    assert_int_equal(metal_device_live_bytes(), 16);
    [buffer retain];
    [buffer release];
    assert_int_equal(metal_device_live_objects(), before + 1);
    char text[4096] = "";
    FILE *to = fmemopen(text, sizeof text, "w");
    metal_device_print_live(to);
    (void)fclose(to);
    assert_non_null(strstr(text, "1 DeviceBuffer live\n"));
    assert_non_null(strstr(text, "3 DevicePipeline live\n"));
    [buffer release];
    assert_int_equal(metal_device_live_objects(), before);
    assert_int_equal(metal_device_live_bytes(), 0);
}

static void dead_objects_are_recognised(void **state) {
    const struct fixture *f = *state;
    id<MTLBuffer> buffer = fixture_floats(f->device, 4);
    [buffer release];
    [buffer release];
    expect_violation("release was sent to a DeviceBuffer that is deallocated");
    assert_null([buffer contents]);
    expect_violation("contents was sent to a DeviceBuffer that is deallocated");
}

static void too_many_autoreleases_are_found(void **state) {
    const struct fixture *f = *state;
    @autoreleasepool {
        id<MTLBuffer> buffer = fixture_floats(f->device, 4);
        [buffer autorelease];
        [buffer autorelease];
    }
    expect_violation("release was sent to a DeviceBuffer");
}

static void pools_are_missed(void **state) {
    const struct fixture *f = *state;
    id<MTLCommandBuffer> commands = [f->queue commandBuffer];
    expect_violation("a DeviceCommandBuffer is autoreleased where there is no pool");
    [commands release];
    @autoreleasepool {
        (void)[f->queue commandBuffer];
        expect_no_violation();
    }
}

static void pools_are_nested(void **state) {
    (void)state;
    uint64_t before = metal_device_live_objects();
    NSAutoreleasePool *outer = [[NSAutoreleasePool alloc] init];
    [[[NSString alloc] initWithUTF8String:"one"] autorelease];
    NSAutoreleasePool *inner = [[NSAutoreleasePool alloc] init];
    for (int i = 0; i < 100; i++) {
        [[[NSString alloc] initWithUTF8String:"more"] autorelease];
    }
    assert_int_equal(metal_device_live_objects(), before + 101);
    [inner drain];
    assert_int_equal(metal_device_live_objects(), before + 1);
    [outer drain];
    assert_int_equal(metal_device_live_objects(), before);
}

static void unknown_methods_are_told(void **state) {
    const struct fixture *f = *state;
    [(NSString *)(id)f->queue hasPrefix:@"a"];
    expect_violation("-[DeviceQueue hasPrefix:]: there is no such method");
    assert_false([f->queue respondsToSelector:@selector(hasPrefix:)]);
    assert_true([f->queue respondsToSelector:@selector(commandBuffer)]);
}

/* ---- Blocks ----------------------------------------------------------------------------------- */

static void blocks_hold_what_they_capture(void **state) {
    const struct fixture *f = *state;
    uint64_t before = metal_device_live_objects();
    id<MTLBuffer> buffer = fixture_floats(f->device, 4);
    __block int calls = 0;
    NSUInteger (^on_stack)(void) = ^{
      calls++;
      return buffer.length;
    };
    NSUInteger (^on_heap)(void) = Block_copy(on_stack);
    NSUInteger (^same)(void) = Block_copy(on_heap);
    NSUInteger (^nested)(void) = Block_copy(^{
      return 1 + on_heap();
    });
    assert_ptr_equal(on_heap, same);
    [buffer release];
    assert_int_equal(on_heap(), 16);
    Block_release(on_heap);
    assert_int_equal(metal_device_live_objects(), before + 1);
    assert_int_equal(same(), 16);
    Block_release(same);
    assert_int_equal(nested(), 17);
    Block_release(nested);
    assert_int_equal(metal_device_live_objects(), before);
    assert_int_equal(calls, 3);
}

typedef int (^counter)(void);

static counter make_counter(void) {
    __block int calls = 0;
    return Block_copy(^{
      return ++calls;
    });
}

static void shared_variables_outlive_their_function(void **state) {
    (void)state;
    counter first = make_counter(), second = make_counter();
    assert_int_equal(first() + first() + first(), 6);
    assert_int_equal(second(), 1);
    Block_release(first);
    Block_release(second);
}

/* ---- Foundation ------------------------------------------------------------------------------- */

static void strings(void **state) {
    (void)state;
    @autoreleasepool {
        NSString *made = [NSString stringWithUTF8String:"kernel"];
        assert_true([made isEqualToString:@"kernel"]);
        assert_true([made isEqual:@"kernel"]);
        assert_false([made isEqual:@"kernels"]);
        assert_false([@"kernel" isEqual:(id)[NSArray array]]);
        assert_int_equal(made.hash, @"kernel".hash);
        assert_true([made hasPrefix:@"ker"]);
        assert_false([@"ker" hasPrefix:made]);
        assert_int_equal(made.length, 6);
        NSString *part = [[NSString alloc] initWithBytes:"abcdef"
                                                  length:3
                                                encoding:NSUTF8StringEncoding];
        assert_string_equal(part.UTF8String, "abc");
        NSString *copy = [part copy];
        [part release];
        assert_string_equal(copy.UTF8String, "abc");
        [copy release];
        [@"constant" release];
        [@"constant" release];
        assert_string_equal(@"constant".UTF8String, "constant");
    }
}

static void collections(void **state) {
    (void)state;
    @autoreleasepool {
        NSArray<NSString *> *array = @[ @"a", @"b", [NSString stringWithUTF8String:"c"] ];
        char all[8] = "";
        for (NSString *each in array) {
            strcat(all, each.UTF8String);
        }
        assert_string_equal(all, "abc");
        assert_true([array containsObject:@"c"]);
        assert_ptr_equal(array.firstObject, [array objectAtIndex:0]);
        assert_null([array objectAtIndex:3]);
        expect_violation("index 3 of an array of 3");
        NSDictionary *pairs = @{@"one" : @"1", @"two" : @"2"};
        assert_string_equal([[pairs objectForKey:@"two"] UTF8String], "2");
        assert_null([pairs objectForKey:@"three"]);
        NSError *error = [NSError errorWithDomain:@"here"
                                             code:7
                                         userInfo:@{NSLocalizedDescriptionKey : @"because"}];
        assert_string_equal(error.localizedDescription.UTF8String, "because");
        assert_int_equal(error.code, 7);
        assert_string_equal([NSURL fileURLWithPath:@"/a/b"].path.UTF8String, "/a/b");
    }
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_caught_unasked),
        TEST(leaks_are_counted),
        TEST(dead_objects_are_recognised),
        TEST(too_many_autoreleases_are_found),
        TEST(pools_are_missed),
        TEST(pools_are_nested),
        TEST(unknown_methods_are_told),
        TEST(blocks_hold_what_they_capture),
        TEST(shared_variables_outlive_their_function),
        TEST(strings),
        TEST(collections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
