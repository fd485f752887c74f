/* What kernels call of the test device (runtime.cc), and what they tell it about themselves. */
#ifndef METAL_DEVICE_ABI_H
#define METAL_DEVICE_ABI_H

enum {
    METAL_DEVICE_MOST_PARAMETERS = 48,
    METAL_DEVICE_SLOT = 32 /* bytes that a lane hands over at a rendezvous */
};

enum metal_device_parameter_kind {
    METAL_DEVICE_BUFFER,
    METAL_DEVICE_THREADGROUP,
    METAL_DEVICE_POSITION
};

enum metal_device_position {
    METAL_DEVICE_thread_position_in_grid,
    METAL_DEVICE_thread_position_in_threadgroup,
    METAL_DEVICE_thread_index_in_threadgroup,
    METAL_DEVICE_threadgroup_position_in_grid,
    METAL_DEVICE_threads_per_threadgroup,
    METAL_DEVICE_dispatch_threads_per_threadgroup,
    METAL_DEVICE_threadgroups_per_grid,
    METAL_DEVICE_threads_per_grid,
    METAL_DEVICE_thread_index_in_simdgroup,
    METAL_DEVICE_simdgroup_index_in_threadgroup,
    METAL_DEVICE_threads_per_simdgroup,
    METAL_DEVICE_simdgroups_per_threadgroup,
    METAL_DEVICE_dispatch_simdgroups_per_threadgroup,
    METAL_DEVICE_thread_execution_width
};

struct metal_device_parameter {
    int kind, index;
    bool reads_only;
    unsigned size; /* bytes of what a reference refers to; 0: a pointer */
};

struct metal_device_kernel {
    const void *module; /* for gpu.c */
    const char *name, *file;
    int line;
    int most_threads;     /* [[max_total_threads_per_threadgroup]]; 0: not told */
    const void *function; /* what threadgroup variables name */
    void (*call)();
    int count;
    metal_device_parameter parameter[METAL_DEVICE_MOST_PARAMETERS];
};

/* A threadgroup variable, in the section metal_variables. */
struct metal_device_variable {
    const void *function;
    unsigned size, alignment;
};

struct metal_device_site {
    const char *what, *file;
    int line;
};

/* Turns what the lanes handed over into what each gets, in place. */
typedef void metal_device_combine(void *slots, unsigned active);

extern "C" {
void *metal_device_buffer(int index);
void *metal_device_threadgroup(int index);
void *metal_device_variable_address(unsigned size, unsigned alignment);
void metal_device_position(int which, unsigned *out);
unsigned metal_device_lane();
/* Rendezvous of the 32 lanes; the lane's slot, with what `combine` left there. */
__attribute__((convergent)) void *metal_device_simd(metal_device_combine *combine,
                                                    const void *value, unsigned size,
                                                    const metal_device_site *site);
__attribute__((convergent)) void metal_device_barrier(bool of_threadgroup, unsigned flags,
                                                      const metal_device_site *site);
/* A combination that cannot be: the dispatch ends when it is done. */
void metal_device_fault(const char *what);
}

#endif
