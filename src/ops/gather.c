/* Pieces of host memory, and where they are in a device's buffer. */
#include "ops/gather.h"

#include <string.h>

void ops_lay_pieces(const ops_piece *pieces, size_t count, size_t *next, size_t at, size_t size,
                    void *to) {
    for (; *next < count && pieces[*next].offset < at + size; ++*next) {
        const ops_piece *p = &pieces[*next];
        size_t done = p->offset < at ? at - p->offset : 0, place = p->offset + done - at;
        size_t left = p->size - done, part = left < size - place ? left : size - place;
        memcpy((char *)to + place, (const char *)p->host + done, part);
        if (part < left)
            return;
    }
}

const void *ops_piece_host(const ops_piece *pieces, size_t count, size_t offset) {
    size_t first = 0;
    while (count > 1) { /* the last that begins at or before it is among [first, first + count) */
        size_t half = count / 2;
        if (pieces[first + half].offset <= offset)
            first += half, count -= half;
        else
            count = half;
    }
    return (const char *)pieces[first].host + (offset - pieces[first].offset);
}
