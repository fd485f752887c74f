/* The sLSTM with exponential input gate (xLSTM, Beck et al. 2024, section 2.2), and the LSTM, one
 * head of one sequence at a time.
 *
 * A unit has four numbers: its output y, the cell c, the normalizer n and the maximum m: c and n
 * are to be thought of as multiplied by exp(m). The units of a head see each other's y of the token
 * before through R. States are rounded to their types after every token, so that a sequence gives
 * the same whether it comes at once or token by token. */
#include "ops/reference/internal.h"

#include <math.h>

enum { INPUT_GATE, FORGET_GATE, CELL_INPUT, OUTPUT_GATE, GATES };

/* One head of one sequence, in the scratch memory of the stream. */
typedef struct head {
    const struct ops_slstm *op;
    int64_t slot, index, size;
    double *y, *c, *n, *m; /* [size] */
    double *raw[GATES];    /* [size] */
} head;

static int64_t at(const ops_tensor *t, int64_t i, int64_t j) {
    return i * t->stride[0] + j * t->stride[1];
}

static void load_states(head *a) {
    const struct ops_slstm *op = a->op;
    reference_load(&op->y, at(&op->y, a->slot, a->index), a->size, a->y);
    reference_load(&op->c, at(&op->c, a->slot, a->index), a->size, a->c);
    if (op->lstm)
        return;
    reference_load(&op->n, at(&op->n, a->slot, a->index), a->size, a->n);
    reference_load(&op->m, at(&op->m, a->slot, a->index), a->size, a->m);
}

static void store_states(const head *a) {
    const struct ops_slstm *op = a->op;
    reference_store(&op->y, at(&op->y, a->slot, a->index), a->size, a->y);
    reference_store(&op->c, at(&op->c, a->slot, a->index), a->size, a->c);
    if (op->lstm)
        return;
    reference_store(&op->n, at(&op->n, a->slot, a->index), a->size, a->n);
    reference_store(&op->m, at(&op->m, a->slot, a->index), a->size, a->m);
}

/* raw_g = input_g + sum over p of y[p] R[p][g] + bias_g */
static void mix(const head *a, int64_t t) {
    const struct ops_slstm *op = a->op;
    for (int g = 0; g < GATES; g++) {
        double *raw = a->raw[g];
        reference_load(&op->input[g], at(&op->input[g], t, a->index), a->size, raw);
        for (int64_t d = 0; d < a->size; d++) {
            double sum = 0;
            for (int64_t p = 0; p < a->size; p++)
                sum += a->y[p] * reference_get(&op->recurrent,
                                               at(&op->recurrent, a->index, p) + g * a->size + d);
            raw[d] +=
                sum + reference_get(&op->bias, g * op->bias.stride[0] + a->index * a->size + d);
        }
    }
}

/* exp(exponent - maximum), at most 1; 0 where nothing is stored. */
static double weigh(double exponent, double maximum) {
    double weight = maximum == -INFINITY ? 0 : exp(exponent - maximum);
    return weight > 1 ? 1 : weight;
}

/* The equations are in ops.h. */
static double slstm_unit(head *a, int64_t d) {
    double i = a->raw[INPUT_GATE][d];
    double log_f = a->m[d] + reference_log_sigmoid(a->raw[FORGET_GATE][d]);
    double m = a->n[d] == 0 ? i : reference_larger(i, log_f);
    m = reference_storable_maximum(m, a->op->m.dtype);
    double write = weigh(i, m), keep = weigh(log_f, m);
    a->c[d] *= keep;
    if (write != 0) /* nothing is added otherwise, whatever z is */
        a->c[d] += write * tanh(a->raw[CELL_INPUT][d]);
    a->n[d] = keep * a->n[d] + write;
    a->m[d] = m;
    return a->n[d] == 0 ? 0 : reference_sigmoid(a->raw[OUTPUT_GATE][d]) * a->c[d] / a->n[d];
}

static double lstm_unit(head *a, int64_t d) {
    a->c[d] = reference_sigmoid(a->raw[FORGET_GATE][d]) * a->c[d] +
              reference_sigmoid(a->raw[INPUT_GATE][d]) * tanh(a->raw[CELL_INPUT][d]);
    return reference_sigmoid(a->raw[OUTPUT_GATE][d]) * tanh(a->c[d]);
}

static double clipped(double y, double clip) {
    return clip == 0 ? y : y > clip ? clip : y < -clip ? -clip : y;
}

static void step(head *a, int64_t t) {
    const struct ops_slstm *op = a->op;
    mix(a, t);
    for (int64_t d = 0; d < a->size; d++)
        a->y[d] = clipped(op->lstm ? lstm_unit(a, d) : slstm_unit(a, d), op->clip);
    reference_store(&op->out, at(&op->out, t, a->index), a->size, a->y);
    store_states(a);
    load_states(a);
}

static bool fits(reference_stream *s, const struct ops_slstm *op) {
    static const char *const name = "slstm";
    static const char *const inputs[GATES] = {"input i", "input f", "input z", "input o"};
    int64_t heads = op->y.shape[1], size = op->y.shape[2];
    const int64_t rows[] = {op->batch.tokens, heads, size};
    for (int g = 0; g < GATES; g++)
        if (!reference_shaped(s, name, inputs[g], &op->input[g], 3, rows))
            return false;
    if (!(op->clip >= 0))
        return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                              "reference %s: clip is %g, must not be negative", name, op->clip);
    return reference_shaped(s, name, "recurrent", &op->recurrent, 3,
                            (int64_t[]){heads, size, 4 * size}) &&
           reference_shaped(s, name, "bias", &op->bias, 2, (int64_t[]){4, heads * size}) &&
           reference_shaped(s, name, "y", &op->y, 3, op->y.shape) &&
           reference_shaped(s, name, "c", &op->c, 3, op->y.shape) &&
           (op->lstm || (reference_shaped(s, name, "n", &op->n, 3, op->y.shape) &&
                         reference_shaped(s, name, "m", &op->m, 3, op->y.shape))) &&
           reference_shaped(s, name, "out", &op->out, 3, rows) &&
           reference_within(s, name, "values a head", size, s->base.options.limits.head_dim_v) &&
           reference_batch_fits(s, name, &op->batch, op->y.shape[0]);
}

void reference_slstm(ops_stream *stream, const struct ops_slstm *op) {
    reference_stream *s = reference_begin(stream);
    if (!s || !fits(s, op))
        return;
    int64_t size = op->y.shape[2];
    head a = {.op = op, .size = size};
    double **parts[] = {&a.y, &a.c, &a.n, &a.m, &a.raw[0], &a.raw[1], &a.raw[2], &a.raw[3]};
    for (int i = 0; i < 8; i++)
        *parts[i] = s->cell + i * size;
    for (int i = 0; i < op->batch.sequences; i++)
        for (a.index = 0; a.index < op->y.shape[1]; a.index++) {
            a.slot = reference_index(&op->batch.slot, i);
            load_states(&a);
            for (int64_t t = reference_index(&op->batch.start, i);
                 t < reference_index(&op->batch.start, i + 1); t++)
                step(&a, t);
        }
}
