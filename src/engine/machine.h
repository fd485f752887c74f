/* What this machine can do, measured: the limits that speeds are compared with. */
#ifndef ENGINE_MACHINE_H
#define ENGINE_MACHINE_H

#include "xlstm.h"

typedef struct machine_limits {
    double
        read_bytes_per_second; /* many streams a thread, over memory far larger than the caches */
    double update_bytes_per_second; /* read-modify-write: bytes read plus bytes written */
    double fma_flops_per_second;    /* fp32, 2 operations an FMA, the widest vectors of this CPU */
    int threads;
} machine_limits;

/* Takes about `seconds` in all (0: 2 s); medians of several runs. */
xlstm_status machine_measure(int threads, double seconds, machine_limits *limits);

#endif
