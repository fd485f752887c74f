/* How a kernel gets its arguments. The generator writes, for each, a function that calls it with a binder a
 * parameter, and an entry of the table of kernels; the types of parameters come from the kernel's own type. */
#ifndef METAL_DEVICE_KERNEL_H
#define METAL_DEVICE_KERNEL_H

namespace metal_device {
#ifdef METAL_DEVICE_TYPES
inline threadgroup void *variable(unsigned, unsigned) {
    return nullptr;
}
#else
METAL_DEVICE_UNCHECKED inline void *variable(unsigned size, unsigned alignment) {
    return metal_device_variable_address(size, alignment);
}

template <class A> struct pointed {
    static_assert(sizeof(A) == 0, "[[buffer]] and [[threadgroup]] are pointers or references");
};
template <class T> struct pointed<T *> {
    static constexpr bool reads_only = false;
    static constexpr unsigned size = 0;
    static T *from(void *p) {
        return (T *)p;
    }
};
template <class T> struct pointed<const T *> {
    static constexpr bool reads_only = true;
    static constexpr unsigned size = 0;
    static const T *from(void *p) {
        return (const T *)p;
    }
};
template <class T> struct pointed<T &> {
    static constexpr bool reads_only = false;
    static constexpr unsigned size = sizeof(T);
    static T &from(void *p) {
        return *(T *)p;
    }
};
template <class T> struct pointed<const T &> {
    static constexpr bool reads_only = true;
    static constexpr unsigned size = sizeof(T);
    static const T &from(void *p) {
        return *(const T *)p;
    }
};

template <int index> struct buffer_argument {
    template <class A> METAL_DEVICE_UNCHECKED static A get() {
        return pointed<A>::from(metal_device_buffer(index));
    }
    template <class A> static constexpr metal_device_parameter describe() {
        return {METAL_DEVICE_BUFFER, index, pointed<A>::reads_only, pointed<A>::size};
    }
};
template <int index> struct threadgroup_argument {
    template <class A> METAL_DEVICE_UNCHECKED static A get() {
        return pointed<A>::from(metal_device_threadgroup(index));
    }
    template <class A> static constexpr metal_device_parameter describe() {
        return {METAL_DEVICE_THREADGROUP, index, false, 0};
    }
};
template <int which, bool scalar> struct position_argument {
    template <class A> METAL_DEVICE_UNCHECKED static A get() {
        typedef typename shape<A>::element element;
        constexpr int size = shape<A>::size;
        static_assert(::metal::is_same_v<element, uint> || ::metal::is_same_v<element, ushort>,
                      "positions are uint or ushort");
        static_assert(size == 1 || !scalar, "an index is a scalar");
        unsigned value[3];
        metal_device_position(which, value);
        if constexpr (size == 1) {
            return (A)value[0];
        } else {
            A v = {};
            for (int i = 0; i < size; i++)
                v[i] = (element)value[i];
            return v;
        }
    }
    template <class A> static constexpr metal_device_parameter describe() {
        return {METAL_DEVICE_POSITION, which, true, 0};
    }
};

template <class F> struct signature;
template <class... A> struct signature<void (*)(A...)> {
    template <void (*function)(A...), class... B> struct with {
        METAL_DEVICE_UNCHECKED static void call() {
            static_assert(sizeof...(A) == sizeof...(B), "a parameter without its attribute");
            function(B::template get<A>()...);
        }
        static metal_device_kernel describe(const char *name, const char *file, int line,
                                            int most_threads) {
            return {nullptr, name,         file,
                    line,    most_threads, (const void *)function,
                    call,    sizeof...(A), {B::template describe<A>()...}};
        }
    };
};
#endif
} // namespace metal_device

#endif
