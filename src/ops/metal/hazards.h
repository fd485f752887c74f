/* What commands that are not known to be done touch: spans of memory, in the order of the commands.
 *
 * Two questions. Must a barrier stand in front of a dispatch: does it touch what one since the last barrier
 * writes, or write what one reads? And for the processor, which reads and writes the same memory: which
 * commands must be done first? Whole spans are compared; columns that lie between each other's rows count as
 * touching, which costs a barrier and no more.
 */
#ifndef OPS_METAL_HAZARDS_H
#define OPS_METAL_HAZARDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct metal_span {
    const void *memory; /* tells buffers apart */
    size_t begin, end;  /* bytes */
    bool written;
} metal_span;

enum { METAL_MOST_SPANS = 8192 };

typedef struct metal_hazards {
    int count, unfenced; /* [unfenced, count) are those since the last barrier */
    metal_span span[METAL_MOST_SPANS];
    uint64_t serial[METAL_MOST_SPANS]; /* of the commands; 0: not committed yet */
} metal_hazards;

/* Whether there is room for this many more. */
bool metal_hazards_room(const metal_hazards *h, int count);
/* Whether `span` conflicts with one since the last barrier. */
bool metal_hazards_conflict(const metal_hazards *h, const metal_span *span);
void metal_hazards_add(metal_hazards *h, const metal_span *span);
void metal_hazards_barrier(metal_hazards *h);
/* What is not committed yet gets this serial number; commands of different ones do not overlap. */
void metal_hazards_commit(metal_hazards *h, uint64_t serial);
/* Whether `span` conflicts with anything that is not done; `serial`: the latest commands it conflicts with, 0:
 * some that are not committed. */
bool metal_hazards_pending(const metal_hazards *h, const metal_span *span, uint64_t *serial);
/* Commands up to `serial` are done; or all are. */
void metal_hazards_done(metal_hazards *h, uint64_t serial);
void metal_hazards_clear(metal_hazards *h);

#endif
