/* e4m3, plainly: what kernels of fp8 are compared with. */
#ifndef CONFORMANCE_PLAIN_E4M3_H
#define CONFORMANCE_PLAIN_E4M3_H

#include <stdint.h>

/* The magnitudes, rising: codes 0 to 126. */
double e4m3_magnitude(int code);
/* To the nearest, of two alike the even code; 448 at most. */
double e4m3_rounded(double x);
/* Rows [rows][width] as the device takes them: values rounded in place; returns the scale of each row [rows], to be
 * freed. The factor is a float, and so is what is rounded. */
float *e4m3_quantise(double *values, int64_t rows, int64_t width);

#endif
