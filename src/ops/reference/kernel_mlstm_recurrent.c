/* The mLSTM token by token, forward and backward. */
#include "ops/reference/kernel_mlstm.h"

#include <math.h>

/* What happens to the state at a token:
 *   m'  = max(log_f + m, log_i);  sigmoid input gate: 0
 *   F   = exp(log_f + m - m')
 *   I   = exp(log_i - m')
 *   C'  = F C + I k v^T
 *   n'  = F n + I k */
typedef struct gates {
    double m, forget, input;
    bool stored_anew; /* log_i is the maximum */
} gates;

static gates gates_of(const mlstm_head *a, int64_t t, double m) {
    double kept = a->log_f[t] + m, stored = a->log_i[t];
    double next = a->sigmoid ? 0 : mlstm_larger(kept, stored);
    return (gates){next, mlstm_weight(kept, next), mlstm_weight(stored, next), stored > kept};
}

/* Takes token t into the state, and reads it: numerator = q^T C'; returns q^T n'. */
static double step(mlstm_head *a, int64_t t) {
    mlstm_state *s = &a->state;
    const double *q = a->q + t * a->d_qk, *k = a->k + t * a->d_qk, *v = a->v + t * a->d_v;
    gates g = gates_of(a, t, s->m);
    mlstm_forget(a, s, g.forget);
    mlstm_insert(a, s->c, g.input, k, v);
    mlstm_add(s->n, g.input, k, a->d_qk);
    s->m = g.m;
    for (int64_t e = 0; e < a->d_v; e++)
        a->numerator[e] = 0;
    mlstm_read_values(a, s->c, 1, q, a->numerator);
    return mlstm_dot(q, s->n, a->d_qk);
}

/* h = q^T C / (max(|q^T n|, exp(-m)) + eps) */
void mlstm_recurrent_forward(mlstm_head *a) {
    mlstm_begin(a);
    for (int64_t t = 0; t < a->tokens; t++) {
        double qn = step(a, t);
        mlstm_divide(a, t, a->numerator, qn, a->state.m);
    }
}

/* Two sweeps, so that no state is kept: dq needs C alone, dk and dv need dC alone. Forwards
 *   dq_t = scale (C_t rho_t dh_t + e_t n_t) */
static void sweep_queries(mlstm_head *a) {
    mlstm_begin(a);
    for (int64_t t = 0; t < a->tokens; t++) {
        double *dq = a->dq + t * a->d_qk;
        double qn = step(a, t);
        mlstm_divide_backward(a, t, a->numerator, qn, a->state.m);
        a->m[t] = a->state.m;
        mlstm_read_keys(a, a->state.c, a->scale, a->numerator_rho, dq);
        mlstm_add(dq, a->scale * a->e[t], a->state.n, a->d_qk);
    }
}

/* and backwards, dC and dn being the gradients of C_t and n_t when token t is reached,
 *   dC   <- dC + q_t (rho_t dh_t)^T
 *   dn   <- dn + e_t q_t
 *   dk_t  = I_t (dC v_t + dn)
 *   dv_t  = I_t dC^T k_t
 *   dC   <- F_t dC
 *   dn   <- F_t dn */
static void sweep_keys_and_values(mlstm_head *a) {
    mlstm_state *d = &a->dstate;
    for (int64_t t = a->tokens - 1; t >= 0; t--) {
        const double *q = a->q + t * a->d_qk, *k = a->k + t * a->d_qk, *v = a->v + t * a->d_v;
        gates g = gates_of(a, t, t > 0 ? a->m[t - 1] : a->initial.m);
        mlstm_scale_gradient(a, t);
        mlstm_insert(a, d->c, 1, q, a->numerator_rho);
        mlstm_add(d->n, a->e[t], q, a->d_qk);
        if (g.input != 0) {
            mlstm_read_keys(a, d->c, g.input, v, a->dk + t * a->d_qk);
            mlstm_add(a->dk + t * a->d_qk, g.input, d->n, a->d_qk);
            mlstm_read_values(a, d->c, g.input, k, a->dv + t * a->d_v);
        }
        mlstm_forget(a, d, g.forget);
    }
}

/* The gradient of m_t goes to log_i_t if that was the maximum, else to log_f_t and m_{t-1}. What is
 * left over is m_0's. Where m is -inf nothing is stored, and nothing depends on it. */
static double sweep_maxima(mlstm_head *a, double dm) {
    for (int64_t t = a->tokens - 1; t >= 0; t--) {
        gates g = gates_of(a, t, t > 0 ? a->m[t - 1] : a->initial.m);
        dm += a->dm[t];
        if (g.m == -INFINITY)
            dm = 0;
        *(g.stored_anew ? &a->dlog_i[t] : &a->dlog_f[t]) += dm;
        if (g.stored_anew)
            dm = 0;
    }
    return dm;
}

void mlstm_recurrent_backward(mlstm_head *a) {
    sweep_queries(a);
    double product = mlstm_last_state_product(a);
    double dm = a->exact ? a->dstate.m - product : 0;
    sweep_keys_and_values(a);
    mlstm_gate_gradients(a, product);
    if (a->exact && !a->sigmoid)
        dm = sweep_maxima(a, dm);
    mlstm_finish_initial(a, dm);
}
