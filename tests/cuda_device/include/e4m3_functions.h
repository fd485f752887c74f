/* What src/ops/cuda/e4m3.h has in assembly. */
#ifndef CUDA_DEVICE_E4M3_FUNCTIONS_H
#define CUDA_DEVICE_E4M3_FUNCTIONS_H

#include <math.h>
#include <stdint.h>

static inline uint32_t cuda_device_to_e4m3(float x) {
    const uint32_t sign = signbit(x) ? 0x80u : 0u;
    const float size = fabsf(x);
    if (size != size)
        return 0x7fu;
    if (size >= 448.0f)
        return sign | 0x7eu;
    int exponent = size > 0.0f ? ilogbf(size) : -6;
    if (exponent < -6)
        exponent = -6;
    /* Eighths of the power of two; 8 to 15 but for the values next to 0, 16 after rounding up to the next power: the
     * carry into the exponent is what is wanted. */
    const auto eighths = (uint32_t)nearbyintf(ldexpf(size, 3 - exponent));
    return sign | ((uint32_t)(exponent + 6) * 8u + eighths);
}
static inline uint32_t pack_e4m3(float low, float high) {
    return cuda_device_to_e4m3(low) | cuda_device_to_e4m3(high) << 8;
}
static inline float cuda_device_from_e4m3(uint8_t code) {
    const int exponent = code >> 3 & 15, fraction = code & 7;
    if ((code & 0x7f) == 0x7f)
        return NAN;
    const float size =
        exponent == 0 ? ldexpf((float)fraction, -9) : ldexpf((float)(8 + fraction), exponent - 10);
    return code & 0x80 ? -size : size;
}

#endif
