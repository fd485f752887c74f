/* What the test device has of the driver: maps of tensors (cuda_device/tensor_map.h). */
#include <string.h>

#include "host.h"
#include "include/cuda.h"
#include "include/cuda_device/tensor_map.h"

static CUresult encode(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                       const cuuint64_t *size, const cuuint64_t *bytes, const cuuint32_t *box,
                       const cuuint32_t *step, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    unsigned item = type == CU_TENSOR_MAP_DATA_TYPE_UINT8     ? 1
                    : type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4
                                                              : 2;
    bool good = rank >= 1 && rank <= 5 && (uintptr_t)address % 16 == 0 && map != nullptr;
    for (cuuint32_t i = 0; i < rank && good; i++)
        good = size[i] > 0 && size[i] <= (cuuint64_t)1 << 32 && box[i] > 0 && box[i] <= 256 &&
               step[i] == 1 && (i == 0 || bytes[i - 1] % 16 == 0);
    if (!good || box[0] * item % 16 != 0 ||
        (swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * item > 128))
        return CUDA_ERROR_INVALID_VALUE;
    cuda_device_tensor_map m = {};
    m.address = (uintptr_t)address;
    m.rank = (uint8_t)rank;
    m.item = (uint8_t)item;
    m.swizzle = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
    for (cuuint32_t i = 0; i < rank; i++) {
        m.size[i] = (uint32_t)(size[i] - 1);
        m.bytes[i] = i == 0 ? item : bytes[i - 1];
        m.box[i] = (uint16_t)box[i];
    }
    m.made = CUDA_DEVICE_TENSOR_MAP;
    static_assert(sizeof m <= sizeof *map, "fits");
    memset(map, 0, sizeof *map);
    memcpy(map, &m, sizeof m);
    return CUDA_SUCCESS;
}

void *cuda_device::driver_function(const char *name) {
    return strcmp(name, "cuTensorMapEncodeTiled") == 0 ? (void *)encode : nullptr;
}
