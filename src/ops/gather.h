/* Weights of a device that copies them: pieces of host memory, side by side in one buffer of the device. */
#ifndef OPS_GATHER_H
#define OPS_GATHER_H

#include "ops/ops.h"

/* Pieces begin at multiples of so many bytes: kernels read rows of weights faster there. */
enum { OPS_PIECE_ALIGNMENT = 256 };

/* Given in order of their offsets, which are multiples of the alignment; none overlaps the next. */
struct ops_piece {
    const void *host;
    size_t size;   /* bytes */
    size_t offset; /* in the buffer */
};

/* What of the pieces lies in bytes [at, at + size) of the buffer is copied to `to`; bytes between pieces stay as they are.
 * Begins with *next, and leaves there the first piece that goes on behind. */
void ops_lay_pieces(const ops_piece *pieces, size_t count, size_t *next, size_t at, size_t size,
                    void *to);
/* The host address of a byte of the buffer that lies in one of the pieces. */
const void *ops_piece_host(const ops_piece *pieces, size_t count, size_t offset);

#endif
