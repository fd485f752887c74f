/* The mLSTM in chunks (TFLA, Beck et al. 2025, section 2), forward and backward. */
#include "ops/reference/kernel_mlstm.h"

#include <math.h>
#include <string.h>

/* A chunk of L tokens, C, n, m being the state before it. Sums of log_f over an empty span are 0; l
 * runs over the tokens 1 .. j.
 *   b_j    = sum of log_f over tokens 1 .. j
 *   D~_jl  = log_i_l + sum of log_f over tokens l + 1 .. j
 *   mu_j   = max(b_j + m, max_l D~_jl);  sigmoid input gate: 0
 *   bbar_j = exp(b_j + m - mu_j)
 *   D_jl   = exp(D~_jl - mu_j)
 *   num_j  = bbar_j q_j^T C + sum_l D_jl (q_j^T k_l) v_l
 *   qn_j   = bbar_j q_j^T n + sum_l D_jl (q_j^T k_l)
 *   h_j    = num_j / (max(|qn_j|, exp(-mu_j)) + eps)
 * and after it, with the weights of the last row:
 *   m'     = mu_L
 *   C'     = bbar_L C + sum_l D_Ll k_l v_l^T
 *   n'     = bbar_L n + sum_l D_Ll k_l
 * The spans are summed without subtracting one b from another, which would lose digits and give
 * -inf - -inf. */
typedef struct chunk {
    int64_t first, length;
    double m; /* before it */
    /* The row that next_row has reached: */
    double b, mu;
    int64_t winner; /* the l of the maximum; -1: the state */
} chunk;

static chunk chunk_at(const mlstm_head *a, int64_t index, double m) {
    int64_t first = index * a->chunk_size, left = a->tokens - first;
    /* -0 is the neutral element: -0 + m is m, bit for bit */
    return (chunk){first, left < a->chunk_size ? left : a->chunk_size, m, .b = -0.0};
}

static int64_t chunk_count(const mlstm_head *a) {
    return (a->tokens - 1) / a->chunk_size + 1;
}

/* Row j: D~_jl in a->exponent, b_j and mu_j. Rows come in order. */
static void next_row(mlstm_head *a, chunk *c, int64_t j) {
    double log_f = a->log_f[c->first + j];
    c->b += log_f;
    c->mu = c->b + c->m;
    c->winner = -1;
    for (int64_t l = 0; l <= j; l++) {
        a->exponent[l] = l < j ? a->exponent[l] + log_f : a->log_i[c->first + j];
        if (a->exponent[l] > c->mu)
            c->winner = l;
        c->mu = mlstm_larger(c->mu, a->exponent[l]);
    }
    if (a->sigmoid)
        c->mu = 0;
}

static double weight_of_state(const chunk *c) {
    return mlstm_weight(c->b + c->m, c->mu);
}

static double weight_of(const mlstm_head *a, const chunk *c, int64_t l) {
    return mlstm_weight(a->exponent[l], c->mu);
}

/* num_j in a->numerator; returns qn_j. */
static double read_row(mlstm_head *a, const chunk *c, int64_t j) {
    const double *q = a->q + (c->first + j) * a->d_qk;
    double of_state = weight_of_state(c);
    double qn = of_state * mlstm_dot(q, a->state.n, a->d_qk);
    memset(a->numerator, 0, (size_t)a->d_v * sizeof *a->numerator);
    mlstm_read_values(a, a->state.c, of_state, q, a->numerator);
    for (int64_t l = 0; l <= j; l++) {
        double weight = weight_of(a, c, l);
        if (weight == 0)
            continue;
        double score = weight * mlstm_dot(q, a->k + (c->first + l) * a->d_qk, a->d_qk);
        mlstm_add(a->numerator, score, a->v + (c->first + l) * a->d_v, a->d_v);
        qn += score;
    }
    return qn;
}

/* The state after the chunk, the last row of which has been reached. */
static void end_chunk(mlstm_head *a, const chunk *c) {
    mlstm_forget(a, &a->state, weight_of_state(c));
    for (int64_t l = 0; l < c->length; l++) {
        double weight = weight_of(a, c, l);
        const double *k = a->k + (c->first + l) * a->d_qk;
        mlstm_insert(a, a->state.c, weight, k, a->v + (c->first + l) * a->d_v);
        mlstm_add(a->state.n, weight, k, a->d_qk);
    }
    a->state.m = c->mu;
}

void mlstm_chunkwise_forward(mlstm_head *a) {
    mlstm_begin(a);
    mlstm_store_border(a, 0);
    for (int64_t index = 0; index < chunk_count(a); index++) {
        chunk c = chunk_at(a, index, a->state.m);
        for (int64_t j = 0; j < c.length; j++) {
            next_row(a, &c, j);
            double qn = read_row(a, &c, j);
            mlstm_divide(a, c.first + j, a->numerator, qn, c.mu);
        }
        end_chunk(a, &c);
        mlstm_store_border(a, index + 1);
    }
}

/* Backward, with P_jl = D_jl q_j^T k_l and dS_jl = D_jl (rho_j dh_j^T v_l + e_j), in two sweeps. From
 * the first chunk to the last, with the state (C, n) before each:
 *   dq_j = scale (sum_l dS_jl k_l + bbar_j (C rho_j dh_j + e_j n)) */
static void chunk_queries(mlstm_head *a, chunk *c) {
    for (int64_t j = 0; j < c->length; j++) {
        int64_t t = c->first + j;
        double *dq = a->dq + t * a->d_qk;
        next_row(a, c, j);
        double qn = read_row(a, c, j), of_state = weight_of_state(c);
        mlstm_divide_backward(a, t, a->numerator, qn, c->mu);
        for (int64_t l = 0; l <= j; l++) {
            int64_t s = c->first + l;
            double weight = weight_of(a, c, l);
            if (weight == 0)
                continue;
            double ds = weight * (mlstm_dot(a->numerator_rho, a->v + s * a->d_v, a->d_v) + a->e[t]);
            mlstm_add(dq, a->scale * ds, a->k + s * a->d_qk, a->d_qk);
        }
        mlstm_read_keys(a, a->state.c, a->scale * of_state, a->numerator_rho, dq);
        mlstm_add(dq, a->scale * of_state * a->e[t], a->state.n, a->d_qk);
    }
}

/* From the last chunk to the first, with the gradient (dC, dn) of the state after each, and abar_l =
 * D_Ll:
 *   dk_l = sum_j dS_jl q_j + abar_l (dC v_l + dn)
 *   dv_l = sum_j P_jl rho_j dh_j + abar_l dC^T k_l
 *   dC  <- bbar_L dC + sum_j bbar_j q_j (rho_j dh_j)^T
 *   dn  <- bbar_L dn + sum_j bbar_j e_j q_j
 * First the sums over j; bbar_j is kept for the state. */
static void chunk_pairs(mlstm_head *a, chunk *c) {
    for (int64_t j = 0; j < c->length; j++) {
        int64_t t = c->first + j;
        const double *q = a->q + t * a->d_qk;
        next_row(a, c, j);
        a->weight_of_state[j] = weight_of_state(c);
        mlstm_scale_gradient(a, t);
        for (int64_t l = 0; l <= j; l++) {
            int64_t s = c->first + l;
            double weight = weight_of(a, c, l);
            if (weight == 0)
                continue;
            double p = weight * mlstm_dot(q, a->k + s * a->d_qk, a->d_qk);
            double ds = weight * (mlstm_dot(a->numerator_rho, a->v + s * a->d_v, a->d_v) + a->e[t]);
            mlstm_add(a->dk + s * a->d_qk, ds, q, a->d_qk);
            mlstm_add(a->dv + s * a->d_v, p, a->numerator_rho, a->d_v);
        }
    }
}

/* Then the part of the state, with the last row's D_Ll. */
static void chunk_state(mlstm_head *a, const chunk *c) {
    mlstm_state *d = &a->dstate;
    for (int64_t l = 0; l < c->length; l++) {
        int64_t s = c->first + l;
        double weight = weight_of(a, c, l);
        if (weight == 0)
            continue;
        mlstm_read_keys(a, d->c, weight, a->v + s * a->d_v, a->dk + s * a->d_qk);
        mlstm_add(a->dk + s * a->d_qk, weight, d->n, a->d_qk);
        mlstm_read_values(a, d->c, weight, a->k + s * a->d_qk, a->dv + s * a->d_v);
    }
    mlstm_forget(a, d, weight_of_state(c));
    for (int64_t j = 0; j < c->length; j++) {
        const double *q = a->q + (c->first + j) * a->d_qk;
        mlstm_scale_gradient(a, c->first + j);
        mlstm_insert(a, d->c, a->weight_of_state[j], q, a->numerator_rho);
        mlstm_add(d->n, a->weight_of_state[j] * a->e[c->first + j], q, a->d_qk);
    }
}

/* The gradient of mu_j goes to log_i of the token that was the maximum and to log_f of all tokens
 * after it, or to the state's m and log_f of all tokens from the first; that of the state after the
 * chunk is one of mu_L. Returns that of the state before it. */
static double chunk_maxima(mlstm_head *a, int64_t index, double dm_after) {
    chunk c = chunk_at(a, index, a->border_m[index]);
    double dm_before = 0;
    for (int64_t j = 0; j < c.length; j++) {
        next_row(a, &c, j);
        double dm = a->dm[c.first + j] + (j == c.length - 1 ? dm_after : 0);
        if (c.mu == -INFINITY)
            continue; /* nothing is stored, nothing depends on it */
        *(c.winner < 0 ? &dm_before : &a->dlog_i[c.first + c.winner]) += dm;
        for (int64_t l = c.winner + 1; l <= j; l++)
            a->dlog_f[c.first + l] += dm;
    }
    return dm_before;
}

void mlstm_chunkwise_backward(mlstm_head *a) {
    int64_t count = chunk_count(a);
    bool stored = a->call->options.stored_states;
    mlstm_begin(a);
    for (int64_t index = 0; index <= count; index++) {
        if (stored)
            mlstm_load_border(a, index);
        a->border_m[index] = a->state.m;
        if (index == count)
            break;
        chunk c = chunk_at(a, index, a->state.m);
        chunk_queries(a, &c);
        if (!stored)
            end_chunk(a, &c);
    }
    double product = mlstm_last_state_product(a);
    double dm = a->exact ? a->dstate.m - product : 0;
    for (int64_t index = count - 1; index >= 0; index--) {
        chunk c = chunk_at(a, index, a->border_m[index]);
        chunk_pairs(a, &c);
        chunk_state(a, &c);
        if (a->exact && !a->sigmoid)
            dm = chunk_maxima(a, index, dm);
    }
    mlstm_gate_gradients(a, product);
    mlstm_finish_initial(a, dm);
}
