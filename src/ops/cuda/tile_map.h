/* Maps of tensors in device memory, through which the copy engine moves boxes of them (compute capability 9.0,
 * wgmma.h). A map is made on the host and given to a kernel as part of its `const __grid_constant__` argument. */
#ifndef OPS_CUDA_TILE_MAP_H
#define OPS_CUDA_TILE_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "xlstm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As the driver encodes it. */
typedef struct tile_map {
    uint64_t words[16];
} __attribute__((aligned(64))) tile_map;

/* A tensor of bf16, or of bytes, of rank 4, the innermost dimension contiguous. Address and strides are multiples of 16
 * bytes. */
typedef struct tile_tensor {
    const void *data;
    bool bytes;
    int64_t size[4];   /* the innermost first; absent dimensions are 1 */
    int64_t stride[4]; /* in elements; the innermost is 1 */
} tile_tensor;

/* The map by which boxes of [rows][columns] (dimensions 1 and 0; at most 256 x 64, of bytes 256 x 128) come as
 * tiles: swizzled by 128 bytes, which wants as many columns. */
xlstm_status tile_map_make(tile_map *map, const tile_tensor *tensor, int rows, int columns);

#ifdef __cplusplus
}
#endif

#endif
