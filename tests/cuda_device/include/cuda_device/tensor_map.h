/* A map of a tensor, as the test device's driver makes it and its copies read it. */
#ifndef CUDA_DEVICE_TENSOR_MAP_H
#define CUDA_DEVICE_TENSOR_MAP_H

#include <stdint.h>

enum { CUDA_DEVICE_TENSOR_MAP = 0x7e450a };

struct cuda_device_tensor_map {
    uint64_t address, bytes[5]; /* bytes: from one element to the next */
    uint32_t size[5];           /* less one */
    uint32_t made;
    uint16_t box[5];
    uint8_t rank, item, swizzle;
};

#endif
