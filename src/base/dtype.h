/* Element types of tensors, in files and on devices, and conversions between them. */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum dtype {
    DTYPE_F64,
    DTYPE_F32,
    DTYPE_BF16,
    DTYPE_F16,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_I16,
    DTYPE_I8,
    DTYPE_U64,
    DTYPE_U32,
    DTYPE_U16,
    DTYPE_U8,
    DTYPE_BOOL,
    /* Blocks of 32 quantised values (blocks.h). */
    DTYPE_Q8_0,
    DTYPE_Q5_0,
    DTYPE_Q5_1,
    DTYPE_Q4_0,
    DTYPE_Q4_1,
    DTYPE_IQ4_NL,
    DTYPE_COUNT
} dtype;

int dtype_block(dtype type);   /* elements of a block: 1, or 32 */
size_t dtype_size(dtype type); /* bytes of one block: of one element, or of 32 */
int64_t dtype_bytes(dtype type, int64_t elements); /* of whole blocks */
const char *dtype_name(dtype type);                /* "f32", "bf16" … */
bool dtype_is_float(dtype type);                   /* f64, f32, bf16, f16 */
bool dtype_is_weight(dtype type); /* these, or blocks: what a matrix may be stored in */
bool dtype_from_name(const char *name, dtype *type); /* "f32", "bf16", "f16", "f64" … */

static inline float bf16_to_float(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

uint16_t float_to_bf16(float value); /* round to nearest even; NaN stays NaN */
float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float value); /* round to nearest even; overflow gives infinity */

/* Element `index` of an array of a floating-point type or of blocks. Blocks cannot be stored one
 * element at a time (quantise.h). */
double dtype_load(dtype type, const void *data, int64_t index);
void dtype_store(dtype type, void *data, int64_t index, double value);
/* Converts `count` elements between floating-point types, or from whole blocks to one. */
void dtype_convert(dtype from, const void *source, dtype to, void *target, int64_t count);

#ifdef __cplusplus
}
#endif

#endif
