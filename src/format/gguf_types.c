/* The numbers of types in GGUF files: of values, of tensors, and of whole files. They come from the
 * format's documentation; those that only other programs compute with are named in errors. */
#include "format/gguf_types.h"

typedef struct tensor_type {
    uint32_t number;
    int file_type; /* general.file_type of files that are mostly this; -1: none */
    dtype type;
} tensor_type;

static const tensor_type types[] = {
    {0, 0, DTYPE_F32},   {1, 1, DTYPE_F16},    {2, 2, DTYPE_Q4_0},  {3, 3, DTYPE_Q4_1},
    {6, 8, DTYPE_Q5_0},  {7, 9, DTYPE_Q5_1},   {8, 7, DTYPE_Q8_0},  {20, 25, DTYPE_IQ4_NL},
    {24, -1, DTYPE_I8},  {25, -1, DTYPE_I16},  {26, -1, DTYPE_I32}, {27, -1, DTYPE_I64},
    {28, -1, DTYPE_F64}, {30, 32, DTYPE_BF16},
};
enum { TYPES = sizeof types / sizeof types[0] };

static const char *const other_names[] = {
    [9] = "Q8_1",   [10] = "Q2_K",  [11] = "Q3_K",    [12] = "Q4_K",   [13] = "Q5_K",
    [14] = "Q6_K",  [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS",
    [19] = "IQ1_S", [21] = "IQ3_S", [22] = "IQ2_S",   [23] = "IQ4_XS", [29] = "IQ1_M",
    [34] = "TQ1_0", [35] = "TQ2_0", [39] = "MXFP4",
};
enum { OTHERS = sizeof other_names / sizeof other_names[0] };

size_t gguf_scalar_size(uint32_t type) {
    static const uint8_t sizes[GGUF_TYPE_COUNT] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
        [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return type < GGUF_TYPE_COUNT ? sizes[type] : 0;
}

int gguf_tensor_type(dtype type) {
    for (int i = 0; i < TYPES; i++)
        if (types[i].type == type)
            return (int)types[i].number;
    return -1;
}

bool gguf_tensor_dtype(uint32_t number, dtype *type, const char **name) {
    for (int i = 0; i < TYPES; i++) {
        if (types[i].number == number) {
            *type = types[i].type;
            return true;
        }
    }
    *name = number < OTHERS ? other_names[number] : NULL;
    return false;
}

uint32_t gguf_file_type(dtype type) {
    for (int i = 0; i < TYPES; i++)
        if (types[i].type == type && types[i].file_type >= 0)
            return (uint32_t)types[i].file_type;
    return 0;
}

const char *gguf_file_type_name(int64_t file_type) {
    for (int i = 0; i < TYPES; i++)
        if (types[i].file_type >= 0 && types[i].file_type == file_type)
            return dtype_name(types[i].type);
    return NULL;
}
