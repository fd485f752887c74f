/* Rows whose rounding errors are weighed by H, the mean of x x^T over inputs x: they cost e H e^T.
 *
 * First pass: from block to block in the order given, the error of each column is carried on to those
 * after it. Then sweeps: with g = e H, the best error of column j alone is e_j - g_j / H_jj, and the
 * level nearest to that is taken; d and m of a block with its levels are a least-squares fit under
 * H. Neither can make e H e^T larger. g is summed anew for each block, from the rows of H below it
 * and its own rows, so that half of H is enough. */
#include "format/quantise.h"

#include <math.h>
#include <string.h>

#include "format/quantise_pack.h"
#include "format/quantise_search.h"

enum { MOST_SWEEPS = 4, LANES = 8 };

/* A row in the order of rounding. */
typedef struct row {
    dtype type;
    const search_grid *grid;
    const quantise_columns *columns;
    int64_t count;
    const float *values; /* [count] */
    float *changing;     /* [count]: what they have become; later errors, value - decoded */
    float *level;        /* [count] */
    float *d, *m;        /* [count / 32] */
} row;

size_t quantise_work_size(int64_t count) {
    return (size_t)(3 * count + 2 * (count / BLOCK_ELEMENTS)) * sizeof(float);
}

/* ---- The first pass ---- */

/* values[i] -= sum over j of error[j] * carry[j][i], for one block of them. */
static void make_good(const float *error, const float *carry, int64_t window, float *values) {
    float sum[BLOCK_ELEMENTS];
    memcpy(sum, values, sizeof sum);
    for (int j = 0; j < BLOCK_ELEMENTS; j++)
        for (int i = 0; i < BLOCK_ELEMENTS; i++)
            sum[i] -= error[j] * carry[j * window + i];
    memcpy(values, sum, sizeof sum);
}

/* Rounds the block at `first`, and carries its errors on to `end`. */
static void round_block(row *r, int64_t first, int64_t end) {
    const quantise_columns *c = r->columns;
    const float *carry = c->carry + first * c->window + first % c->window;
    float error[BLOCK_ELEMENTS], *values = r->changing + first, limit = quantise_limit(r->type);
    search_scale s;
    for (int j = 0; j < BLOCK_ELEMENTS; j++) /* what was carried may have led beyond */
        values[j] = fminf(fmaxf(values[j], -limit), limit);
    search_problem problem = {values, c->importance + first, carry, c->window};
    search_block_scale(r->grid, &problem, &s);
    float d = s.d * s.unit, m = s.m * s.unit;
    for (int j = 0; j < BLOCK_ELEMENTS; j++) {
        float level = search_nearest(r->grid, d != 0 ? (values[j] - m) / d : 0);
        r->level[first + j] = level;
        error[j] = values[j] - (d * level + m);
        for (int k = j + 1; k < BLOCK_ELEMENTS; k++)
            values[k] -= error[j] * carry[j * c->window + k];
    }
    for (int64_t k = BLOCK_ELEMENTS; k < end - first; k += BLOCK_ELEMENTS)
        make_good(error, carry + k, c->window, values + k);
    r->d[first / BLOCK_ELEMENTS] = d, r->m[first / BLOCK_ELEMENTS] = m;
}

/* ---- Sweeps ---- */

typedef float lanes __attribute__((vector_size(LANES * 4)));

/* Sum of a[i] * b[i], i < count, which is a multiple of 32. */
static float dot(const float *a, const float *b, int64_t count) {
    lanes sum[4] = {{0}};
    for (int64_t i = 0; i < count; i += 4 * LANES)
        for (int l = 0; l < 4; l++) {
            lanes x, y;
            memcpy(&x, a + i + l * LANES, sizeof x);
            memcpy(&y, b + i + l * LANES, sizeof y);
            sum[l] += x * y;
        }
    sum[0] += sum[1] + (sum[2] + sum[3]);
    float total = 0;
    for (int l = 0; l < LANES; l++)
        total += sum[0][l];
    return total;
}

/* A block within its window: its rows of H, its errors e, and its part of g = e H. */
typedef struct place {
    float h[BLOCK_ELEMENTS][BLOCK_ELEMENTS];
    float *error;
    float g[BLOCK_ELEMENTS];
} place;

/* `h` and `error` are of the window, of n columns; the block begins at its column `at`. */
static void look(const float *h, int64_t stride, int64_t n, float *error, int64_t at, place *p) {
    p->error = error + at;
    for (int j = 0; j < BLOCK_ELEMENTS; j++) {
        const float *own = h + (at + j) * stride;
        p->g[j] = dot(error, own, at);
        for (int k = 0; k <= j; k++)
            p->h[j][k] = p->h[k][j] = own[at + k];
    }
    for (int k = 0; k < BLOCK_ELEMENTS; k++)
        for (int j = 0; j < BLOCK_ELEMENTS; j++)
            p->g[j] += p->error[k] * p->h[k][j];
    for (int64_t k = at + BLOCK_ELEMENTS; k < n; k++)
        for (int j = 0; j < BLOCK_ELEMENTS; j++)
            p->g[j] += error[k] * h[k * stride + at + j];
}

static void change_error(place *p, int j, float by) {
    p->error[j] += by;
    for (int k = 0; k < BLOCK_ELEMENTS; k++)
        p->g[k] += by * p->h[j][k];
}

/* Returns whether a level changed. */
static bool improve_levels(row *r, int64_t first, place *p) {
    float d = r->d[first / BLOCK_ELEMENTS], m = r->m[first / BLOCK_ELEMENTS];
    bool changed = false;
    for (int j = 0; j < BLOCK_ELEMENTS && d != 0; j++) {
        float value = r->values[first + j], wanted = value - (p->error[j] - p->g[j] / p->h[j][j]);
        float level = search_nearest(r->grid, (wanted - m) / d);
        if (level == r->level[first + j])
            continue;
        r->level[first + j] = level;
        change_error(p, j, value - (d * level + m) - p->error[j]);
        changed = true;
    }
    return changed;
}

static float to_f16(double value) {
    return f16_to_float(float_to_f16((float)value));
}

/* The change of d and m that is best with these levels, and is one after rounding; returns whether
 * there is any. */
static bool improve_scale(row *r, int64_t first, place *p) {
    float *d = &r->d[first / BLOCK_ELEMENTS], *m = &r->m[first / BLOCK_ELEMENTS];
    const float *q = r->level + first;
    double qq = 0, q1 = 0, ones = 0, gq = 0, g1 = 0; /* q H q^T, q H 1^T, 1 H 1^T, g q^T, g 1^T */
    for (int i = 0; i < BLOCK_ELEMENTS; i++) {
        double sum_q = 0, sum = 0;
        for (int j = 0; j < BLOCK_ELEMENTS; j++) {
            sum_q += (double)p->h[i][j] * (double)q[j];
            sum += (double)p->h[i][j];
        }
        qq += (double)q[i] * sum_q, q1 += sum_q, ones += sum;
        gq += (double)p->g[i] * (double)q[i], g1 += (double)p->g[i];
    }
    double determinant = r->grid->offset ? qq * ones - q1 * q1 : qq;
    if (!(determinant > 0))
        return false;
    double by_d = r->grid->offset ? (gq * ones - g1 * q1) / determinant : gq / qq, by_m = 0;
    float new_d = to_f16((double)*d + by_d), new_m = *m;
    by_d = (double)new_d - (double)*d;
    if (r->grid->offset) {
        new_m = to_f16((double)*m + (g1 - by_d * q1) / ones);
        by_m = (double)new_m - (double)*m;
    }
    double gain = 2 * (by_d * gq + by_m * g1) -
                  (by_d * by_d * qq + 2 * by_d * by_m * q1 + by_m * by_m * ones);
    if (!(gain > 0) || !isfinite(new_d) || !isfinite(new_m))
        return false;
    for (int j = 0; j < BLOCK_ELEMENTS; j++)
        p->error[j] = r->values[first + j] - (new_d * q[j] + new_m);
    *d = new_d, *m = new_m;
    return true;
}

/* Columns [begin, end) are a window. */
static bool sweep(row *r, int64_t begin, int64_t end) {
    const quantise_columns *c = r->columns;
    bool changed = false;
    for (int64_t first = begin; first < end; first += BLOCK_ELEMENTS) {
        place p;
        look(c->h + begin * c->window, c->window, end - begin, r->changing + begin, first - begin,
             &p);
        bool levels = improve_levels(r, first, &p), scale = improve_scale(r, first, &p);
        changed = changed || levels || scale;
    }
    return changed;
}

/* ---- Rows ---- */

static void round_window(row *r, int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += BLOCK_ELEMENTS)
        round_block(r, first, end);
    for (int64_t j = begin; j < end; j++) {
        int64_t block = j / BLOCK_ELEMENTS;
        r->changing[j] = r->values[j] - (r->d[block] * r->level[j] + r->m[block]);
    }
    for (int i = 0; i < MOST_SWEEPS && r->columns->h && sweep(r, begin, end); i++)
        continue;
}

static void pack_row(const row *r, uint8_t *blocks) {
    for (int64_t first = 0; first < r->count; first += BLOCK_ELEMENTS) {
        const int32_t *order = r->columns->order + first;
        int q[BLOCK_ELEMENTS];
        for (int j = 0; j < BLOCK_ELEMENTS; j++)
            q[order[j] % BLOCK_ELEMENTS] = (int)r->level[first + j];
        quantise_pack(r->type, r->d[first / BLOCK_ELEMENTS], r->m[first / BLOCK_ELEMENTS], q,
                      blocks + order[0] / BLOCK_ELEMENTS * (int64_t)dtype_size(r->type));
    }
}

int64_t quantise_row_carrying(dtype type, const float *values, const quantise_columns *columns,
                              int64_t count, float *work, void *blocks) {
    int64_t good = quantise_check(type, values, count), window = columns->window;
    if (good < count)
        return good;
    row r = {.type = type,
             .grid = search_grid_of(type),
             .columns = columns,
             .count = count,
             .values = work,
             .changing = work + count,
             .level = work + 2 * count,
             .d = work + 3 * count,
             .m = work + 3 * count + count / BLOCK_ELEMENTS};
    for (int64_t j = 0; j < count; j++)
        work[j] = r.changing[j] = values[columns->order[j]];
    for (int64_t begin = 0; begin < count; begin += window)
        round_window(&r, begin, begin + window < count ? begin + window : count);
    pack_row(&r, blocks);
    return count;
}
