/* Problems for the mLSTM. See mlstm_problem.h. */
#include "conformance/mlstm_problem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const double tiny = 1e-30; /* about what f32 can hold */

/* ---- Problems ---- */

static double *draw(dtype type, uint64_t seed, uint64_t stream, int64_t count, double mean,
                    double spread) {
    double *values = must_allocate((size_t)count * sizeof *values);
    draw_normal(seed, stream, 0, count, mean, spread, values);
    for (int64_t i = 0; i < count; i++)
        values[i] = round_to(type, values[i]);
    return values;
}

/* Rows of d values whose signs alternate; those of odd heads are turned round if `turned`. */
static void give_signs(double *values, int64_t rows, int64_t heads, int64_t d, bool turned) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < d; j++) {
            bool negative = (j % 2 == 1) != (turned && r % heads % 2 == 1);
            values[r * d + j] = negative ? -fabs(values[r * d + j]) : fabs(values[r * d + j]);
        }
}

/* Every q_j k_j of a head has the same sign, so that q n is a sum without cancellation: else h
 * would now and then be the quotient of two cancellations, and its error would measure the inputs
 * and not the op. Gates are about those of a trained model: |q n| and exp(-m) each are the larger
 * one somewhere. */
mlstm_problem mlstm_problem_make(const mlstm_shape *shape, dtype type, uint64_t seed) {
    mlstm_problem p = {.shape = *shape, .slots = shape->sequences + 1, .eps = 1e-6};
    for (int s = 0; s < shape->sequences; s++) {
        p.start[s + 1] = p.start[s] + shape->length[s];
        p.slot[s] = (int32_t)(s % 2 ? s / 2 : p.slots - 1 - s / 2);
    }
    int64_t rows = p.start[shape->sequences] * shape->heads, states = p.slots * shape->heads;
    p.q = draw(type, seed, 1, rows * shape->d_qk, 0, 1);
    p.k = draw(type, seed, 2, rows * shape->d_qk, 0, 1);
    p.v = draw(type, seed, 3, rows * shape->d_v, 0, 1);
    p.i = draw(type, seed, 4, rows, -1, 2);
    p.f = draw(type, seed, 5, rows, 3, 2);
    p.c = draw(type, seed, 6, states * shape->d_qk * shape->d_v, 0, 1);
    p.n = draw(type, seed, 7, states * shape->d_qk, 0, 1);
    p.m = draw(type, seed, 8, states, 0, 1);
    give_signs(p.q, rows, shape->heads, shape->d_qk, true);
    give_signs(p.k, rows, shape->heads, shape->d_qk, false);
    give_signs(p.n, states, shape->heads, shape->d_qk, false);
    return p;
}

void mlstm_problem_free(mlstm_problem *p) {
    double *arrays[] = {p->q, p->k, p->v, p->i, p->f, p->c, p->n, p->m};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
}

ops_limits mlstm_limits(const mlstm_shape *shape) {
    ops_limits limits = {.sequences = shape->sequences,
                         .heads = shape->heads,
                         .head_dim_qk = shape->d_qk,
                         .head_dim_v = shape->d_v,
                         .width =
                             shape->heads * (shape->d_qk > shape->d_v ? shape->d_qk : shape->d_v),
                         .vocab = 1};
    for (int s = 0; s < shape->sequences; s++)
        limits.tokens += shape->length[s];
    return limits;
}

/* ---- On a side ---- */

typedef struct pool {
    ops_tensor c, n, m, ring_k, ring_v, ring_i, ring_f;
} pool;

/* One of a ring's tensors, all its elements `value`. It is written, and not compared. */
static ops_tensor place_ring(side *s, int rank, const int64_t *dims, double value) {
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= dims[i];
    double *values = must_allocate((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = value;
    ops_tensor t = side_place(s, s->as.activation, rank, dims, values);
    side_scratch(s, &t);
    free(values);
    return t;
}

static void place_rings(side *s, const mlstm_problem *p, pool *states) {
    const mlstm_shape *shape = &p->shape;
    const int64_t keys[] = {p->slots, shape->heads, p->deferred, shape->d_qk};
    const int64_t values[] = {p->slots, shape->heads, p->deferred, shape->d_v};
    states->ring_k = place_ring(s, 4, keys, (double)NAN);
    states->ring_v = place_ring(s, 4, values, (double)NAN);
    states->ring_i = place_ring(s, 3, keys, -INFINITY);
    states->ring_f = place_ring(s, 3, keys, INFINITY);
}

/* The state tensors; the slots that the sequences own become outputs. */
static pool place_states(side *s, const mlstm_problem *p, int only) {
    const mlstm_shape *shape = &p->shape;
    int64_t dims[] = {p->slots, shape->heads, shape->d_qk, shape->d_v};
    dtype type = p->state == DTYPE_F64 ? s->as.activation : p->state;
    pool states = {.c = side_place(s, type, 4, dims, p->c),
                   .n = side_place(s, type, 3, dims, p->n),
                   .m = side_place(s, s->as.activation, 2, dims, p->m)};
    if (p->deferred > 0)
        place_rings(s, p, &states);
    for (int q = 0; q < shape->sequences; q++) {
        if (only >= 0 && q != only)
            continue;
        ops_tensor c = ops_tensor_rows(&states.c, p->slot[q], 1);
        ops_tensor n = ops_tensor_rows(&states.n, p->slot[q], 1);
        ops_tensor m = ops_tensor_rows(&states.m, p->slot[q], 1);
        side_output(s, "c", &c);
        side_output(s, "n", &n);
        side_output_exponent(s, "m", &m);
    }
    return states;
}

/* The part of sequence q that lies in absolute positions [from, to): tokens [*first, *end) of the
 * problem. */
static bool part_of(const mlstm_problem *p, int q, int64_t from, int64_t to, int64_t *first,
                    int64_t *end) {
    int64_t low = from - p->shape.position[q], high = to - p->shape.position[q];
    *first = p->start[q] + (low > 0 ? low : 0);
    *end = p->start[q] + (high < p->shape.length[q] ? high : p->shape.length[q]);
    return *first < *end;
}

/* A matrix whose row t is rows token[t] of several dense arrays side by side. */
static ops_tensor place_wide(side *s, dtype type, int64_t rows, const int64_t *token, int count,
                             double *const *arrays, const int64_t *widths) {
    int64_t width = 0;
    for (int a = 0; a < count; a++)
        width += widths[a];
    double *values = must_allocate((size_t)(rows * width) * sizeof *values), *next = values;
    for (int64_t t = 0; t < rows; t++)
        for (int a = 0; a < count; next += widths[a++])
            memcpy(next, arrays[a] + token[t] * widths[a], (size_t)widths[a] * sizeof *values);
    ops_tensor wide = side_place(s, type, 2, (int64_t[]){rows, width}, values);
    free(values);
    return wide;
}

/* Runs positions [from, to); h of token t goes to h [t] unless that is NULL. False if nothing is
 * there. */
static bool run_part(side *s, const mlstm_problem *p, const pool *states, int chunk_size,
                     int64_t from, int64_t to, int only, double *h) {
    const mlstm_shape *shape = &p->shape;
    int32_t slot[MLSTM_MAX_SEQUENCES], start[MLSTM_MAX_SEQUENCES + 1] = {0};
    int64_t position[MLSTM_MAX_SEQUENCES], longest = 0;
    int64_t *token = must_allocate((size_t)p->start[shape->sequences] * sizeof *token);
    int count = 0;
    for (int q = 0; q < shape->sequences; q++) {
        int64_t first, end;
        if ((only >= 0 && q != only) || !part_of(p, q, from, to, &first, &end))
            continue;
        slot[count] = p->slot[q];
        position[count] = shape->position[q] + first - p->start[q];
        start[count + 1] = start[count] + (int32_t)(end - first);
        for (int64_t t = first; t < end; t++)
            token[start[count] + t - first] = t;
        longest = end - first > longest ? end - first : longest;
        count++;
    }
    int64_t rows = start[count], heads = shape->heads, d_qk = shape->d_qk, d_v = shape->d_v;
    if (count) {
        int64_t qk = heads * d_qk, hv = heads * d_v;
        dtype type = p->halves ? DTYPE_BF16 : side_between(s);
        ops_tensor data = place_wide(s, type, rows, token, 3, (double *[]){p->k, p->q, p->v},
                                     (int64_t[]){qk, qk, hv});
        ops_tensor gates = place_wide(s, s->as.activation, rows, token, 2, (double *[]){p->i, p->f},
                                      (int64_t[]){heads, heads});
        ops_tensor out = side_place(s, type, 2, (int64_t[]){rows, hv}, NULL);
        ops_tensor k = side_columns(&data, 0, qk), q = side_columns(&data, qk, qk);
        ops_tensor v = side_columns(&data, 2 * qk, hv);
        struct ops_mlstm op = {.batch = {.sequences = count,
                                         .tokens = rows,
                                         .longest = longest,
                                         .slot = side_i32(s, count, slot),
                                         .start = side_i32(s, count + 1, start),
                                         .position = side_i64(s, count, position)},
                               .q = ops_tensor_split(&q, heads, d_qk),
                               .k = ops_tensor_split(&k, heads, d_qk),
                               .v = ops_tensor_split(&v, heads, d_v),
                               .input_gate = side_columns(&gates, 0, heads),
                               .forget_gate = side_columns(&gates, heads, heads),
                               .c = states->c,
                               .n = states->n,
                               .m = states->m,
                               .deferred = p->deferred,
                               .ring_k = states->ring_k,
                               .ring_v = states->ring_v,
                               .ring_i = states->ring_i,
                               .ring_f = states->ring_f,
                               .eps = p->eps,
                               .chunk_size = chunk_size,
                               .h = ops_tensor_split(&out, heads, d_v)};
        side_output(s, "h", &out);
        s->as.device->ops.mlstm(s->stream, &op);
        double *values = h ? side_read(s, &out) : NULL;
        for (int64_t t = 0; h && t < rows; t++)
            memcpy(h + token[t] * hv, values + t * hv, (size_t)hv * sizeof *h);
        free(values);
    }
    free(token);
    return count > 0;
}

void mlstm_place_and_run(side *s, const mlstm_problem *p, int chunk_size) {
    pool states = place_states(s, p, -1);
    run_part(s, p, &states, chunk_size, 0, INT64_MAX, -1, NULL);
}

mlstm_result mlstm_run(const setting *as, bool exact, const mlstm_problem *p,
                       const mlstm_plan *plan) {
    ops_limits limits = mlstm_limits(&p->shape);
    limits.deferred = p->deferred;
    int64_t hv = p->shape.heads * p->shape.d_v, end = 0;
    for (int q = 0; q < p->shape.sequences; q++) {
        int64_t last = p->shape.position[q] + p->shape.length[q];
        end = last > end ? last : end;
    }
    mlstm_result r = {
        .h = must_allocate((size_t)(p->start[p->shape.sequences] * hv) * sizeof(double))};
    side s;
    side_open(&s, as, exact, !p->halves, 0, &limits);
    pool states = place_states(&s, p, plan->only);
    int64_t from = 0;
    for (int i = 0; from < end; i++) {
        int64_t to = plan->every_token ? from + 1 : i < plan->cut_count ? plan->cuts[i] : end;
        run_part(&s, p, &states, plan->chunk_size, from, to, plan->only, r.h);
        from = to;
    }
    side_finish(&s, "mlstm");
    r.c = side_read(&s, &states.c);
    r.n = side_read(&s, &states.n);
    r.m = side_read(&s, &states.m);
    side_close(&s);
    return r;
}

void mlstm_result_free(mlstm_result *r) {
    free(r->h);
    free(r->c);
    free(r->n);
    free(r->m);
}

/* ---- Comparison ---- */

double mlstm_error(const mlstm_problem *p, const mlstm_result *r, const mlstm_result *exact) {
    const mlstm_shape *shape = &p->shape;
    int64_t heads = shape->heads, states = p->slots * heads;
    int64_t tokens = p->start[shape->sequences];
    double errors[] = {
        distance(r->h, exact->h, tokens * heads * shape->d_v, tiny),
        distance(r->c, exact->c, states * shape->d_qk * shape->d_v, tiny),
        distance(r->n, exact->n, states * shape->d_qk, tiny),
        distance(r->m, exact->m, states, 1),
    };
    double worst = 0;
    for (int i = 0; i < 4; i++)
        worst = fmax(worst, errors[i]);
    return worst;
}

static bool same(const double *a, const double *b, int64_t first, int64_t count) {
    return memcmp(a + first, b + first, (size_t)count * sizeof *a) == 0;
}

bool mlstm_equal(const mlstm_problem *p, const mlstm_result *a, const mlstm_result *b,
                 int sequence) {
    const mlstm_shape *shape = &p->shape;
    int64_t heads = shape->heads;
    for (int q = 0; q < shape->sequences; q++) {
        int64_t hv = heads * shape->d_v, c = heads * shape->d_qk * shape->d_v;
        int64_t n = heads * shape->d_qk, slot = p->slot[q];
        if (sequence >= 0 && q != sequence)
            continue;
        if (!same(a->h, b->h, p->start[q] * hv, shape->length[q] * hv) ||
            !same(a->c, b->c, slot * c, c) || !same(a->n, b->n, slot * n, n) ||
            !same(a->m, b->m, slot * heads, heads))
            return false;
    }
    return true;
}
