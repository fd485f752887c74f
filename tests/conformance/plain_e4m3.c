#include "conformance/plain_e4m3.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "conformance/side.h"

double e4m3_magnitude(int code) {
    const int exponent = code >> 3, fraction = code & 7;
    return exponent == 0 ? ldexp(fraction, -9) : ldexp(8 + fraction, exponent - 10);
}

double e4m3_rounded(double x) {
    const double size = fabs(x);
    int low = 0, high = 126;
    if (isnan(x) || size >= e4m3_magnitude(high))
        return isnan(x) ? x : copysign(e4m3_magnitude(high), x);
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        *(e4m3_magnitude(middle) <= size ? &low : &high) = middle;
    }
    const double below = size - e4m3_magnitude(low), above = e4m3_magnitude(high) - size;
    const bool up = above < below || (above == below && high % 2 == 0);
    return copysign(e4m3_magnitude(up ? high : low), x);
}

float *e4m3_quantise(double *values, int64_t rows, int64_t width) {
    float *scale = must_allocate((size_t)rows * sizeof *scale);
    for (int64_t r = 0; r < rows; r++) {
        double *row = values + r * width, most = 0;
        for (int64_t i = 0; i < width; i++)
            most = fmax(most, fabs(row[i]));
        const float factor = most > 0 ? 448.0f / (float)most : 0.0f;
        scale[r] = (float)most / 448.0f;
        for (int64_t i = 0; i < width; i++)
            row[i] = e4m3_rounded((double)((float)row[i] * factor));
    }
    return scale;
}
