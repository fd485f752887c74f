/* The mLSTM over all pairs of tokens (xLSTM, Beck et al. 2024, appendix A.3), forward and backward.
 * There is no initial state, and unlike in the other forms no m_0 = 0 among the terms of the maximum.
 */
#include "ops/reference/kernel_mlstm.h"

#include <math.h>

/* Row j, l running over the tokens 1 .. j:
 *   b_j   = sum of log_f over tokens 1 .. j
 *   D~_jl = b_j - b_l + log_i_l;  stable: log_i_l + sum of log_f over tokens l + 1 .. j
 *   m_j   = max_l D~_jl;  sigmoid input gate: 0
 *   D_jl  = exp(D~_jl - m_j)
 *   num_j = sum_l D_jl (q_j^T k_l) v_l
 *   qn_j  = sum_l D_jl (q_j^T k_l)
 *   h_j   = num_j / (max(|qn_j|, exp(-m_j)) + eps)
 * Forget gates that are closed altogether (log_f = -inf) do not go into b, where they would give
 * -inf - -inf, but are counted: nothing reaches across one.
 *
 * b grows with the tokens, and what its rounding loses would stay in every difference, relative to the
 * sum of all gates and not of those between l and j: what each addition loses is summed beside it. */

/* x + y, and what rounding took from it (Knuth's two-sum). */
static double exact_sum(double x, double y, double *error) {
    double sum = x + y, of_y = sum - x;
    *error = (x - (sum - of_y)) + (y - of_y);
    return sum;
}

static void sum_forget_gates(mlstm_head *a) {
    double b = 0, rest = 0;
    int64_t blocked = 0;
    for (int64_t t = 0; t < a->tokens; t++) {
        if (a->log_f[t] == -INFINITY)
            blocked++;
        else {
            double error;
            b = exact_sum(b, a->log_f[t], &error);
            rest += error;
        }
        a->b[t] = b;
        a->b_rest[t] = rest;
        a->blocked[t] = blocked;
    }
}

static double span(const mlstm_head *a, int64_t l, int64_t j) {
    if (a->blocked[j] > a->blocked[l])
        return -INFINITY;
    double error, difference = exact_sum(a->b[j], -a->b[l], &error);
    return difference + (error + (a->b_rest[j] - a->b_rest[l]));
}

/* D~_jl in a->exponent; returns m_j, and which l it comes from. Rows come in order. */
static double next_row(mlstm_head *a, int64_t j, int64_t *winner) {
    double m = -INFINITY;
    *winner = -1;
    for (int64_t l = 0; l <= j; l++) {
        if (a->call->form == KERNEL_PARALLEL)
            a->exponent[l] = span(a, l, j) + a->log_i[l];
        else
            a->exponent[l] = l < j ? a->exponent[l] + a->log_f[j] : a->log_i[j];
        if (a->exponent[l] > m)
            *winner = l;
        m = mlstm_larger(m, a->exponent[l]);
    }
    return a->sigmoid ? 0 : m;
}

/* num_j in a->numerator; returns qn_j. */
static double read_row(mlstm_head *a, int64_t j, double m) {
    double qn = 0;
    for (int64_t e = 0; e < a->d_v; e++)
        a->numerator[e] = 0;
    for (int64_t l = 0; l <= j; l++) {
        double weight = mlstm_weight(a->exponent[l], m);
        if (weight == 0)
            continue;
        double score = weight * mlstm_dot(a->q + j * a->d_qk, a->k + l * a->d_qk, a->d_qk);
        mlstm_add(a->numerator, score, a->v + l * a->d_v, a->d_v);
        qn += score;
    }
    return qn;
}

void mlstm_parallel_forward(mlstm_head *a) {
    int64_t winner;
    sum_forget_gates(a);
    for (int64_t j = 0; j < a->tokens; j++) {
        double m = next_row(a, j, &winner);
        double qn = read_row(a, j, m);
        mlstm_divide(a, j, a->numerator, qn, m);
    }
}

/* Row j of the backward, with P_jl = D_jl q_j^T k_l and dS_jl = D_jl (rho_j dh_j^T v_l + e_j):
 *   dq_j   = scale sum_l dS_jl k_l
 *   dk_l  += dS_jl q_j
 *   dv_l  += P_jl rho_j dh_j
 *   dD~_jl = dS_jl q_j^T k_l, and dm_j besides where D~_jl was the maximum
 *   dlog_i_l += dD~_jl
 *   dlog_f_t += sum of dD~_jl over l < t, for t <= j */
static void row_backward(mlstm_head *a, int64_t j, double m, int64_t winner) {
    const double *q = a->q + j * a->d_qk;
    double before = 0; /* sum of dD~_jl over the l so far */
    for (int64_t l = 0; l <= j; l++) {
        a->dlog_f[l] += before;
        double weight = mlstm_weight(a->exponent[l], m), d = l == winner ? a->dm[j] : 0;
        if (weight != 0) {
            const double *k = a->k + l * a->d_qk, *v = a->v + l * a->d_v;
            double qk = mlstm_dot(q, k, a->d_qk);
            double ds = weight * (mlstm_dot(a->numerator_rho, v, a->d_v) + a->e[j]);
            mlstm_add(a->dq + j * a->d_qk, a->scale * ds, k, a->d_qk);
            mlstm_add(a->dk + l * a->d_qk, ds, q, a->d_qk);
            mlstm_add(a->dv + l * a->d_v, weight * qk, a->numerator_rho, a->d_v);
            d += ds * qk;
        }
        a->dlog_i[l] += d;
        before += d;
    }
}

void mlstm_parallel_backward(mlstm_head *a) {
    int64_t winner;
    sum_forget_gates(a);
    for (int64_t j = 0; j < a->tokens; j++) {
        double m = next_row(a, j, &winner);
        double qn = read_row(a, j, m);
        mlstm_divide_backward(a, j, a->numerator, qn, m);
        row_backward(a, j, m, winner);
    }
}
