/* Atomics. Metal has one order of memory, relaxed; the others are not even declared. */
#ifndef METAL_DEVICE_ATOMIC_H
#define METAL_DEVICE_ATOMIC_H

namespace metal {
enum memory_order { memory_order_relaxed };

template <class T> struct atomic { T value; };
} // namespace metal
typedef metal::atomic<int> atomic_int;
typedef metal::atomic<uint> atomic_uint;
typedef metal::atomic<float> atomic_float;
typedef metal::atomic<ulong> atomic_ulong;
namespace metal {
using ::atomic_float;
using ::atomic_int;
using ::atomic_uint;
using ::atomic_ulong;

/* Where types are checked only the declarations are needed: the compiler's functions know no address spaces. */
#ifdef METAL_DEVICE_TYPES
#define METAL_DEVICE_BODY(...) ;
#define METAL_DEVICE_ATOMICS METAL_DEVICE_ATOMIC(device) METAL_DEVICE_ATOMIC(threadgroup)
#else
#define METAL_DEVICE_BODY(...)                                                                     \
    { __VA_ARGS__ }
#define METAL_DEVICE_ATOMICS METAL_DEVICE_ATOMIC()
#endif

#define METAL_DEVICE_FETCH(space, name, builtin)                                                   \
    template <class T, class V>                                                                    \
    inline T atomic_fetch_##name##_explicit(volatile space atomic<T> *object, V operand,           \
                                            memory_order)                                          \
        METAL_DEVICE_BODY(return builtin(&object->value, (T)operand, __ATOMIC_RELAXED);)
#define METAL_DEVICE_EXCHANGING(space, name, expression)                                           \
    template <class T, class V>                                                                    \
    inline T atomic_fetch_##name##_explicit(volatile space atomic<T> *object, V operand,           \
                                            memory_order)                                          \
        METAL_DEVICE_BODY(T old; __atomic_load(&object->value, &old, __ATOMIC_RELAXED); for (;;) { \
            T now = (expression);                                                                  \
            if (__atomic_compare_exchange(&object->value, &old, &now, true, __ATOMIC_RELAXED,      \
                                          __ATOMIC_RELAXED))                                       \
                return old;                                                                        \
        })
#define METAL_DEVICE_ATOMIC(space)                                                                 \
    template <class T>                                                                             \
    inline T atomic_load_explicit(                                                                 \
        const volatile space atomic<T> *object,                                                    \
        memory_order) METAL_DEVICE_BODY(T x; __atomic_load(&object->value, &x, __ATOMIC_RELAXED);  \
                                        return x;) template <class T, class V>                     \
    inline void atomic_store_explicit(volatile space atomic<T> *object, V desired, memory_order)   \
        METAL_DEVICE_BODY(T x = (T)desired; __atomic_store(                                        \
                              &object->value, &x, __ATOMIC_RELAXED);) template <class T, class V>  \
        inline T atomic_exchange_explicit(volatile space atomic<T> *object, V desired,             \
                                          memory_order)                                            \
            METAL_DEVICE_BODY(T x = (T)desired; T old;                                             \
                              __atomic_exchange(&object->value, &x, &old, __ATOMIC_RELAXED);       \
                              return old;) template <class T, class V>                             \
            inline bool atomic_compare_exchange_weak_explicit(volatile space atomic<T> *object,    \
                                                              thread T *expected, V desired,       \
                                                              memory_order, memory_order)          \
                METAL_DEVICE_BODY(                                                                 \
                    T x = (T)desired; return __atomic_compare_exchange(                            \
                        &object->value, expected, &x, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);)  \
                    METAL_DEVICE_EXCHANGING(space, add, (T)(old + (T)operand))                     \
                        METAL_DEVICE_EXCHANGING(space, sub, (T)(old - (T)operand))                 \
                            METAL_DEVICE_EXCHANGING(space, max,                                    \
                                                    old > (T)operand ? old : (T)operand)           \
                                METAL_DEVICE_EXCHANGING(space, min,                                \
                                                        old < (T)operand ? old : (T)operand)       \
                                    METAL_DEVICE_FETCH(space, and, __atomic_fetch_and)             \
                                        METAL_DEVICE_FETCH(space, or, __atomic_fetch_or)           \
                                            METAL_DEVICE_FETCH(space, xor, __atomic_fetch_xor)
METAL_DEVICE_ATOMICS
} // namespace metal

#endif
