/* The tiles of AMX. */
#ifndef OPS_CPU_VECTOR_AMX_H
#define OPS_CPU_VECTOR_AMX_H

#include "ops/cpu/vector.h"

enum { AMX_TILES = 8 };

/* Shapes for the calling thread, until _tile_release: rows, and bytes of a row. */
ALWAYS_INLINE void configure_tiles(const uint8_t rows[AMX_TILES],
                                   const uint16_t line_bytes[AMX_TILES]) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t line_bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) config = {.palette = 1};
    for (int i = 0; i < AMX_TILES; i++) {
        config.line_bytes[i] = line_bytes[i];
        config.rows[i] = rows[i];
    }
    /* gcc 12 believes that only the first bytes are read. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

#endif
