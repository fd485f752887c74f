/* The part of Foundation that a thin Metal host needs, declared from Apple's public documentation. The test device
 * (device.m) implements it over gcc's Objective-C runtime; nothing else may be used by src/ops/metal/host.m.
 * Manual retain and release: the runtime has no reference counting by the compiler.
 */
#ifndef METAL_DEVICE_FOUNDATION_H
#define METAL_DEVICE_FOUNDATION_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if __has_feature(objc_arc)
#error "manual retain and release: compile without -fobjc-arc"
#endif

/* The newest system that the headers know; 140000: what Xcode 15 has. */
#ifndef __MAC_OS_X_VERSION_MAX_ALLOWED
#define __MAC_OS_X_VERSION_MAX_ALLOWED 150000
#endif

#ifdef __APPLE__
typedef bool BOOL;
#define API_AVAILABLE_MACOS(version) __attribute__((availability(macos, introduced = version)))
#define API_DEPRECATED_MACOS(from, to, text)                                                       \
    __attribute__((availability(macos, introduced = from, deprecated = to, message = text)))
#else
typedef unsigned char BOOL;
#define API_AVAILABLE_MACOS(version)
#define API_DEPRECATED_MACOS(from, to, text)
#endif
#if __MAC_OS_X_VERSION_MAX_ALLOWED < 150000 /* all that says so is of macOS 15 */
#undef API_AVAILABLE_MACOS
#define API_AVAILABLE_MACOS(version) __attribute__((unavailable("not in headers of macOS 14")))
#endif

#ifndef YES
#define YES __objc_yes
#define NO __objc_no
#endif
#ifndef nil
#define nil ((id)0)
#define Nil ((Class)0)
#endif

#define NS_ENUM(type, name)                                                                        \
    enum name : type name;                                                                         \
    enum name : type
#define NS_OPTIONS(type, name)                                                                     \
    enum name : type name;                                                                         \
    enum __attribute__((flag_enum)) name : type
#define NS_ASSUME_NONNULL_BEGIN _Pragma("clang assume_nonnull begin")
#define NS_ASSUME_NONNULL_END _Pragma("clang assume_nonnull end")
#define NS_RETURNS_RETAINED __attribute__((ns_returns_retained))
#define NS_REQUIRES_NIL_TERMINATION __attribute__((sentinel(0, 1)))

#if defined(__LP64__) && __LP64__
typedef long NSInteger;
typedef unsigned long NSUInteger;
#else
#error "64 bits only"
#endif
typedef double NSTimeInterval;
typedef double CFTimeInterval;
typedef struct _NSZone NSZone;

#define NSIntegerMax LONG_MAX
#define NSUIntegerMax ULONG_MAX
enum { NSNotFound = 0x7fffffffffffffff };

typedef struct _NSRange {
    NSUInteger location, length;
} NSRange;

static inline NSRange NSMakeRange(NSUInteger location, NSUInteger length) {
    return (NSRange){location, length};
}

NS_ASSUME_NONNULL_BEGIN

@class NSString, NSArray, NSDictionary, NSError;

@protocol NSObject
- (BOOL)isEqual:(nullable id)object;
@property(readonly) NSUInteger hash;
- (Class)class;
@property(readonly) Class superclass;
- (BOOL)isKindOfClass:(Class)aClass;
- (BOOL)respondsToSelector:(SEL)aSelector;
- (instancetype)retain;
- (oneway void)release;
- (instancetype)autorelease;
- (NSUInteger)retainCount;
@property(readonly, copy) NSString *description;
@end

@protocol NSCopying
- (id)copyWithZone:(nullable NSZone *)zone;
@end

/* Counts are kept in front of an object (device.m). */
__attribute__((objc_root_class))
@interface NSObject<NSObject> {
    Class isa;
}
+ (instancetype)alloc;
+ (instancetype)new;
+ (Class)class;
+ (nullable Class)superclass;
+ (BOOL)instancesRespondToSelector:(SEL)aSelector;
- (instancetype)init;
- (void)dealloc;
- (id)copy;
@end

typedef NS_ENUM(NSUInteger, NSStringEncoding) {
    NSASCIIStringEncoding = 1,
    NSUTF8StringEncoding = 4,
};

@interface NSString : NSObject <NSCopying>
+ (instancetype)string;
+ (nullable instancetype)stringWithUTF8String:(const char *)text;
- (nullable instancetype)initWithUTF8String:(const char *)text;
- (nullable instancetype)initWithBytes:(const void *)bytes
                                length:(NSUInteger)length
                              encoding:(NSStringEncoding)encoding;
- (nullable instancetype)initWithBytesNoCopy:(void *)bytes
                                      length:(NSUInteger)length
                                    encoding:(NSStringEncoding)encoding
                                freeWhenDone:(BOOL)freeBuffer;
@property(nullable, readonly) const char *UTF8String;
@property(readonly) NSUInteger length; /* here: bytes of UTF-8, right for ASCII */
- (NSUInteger)lengthOfBytesUsingEncoding:(NSStringEncoding)encoding;
- (BOOL)isEqualToString:(NSString *)other;
- (BOOL)hasPrefix:(NSString *)prefix;
@end

/* The class of @"..."; its layout is the compiler's (-fconstant-string-class=NSConstantString). */
@interface NSConstantString : NSString {
    char *bytes;
    unsigned int count;
}
@end

typedef struct {
    unsigned long state;
    __unsafe_unretained id _Nullable *_Nullable itemsPtr;
    unsigned long *_Nullable mutationsPtr;
    unsigned long extra[5];
} NSFastEnumerationState;

@protocol NSFastEnumeration
- (NSUInteger)countByEnumeratingWithState:(NSFastEnumerationState *)state
                                  objects:(__unsafe_unretained id _Nullable[_Nonnull])buffer
                                    count:(NSUInteger)length;
@end

@interface NSArray<ObjectType> : NSObject <NSFastEnumeration> {
    id *items;
    NSUInteger itemCount;
}
+ (instancetype)array;
+ (instancetype)arrayWithObject:(ObjectType)object;
+ (instancetype)arrayWithObjects:(const ObjectType _Nonnull[_Nullable])objects
                           count:(NSUInteger)count;
- (instancetype)initWithObjects:(const ObjectType _Nonnull[_Nullable])objects
                          count:(NSUInteger)count;
@property(readonly) NSUInteger count;
- (ObjectType)objectAtIndex:(NSUInteger)index;
@property(nullable, readonly) ObjectType firstObject;
- (BOOL)containsObject:(ObjectType)object;
@end

@interface NSDictionary<KeyType, ObjectType> : NSObject {
    id *keys, *values;
    NSUInteger pairs;
}
+ (instancetype)dictionary;
+ (instancetype)dictionaryWithObject:(ObjectType)object forKey:(KeyType)key;
+ (instancetype)dictionaryWithObjects:(const ObjectType _Nonnull[_Nullable])objects
                              forKeys:(const KeyType _Nonnull[_Nullable])keys
                                count:(NSUInteger)count;
@property(readonly) NSUInteger count;
- (nullable ObjectType)objectForKey:(KeyType)key;
@end

typedef NSString *NSErrorDomain;
typedef NSString *NSErrorUserInfoKey;
extern NSErrorUserInfoKey const NSLocalizedDescriptionKey;
extern NSErrorUserInfoKey const NSUnderlyingErrorKey;

@interface NSError : NSObject {
    NSErrorDomain errorDomain;
    NSInteger errorCode;
    NSDictionary *info;
}
+ (instancetype)errorWithDomain:(NSErrorDomain)domain
                           code:(NSInteger)code
                       userInfo:(nullable NSDictionary<NSErrorUserInfoKey, id> *)dict;
- (instancetype)initWithDomain:(NSErrorDomain)domain
                          code:(NSInteger)code
                      userInfo:(nullable NSDictionary<NSErrorUserInfoKey, id> *)dict;
@property(readonly, copy) NSErrorDomain domain;
@property(readonly) NSInteger code;
@property(readonly, copy) NSDictionary<NSErrorUserInfoKey, id> *userInfo;
@property(readonly, copy) NSString *localizedDescription;
@end

@interface NSURL : NSObject {
    NSString *filePath;
}
+ (NSURL *)fileURLWithPath:(NSString *)path;
@property(nullable, readonly, copy) NSString *path;
@end

@interface NSAutoreleasePool : NSObject {
    NSAutoreleasePool *outer;
    id *pooled;
    NSUInteger pooledCount, pooledRoom;
}
+ (void)addObject:(id)object;
- (void)addObject:(id)object;
- (void)drain;
@end

NS_ASSUME_NONNULL_END

#endif
