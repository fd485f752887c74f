/* The mLSTM with exponential input gate (xLSTM, Beck et al. 2024, section 2.3), one head of one
 * sequence at a time, token by token or in chunks.
 *
 * The state of a head is a matrix C [d_qk][d_v] (values stored under keys), a vector n [d_qk] (the
 * sum of the keys' weights) and a number m: what C and n hold is to be thought of as multiplied by
 * exp(m). m is the running maximum of all exponents, so that every exp below has an argument of
 * at most 0.
 *
 * Gates: log_f = log sigmoid(f) is the log of the forgetting, i the log of the weight of what is
 * stored. m = -inf means that nothing is stored; where an exponent and the maximum are both
 * -inf, the weight is 0, not exp(NaN).
 */
#include "ops/reference/internal.h"

#include <math.h>

/* exp(exponent - maximum): the weight of a term, 0 where nothing is stored. */
static double weigh(double exponent, double maximum) {
    return maximum == -INFINITY ? 0 : exp(exponent - maximum);
}

/* One head of one sequence. */
typedef struct head {
    const struct ops_mlstm *op;
    reference_stream *s; /* C and n are s->c and s->n */
    int64_t slot, index; /* of the state; of the head */
    int64_t d_qk, d_v;
    double m;
} head;

static int64_t at(const ops_tensor *t, int64_t i, int64_t j) {
    return i * t->stride[0] + j * t->stride[1];
}

static void load_state(head *a) {
    const struct ops_mlstm *op = a->op;
    for (int64_t d = 0; d < a->d_qk; d++)
        reference_load(&op->c, at(&op->c, a->slot, a->index) + d * op->c.stride[2], a->d_v,
                       a->s->c + d * a->d_v);
    reference_load(&op->n, at(&op->n, a->slot, a->index), a->d_qk, a->s->n);
    a->m = reference_get(&op->m, at(&op->m, a->slot, a->index));
}

static void store_state(const head *a) {
    const struct ops_mlstm *op = a->op;
    for (int64_t d = 0; d < a->d_qk; d++)
        reference_store(&op->c, at(&op->c, a->slot, a->index) + d * op->c.stride[2], a->d_v,
                        a->s->c + d * a->d_v);
    reference_store(&op->n, at(&op->n, a->slot, a->index), a->d_qk, a->s->n);
    reference_set(&op->m, at(&op->m, a->slot, a->index), a->m);
}

/* C <- F C,  n <- F n */
static void forget(head *a, double weight) {
    for (int64_t d = 0; d < a->d_qk * a->d_v; d++)
        a->s->c[d] *= weight;
    for (int64_t d = 0; d < a->d_qk; d++)
        a->s->n[d] *= weight;
}

/* C <- C + I k v^T,  n <- n + I k.  With weight 0 nothing is added, not even 0 * k. */
static void insert(head *a, double weight, const double *k, const double *v) {
    if (weight == 0)
        return;
    for (int64_t d = 0; d < a->d_qk; d++) {
        for (int64_t e = 0; e < a->d_v; e++)
            a->s->c[d * a->d_v + e] += weight * k[d] * v[e];
        a->s->n[d] += weight * k[d];
    }
}

/* h <- h + w q^T C;  returns w q^T n.  q is scaled already. */
static double recall(const head *a, double weight, const double *q, double *h) {
    for (int64_t d = 0; d < a->d_qk; d++)
        for (int64_t e = 0; e < a->d_v; e++)
            h[e] += weight * q[d] * a->s->c[d * a->d_v + e];
    return weight * reference_dot(q, a->s->n, a->d_qk);
}

/* h / (max(|q n|, exp(-m)) + eps).  exp(-m) may be inf: then h is 0. */
static void finish(const head *a, int64_t t, double qn, double m, double *h) {
    double denominator = reference_larger(fabs(qn), exp(-m)) + a->op->eps;
    for (int64_t e = 0; e < a->d_v; e++)
        h[e] /= denominator;
    reference_store(&a->op->h, at(&a->op->h, t, a->index), a->d_v, h);
}

/* q / sqrt(d_qk) of token t. */
static void load_query(const head *a, int64_t t) {
    double *q = a->s->q;
    reference_load(&a->op->q, at(&a->op->q, t, a->index), a->d_qk, q);
    for (int64_t d = 0; d < a->d_qk; d++)
        q[d] /= sqrt((double)a->d_qk);
}

static double gate(const ops_tensor *t, const head *a, int64_t token) {
    return reference_get(t, token * t->stride[0] + a->index);
}

/* Row j of the state's ring. */
static int64_t ring_at(const ops_tensor *ring, const head *a, int64_t j) {
    return at(ring, a->slot, a->index) + j * ring->stride[2];
}

/* What a token leaves: k, v as row j, and the logs of its gates. */
static void load_written(const head *a, int64_t t, int64_t j, double *log_i, double *log_f) {
    const struct ops_mlstm *op = a->op;
    reference_load(&op->k, at(&op->k, t, a->index), a->d_qk, a->s->k + j * a->d_qk);
    reference_load(&op->v, at(&op->v, t, a->index), a->d_v, a->s->v + j * a->d_v);
    *log_i = gate(&op->input_gate, a, t);
    *log_f = reference_log_sigmoid(gate(&op->forget_gate, a, t));
}

static void load_from_ring(const head *a, int64_t j, double *log_i, double *log_f) {
    const struct ops_mlstm *op = a->op;
    reference_load(&op->ring_k, ring_at(&op->ring_k, a, j), a->d_qk, a->s->k + j * a->d_qk);
    reference_load(&op->ring_v, ring_at(&op->ring_v, a, j), a->d_v, a->s->v + j * a->d_v);
    *log_i = reference_get(&op->ring_i, ring_at(&op->ring_i, a, j));
    *log_f = reference_log_sigmoid(reference_get(&op->ring_f, ring_at(&op->ring_f, a, j)));
}

static void store_into_ring(const head *a, int64_t t, int64_t j) {
    const struct ops_mlstm *op = a->op;
    double log_i, log_f;
    load_written(a, t, 0, &log_i, &log_f);
    reference_store(&op->ring_k, ring_at(&op->ring_k, a, j), a->d_qk, a->s->k);
    reference_store(&op->ring_v, ring_at(&op->ring_v, a, j), a->d_v, a->s->v);
    reference_set(&op->ring_i, ring_at(&op->ring_i, a, j), gate(&op->input_gate, a, t));
    reference_set(&op->ring_f, ring_at(&op->ring_f, a, j), gate(&op->forget_gate, a, t));
}

/* One token (Beck et al. 2024, eq. 19-27, with k unscaled and q / sqrt(d_qk)):
 *   log_f = log(sigmoid(f))
 *   m'    = max(log_f + m, i)
 *   F     = exp(log_f + m - m')
 *   I     = exp(i - m')
 *   C'    = F C + I k v^T
 *   n'    = F n + I k
 *   h     = q^T C' / (max(|q^T n'|, exp(-m')) + eps)
 * h comes from C' and n' before they are rounded to the type in which they are stored. */
static void step(head *a, int64_t t) {
    double log_f, i;
    load_query(a, t);
    load_written(a, t, 0, &i, &log_f);
    double m = reference_storable_maximum(reference_larger(log_f + a->m, i), a->op->m.dtype);
    forget(a, weigh(log_f + a->m, m));
    insert(a, weigh(i, m), a->s->k, a->s->v);
    a->m = m;

    double *h = a->s->h;
    for (int64_t e = 0; e < a->d_v; e++)
        h[e] = 0;
    finish(a, t, recall(a, 1, a->s->q, h), m, h);
    store_state(a);
    load_state(a);
}

/* A chunk of L tokens (TFLA, Beck et al. 2025, the chunkwise form). C, n, m are the state before
 * it; sums of log_f over an empty span are 0; l runs over the tokens 1 .. j.
 *   b_j   = sum of log_f over tokens 1 .. j
 *   D~_jl = i_l + sum of log_f over tokens l + 1 .. j
 *   mu_j  = max(b_j + m, max_l D~_jl)
 *   num_j = exp(b_j + m - mu_j) q_j^T C + sum_l exp(D~_jl - mu_j) (q_j^T k_l) v_l
 *   qn_j  = exp(b_j + m - mu_j) q_j^T n + sum_l exp(D~_jl - mu_j) (q_j^T k_l)
 *   h_j   = num_j / (max(|qn_j|, exp(-mu_j)) + eps)
 * and after it, with the weights of the last row:
 *   m'    = mu_L
 *   C'    = exp(b_L + m - m') C + sum_l exp(D~_Ll - m') k_l v_l^T
 *   n'    = exp(b_L + m - m') n + sum_l exp(D~_Ll - m') k_l
 * The spans are summed without subtracting one b from another, which would lose digits and give
 * -inf - -inf.
 *
 * With deferral the first tokens of a chunk, and their h, may belong to the past: `held` of them
 * stand in the ring, where the new ones join them. Where the ring is not full in the end, the state
 * stays as it is. */
typedef struct stretch {
    int64_t first;  /* token of the batch: the first new one */
    int64_t held;   /* tokens before it that are not in C and n yet */
    int64_t tokens; /* new ones */
    bool ring;      /* keys, values and gates are in the ring */
    bool folds;     /* C, n and m become those after it */
} stretch;

static void chunk(head *a, const stretch *part) {
    double exponent[REFERENCE_MAX_CHUNK]; /* D~_jl of the current row j */
    double b = -0.0;                      /* the neutral element: -0 + m is m, bit for bit */
    double mu = a->m;
    double *h = a->s->h;
    int64_t length = part->held + part->tokens;
    for (int64_t j = part->held; part->ring && j < length; j++)
        store_into_ring(a, part->first + j - part->held, j);
    for (int64_t j = 0; j < length; j++) {
        int64_t t = part->first + j - part->held;
        double log_f;
        if (part->ring)
            load_from_ring(a, j, &exponent[j], &log_f);
        else
            load_written(a, t, j, &exponent[j], &log_f);
        b += log_f;
        mu = b + a->m;
        for (int64_t l = 0; l < j; l++)
            exponent[l] += log_f;
        for (int64_t l = 0; l <= j; l++)
            mu = reference_larger(mu, exponent[l]);
        if (j < part->held)
            continue;

        const double *q = a->s->q;
        load_query(a, t);
        for (int64_t e = 0; e < a->d_v; e++)
            h[e] = 0;
        double qn = recall(a, weigh(b + a->m, mu), q, h);
        for (int64_t l = 0; l <= j; l++) {
            double weight = weigh(exponent[l], mu);
            if (weight == 0)
                continue;
            double score = weight * reference_dot(q, a->s->k + l * a->d_qk, a->d_qk);
            for (int64_t e = 0; e < a->d_v; e++)
                h[e] += score * a->s->v[l * a->d_v + e];
            qn += score;
        }
        finish(a, t, qn, mu, h);
    }
    if (!part->folds)
        return;
    double m = reference_storable_maximum(mu, a->op->m.dtype);
    forget(a, weigh(b + a->m, m));
    for (int64_t l = 0; l < length; l++)
        insert(a, weigh(exponent[l], m), a->s->k + l * a->d_qk, a->s->v + l * a->d_v);
    a->m = m;
    store_state(a);
    load_state(a);
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The next tokens of a sequence, `left` of them from `position` on: up to the end of their chunk, or
 * what goes through the ring together. */
static stretch next_stretch(const struct ops_mlstm *op, int64_t chunk_size, int64_t position,
                            int64_t first, int64_t left) {
    int64_t ring = op->deferred, tokens = least(chunk_size - position % chunk_size, left);
    if (ring == 0)
        return (stretch){first, 0, tokens, false, true};
    int64_t held = position % ring;
    if (held == 0 && chunk_size % ring == 0 && tokens >= ring)
        return (stretch){first, 0, tokens / ring * ring, false, true};
    tokens = least(ring - held, left);
    return (stretch){first, held, tokens, true, held + tokens == ring};
}

static bool ring_fits(reference_stream *s, const struct ops_mlstm *op) {
    static const char *const name = "mlstm";
    int64_t slots = op->c.shape[0], heads = op->q.shape[1], ring = op->deferred;
    if (ring < 0 || ring > OPS_MAX_DEFERRED)
        return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                              "reference mlstm: %d deferred tokens, must be 0 to %d", op->deferred,
                              OPS_MAX_DEFERRED);
    const int64_t keys[] = {slots, heads, ring, op->q.shape[2]};
    const int64_t values[] = {slots, heads, ring, op->v.shape[2]};
    return ring == 0 || (reference_shaped(s, name, "ring_k", &op->ring_k, 4, keys) &&
                         reference_shaped(s, name, "ring_v", &op->ring_v, 4, values) &&
                         reference_shaped(s, name, "ring_i", &op->ring_i, 3, keys) &&
                         reference_shaped(s, name, "ring_f", &op->ring_f, 3, keys));
}

static bool fits(reference_stream *s, const struct ops_mlstm *op) {
    static const char *const name = "mlstm";
    const ops_limits *limits = &s->base.options.limits;
    int64_t tokens = op->batch.tokens, heads = op->q.shape[1];
    int64_t d_qk = op->q.shape[2], d_v = op->v.shape[2], slots = op->c.shape[0];
    if (op->chunk_size < 0 || op->chunk_size > REFERENCE_MAX_CHUNK ||
        (op->chunk_size > 1 && op->chunk_size % 16))
        return reference_fail(
            s, XLSTM_INVALID_ARGUMENT,
            "reference mlstm: chunk size %d, must be 0, 1 or a multiple of 16 up to %d",
            op->chunk_size, REFERENCE_MAX_CHUNK);
    return reference_shaped(s, name, "q", &op->q, 3, (int64_t[]){tokens, heads, d_qk}) &&
           reference_shaped(s, name, "k", &op->k, 3, op->q.shape) &&
           reference_shaped(s, name, "v", &op->v, 3, (int64_t[]){tokens, heads, d_v}) &&
           reference_shaped(s, name, "h", &op->h, 3, op->v.shape) &&
           reference_shaped(s, name, "input_gate", &op->input_gate, 2, op->q.shape) &&
           reference_shaped(s, name, "forget_gate", &op->forget_gate, 2, op->q.shape) &&
           reference_shaped(s, name, "c", &op->c, 4, (int64_t[]){slots, heads, d_qk, d_v}) &&
           reference_shaped(s, name, "n", &op->n, 3, op->c.shape) &&
           reference_shaped(s, name, "m", &op->m, 2, op->c.shape) && ring_fits(s, op) &&
           reference_within(s, name, "values a query", d_qk, limits->head_dim_qk) &&
           reference_within(s, name, "values a head", d_v, limits->head_dim_v) &&
           reference_batch_fits(s, name, &op->batch, slots);
}

void reference_mlstm(ops_stream *stream, const struct ops_mlstm *op) {
    reference_stream *s = reference_begin(stream);
    if (!s || !fits(s, op))
        return;
    int64_t chunk_size = op->chunk_size ? op->chunk_size : stream->device->chunk_size;
    const int64_t *position = ops_data(&op->batch.position);
    for (int sequence = 0; sequence < op->batch.sequences; sequence++) {
        int64_t start = reference_index(&op->batch.start, sequence);
        int64_t end = reference_index(&op->batch.start, sequence + 1);
        for (int64_t index = 0; index < op->q.shape[1]; index++) {
            head a = {op,
                      s,
                      reference_index(&op->batch.slot, sequence),
                      index,
                      op->q.shape[2],
                      op->v.shape[2],
                      0};
            load_state(&a);
            for (int64_t t = start; t < end;) {
                stretch part =
                    next_stretch(op, chunk_size, position[sequence] + t - start, t, end - t);
                if (chunk_size == 1 && !part.ring)
                    step(&a, t);
                else
                    chunk(&a, &part);
                t += part.tokens;
            }
        }
    }
}
