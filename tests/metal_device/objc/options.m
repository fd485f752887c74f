/* Options and descriptors of the Metal test device, and which parts of Metal the configured macOS does not have. */
#import "objects.h"

#include <objc/runtime.h>
#include <string.h>

/* ---- Versions --------------------------------------------------------------------------------- */

bool device_too_new(SEL selector) {
    static const char *const since_15[] = {"newResidencySetWithDescriptor:error:",
                                           "addResidencySet:",
                                           "removeResidencySet:",
                                           "useResidencySet:",
                                           "mathMode",
                                           "setMathMode:",
                                           "mathFloatingPointFunctions",
                                           "setMathFloatingPointFunctions:"};
    device_configured();
    for (size_t i = 0; device_config.macos < 15 && i < sizeof since_15 / sizeof *since_15; i++) {
        if (strcmp(sel_getName(selector), since_15[i]) == 0) {
            return true;
        }
    }
    return false;
}

bool device_refuses(const char *method) {
    device_configured();
    if (device_config.macos >= 15) {
        return false;
    }
    device_violation("%s needs macOS 15, and this is macOS %d: ask respondsToSelector: first",
                     method, device_config.macos);
    return true;
}

/* ---- Options and descriptors ------------------------------------------------------------------ */

@implementation MTLCompileOptions
@synthesize languageVersion = version;
- (instancetype)init {
    fastMath = YES;
    math = MTLMathModeFast;
    version = MTLLanguageVersion3_1;
    return self;
}
- (void)dealloc {
    [macros release];
    [super dealloc];
}
- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    MTLCompileOptions *copy = [[MTLCompileOptions alloc] init];
    copy->macros = [macros retain];
    copy->fastMath = fastMath;
    copy->math = math;
    copy->functions = functions;
    copy->version = version;
    return copy;
}
- (BOOL)respondsToSelector:(SEL)selector {
    return !device_too_new(selector) && [super respondsToSelector:selector];
}
- (NSDictionary<NSString *, NSObject *> *)preprocessorMacros {
    return macros;
}
- (void)setPreprocessorMacros:(NSDictionary<NSString *, NSObject *> *)dictionary {
    [dictionary retain];
    [macros release];
    macros = dictionary;
}
- (BOOL)fastMathEnabled {
    return fastMath;
}
- (void)setFastMathEnabled:(BOOL)fast {
    fastMath = fast;
    math = fast ? MTLMathModeFast : MTLMathModeSafe;
}
- (MTLMathMode)mathMode {
    (void)device_refuses("mathMode");
    return math;
}
- (void)setMathMode:(MTLMathMode)mode {
    if (!device_refuses("setMathMode:")) {
        math = mode;
        fastMath = mode == MTLMathModeFast;
    }
}
- (MTLMathFloatingPointFunctions)mathFloatingPointFunctions {
    (void)device_refuses("mathFloatingPointFunctions");
    return functions;
}
- (void)setMathFloatingPointFunctions:(MTLMathFloatingPointFunctions)choice {
    if (!device_refuses("setMathFloatingPointFunctions:")) {
        functions = choice;
    }
}
@end

@implementation MTLFunctionConstantValues
- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    MTLFunctionConstantValues *copy = [[MTLFunctionConstantValues alloc] init];
    copy->constants = constants;
    return copy;
}
- (void)setConstantValue:(const void *)value type:(MTLDataType)type atIndex:(NSUInteger)index {
    if (value == NULL || type == MTLDataTypeNone || index > 65535) {
        device_violation("function constant %lu has no value, no type, or an index above 65535",
                         index);
    }
    constants++;
}
- (void)setConstantValue:(const void *)value type:(MTLDataType)type withName:(NSString *)name {
    if (value == NULL || type == MTLDataTypeNone || name == nil) {
        device_violation("a function constant has no value, no type or no name");
    }
    constants++;
}
- (void)reset {
    constants = 0;
}
@end

@implementation MTLComputePipelineDescriptor
@synthesize label = text;
@synthesize computeFunction = function;
@synthesize threadGroupSizeIsMultipleOfThreadExecutionWidth = multiple;
@synthesize maxTotalThreadsPerThreadgroup = most;
- (void)dealloc {
    [self reset];
    [super dealloc];
}
- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    MTLComputePipelineDescriptor *copy = [[MTLComputePipelineDescriptor alloc] init];
    copy->text = [text copy];
    copy->function = [function retain];
    copy->multiple = multiple;
    copy->most = most;
    return copy;
}
- (void)reset {
    [text release];
    [function release];
    text = nil;
    function = nil;
    multiple = NO;
    most = 0;
}
@end

@implementation MTLCommandBufferDescriptor
@synthesize retainedReferences = retained;
@synthesize errorOptions = options;
- (instancetype)init {
    retained = YES;
    return self;
}
- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    MTLCommandBufferDescriptor *copy = [[MTLCommandBufferDescriptor alloc] init];
    copy->retained = retained;
    copy->options = options;
    return copy;
}
@end

@implementation MTLResidencySetDescriptor
@synthesize label = text;
@synthesize initialCapacity = capacity;
+ (instancetype)alloc {
    return device_refuses("MTLResidencySetDescriptor") ? nil : [super alloc];
}
- (void)dealloc {
    [text release];
    [super dealloc];
}
- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    MTLResidencySetDescriptor *copy = [[MTLResidencySetDescriptor alloc] init];
    copy->text = [text copy];
    copy->capacity = capacity;
    return copy;
}
@end
