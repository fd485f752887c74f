/* Element types and exact conversions between them.
 *
 * Narrowing rounds once, to nearest with ties to even. A double goes to the 16-bit types through a
 * float that was rounded to odd: that float has at least two bits more than the result, and its
 * last bit says whether anything was lost, so the second rounding decides as if it saw the double.
 */
#include "base/dtype.h"

#include <math.h>

#include "base/blocks.h"

enum kind { INTEGER, FLOAT, BLOCK };

static const struct {
    const char *name;
    size_t size;
    enum kind kind;
} types[DTYPE_COUNT] = {
    [DTYPE_F64] = {"f64", 8, FLOAT},
    [DTYPE_F32] = {"f32", 4, FLOAT},
    [DTYPE_BF16] = {"bf16", 2, FLOAT},
    [DTYPE_F16] = {"f16", 2, FLOAT},
    [DTYPE_I64] = {"i64", 8, INTEGER},
    [DTYPE_I32] = {"i32", 4, INTEGER},
    [DTYPE_I16] = {"i16", 2, INTEGER},
    [DTYPE_I8] = {"i8", 1, INTEGER},
    [DTYPE_U64] = {"u64", 8, INTEGER},
    [DTYPE_U32] = {"u32", 4, INTEGER},
    [DTYPE_U16] = {"u16", 2, INTEGER},
    [DTYPE_U8] = {"u8", 1, INTEGER},
    [DTYPE_BOOL] = {"bool", 1, INTEGER},
    [DTYPE_Q8_0] = {"q8_0", sizeof(block_q8_0), BLOCK},
    [DTYPE_Q5_0] = {"q5_0", sizeof(block_q5_0), BLOCK},
    [DTYPE_Q5_1] = {"q5_1", sizeof(block_q5_1), BLOCK},
    [DTYPE_Q4_0] = {"q4_0", sizeof(block_q4_0), BLOCK},
    [DTYPE_Q4_1] = {"q4_1", sizeof(block_q4_1), BLOCK},
    [DTYPE_IQ4_NL] = {"iq4_nl", sizeof(block_q4_0), BLOCK},
};

static bool is_valid(dtype type) {
    return (unsigned)type < DTYPE_COUNT;
}

int dtype_block(dtype type) {
    return is_valid(type) && types[type].kind == BLOCK ? BLOCK_ELEMENTS : 1;
}

int64_t dtype_bytes(dtype type, int64_t elements) {
    return elements / dtype_block(type) * (int64_t)dtype_size(type);
}

size_t dtype_size(dtype type) {
    return is_valid(type) ? types[type].size : 0;
}

const char *dtype_name(dtype type) {
    return is_valid(type) ? types[type].name : "unknown";
}

bool dtype_is_float(dtype type) {
    return is_valid(type) && types[type].kind == FLOAT;
}

bool dtype_is_weight(dtype type) {
    return is_valid(type) && types[type].kind != INTEGER;
}

bool dtype_from_name(const char *name, dtype *type) {
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(name, types[i].name) == 0) {
            *type = (dtype)i;
            return true;
        }
    }
    return false;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t float_to_bf16(float value) {
    uint32_t bits = bits_of(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) /* a payload that is cut to 0 must not be infinity */
        return (uint16_t)(bits >> 16 | (bits & 0x007F0000u ? 0 : 0x0040u));
    bits += 0x7FFFu + (bits >> 16 & 1u);
    return (uint16_t)(bits >> 16);
}

float f16_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = half >> 10 & 31u, fraction = half & 0x3FFu;
    if (exponent == 31)
        return float_of(sign | 0x7F800000u | fraction << 13);
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact in a float */
        float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t float_to_f16(float value) {
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u;
    bits &= 0x7FFFFFFFu;
    if (bits > 0x7F800000u)
        return (uint16_t)(sign | 0x7C00u | (bits & 0x007FE000u ? bits >> 13 & 0x3FFu : 0x200u));
    if (bits >= 0x477FF000u) /* 65520, halfway between the largest f16 and 2^16, rounds up */
        return (uint16_t)(sign | 0x7C00u);
    if (bits <
        0x38800000u) { /* below 2^-14: adding 0.5 puts the last kept bit, 2^-24, at the end */
        uint32_t rounded = bits_of(float_of(bits) + 0.5f);
        return (uint16_t)(sign | (rounded - 0x3F000000u));
    }
    bits += 0xFFFu + (bits >> 13 & 1u);
    return (uint16_t)(sign | ((bits >> 13) - (112u << 10)));
}

/* The float next to `value` towards zero unless exact, with the last bit set if inexact. */
static float round_to_odd(double value) {
    float nearest = (float)value;
    if ((double)nearest == value || isnan(value))
        return nearest;
    uint32_t bits = bits_of(nearest);
    if (fabs((double)nearest) > fabs(value))
        bits--;
    return float_of(bits | 1u);
}

double dtype_load(dtype type, const void *data, int64_t index) {
    switch (type) {
    case DTYPE_F64:
        return ((const double *)data)[index];
    case DTYPE_F32:
        return (double)((const float *)data)[index];
    case DTYPE_BF16:
        return (double)bf16_to_float(((const uint16_t *)data)[index]);
    case DTYPE_F16:
        return (double)f16_to_float(((const uint16_t *)data)[index]);
    default:
        return dtype_block(type) > 1 ? (double)block_element(type, data, index) : (double)NAN;
    }
}

void dtype_store(dtype type, void *data, int64_t index, double value) {
    switch (type) {
    case DTYPE_F64:
        ((double *)data)[index] = value;
        break;
    case DTYPE_F32:
        ((float *)data)[index] = (float)value;
        break;
    case DTYPE_BF16:
        ((uint16_t *)data)[index] = float_to_bf16(round_to_odd(value));
        break;
    case DTYPE_F16:
        ((uint16_t *)data)[index] = float_to_f16(round_to_odd(value));
        break;
    default:
        break;
    }
}

static void convert_from_float(const float *source, dtype to, uint16_t *target, int64_t count) {
    if (to == DTYPE_BF16) {
        for (int64_t i = 0; i < count; i++)
            target[i] = float_to_bf16(source[i]);
    } else {
        for (int64_t i = 0; i < count; i++)
            target[i] = float_to_f16(source[i]);
    }
}

static void convert_to_float(dtype from, const uint16_t *source, float *target, int64_t count) {
    if (from == DTYPE_BF16) {
        for (int64_t i = 0; i < count; i++)
            target[i] = bf16_to_float(source[i]);
    } else {
        for (int64_t i = 0; i < count; i++)
            target[i] = f16_to_float(source[i]);
    }
}

void dtype_convert(dtype from, const void *source, dtype to, void *target, int64_t count) {
    bool from_half = from == DTYPE_BF16 || from == DTYPE_F16;
    bool to_half = to == DTYPE_BF16 || to == DTYPE_F16;
    if (from == to && count > 0) {
        memcpy(target, source, (size_t)dtype_bytes(from, count));
    } else if (from == DTYPE_F32 && to_half) {
        convert_from_float(source, to, target, count);
    } else if (from_half && to == DTYPE_F32) {
        convert_to_float(from, source, target, count);
    } else if (dtype_block(from) > 1 && to == DTYPE_F32) {
        blocks_decode(from, source, count, target);
    } else {
        for (int64_t i = 0; i < count; i++)
            dtype_store(to, target, i, dtype_load(from, source, i));
    }
}
