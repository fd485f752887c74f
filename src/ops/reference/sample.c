/* Logits to ids. The rules, and their order, are those of struct ops_sample. */
#include "ops/reference/internal.h"

#include <math.h>
#include <stdlib.h>

typedef struct candidate candidate;

/* Falling logit; on ties the lower id first. */
static int by_falling_logit(const void *left, const void *right) {
    const candidate *a = left, *b = right;
    if (a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

/* Reads the logits of ids [0, limit), penalised, into s->logits. */
static bool read_logits(reference_stream *s, const struct ops_sample *op, int64_t row) {
    const struct ops_sample_row *rule = &op->rows[row];
    bool any = false;
    reference_load(&op->logits, row * op->logits.stride[0], rule->limit, s->logits);
    for (int32_t id = 0; id < rule->limit; id++) {
        if (isnan(s->logits[id]) || s->logits[id] == INFINITY)
            return reference_fail(s, XLSTM_DEVICE_ERROR,
                                  "sample: the logit of id %d in row %lld is %g", (int)id,
                                  (long long)row, s->logits[id]);
        any = any || s->logits[id] > -INFINITY;
    }
    if (!any)
        return reference_fail(s, XLSTM_DEVICE_ERROR, "sample: row %lld has no finite logit",
                              (long long)row);
    if (rule->penalty == 0 || rule->penalty == 1)
        return true;
    for (int32_t i = 0; i < rule->penalised_count; i++) {
        int32_t id = reference_index(&op->penalised, rule->penalised_first + i);
        if (id < 0 || id >= rule->limit)
            continue;
        /* from the unpenalised logit, so that an id listed twice is penalised once */
        double logit = reference_get(&op->logits, row * op->logits.stride[0] + id);
        double penalty = (double)rule->penalty;
        s->logits[id] = logit > 0 ? logit / penalty : logit * penalty;
    }
    return true;
}

static int32_t highest(const double *logits, int32_t count) {
    int32_t best = 0;
    for (int32_t id = 1; id < count; id++)
        if (logits[id] > logits[best])
            best = id;
    return best;
}

static double sum_of(const candidate *candidates, int32_t count) {
    double sum = 0;
    for (int32_t i = 0; i < count; i++)
        sum += candidates[i].probability;
    return sum;
}

static int32_t draw(reference_stream *s, const struct ops_sample_row *rule) {
    candidate *list = s->candidates;
    int32_t count = rule->limit;
    for (int32_t id = 0; id < count; id++)
        list[id] = (candidate){.logit = s->logits[id], .id = id};
    qsort(list, (size_t)count, sizeof *list, by_falling_logit);
    for (int32_t i = 0; i < count; i++)
        list[i].probability = exp((list[i].logit - list[0].logit) / (double)rule->temperature);

    if (rule->top_k > 0 && rule->top_k < count)
        count = rule->top_k;
    if (rule->top_p > 0 && rule->top_p < 1) {
        double enough = (double)rule->top_p * sum_of(list, count), sum = 0;
        int32_t kept = 0;
        while (kept < count && sum < enough)
            sum += list[kept++].probability;
        count = kept;
    }
    if (rule->min_p > 0)
        while (count > 1 && list[count - 1].probability < (double)rule->min_p)
            count--;

    double target = rule->uniform * sum_of(list, count), sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += list[i].probability;
        if (sum > target)
            return list[i].id;
    }
    return list[0].id; /* unreachable for uniform < 1: the last sum is the whole sum */
}

static bool row_fits(reference_stream *s, const struct ops_sample *op, int64_t row) {
    const struct ops_sample_row *rule = &op->rows[row];
    if (rule->limit < 1 || rule->limit > op->logits.shape[1])
        return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                              "sample: row %lld is limited to %d ids, must be 1 to %lld",
                              (long long)row, (int)rule->limit, (long long)op->logits.shape[1]);
    if (!(rule->uniform >= 0 && rule->uniform < 1) || !isfinite(rule->temperature) ||
        !(rule->penalty >= 0) || !isfinite(rule->penalty))
        return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                              "sample: row %lld: uniform %g must be in [0, 1), temperature %g "
                              "finite, penalty %g finite and not negative",
                              (long long)row, rule->uniform, (double)rule->temperature,
                              (double)rule->penalty);
    if (rule->penalised_count > 0 &&
        (rule->penalised_first < 0 || !ops_present(&op->penalised) ||
         (int64_t)rule->penalised_first + rule->penalised_count > op->penalised.shape[0]))
        return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                              "sample: row %lld: its penalised ids are not all there",
                              (long long)row);
    return true;
}

void reference_sample(ops_stream *stream, const struct ops_sample *op) {
    reference_stream *s = reference_begin(stream);
    if (!s)
        return;
    int64_t rows = op->logits.shape[0];
    if (!reference_shaped(s, "sample", "logits", &op->logits, 2, op->logits.shape) ||
        !reference_within(s, "sample", "logits a row", op->logits.shape[1],
                          s->base.options.limits.vocab) ||
        !reference_integers(s, "sample", "out", &op->out, DTYPE_I32, rows))
        return;
    for (int64_t row = 0; row < rows; row++) {
        if (!row_fits(s, op, row) || !read_logits(s, op, row))
            return;
        bool greedy = op->rows[row].temperature <= 0;
        ((int32_t *)ops_data(&op->out))[row] =
            greedy ? highest(s->logits, op->rows[row].limit) : draw(s, &op->rows[row]);
    }
}

void reference_retire(ops_stream *stream, const struct ops_retire *op) {
    reference_stream *s = reference_begin(stream);
    if (!s)
        return;
    int64_t sequences = op->ids.shape[0], ends = op->ends.shape[0];
    if (!reference_integers(s, "retire", "the ids", &op->ids, DTYPE_I32, sequences) ||
        !reference_integers(s, "retire", "the ends", &op->ends, DTYPE_I32, ends) ||
        !reference_integers(s, "retire", "slot", &op->slot, DTYPE_I32, sequences))
        return;
    if (ends < 1 || op->spare < 0) {
        reference_fail(s, XLSTM_INVALID_ARGUMENT, "reference retire: %lld ends, spare slot %d",
                       (long long)ends, (int)op->spare);
        return;
    }
    for (int64_t i = 0; i < sequences; i++)
        for (int64_t j = 0; j < ends; j++)
            if (reference_index(&op->ids, i) == reference_index(&op->ends, j))
                ((int32_t *)ops_data(&op->slot))[i] = op->spare;
}
