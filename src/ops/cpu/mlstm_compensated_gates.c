/* Gates in two-float arithmetic, float operations only: the forget gates of a long memory are so
 * close to 1 that neither 1 - F nor the sum of a million log F survives in a float.
 *
 * As in the plain kernels the maximum m runs through the tokens, and sums of log F replace products:
 *   m'    = max(log_f + m, i)
 *   log F = log_f + m - m' <= 0,  log I = i - m' <= 0
 *   B_j   = sum of log F over tokens 1 .. j
 *   the weight of token l in token j: exp(B_j - B_l + log I_l)
 * With the sigmoid input gate m stays 0, log F is log sigmoid(f) and log I is log sigmoid(i). Where F
 * is 0 the sum begins anew, so that an infinite gate never meets another in a difference. */
#include "ops/cpu/mlstm_compensated.h"

#include <math.h>

/* exp of less is 0 in float, whatever is added to it later: weights only fall. */
static const float nothing = -200;

/* An infinite or undefined sum keeps its value, with no low part. */
static two_float add(two_float x, two_float y) {
    float sum = x.high + y.high;
    return two_float_finite(sum) ? two_float_add(x, y) : two_float_make(sum, 0);
}

static two_float subtract(two_float x, two_float y) {
    return add(x, two_float_make(-y.high, -y.low));
}

/* The larger one; NaN if either is. */
static two_float larger(two_float x, two_float y) {
    return two_float_less(x, y) || isnan(y.high) ? y : x;
}

typedef struct log_gates {
    two_float keep, write; /* log F, log I */
    bool stored_anew;      /* i is the maximum */
} log_gates;

static log_gates exponential_gates(float i, float f, two_float *m) {
    two_float input = two_float_make(i, 0);
    two_float forgotten = add(two_float_log_sigmoid(f), *m);
    bool stored_anew = two_float_less(forgotten, input);
    *m = larger(forgotten, input);
    if (m->high == -INFINITY) /* nothing was ever stored */
        return (log_gates){{-INFINITY, 0}, {-INFINITY, 0}, false};
    return (log_gates){subtract(forgotten, *m), subtract(input, *m), stored_anew};
}

static log_gates gates_of(bool sigmoid, float i, float f, two_float *m) {
    return sigmoid ? (log_gates){two_float_log_sigmoid(f), two_float_log_sigmoid(i), false}
                   : exponential_gates(i, f, m);
}

compensated_token compensated_token_of(bool sigmoid, float i, float f, two_float *m) {
    log_gates gates = gates_of(sigmoid, i, f, m);
    return (compensated_token){two_float_exp(gates.keep), two_float_exp(gates.write),
                               gates.stored_anew};
}

two_float compensated_begin(const kernel_call *call, int64_t batch, int64_t head) {
    bool parallel = call->form == KERNEL_PARALLEL || call->form == KERNEL_PARALLEL_STABLE;
    const xlstm_array *m0 = &call->array[MLSTM_M0];
    if (kernel_has(call, MLSTM_M0))
        return two_float_make(((const float *)m0->data)[kernel_offset(m0, batch, head)], 0);
    return two_float_make(parallel && !call->sigmoid ? -INFINITY : 0, 0);
}

void compensated_gates_of(bool sigmoid, const float *i, const float *f, int tokens, two_float *m,
                          compensated_gates *g) {
    two_float sum = {0, 0};
    int begin = 0;
    bool carried = true;
    for (int j = 0; j < tokens; j++) {
        log_gates gates = gates_of(sigmoid, i[j], f[j], m);
        if (gates.keep.high < nothing) {
            sum = two_float_make(0, 0);
            begin = j;
            carried = false;
        } else {
            sum = add(sum, gates.keep);
        }
        g->row[j] = sum;
        g->column[j] = subtract(sum, gates.write);
        g->begin[j] = begin;
        g->inter[j] = carried ? two_float_exp(sum) : two_float_make(0, 0);
        g->floor[j] = two_float_exp(two_float_make(-m->high, -m->low));
    }
    g->keep = g->inter[tokens - 1];
    for (int l = 0; l < tokens; l++)
        g->write[l] = compensated_weight(g, tokens - 1, l, two_float_make(1, 0));
}

float compensated_weight(const compensated_gates *g, int j, int l, two_float score) {
    if (l < g->begin[j])
        return 0;
    two_float weight = two_float_exp(subtract(g->row[j], g->column[l]));
    return weight.high == 0 ? 0 : two_float_multiply(score, weight).high;
}
