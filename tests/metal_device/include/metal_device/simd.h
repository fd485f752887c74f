/* Functions of SIMD-groups, and barriers. Each is a rendezvous of all lanes at one place of the source: the line of
 * the caller travels as a default argument. */
#ifndef METAL_DEVICE_SIMD_H
#define METAL_DEVICE_SIMD_H

#define METAL_DEVICE_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define METAL_DEVICE_UNCHECKED __attribute__((no_sanitize("thread"), convergent))

namespace metal_device {
struct slot {
    alignas(16) char bytes[METAL_DEVICE_SLOT];
};
template <class T> METAL_DEVICE_UNCHECKED inline T &of(void *slots, unsigned lane) {
    return *(T *)((slot *)slots)[lane].bytes;
}
template <class T>
METAL_DEVICE_UNCHECKED inline T meet(metal_device_combine *combine, T value, const char *what,
                                     const char *file, int line) {
    static_assert(sizeof(T) <= METAL_DEVICE_SLOT, "more than a lane can hand over");
    metal_device_site site = {what, file, line};
    return *(T *)metal_device_simd(combine, &value, sizeof value, &site);
}
template <class T> struct indexed {
    T value;
    unsigned lane;
};

/* Sums and so on go pairwise, as a tree: the order that Metal takes is not told. */
template <class T, class F> METAL_DEVICE_UNCHECKED void reduce(void *slots, unsigned active) {
    T part[32];
    for (unsigned i = 0; i < active; i++)
        part[i] = of<T>(slots, i);
    for (unsigned n = active; n > 1;) {
        unsigned pairs = (n + 1) / 2;
        for (unsigned i = 0; i + pairs < n; i++)
            part[i] = F::apply(part[i], part[i + pairs]);
        n = pairs;
    }
    for (unsigned i = 0; i < active; i++)
        of<T>(slots, i) = part[0];
}
template <class T, class F, bool inclusive>
METAL_DEVICE_UNCHECKED void scan(void *slots, unsigned active) {
    T sum = F::template neutral<T>();
    for (unsigned i = 0; i < active; i++) {
        T next = F::apply(sum, of<T>(slots, i));
        of<T>(slots, i) = inclusive ? next : sum;
        sum = next;
    }
}
/* Every lane gets the value of the lane that it names. */
template <class T> METAL_DEVICE_UNCHECKED void pick(void *slots, unsigned active) {
    T part[32];
    for (unsigned i = 0; i < active; i++)
        part[i] = of<indexed<T>>(slots, i).value;
    for (unsigned i = 0; i < active; i++) {
        unsigned lane = of<indexed<T>>(slots, i).lane;
        if (lane >= active) {
            metal_device_fault("a shuffle or broadcast of a lane that is not there");
            return;
        }
        of<indexed<T>>(slots, i).value = part[lane];
    }
}
METAL_DEVICE_UNCHECKED inline void vote(void *slots, unsigned active) {
    unsigned long mask = 0;
    for (unsigned i = 0; i < active; i++)
        mask |= of<unsigned long>(slots, i) ? 1ul << i : 0;
    for (unsigned i = 0; i < active; i++)
        of<unsigned long>(slots, i) = mask;
}
inline void no_combination(void *, unsigned) {
}

struct add {
    template <class T> METAL_DEVICE_UNCHECKED static T apply(T x, T y) {
        return x + y;
    }
    template <class T> METAL_DEVICE_UNCHECKED static T neutral() {
        return (T)0;
    }
};
struct multiply {
    template <class T> METAL_DEVICE_UNCHECKED static T apply(T x, T y) {
        return x * y;
    }
    template <class T> METAL_DEVICE_UNCHECKED static T neutral() {
        return (T)1;
    }
};
struct maximum {
    template <class T> METAL_DEVICE_UNCHECKED static T apply(T x, T y) {
        return ::metal::max(x, y);
    }
};
struct minimum {
    template <class T> METAL_DEVICE_UNCHECKED static T apply(T x, T y) {
        return ::metal::min(x, y);
    }
};
struct bits_and {
    template <class T> METAL_DEVICE_UNCHECKED static T apply(T x, T y) {
        return x & y;
    }
};
struct bits_or {
    template <class T> METAL_DEVICE_UNCHECKED static T apply(T x, T y) {
        return x | y;
    }
};
struct bits_xor {
    template <class T> METAL_DEVICE_UNCHECKED static T apply(T x, T y) {
        return x ^ y;
    }
};
} // namespace metal_device

namespace metal {
enum class mem_flags {
    mem_none = 0,
    mem_device = 1,
    mem_threadgroup = 2,
    mem_texture = 4,
    mem_threadgroup_imageblock = 8
};
constexpr mem_flags operator|(mem_flags x, mem_flags y) {
    return (mem_flags)((int)x | (int)y);
}

METAL_DEVICE_UNCHECKED inline void threadgroup_barrier(mem_flags flags, METAL_DEVICE_HERE) {
    metal_device_site site = {"threadgroup_barrier", file, line};
    metal_device_barrier(true, (unsigned)flags, &site);
}
METAL_DEVICE_UNCHECKED inline void simdgroup_barrier(mem_flags flags, METAL_DEVICE_HERE) {
    metal_device_site site = {"simdgroup_barrier", file, line};
    metal_device_barrier(false, (unsigned)flags, &site);
}

#define METAL_DEVICE_REDUCTION(name, operation)                                                    \
    template <class T> METAL_DEVICE_UNCHECKED inline T name(T x, METAL_DEVICE_HERE) {              \
        return metal_device::meet<T>(metal_device::reduce<T, metal_device::operation>, x, #name,   \
                                     file, line);                                                  \
    }
METAL_DEVICE_REDUCTION(simd_sum, add)
METAL_DEVICE_REDUCTION(simd_product, multiply)
METAL_DEVICE_REDUCTION(simd_max, maximum)
METAL_DEVICE_REDUCTION(simd_min, minimum)
METAL_DEVICE_REDUCTION(simd_and, bits_and)
METAL_DEVICE_REDUCTION(simd_or, bits_or)
METAL_DEVICE_REDUCTION(simd_xor, bits_xor)

#define METAL_DEVICE_SCAN(name, operation, inclusive)                                              \
    template <class T> METAL_DEVICE_UNCHECKED inline T name(T x, METAL_DEVICE_HERE) {              \
        return metal_device::meet<T>(metal_device::scan<T, metal_device::operation, inclusive>, x, \
                                     #name, file, line);                                           \
    }
METAL_DEVICE_SCAN(simd_prefix_inclusive_sum, add, true)
METAL_DEVICE_SCAN(simd_prefix_exclusive_sum, add, false)
METAL_DEVICE_SCAN(simd_prefix_inclusive_product, multiply, true)
METAL_DEVICE_SCAN(simd_prefix_exclusive_product, multiply, false)

#define METAL_DEVICE_PICK(name, type, which)                                                       \
    template <class T> METAL_DEVICE_UNCHECKED inline T name(T x, type by, METAL_DEVICE_HERE) {     \
        unsigned lane = metal_device_lane();                                                       \
        metal_device::indexed<T> mine = {x, (unsigned)(which)};                                    \
        return metal_device::meet<metal_device::indexed<T>>(metal_device::pick<T>, mine, #name,    \
                                                            file, line)                            \
            .value;                                                                                \
    }
METAL_DEVICE_PICK(simd_shuffle, ushort, ((void)lane, by))
METAL_DEVICE_PICK(simd_shuffle_xor, ushort, lane ^ by)
METAL_DEVICE_PICK(simd_shuffle_down, ushort, lane + by < 32 ? lane + by : lane)
METAL_DEVICE_PICK(simd_shuffle_up, ushort, lane >= by ? lane - by : lane)
METAL_DEVICE_PICK(simd_shuffle_rotate_down, ushort, (lane + by) & 31)
METAL_DEVICE_PICK(simd_shuffle_rotate_up, ushort, (lane - by) & 31)
METAL_DEVICE_PICK(simd_broadcast, ushort, ((void)lane, by))
METAL_DEVICE_PICK(quad_shuffle, ushort, (lane & ~3u) | (by & 3u))
METAL_DEVICE_PICK(quad_shuffle_xor, ushort, lane ^ (by & 3u))
METAL_DEVICE_PICK(quad_broadcast, ushort, (lane & ~3u) | (by & 3u))
template <class T> METAL_DEVICE_UNCHECKED inline T simd_broadcast_first(T x, METAL_DEVICE_HERE) {
    return simd_broadcast(x, (ushort)0, file, line);
}
template <class T> METAL_DEVICE_UNCHECKED inline T quad_sum(T x, METAL_DEVICE_HERE) {
    x = x + quad_shuffle_xor(x, (ushort)1, file, line);
    return x + quad_shuffle_xor(x, (ushort)2, file, line);
}
template <class T> METAL_DEVICE_UNCHECKED inline T quad_max(T x, METAL_DEVICE_HERE) {
    x = max(x, quad_shuffle_xor(x, (ushort)1, file, line));
    return max(x, quad_shuffle_xor(x, (ushort)2, file, line));
}

struct simd_vote {
    typedef ulong vote_t;
    explicit constexpr simd_vote(vote_t v = 0) : value(v) {
    }
    explicit constexpr operator vote_t() const {
        return value;
    }
    bool all() const {
        return (uint)value == ~0u;
    }
    bool any() const {
        return value != 0;
    }

  private:
    vote_t value;
};
METAL_DEVICE_UNCHECKED inline simd_vote simd_ballot(bool x, METAL_DEVICE_HERE) {
    return simd_vote(
        metal_device::meet<ulong>(metal_device::vote, (ulong)x, "simd_ballot", file, line));
}
METAL_DEVICE_UNCHECKED inline bool simd_any(bool x, METAL_DEVICE_HERE) {
    return metal_device::meet<ulong>(metal_device::vote, (ulong)x, "simd_any", file, line) != 0;
}
METAL_DEVICE_UNCHECKED inline bool simd_all(bool x, METAL_DEVICE_HERE) {
    return metal_device::meet<ulong>(metal_device::vote, (ulong)!x, "simd_all", file, line) == 0;
}
METAL_DEVICE_UNCHECKED inline bool simd_is_first() {
    return metal_device_lane() == 0;
}
} // namespace metal

#endif
