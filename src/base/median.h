/* The median of measurements. */
#ifndef BASE_MEDIAN_H
#define BASE_MEDIAN_H

/* Of `count` values, which are sorted; the upper one of two in the middle; 0 of none. */
double median(double *values, int count);

#endif
