/* What this machine can do, measured: the limits that speeds are compared with. */
#ifndef ENGINE_MACHINE_H
#define ENGINE_MACHINE_H

#include "xlstm.h"

typedef enum machine_kind {
    MACHINE_READ,     /* bytes a second: many streams a thread, memory far larger than the caches */
    MACHINE_WEIGHTS,  /* bytes a second: the same of given memory (machine_read_from), all of it */
    MACHINE_UPDATE,   /* read-modify-write of the same: bytes read plus bytes written */
    MACHINE_FMA,      /* fp32, 2 operations an FMA, the widest vectors of this CPU */
    MACHINE_AMX_BF16, /* products of tiles that are loaded on the way, 2 operations each */
    MACHINE_AMX_INT8,
    MACHINE_KINDS
} machine_kind;

typedef struct machine_meter machine_meter;

/* Something to measure with: as many threads as named (0: one for every processor this process may
 * use), each on its own processor if pinned, and memory to read. Idle between samples. */
xlstm_status machine_create(int threads, bool pin, machine_meter **result);
void machine_free(machine_meter *m);
int machine_threads(const machine_meter *m);
/* Memory for MACHINE_WEIGHTS to read, which must stay: memory is not equally fast everywhere (that of
 * another node, pages of another size), so what reads weights is compared with reading them. */
typedef struct machine_span {
    const void *data;
    size_t size;
} machine_span;
enum { MACHINE_SPANS = 64 }; /* what comes after so many is left out */
void machine_read_from(machine_meter *m, const machine_span *spans, int count);
/* False where the processor, or its system, does not have it. */
bool machine_has(const machine_meter *m, machine_kind kind);
/* One sample, in bytes or operations a second; takes 20 to 150 ms. 0 if the machine lacks the kind.
 * What a machine can do changes while others use it: a speed is compared with samples of the same
 * seconds. */
double machine_sample(machine_meter *m, machine_kind kind);

typedef struct machine_limits {
    double read_bytes_per_second, update_bytes_per_second, fma_flops_per_second;
    double amx_bf16_flops_per_second, amx_int8_ops_per_second; /* 0: absent */
    int threads;
} machine_limits;

/* Takes about `seconds` in all (0: 2 s); medians of several samples. */
void machine_measure_all(machine_meter *m, double seconds, machine_limits *limits);
/* The same with a machine of its own. */
xlstm_status machine_measure(int threads, double seconds, machine_limits *limits);

#endif
