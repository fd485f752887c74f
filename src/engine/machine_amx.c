/* What the tile unit of a processor with AMX can do.
 *
 * A product of matrices keeps four tiles of C in registers and loads two of A and two of B for each
 * step, so the peak that a kernel can be compared with includes these loads: 4 products of tiles and
 * 4 loads a step, from a footprint that stays in the nearest cache.
 *
 * Linux gives a process the large registers of tiles only when it asks. gcc 12 does not know that
 * loading the configuration reads memory: without a barrier before it the stores may come later. */
#include "engine/machine_kernels.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    TILE = 1024,   /* bytes: 16 rows of 64 */
    FOOTPRINT = 6, /* steps until the same memory comes again: 24 KiB */
    REQUEST_PERMISSION = 0x1023,
    TILE_DATA = 18 /* the number of the registers' state component */
};

typedef struct tile_config {
    uint8_t palette, start_row, unused[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

#define WITH_TILES __attribute__((target("amx-tile,amx-bf16,amx-int8")))

WITH_TILES static void configure(void) {
    tile_config config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = 64;
        config.rows[t] = 16;
    }
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* The sum of the first elements of C; the tiles are out of use afterwards, as before. */
WITH_TILES static float finish(bool is_float) {
    union {
        float f[TILE / 4];
        int32_t i[TILE / 4];
    } c;
    float sum = 0;
    _tile_stored(0, &c, 64);
    sum += is_float ? c.f[0] : (float)c.i[0];
    _tile_stored(1, &c, 64);
    sum += is_float ? c.f[0] : (float)c.i[0];
    _tile_stored(2, &c, 64);
    sum += is_float ? c.f[0] : (float)c.i[0];
    _tile_stored(3, &c, 64);
    sum += is_float ? c.f[0] : (float)c.i[0];
    _tile_release();
    return sum;
}

WITH_TILES static float multiply_bf16(int steps) {
    _Alignas(64) uint16_t data[FOOTPRINT][4][TILE / 2];
    for (size_t i = 0; i < sizeof data / sizeof(uint16_t); i++)
        ((uint16_t *)data)[i] = 0x3F80; /* 1 */
    configure();
    for (int i = 0, at = 0; i < steps; i++, at = at + 1 < FOOTPRINT ? at + 1 : 0) {
        _tile_loadd(4, data[at][0], 64);
        _tile_loadd(6, data[at][2], 64);
        _tile_loadd(5, data[at][1], 64);
        _tile_loadd(7, data[at][3], 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    return finish(true);
}

WITH_TILES static float multiply_int8(int steps) {
    _Alignas(64) int8_t data[FOOTPRINT][4][TILE];
    for (size_t i = 0; i < sizeof data; i++)
        ((int8_t *)data)[i] = 1;
    configure();
    for (int i = 0, at = 0; i < steps; i++, at = at + 1 < FOOTPRINT ? at + 1 : 0) {
        _tile_loadd(4, data[at][0], 64);
        _tile_loadd(6, data[at][2], 64);
        _tile_loadd(5, data[at][1], 64);
        _tile_loadd(7, data[at][3], 64);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 5, 6);
        _tile_dpbssd(2, 4, 7);
        _tile_dpbssd(3, 5, 7);
    }
    return finish(false);
}

void machine_amx_add(machine_kernels *kernels) {
    unsigned a, b, c, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return;
    bool has_bf16 = d >> 22 & 1, has_tiles = d >> 24 & 1, has_int8 = d >> 25 & 1;
    if (!has_tiles || syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0)
        return;
    const double products = 4.0 * 16 * 16; /* of dot products a step */
    if (has_bf16) {
        kernels->amx_bf16 = multiply_bf16;
        kernels->amx_bf16_flops = products * 2 * 32;
    }
    if (has_int8) {
        kernels->amx_int8 = multiply_int8;
        kernels->amx_int8_flops = products * 2 * 64;
    }
}

#else

void machine_amx_add(machine_kernels *kernels) {
    (void)kernels;
}

#endif
