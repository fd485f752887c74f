/* Maps of tensors for the copy engine: the driver's cuTensorMapEncodeTiled, which the runtime finds, so that nothing
 * is linked with the driver. */
#include "ops/cuda/tile_map.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <string.h>

#include "base/error.h"
#include "ops/cuda/internal.h"

typedef CUresult encode_function(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                 const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                 const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static xlstm_status find(encode_function **encode) {
    void *found = NULL;
    enum cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                         cudaEnableDefault, &result);
#else
    cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    if (error != cudaSuccess)
        return cuda_status(error, "cudaGetDriverEntryPoint");
    if (result != cudaDriverEntryPointSuccess || !found)
        return error_set(XLSTM_UNSUPPORTED, "the CUDA driver has no cuTensorMapEncodeTiled; it "
                                            "should be one for CUDA 12.0 or later");
    memcpy(encode, &found, sizeof found);
    return XLSTM_OK;
}

xlstm_status tile_map_make(tile_map *map, const tile_tensor *tensor, int rows, int columns) {
    static encode_function *known;
    encode_function *encode = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
    if (!encode) {
        xlstm_status status = find(&encode);
        if (status != XLSTM_OK)
            return status;
        __atomic_store_n(&known, encode, __ATOMIC_RELEASE);
    }
    const cuuint64_t element = tensor->bytes ? 1 : 2;
    cuuint64_t size[4], bytes[3];
    cuuint32_t box[4] = {(cuuint32_t)columns, (cuuint32_t)rows, 1, 1}, step[4] = {1, 1, 1, 1};
    for (int i = 0; i < 4; i++)
        size[i] = (cuuint64_t)tensor->size[i];
    /* a dimension of one element may come with any stride */
    for (int i = 0; i < 3; i++)
        bytes[i] = tensor->size[i + 1] > 1 ? (cuuint64_t)tensor->stride[i + 1] * element : 16;
    CUtensorMap made;
    CUresult result = encode(
        &made, tensor->bytes ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4,
        (void *)(uintptr_t)tensor->data, size, bytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "cuTensorMapEncodeTiled: error %d for a tensor of %s at %p of size %lld x "
                         "%lld x %lld x %lld; address and strides should be multiples of 16 bytes",
                         (int)result, tensor->bytes ? "bytes" : "bf16", tensor->data,
                         (long long)tensor->size[3], (long long)tensor->size[2],
                         (long long)tensor->size[1], (long long)tensor->size[0]);
    memcpy(map, &made, sizeof made);
    return XLSTM_OK;
}
