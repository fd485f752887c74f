/* What the backwards of the mLSTM's forms share (equations: kernel_mlstm.h). */
#include "ops/reference/kernel_mlstm.h"

#include <math.h>
#include <string.h>

void mlstm_scale_gradient(mlstm_head *a, int64_t t) {
    for (int64_t e = 0; e < a->d_v; e++)
        a->numerator_rho[e] = a->rho[t] * a->dh[t * a->d_v + e];
}

void mlstm_divide_backward(mlstm_head *a, int64_t t, const double *numerator, double qn, double m) {
    double rho = 1 / mlstm_divisor(a, qn, m);
    double delta = rho * mlstm_dot(a->dh + t * a->d_v, numerator, a->d_v);
    bool held = !a->exact || !a->normalize; /* the denominator is a constant */
    a->rho[t] = rho;
    a->e[t] = !held && fabs(qn) > exp(-m) ? (qn > 0 ? -1 : 1) * delta * rho : 0;
    a->dm[t] = !held && !a->sigmoid ? -delta * a->eps * rho : 0;
    mlstm_scale_gradient(a, t);
}

double mlstm_last_state_product(const mlstm_head *a) {
    return mlstm_dot(a->dstate.c, a->state.c, a->d_qk * a->d_v) +
           mlstm_dot(a->dstate.n, a->state.n, a->d_qk);
}

/* log_i_t is a factor of k_t, and log_f_t one of C_{t-1}, n_{t-1}, so
 *   dlog_i_t = k_t^T dk_t
 *   dlog_f_t = <gradient through t of C_{t-1}, C_{t-1}> + the same of n
 *            = sum over tau >= t of (q_tau^T dq_tau - k_tau^T dk_tau)  + E
 * since the state of a token is read by its q and by what comes after, and consists of its k and what
 * was before. Where log_f_t is -inf the gradient is 0, and so is the sum: it starts anew there, which
 * leaves no rounding errors behind. The upstream form leaves E out. */
void mlstm_gate_gradients(mlstm_head *a, double last_state_product) {
    double sum = last_state_product;
    for (int64_t t = a->tokens - 1; t >= 0; t--) {
        double from_query = mlstm_dot(a->q + t * a->d_qk, a->dq + t * a->d_qk, a->d_qk) / a->scale;
        double from_key = mlstm_dot(a->k + t * a->d_qk, a->dk + t * a->d_qk, a->d_qk);
        sum = a->log_f[t] == -INFINITY ? 0 : sum + from_query - from_key;
        a->dlog_i[t] += from_key;
        a->dlog_f[t] += sum - (a->exact ? 0 : last_state_product);
    }
}

/* C0 and n0 stand for exp(m_0) times as much, so m_0 has a gradient besides dm, what the maxima left
 * for it. */
void mlstm_finish_initial(mlstm_head *a, double dm) {
    mlstm_state *d = &a->dstate;
    d->m = 0;
    if (a->exact && !a->sigmoid)
        d->m = dm + mlstm_dot(d->c, a->initial.c, a->d_qk * a->d_v) +
               mlstm_dot(d->n, a->initial.n, a->d_qk);
    if (!a->exact)
        memset(d->n, 0, (size_t)a->d_qk * sizeof *d->n);
}
