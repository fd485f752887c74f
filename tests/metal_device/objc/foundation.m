/* The part of Foundation that the test device needs, over gcc's Objective-C runtime. Every object has a count of
 * references in front of it and is in the list of those that live. A dead object keeps its memory for a while and turns
 * into a DeviceDead, so that a message to it is found instead of followed. */
#import "objects.h"

#include <objc/message.h>
#include <objc/runtime.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

NSErrorUserInfoKey const NSLocalizedDescriptionKey = @"NSLocalizedDescription";
NSErrorUserInfoKey const NSUnderlyingErrorKey = @"NSUnderlyingError";

/* ---- Life and death --------------------------------------------------------------------------- */

struct header {
    struct header *next, *previous; /* of those that live */
    Class born;
    long references;
};
_Static_assert(sizeof(struct header) % 16 == 0, "objects are aligned to 16 bytes");

enum { DEAD_KEPT = 16384 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct header living = {&living, &living, Nil, 0};
static uint64_t living_count, living_pools; /* pools of threads are nobody's leak */
static struct header *dead[DEAD_KEPT];
static size_t dead_next;

__attribute__((objc_root_class))
@interface DeviceDead {
    Class isa;
}
+ (void)initialize;
@end

@implementation DeviceDead
+ (void)initialize {
}
+ (BOOL)resolveInstanceMethod:(SEL)selector {
    (void)selector;
    return NO;
}
@end

static struct header *header_of(id object) {
    return (struct header *)(void *)object - 1;
}

static id ignore_message(id object, SEL selector, ...) {
    (void)object;
    (void)selector;
    return nil;
}

static IMP not_understood(id object, SEL selector) {
    const char *name = sel_getName(selector);
    Class class = object_getClass(object);
    if (class == objc_getClass("DeviceDead")) {
        device_violation("%s was sent to a %s that is deallocated (released too often, or used "
                         "after its release)",
                         name, class_getName(header_of(object)->born));
    } else {
        device_violation("%c[%s %s]: there is no such method", class_isMetaClass(class) ? '+' : '-',
                         class_getName(class), name);
    }
    return ignore_message;
}

__attribute__((constructor)) static void hear_unknown_messages(void) {
    __objc_msg_forward2 = not_understood;
}

static id give_birth(Class class) {
    struct header *header = calloc(1, sizeof *header + class_getInstanceSize(class));
    if (header == NULL) {
        abort();
    }
    header->born = class;
    header->references = 1;
    id object = (id)(void *)(header + 1);
    object_setClass(object, class);
    pthread_mutex_lock(&lock);
    header->next = &living;
    header->previous = living.previous;
    header->previous->next = header->next->previous = header;
    living_count++;
    pthread_mutex_unlock(&lock);
    device_count(&device_counts.objects, 1);
    return object;
}

static void bury(id object) {
    struct header *header = header_of(object);
    object_setClass(object, objc_getClass("DeviceDead"));
    pthread_mutex_lock(&lock);
    header->next->previous = header->previous;
    header->previous->next = header->next;
    living_count--;
    free(dead[dead_next]);
    dead[dead_next] = header;
    dead_next = (dead_next + 1) % DEAD_KEPT;
    pthread_mutex_unlock(&lock);
}

uint64_t metal_device_live_objects(void) {
    pthread_mutex_lock(&lock);
    uint64_t count = living_count - __atomic_load_n(&living_pools, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&lock);
    return count;
}

void metal_device_print_live(FILE *to) {
    pthread_mutex_lock(&lock);
    for (struct header *h = living.next; h != &living; h = h->next) {
        bool first = true;
        for (struct header *other = living.next; other != h; other = other->next) {
            first = first && other->born != h->born;
        }
        if (first) {
            int count = 0;
            for (struct header *other = h; other != &living; other = other->next) {
                count += other->born == h->born;
            }
            fprintf(to, "%d %s live\n", count, class_getName(h->born));
        }
    }
    pthread_mutex_unlock(&lock);
}

void device_retain(const void *object) {
    [(id)object retain];
}

void device_release(const void *object) {
    [(id)object release];
}

@implementation NSObject
+ (void)initialize {
}
+ (BOOL)resolveClassMethod:(SEL)selector {
    (void)selector;
    return NO;
}
+ (BOOL)resolveInstanceMethod:(SEL)selector {
    (void)selector;
    return NO;
}
+ (instancetype)alloc {
    return give_birth(self);
}
+ (instancetype)new {
    return [[self alloc] init];
}
+ (Class)class {
    return self;
}
+ (Class)superclass {
    return class_getSuperclass(self);
}
+ (BOOL)instancesRespondToSelector:(SEL)selector {
    return class_respondsToSelector(self, selector);
}
- (instancetype)init {
    return self;
}
- (void)dealloc {
    bury(self);
}
- (id)copy {
    return [(id<NSCopying>)self copyWithZone:NULL];
}
- (BOOL)isEqual:(id)object {
    return self == object;
}
- (NSUInteger)hash {
    return (NSUInteger)self;
}
- (Class)class {
    return object_getClass(self);
}
- (Class)superclass {
    return class_getSuperclass(object_getClass(self));
}
- (BOOL)isKindOfClass:(Class)class {
    for (Class c = object_getClass(self); c != Nil; c = class_getSuperclass(c)) {
        if (c == class) {
            return YES;
        }
    }
    return NO;
}
- (BOOL)respondsToSelector:(SEL)selector {
    return class_respondsToSelector(object_getClass(self), selector);
}
- (instancetype)retain {
    __atomic_fetch_add(&header_of(self)->references, 1, __ATOMIC_RELAXED);
    return self;
}
- (oneway void)release {
    if (__atomic_sub_fetch(&header_of(self)->references, 1, __ATOMIC_ACQ_REL) == 0) {
        [self dealloc];
    }
}
- (NSUInteger)retainCount {
    return (NSUInteger)__atomic_load_n(&header_of(self)->references, __ATOMIC_RELAXED);
}
- (instancetype)autorelease {
    [NSAutoreleasePool addObject:self];
    return self;
}
- (NSString *)description {
    return device_string(class_getName(object_getClass(self)));
}
@end

/* ---- Pools ------------------------------------------------------------------------------------ */

static _Thread_local NSAutoreleasePool *innermost;

@implementation NSAutoreleasePool
- (instancetype)init {
    outer = innermost;
    innermost = self;
    device_count(&living_pools, 1);
    return self;
}
+ (void)addObject:(id)object {
    if (innermost == nil) {
        device_violation("a %s is autoreleased where there is no pool: it leaks",
                         class_getName(object_getClass(object)));
        return;
    }
    [innermost addObject:object];
}
- (void)addObject:(id)object {
    if (pooledCount == pooledRoom) {
        pooledRoom = pooledRoom == 0 ? 16 : 2 * pooledRoom;
        pooled = realloc(pooled, pooledRoom * sizeof *pooled);
        if (pooled == NULL) {
            abort();
        }
    }
    pooled[pooledCount++] = object;
}
- (void)drain {
    [self release];
}
- (void)dealloc {
    if (innermost != self) {
        device_violation("an autorelease pool is drained that is not the innermost of its thread");
    }
    while (pooledCount > 0) { /* releasing may add */
        [pooled[--pooledCount] release];
    }
    free(pooled);
    innermost = outer;
    device_count(&living_pools, -(uint64_t)1);
    [super dealloc];
}
- (instancetype)retain {
    device_violation("an autorelease pool is retained");
    return self;
}
- (instancetype)autorelease {
    device_violation("an autorelease pool is autoreleased");
    return self;
}
@end

/* ---- Strings ---------------------------------------------------------------------------------- */

@interface DeviceString : NSString {
    char *text;
    NSUInteger size;
}
@end

@implementation NSString
+ (instancetype)alloc {
    return give_birth(self == [NSString class] ? [DeviceString class] : self);
}
+ (instancetype)string {
    return [self stringWithUTF8String:""];
}
+ (instancetype)stringWithUTF8String:(const char *)text {
    return [[[self alloc] initWithUTF8String:text] autorelease];
}
- (instancetype)initWithUTF8String:(const char *)text {
    return [self initWithBytes:text length:strlen(text) encoding:NSUTF8StringEncoding];
}
- (instancetype)initWithBytes:(const void *)bytes
                       length:(NSUInteger)length
                     encoding:(NSStringEncoding)encoding {
    (void)bytes;
    (void)length;
    (void)encoding;
    return self;
}
- (instancetype)initWithBytesNoCopy:(void *)bytes
                             length:(NSUInteger)length
                           encoding:(NSStringEncoding)encoding
                       freeWhenDone:(BOOL)freeBuffer {
    self = [self initWithBytes:bytes length:length encoding:encoding];
    if (freeBuffer) {
        free(bytes);
    }
    return self;
}
- (const char *)UTF8String {
    return "";
}
- (NSUInteger)length {
    return 0;
}
- (NSUInteger)lengthOfBytesUsingEncoding:(NSStringEncoding)encoding {
    (void)encoding;
    return self.length;
}
- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    return [self retain];
}
- (BOOL)isEqualToString:(NSString *)other {
    return other != nil && self.length == other.length &&
           memcmp(self.UTF8String, other.UTF8String, self.length) == 0;
}
- (BOOL)isEqual:(id)object {
    return [object isKindOfClass:[NSString class]] && [self isEqualToString:object];
}
- (NSUInteger)hash {
    NSUInteger hash = self.length;
    for (const char *c = self.UTF8String; *c != '\0'; c++) {
        hash = hash * 31 + (unsigned char)*c;
    }
    return hash;
}
- (BOOL)hasPrefix:(NSString *)prefix {
    return self.length >= prefix.length &&
           memcmp(self.UTF8String, prefix.UTF8String, prefix.length) == 0;
}
- (NSString *)description {
    return self;
}
@end

@implementation DeviceString
- (instancetype)initWithBytes:(const void *)bytes
                       length:(NSUInteger)length
                     encoding:(NSStringEncoding)encoding {
    (void)encoding;
    text = malloc(length + 1);
    if (text == NULL) {
        abort();
    }
    memcpy(text, bytes, length);
    text[length] = '\0';
    size = length;
    return self;
}
- (const char *)UTF8String {
    return text;
}
- (NSUInteger)length {
    return size;
}
- (void)dealloc {
    free(text);
    [super dealloc];
}
@end

@implementation NSConstantString
- (const char *)UTF8String {
    return bytes;
}
- (NSUInteger)length {
    return count;
}
- (instancetype)retain {
    return self;
}
- (oneway void)release {
}
- (instancetype)autorelease {
    return self;
}
- (NSUInteger)retainCount {
    return NSUIntegerMax;
}
@end

NSString *device_string(const char *text) {
    return [NSString stringWithUTF8String:text];
}

/* ---- Collections ------------------------------------------------------------------------------ */

static id *retained(const id *objects, NSUInteger count) {
    id *copy = malloc((count + 1) * sizeof *copy);
    if (copy == NULL) {
        abort();
    }
    for (NSUInteger i = 0; i < count; i++) {
        copy[i] = [objects[i] retain];
    }
    return copy;
}

static void release_all(id *objects, NSUInteger count) {
    for (NSUInteger i = 0; i < count; i++) {
        [objects[i] release];
    }
    free(objects);
}

@implementation NSArray
+ (instancetype)array {
    return [self arrayWithObjects:NULL count:0];
}
+ (instancetype)arrayWithObject:(id)object {
    return [self arrayWithObjects:&object count:1];
}
+ (instancetype)arrayWithObjects:(const id[])objects count:(NSUInteger)count {
    return [[[self alloc] initWithObjects:objects count:count] autorelease];
}
- (instancetype)initWithObjects:(const id[])objects count:(NSUInteger)count {
    items = retained(objects, count);
    itemCount = count;
    return self;
}
- (void)dealloc {
    release_all(items, itemCount);
    [super dealloc];
}
- (NSUInteger)count {
    return itemCount;
}
- (id)objectAtIndex:(NSUInteger)index {
    if (index >= itemCount) {
        device_violation("index %lu of an array of %lu objects", index, itemCount);
        return nil;
    }
    return items[index];
}
- (id)firstObject {
    return itemCount > 0 ? items[0] : nil;
}
- (BOOL)containsObject:(id)object {
    for (NSUInteger i = 0; i < itemCount; i++) {
        if ([items[i] isEqual:object]) {
            return YES;
        }
    }
    return NO;
}
- (NSUInteger)countByEnumeratingWithState:(NSFastEnumerationState *)state
                                  objects:(id[])buffer
                                    count:(NSUInteger)length {
    (void)buffer;
    (void)length;
    if (state->state != 0) {
        return 0;
    }
    state->state = 1;
    state->itemsPtr = items;
    state->mutationsPtr = &state->extra[0];
    return itemCount;
}
@end

@implementation NSDictionary
+ (instancetype)dictionary {
    return [self dictionaryWithObjects:NULL forKeys:NULL count:0];
}
+ (instancetype)dictionaryWithObject:(id)object forKey:(id)key {
    return [self dictionaryWithObjects:&object forKeys:&key count:1];
}
+ (instancetype)dictionaryWithObjects:(const id[])objects
                              forKeys:(const id[])names
                                count:(NSUInteger)count {
    NSDictionary *dictionary = [[self alloc] init];
    dictionary->keys = retained(names, count);
    dictionary->values = retained(objects, count);
    dictionary->pairs = count;
    return [dictionary autorelease];
}
- (void)dealloc {
    release_all(keys, pairs);
    release_all(values, pairs);
    [super dealloc];
}
- (NSUInteger)count {
    return pairs;
}
- (id)objectForKey:(id)key {
    for (NSUInteger i = 0; i < pairs; i++) {
        if ([keys[i] isEqual:key]) {
            return values[i];
        }
    }
    return nil;
}
@end

/* ---- Errors and places ------------------------------------------------------------------------ */

@implementation NSError
+ (instancetype)errorWithDomain:(NSErrorDomain)domain
                           code:(NSInteger)code
                       userInfo:(NSDictionary *)dictionary {
    return [[[self alloc] initWithDomain:domain code:code userInfo:dictionary] autorelease];
}
- (instancetype)initWithDomain:(NSErrorDomain)domain
                          code:(NSInteger)code
                      userInfo:(NSDictionary *)dictionary {
    errorDomain = [domain copy];
    errorCode = code;
    info = [dictionary retain];
    return self;
}
- (void)dealloc {
    [errorDomain release];
    [info release];
    [super dealloc];
}
- (NSErrorDomain)domain {
    return errorDomain;
}
- (NSInteger)code {
    return errorCode;
}
- (NSDictionary *)userInfo {
    return info != nil ? info : [NSDictionary dictionary];
}
- (NSString *)localizedDescription {
    NSString *text = [info objectForKey:NSLocalizedDescriptionKey];
    return text != nil ? text : @"The operation couldn't be completed.";
}
- (NSString *)description {
    return self.localizedDescription;
}
@end

NSError *device_error(NSString *domain, NSInteger code, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    NSDictionary *info = [NSDictionary dictionaryWithObject:device_string(text)
                                                     forKey:NSLocalizedDescriptionKey];
    return [NSError errorWithDomain:domain code:code userInfo:info];
}

@implementation NSURL
+ (NSURL *)fileURLWithPath:(NSString *)path {
    NSURL *url = [[self alloc] init];
    url->filePath = [path copy];
    return [url autorelease];
}
- (void)dealloc {
    [filePath release];
    [super dealloc];
}
- (NSString *)path {
    return filePath;
}
@end
