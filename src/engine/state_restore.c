/* Restoring converts each number to the type in which the pool holds it, rounding to nearest.
 *
 * Where file and pool defer the same number of tokens, or none, tensors are taken as they are. Otherwise
 * the tokens that wait in the file's ring are folded into C, n and m here, in double, by the equations
 * of struct ops_mlstm; and a pool that has a ring gets one of padding (i = -inf, f = +inf), which
 * changes nothing when its turn comes. */
#include "engine/state_restore.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static const char *const ring_kinds[] = {"ring_k", "ring_v", "ring_i", "ring_f"};
enum { RING_KINDS = 4 };
static const double largest_f16 = 65504;

char *state_tensor_name(const char *node, const char *kind) {
    size_t size = strlen(node) + strlen(kind) + 2;
    char *name = malloc(size);
    if (name)
        snprintf(name, size, "%s.%s", node, kind);
    return name;
}

static const stored_tensor *find(const stored_tensors *file, const char *node, const char *kind) {
    char *name = state_tensor_name(node, kind);
    const stored_tensor *found = name ? stored_find(file, name) : NULL;
    free(name);
    return found;
}

/* C of an mLSTM; those of an sLSTM are vectors. */
static bool is_matrix(const state_tensor *t) {
    return strcmp(t->kind, "c") == 0 && t->pool.rank == 4;
}

static int matrices(const state_pool *pool) {
    int count = 0;
    for (int i = 0; i < pool->count; i++)
        count += is_matrix(&pool->tensors[i]);
    return count;
}

int64_t state_file_ring(const state_pool *pool, const stored_tensors *file) {
    for (int i = 0; i < pool->count; i++) {
        const state_tensor *t = &pool->tensors[i];
        const stored_tensor *k = is_matrix(t) ? find(file, t->node, "ring_k") : NULL;
        if (k && k->rank == 3 && k->shape[1] >= 1 && k->shape[1] <= OPS_MAX_DEFERRED)
            return k->shape[1];
    }
    return 0;
}

/* ---- Checking ---- */

/* A finite number of another type that f16 would make infinite. */
static bool too_large(const stored_tensor *found, dtype to) {
    if (to != DTYPE_F16 || found->dtype == DTYPE_F16)
        return false;
    int64_t count = (int64_t)(found->size / dtype_size(found->dtype));
    for (int64_t i = 0; i < count; i++) {
        double value = fabs(dtype_load(found->dtype, found->data, i));
        if (value > largest_f16 && value < INFINITY)
            return true;
    }
    return false;
}

static void check_tensor(const stored_tensors *file, const char *path, const char *node,
                         const char *kind, dtype to, int rank, const int64_t *shape,
                         error_list *faults) {
    const stored_tensor *found = find(file, node, kind);
    bool fits = found && dtype_is_float(found->dtype) && found->rank == rank;
    for (int i = 0; fits && i < rank; i++)
        fits = found->shape[i] == shape[i];
    if (!fits)
        error_list_add(faults, "%s: tensor %s.%s is missing or has another shape than this model's",
                       path, node, kind);
    else if ((uintptr_t)found->data % dtype_size(found->dtype) != 0)
        error_list_add(faults, "%s: tensor %s.%s is not aligned to its elements", path, node, kind);
    else if (too_large(found, to))
        error_list_add(faults,
                       "%s: tensor %s.%s holds values that f16 cannot; load the model with another "
                       "state dtype",
                       path, node, kind);
}

static void check_ring(const stored_tensors *file, const char *path, const state_tensor *matrix,
                       int64_t ring, error_list *faults) {
    const int64_t *of = matrix->pool.shape; /* [slots][heads][d_qk][d_v] */
    const int64_t keys[] = {of[1], ring, of[2]}, values[] = {of[1], ring, of[3]};
    for (int i = 0; i < RING_KINDS; i++)
        check_tensor(file, path, matrix->node, ring_kinds[i], DTYPE_F32, i < 2 ? 3 : 2,
                     i == 1 ? values : keys, faults);
}

xlstm_status state_restore_check(const state_pool *pool, const stored_tensors *file,
                                 const char *path) {
    error_list faults = {0};
    int64_t ring = state_file_ring(pool, file);
    int wanted =
        pool->count + matrices(pool) * RING_KINDS * ((ring > 0) - (pool->options.deferred > 0));
    if (file->count != (size_t)wanted)
        error_list_add(&faults, "%s has %zu tensors; the model's state has %d", path, file->count,
                       wanted);
    for (int i = 0; i < pool->count; i++) {
        const state_tensor *t = &pool->tensors[i];
        if (!state_in_ring(t))
            check_tensor(file, path, t->node, t->kind, t->pool.dtype, t->pool.rank - 1,
                         t->pool.shape + 1, &faults);
        if (ring > 0 && is_matrix(t))
            check_ring(file, path, t, ring, &faults);
    }
    return error_list_finish(&faults, XLSTM_FORMAT_ERROR);
}

/* ---- Another ring ---- */

/* The tokens that wait in a head of a file. */
typedef struct waiting {
    const stored_tensors *file;
    const char *node;
    int64_t ring, held;
    double keep, write[OPS_MAX_DEFERRED]; /* weights of the state and of each token */
    double m;
} waiting;

static double element(const waiting *w, const char *kind, int64_t index) {
    const stored_tensor *t = find(w->file, w->node, kind);
    return t ? dtype_load(t->dtype, t->data, index) : (double)NAN;
}

static double log_sigmoid(double x) {
    return x >= 0 ? -log1p(exp(-x)) : x - log1p(exp(x));
}

static double weight(double exponent, double m) {
    return m == -INFINITY ? 0 : exp(exponent - m);
}

/* m as its type holds it, rounded up. */
static double storable(double m, dtype type) {
    float nearest = (float)m;
    if (type == DTYPE_F64)
        return m;
    return (double)((double)nearest < m ? nextafterf(nearest, INFINITY) : nearest);
}

static void weigh(waiting *w, int64_t head, dtype m_type) {
    double before = element(w, "m", head), m = before, exponent[OPS_MAX_DEFERRED];
    for (int64_t l = 0; l < w->held; l++) {
        double log_f = log_sigmoid(element(w, "ring_f", head * w->ring + l));
        before += log_f;
        for (int64_t earlier = 0; earlier < l; earlier++)
            exponent[earlier] += log_f;
        exponent[l] = element(w, "ring_i", head * w->ring + l);
        m = isnan(m) || m + log_f > exponent[l] ? m + log_f : exponent[l];
    }
    w->m = storable(m, m_type);
    w->keep = weight(before, w->m);
    for (int64_t l = 0; l < w->held; l++)
        w->write[l] = weight(exponent[l], w->m);
}

/* `values` of a head, [rows][columns] of C or [rows] of n, with the tokens folded in. */
static void fold(const waiting *w, int64_t head, int64_t rows, int64_t columns, bool matrix,
                 double *values) {
    const stored_tensor *k = find(w->file, w->node, "ring_k"),
                        *v = find(w->file, w->node, "ring_v");
    for (int64_t i = 0; i < rows * columns; i++)
        values[i] *= w->keep;
    for (int64_t l = 0; l < w->held; l++) {
        int64_t row = head * w->ring + l;
        for (int64_t d = 0; k && v && w->write[l] != 0 && d < rows; d++) {
            double key = w->write[l] * dtype_load(k->dtype, k->data, row * rows + d);
            for (int64_t e = 0; e < columns; e++)
                values[d * columns + e] +=
                    matrix ? key * dtype_load(v->dtype, v->data, row * columns + e) : key;
        }
    }
}

/* C, n or m of a node, with the tokens folded in. */
static void fold_tensor(const state_tensor *t, waiting *w, dtype m_type, double *values) {
    const int64_t *shape = t->pool.shape;
    bool matrix = is_matrix(t), vector = strcmp(t->kind, "n") == 0;
    int64_t rows = shape[2], columns = matrix ? shape[3] : 1;
    for (int64_t head = 0; head < shape[1]; head++) {
        weigh(w, head, m_type);
        if (matrix || vector)
            fold(w, head, rows, columns, matrix, values + head * rows * columns);
        else
            values[head] = w->m;
    }
}

static void pad_ring(const state_tensor *t, void *bytes) {
    double gate = strcmp(t->kind, "ring_i") == 0   ? -INFINITY
                  : strcmp(t->kind, "ring_f") == 0 ? INFINITY
                                                   : 0;
    for (size_t i = 0; i < t->slot_size / dtype_size(t->pool.dtype); i++)
        dtype_store(t->pool.dtype, bytes, (int64_t)i, gate);
}

/* ---- Filling ---- */

static xlstm_status fill_folded(const state_tensor *t, const stored_tensor *found, waiting *w,
                                dtype m_type, void *bytes) {
    int64_t count = (int64_t)(t->slot_size / dtype_size(t->pool.dtype));
    double *values = malloc((size_t)count * sizeof *values);
    if (!values)
        return error_memory((size_t)count * sizeof *values, "a state tensor");
    dtype_convert(found->dtype, found->data, DTYPE_F64, values, count);
    fold_tensor(t, w, m_type, values);
    dtype_convert(DTYPE_F64, values, t->pool.dtype, bytes, count);
    free(values);
    return XLSTM_OK;
}

static xlstm_status fill(const state_pool *pool, const state_tensor *t, const stored_tensors *file,
                         int64_t position, void *bytes) {
    int64_t ring = state_file_ring(pool, file), held = ring > 0 ? position % ring : 0;
    const stored_tensor *found = find(file, t->node, t->kind);
    bool same = ring == pool->options.deferred;
    if (state_in_ring(t) && !same) {
        pad_ring(t, bytes);
        return XLSTM_OK;
    }
    if (!found) /* it was there when it was checked: its name found no memory */
        return error_memory(0, "the name of a state tensor");
    waiting w = {.file = file, .node = t->node, .ring = ring, .held = held};
    bool folds = !same && held > 0 && find(file, t->node, "ring_k");
    if (folds && strcmp(t->kind, "conv") != 0)
        return fill_folded(t, found, &w, pool->options.real, bytes);
    dtype_convert(found->dtype, found->data, t->pool.dtype, bytes,
                  (int64_t)(t->slot_size / dtype_size(t->pool.dtype)));
    return XLSTM_OK;
}

xlstm_status state_restore(const state_pool *pool, ops_stream *stream, int slot,
                           const stored_tensors *file, int64_t position) {
    xlstm_status status = XLSTM_OK;
    for (int i = 0; status == XLSTM_OK && i < pool->count; i++) {
        const state_tensor *t = &pool->tensors[i];
        void *bytes = malloc(t->slot_size);
        status = bytes ? fill(pool, t, file, position, bytes)
                       : error_memory(t->slot_size, "a state tensor");
        if (status == XLSTM_OK) {
            state_write(pool, stream, i, slot, bytes);
            status = pool->device->wait(stream);
        }
        free(bytes);
    }
    return status;
}
