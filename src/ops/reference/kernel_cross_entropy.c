/* Cross-entropy of each row, and its gradient: with the largest logit a = logits[top],
 *   others    = sum over v != top of exp(logits[v] - a)
 *   loss      = log1p(others) + (a - logits[target])
 *   dlogits_v = dloss (exp(logits[v] - a) / (1 + others) - [v = target])
 *             = -dloss others / (1 + others) where v = target = top
 * so that a row that is nearly certain keeps its small loss and gradient. Both are 0 where the target
 * is the index to ignore. */
#include "ops/reference/internal.h"
#include "ops/reference/kernel_array.h"

#include <math.h>
#include <stdlib.h>

static void run_row(const kernel_call *call, int64_t row, double *logits) {
    const xlstm_array *array = call->array;
    int64_t count = array[CROSS_ENTROPY_LOGITS].shape[1];
    const xlstm_array *targets = &array[CROSS_ENTROPY_TARGET];
    int64_t target = ((const int64_t *)targets->data)[row * targets->stride[0]];
    double loss = 0, dloss = 0;
    bool counts = target != call->options.ignore_index;
    array_read(call, CROSS_ENTROPY_LOGITS, row * array[CROSS_ENTROPY_LOGITS].stride[0], count,
               logits);
    array_read(call, CROSS_ENTROPY_DLOSS, array_at(&array[CROSS_ENTROPY_DLOSS], row, 0, 0, 0), 1,
               &dloss);
    int64_t top = 0;
    for (int64_t v = 1; v < count; v++)
        top = logits[v] > logits[top] ? v : top;
    double largest = logits[top], others = largest - largest; /* NaN where it is infinite */
    double gap = counts ? largest - logits[target] : 0;
    for (int64_t v = 0; v < count; v++) {
        logits[v] = exp(logits[v] - largest);
        others += v == top ? 0 : logits[v];
    }
    if (counts)
        loss = log1p(others) + gap;
    for (int64_t v = 0; v < count; v++) {
        double share = (v == top && v == target ? -others : logits[v]) / (1 + others);
        logits[v] = counts ? dloss * (share - (v == target && v != top)) : 0;
    }
    array_write(call, CROSS_ENTROPY_LOSS, array_at(&array[CROSS_ENTROPY_LOSS], row, 0, 0, 0), 1,
                &loss);
    array_write(call, CROSS_ENTROPY_DLOGITS, array_at(&array[CROSS_ENTROPY_DLOGITS], row, 0, 0, 0),
                count, logits);
}

xlstm_status reference_kernel_cross_entropy(const kernel_call *call) {
    const xlstm_array *logits = &call->array[CROSS_ENTROPY_LOGITS];
    double *row = array_scratch("cross_entropy--reference", 1, logits->shape[1]);
    if (!row)
        return XLSTM_OUT_OF_MEMORY;
    for (int64_t r = 0; r < logits->shape[0]; r++)
        run_row(call, r, row);
    free(row);
    return XLSTM_OK;
}
