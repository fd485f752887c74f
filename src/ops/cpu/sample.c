/* Choosing ids from logits, a task a row. The candidates are a heap from which they are taken in
 * falling order, only as many as the rules ask for; a row is rarely sorted to its end. */
#include "ops/cpu/internal.h"

#include <math.h>

typedef struct sample_job {
    const cpu_stream *s;
    const struct ops_sample *op;
} sample_job;

/* Falling logit, ties by id. */
static bool comes_before(const cpu_candidate *a, const cpu_candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* The candidates that have been taken lie behind the heap, the last one first. */
typedef struct ranking {
    cpu_candidate *list;
    int32_t count, heap;
    double highest, temperature;
} ranking;

static void sift_down(cpu_candidate *heap, int32_t count, int32_t at) {
    cpu_candidate moved = heap[at];
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && comes_before(&heap[child + 1], &heap[child]))
            child++;
        if (!comes_before(&heap[child], &moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static ranking rank(cpu_candidate *list, int32_t count, double temperature) {
    for (int32_t i = count / 2 - 1; i >= 0; i--)
        sift_down(list, count, i);
    return (ranking){list, count, count, list[0].logit, temperature};
}

/* The candidate of rank `at`, counted from 0. */
static const cpu_candidate *ranked(ranking *r, int32_t at) {
    while (r->count - r->heap <= at) {
        cpu_candidate best = r->list[0];
        r->list[0] = r->list[--r->heap];
        sift_down(r->list, r->heap, 0);
        r->list[r->heap] = best;
    }
    return &r->list[r->count - 1 - at];
}

static double weight(const ranking *r, const cpu_candidate *c) {
    return exp((c->logit - r->highest) / r->temperature);
}

/* The sum of the first `kept` weights. All of them are summed as they lie, without sorting. */
static double sum_of(ranking *r, int32_t kept) {
    double sum = 0;
    for (int32_t i = 0; i < kept; i++)
        sum += weight(r, kept < r->count ? ranked(r, i) : &r->list[i]);
    return sum;
}

static int32_t draw(ranking *r, const struct ops_sample_row *rule) {
    int32_t kept = r->count;
    if (rule->top_k > 0 && rule->top_k < kept)
        kept = rule->top_k;
    if (rule->top_p > 0 && rule->top_p < 1) {
        double enough = (double)rule->top_p * sum_of(r, kept), sum = 0;
        for (int32_t i = 0; i < kept; i++) {
            sum += weight(r, ranked(r, i));
            if (sum >= enough)
                kept = i + 1;
        }
    }
    if (rule->min_p > 0)
        for (int32_t i = 1; i < kept; i++)
            if (weight(r, ranked(r, i)) < (double)rule->min_p)
                kept = i;
    double target = rule->uniform * sum_of(r, kept), sum = 0;
    for (int32_t i = 0; i < kept - 1; i++) {
        sum += weight(r, ranked(r, i));
        if (sum > target)
            return ranked(r, i)->id;
    }
    return ranked(r, kept - 1)->id;
}

static const float *logits_of(const struct ops_sample *op, int64_t row) {
    return (const float *)ops_data(&op->logits) + row * op->logits.stride[0];
}

/* Takes effect from the original logit, so that an id that is listed twice is penalised once. */
static void penalise(const struct ops_sample *op, int64_t row, cpu_candidate *list) {
    const struct ops_sample_row *rule = &op->rows[row];
    double penalty = (double)rule->penalty;
    if (penalty == 0 || penalty == 1 || rule->penalised_count == 0)
        return;
    const int32_t *ids = (const int32_t *)ops_data(&op->penalised) + rule->penalised_first;
    for (int32_t i = 0; i < rule->penalised_count; i++) {
        if (ids[i] < 0 || ids[i] >= rule->limit)
            continue;
        double logit = (double)logits_of(op, row)[ids[i]];
        list[ids[i]].logit = logit > 0 ? logit / penalty : logit * penalty;
    }
}

static void sample_row(void *context, int64_t row, int worker) {
    const sample_job *job = context;
    const struct ops_sample *op = job->op;
    const struct ops_sample_row *rule = &op->rows[row];
    cpu_candidate *list = job->s->workers[worker].candidates;
    const float *logits = logits_of(op, row);
    int32_t *out = (int32_t *)ops_data(&op->out) + row;
    for (int32_t id = 0; id < rule->limit; id++)
        list[id] = (cpu_candidate){(double)logits[id], id};
    penalise(op, row, list);
    int32_t count = 0, best = 0;
    for (int32_t id = 0; id < rule->limit; id++)
        if (list[id].logit > -INFINITY) {
            list[count] = list[id];
            if (list[count].logit > list[best].logit)
                best = count;
            count++;
        }
    if (rule->temperature <= 0) {
        *out = list[best].id;
        return;
    }
    ranking r = rank(list, count, (double)rule->temperature);
    *out = draw(&r, rule);
}

/* ---- Checks ---- */

static bool check_logits(cpu_stream *s, const struct ops_sample *op, int64_t row) {
    const float *logits = logits_of(op, row);
    bool any = false;
    for (int32_t id = 0; id < op->rows[row].limit; id++) {
        if (isnan(logits[id]) || logits[id] == INFINITY)
            return ops_fail(&s->check, XLSTM_DEVICE_ERROR,
                            "sample: the logit of id %d in row %lld is %g", id, (long long)row,
                            (double)logits[id]);
        any = any || logits[id] > -INFINITY;
    }
    return any || ops_fail(&s->check, XLSTM_DEVICE_ERROR, "sample: row %lld has no finite logit",
                           (long long)row);
}

void cpu_sample(ops_stream *stream, const struct ops_sample *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_sample(&s->check, op))
        return;
    int64_t rows = op->logits.shape[0];
    for (int64_t row = 0; row < rows; row++)
        if (!check_logits(s, op, row))
            return;
    sample_job job = {.s = s, .op = op};
    thread_pool_run(s->pool, rows, sample_row, &job);
}
