/* What the mLSTM kernels of the reference share: one head of one sequence, with all its arrays in
 * double.
 *
 * The mLSTM (xLSTM, Beck et al. 2024, section 2.3), with q scaled by 1 / sqrt(d_qk) and k unscaled:
 *   m_t = max(log_f_t + m_{t-1}, log_i_t)
 *   C_t = exp(log_f_t + m_{t-1} - m_t) C_{t-1} + exp(log_i_t - m_t) k_t v_t^T
 *   n_t = exp(log_f_t + m_{t-1} - m_t) n_{t-1} + exp(log_i_t - m_t) k_t
 *   h_t = q_t^T C_t / (max(|q_t^T n_t|, exp(-m_t)) + eps)
 * log_f is log(sigmoid(f)). With the exponential input gate log_i is i. With the sigmoid one (TFLA,
 * Beck et al. 2025, mLSTMsig) log_i is log(sigmoid(i)) and m is 0 throughout; without
 * `normalize` h_t is then q_t^T C_t.
 *
 * Each form of it has a file, with its forward and its backward: kernel_mlstm_recurrent.c,
 * kernel_mlstm_chunkwise.c, kernel_mlstm_parallel.c. kernel_mlstm.c loads and stores.
 *
 * Backward, in every form. For given gradients dh of h, and dc, dn, dm of the last state, with
 *   N_t     = max(|q_t^T n_t|, exp(-m_t)),  rho_t = 1 / (N_t + eps)
 *   delta_t = dh_t^T h_t
 *   e_t     = -sign(q_t^T n_t) delta_t rho_t where |q_t^T n_t| > exp(-m_t), else 0
 * rho_t dh_t is the gradient of the numerator and e_t that of q_t^T n_t. The stabiliser m cancels but
 * for two places: eps, which counts eps exp(m_t) in units of the unscaled state, and the last state,
 * which is scaled by exp(-m_T). So the gradient of m_t, all unscaled values being held, is
 *   dm_t = -delta_t eps rho_t,  and in the last token  dm - E  besides,
 *   E    = <dc, C_T> + <dn, n_T>
 * and flows to whichever term was the maximum. The upstream form of the backward is the one with
 * e_t = dm_t = 0, without E, dn and dm. */
#ifndef OPS_REFERENCE_KERNEL_MLSTM_H
#define OPS_REFERENCE_KERNEL_MLSTM_H

#include "ops/reference/internal.h"

typedef struct mlstm_state {
    double *c; /* [d_qk][d_v] */
    double *n; /* [d_qk] */
    double m;
} mlstm_state;

/* One head. Gradients have the names of what they are gradients of; those of q are of q before it
 * was scaled. */
typedef struct mlstm_head {
    const kernel_call *call;
    int64_t batch, head; /* which one */
    int64_t tokens, d_qk, d_v;
    int64_t chunk_size;
    bool sigmoid, normalize;
    bool exact; /* the backward is */
    double eps, scale;

    double *q, *k, *v;     /* [tokens][d_qk], [tokens][d_qk], [tokens][d_v]; q is scaled */
    double *log_i, *log_f; /* [tokens] */
    mlstm_state initial;
    mlstm_state state; /* at work; the last one after a forward, or after the first of two sweeps */
    double *h;         /* [tokens][d_v] */
    double *exponent;  /* [tokens]: a row of the parallel or chunkwise form */
    double *b;         /* [tokens]: sums of log_f, of the parallel form */
    double *b_rest;    /* [tokens]: what rounding took from them */
    int64_t *blocked;  /* [tokens]: how many log_f up to here are -inf */

    double *dh;              /* [tokens][d_v] */
    double *dq, *dk, *dv;    /* as q, k, v; 0 at first, as are the next two */
    double *dlog_i;          /* [tokens] */
    double *dlog_f;          /* [tokens] */
    mlstm_state dstate;      /* of the last state; of the initial one after the backward */
    double *m, *rho, *e;     /* [tokens]: m_t, rho_t, e_t */
    double *dm;              /* [tokens] */
    double *weight_of_state; /* [tokens]: bbar of the rows of a chunk */
    double *border_m;        /* [chunks + 1]: m at the chunk borders */
    double *numerator;       /* [d_v] */
    double *numerator_rho;   /* [d_v]: its gradient, rho dh */
} mlstm_head;

void mlstm_recurrent_forward(mlstm_head *a);
void mlstm_recurrent_backward(mlstm_head *a);
void mlstm_chunkwise_forward(mlstm_head *a);
void mlstm_chunkwise_backward(mlstm_head *a);
void mlstm_parallel_forward(mlstm_head *a);
void mlstm_parallel_backward(mlstm_head *a);

/* ---- Pieces of the equations ---- */

/* The larger one; NaN if either is. */
double mlstm_larger(double a, double b);
/* exp(exponent - maximum): the weight of a term, 0 where nothing is stored (maximum -inf). */
double mlstm_weight(double exponent, double maximum);

/* y <- y + weight x. With weight 0 nothing is added, not even 0 * x. */
void mlstm_add(double *y, double weight, const double *x, int64_t count);
double mlstm_dot(const double *a, const double *b, int64_t count);

/* The work state becomes the initial one. */
void mlstm_begin(mlstm_head *a);
/* C <- weight C,  n <- weight n */
void mlstm_forget(const mlstm_head *a, mlstm_state *s, double weight);
/* C <- C + weight x y^T */
void mlstm_insert(const mlstm_head *a, double *c, double weight, const double *x, const double *y);
/* out[d_v] <- out + weight x^T C;  out[d_qk] <- out + weight C y */
void mlstm_read_values(const mlstm_head *a, const double *c, double weight, const double *x,
                       double *out);
void mlstm_read_keys(const mlstm_head *a, const double *c, double weight, const double *y,
                     double *out);

/* max(|q_t^T n_t|, exp(-m_t)) + eps.  exp(-m) may be inf: then h is 0. */
double mlstm_divisor(const mlstm_head *a, double qn, double m);
/* h_t from its numerator, q_t^T n_t and m_t. */
void mlstm_divide(mlstm_head *a, int64_t t, const double *numerator, double qn, double m);

/* ---- Backward: kernel_mlstm_backward.c ---- */

/* rho_t, e_t and dm_t from numerator, q_t^T n_t and m_t; and numerator_rho = rho_t dh_t. */
void mlstm_divide_backward(mlstm_head *a, int64_t t, const double *numerator, double qn, double m);
/* numerator_rho for token t again. */
void mlstm_scale_gradient(mlstm_head *a, int64_t t);
/* E, for which the work state must be the last one. */
double mlstm_last_state_product(const mlstm_head *a);
/* Adds to dlog_i and dlog_f what does not come from m; dq and dk must be there. */
void mlstm_gate_gradients(mlstm_head *a, double last_state_product);
/* The gradients of the initial state, from what has been swept back to it and dm. */
void mlstm_finish_initial(mlstm_head *a, double dm);

/* The state at border `chunk`, 0 to the number of chunks, in all_c, all_n, all_m where they are
 * given. */
void mlstm_store_border(const mlstm_head *a, int64_t chunk);
void mlstm_load_border(mlstm_head *a, int64_t chunk);

#endif
