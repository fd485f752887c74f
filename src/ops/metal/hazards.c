/* Spans of memory under way: see hazards.h. */
#include "ops/metal/hazards.h"

bool metal_hazards_room(const metal_hazards *h, int count) {
    return count <= METAL_MOST_SPANS - h->count;
}

static bool conflict(const metal_span *a, const metal_span *b) {
    return a->memory == b->memory && (a->written || b->written) && a->begin < b->end &&
           b->begin < a->end;
}

bool metal_hazards_conflict(const metal_hazards *h, const metal_span *span) {
    for (int i = h->unfenced; i < h->count; i++)
        if (conflict(&h->span[i], span))
            return true;
    return false;
}

void metal_hazards_add(metal_hazards *h, const metal_span *span) {
    h->span[h->count] = *span;
    h->serial[h->count++] = 0;
}

void metal_hazards_barrier(metal_hazards *h) {
    h->unfenced = h->count;
}

void metal_hazards_commit(metal_hazards *h, uint64_t serial) {
    for (int i = h->count - 1; i >= 0 && h->serial[i] == 0; i--)
        h->serial[i] = serial;
    metal_hazards_barrier(h);
}

bool metal_hazards_pending(const metal_hazards *h, const metal_span *span, uint64_t *serial) {
    for (int i = h->count - 1; i >= 0; i--)
        if (conflict(&h->span[i], span)) {
            *serial = h->serial[i];
            return true;
        }
    return false;
}

void metal_hazards_done(metal_hazards *h, uint64_t serial) {
    int done = 0;
    while (done < h->count && h->serial[done] != 0 && h->serial[done] <= serial)
        done++;
    for (int i = done; done > 0 && i < h->count; i++) {
        h->span[i - done] = h->span[i];
        h->serial[i - done] = h->serial[i];
    }
    h->count -= done;
    h->unfenced = h->unfenced > done ? h->unfenced - done : 0;
}

void metal_hazards_clear(metal_hazards *h) {
    h->count = h->unfenced = 0;
}
