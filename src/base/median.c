#include "base/median.h"

#include <stdlib.h>

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *values, int count) {
    qsort(values, (size_t)(count > 0 ? count : 0), sizeof *values, compare);
    return count > 0 ? values[count / 2] : 0;
}
