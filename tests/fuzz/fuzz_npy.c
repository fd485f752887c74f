/* Any bytes as a .npy file: an error, or an array whose elements can all be read. */
#include <stdlib.h>

#include "format/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    npy_array array;
    int32_t *ids = NULL;
    if (npy_parse(bytes, size, "input", &array) != XLSTM_OK)
        return 0;
    if ((uintptr_t)array.data % 64 != 0 || (uint64_t)array.count * dtype_size(array.dtype) > size)
        abort();
    if (npy_to_ids(&array, "input", &ids) == XLSTM_OK) {
        for (int64_t i = 0; i < array.count; i++)
            if (ids[i] < 0 && dtype_name(array.dtype)[0] == 'u')
                abort();
    }
    free(ids);
    npy_close(&array);
    return 0;
}
