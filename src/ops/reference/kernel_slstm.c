/* The sLSTM (xLSTM, Beck et al. 2024, section 2.2) and the LSTM, forward and backward, one head of
 * one row of the batch at a time. Forward, with i, f, z, o the raw gates (x + R y + b) of a token
 * and the states y, c, n, m before it:
 *   l  = m + log sigmoid(f)
 *   m' = i where n = 0, else max(i, l)
 *   I  = min(1, exp(i - m')),  F = min(1, exp(l - m'))
 *   c' = F c + I tanh(z),  n' = F n + I,  y' = sigmoid(o) c' / n'
 * (m' = -inf: I = F = 0; n' = 0: y' = 0). LSTM:
 *   c' = sigmoid(f) c + sigmoid(i) tanh(z),  y' = sigmoid(o) tanh(c')
 *
 * Backward: every line differentiated as it stands, from the last token to the first, with the
 * gradients dy', dc', dn', dm' of the states after the token:
 *   do   = dy' c' / n' * sigmoid'(o)
 *   dc' += dy' sigmoid(o) / n',  dn' -= dy' y' / n'
 *   dz   = dc' I (1 - tanh(z)^2)
 *   a    = (dc' tanh(z) + dn') I where exp(i - m') <= 1, else 0:  the gradient of i - m'
 *   b    = (dc' c + dn' n) F     where exp(l - m') <= 1, else 0:  the gradient of l - m'
 *   dm'  = dm' - a - b, which goes to whichever of i and l was the maximum: to l where they are
 *          equal, to nothing where m' = -inf
 *   di   = a [+ dm'],  dl = b [+ dm'],  df = dl (1 - sigmoid(f)),  dm = dl
 *   dc   = F dc',  dn = F dn'
 *   dy   = dy of the token before + the sum over gates of R d(gate)
 * y depends on c' / n' alone, so that what dy brings to dm' cancels, up to rounding; what ds brings
 * to it does not, since the states c, n are scaled by exp(-m). The gradient of y' is 0 where
 * forward_clip bounds it; recurrent_gradient_clip bounds R d(gate), recurrent_cut drops it (then dr,
 * dx and db are those of a loss in which y of the token before is a constant). */
#include "ops/reference/internal.h"
#include "ops/reference/kernel_array.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { Y, C, N, M, STATES };
enum { I, F, Z, O, GATES };

/* One head of one row. */
typedef struct head {
    const kernel_call *call;
    int64_t batch, index, tokens, size;
    int states;         /* 4, or the LSTM's 2 */
    bool backward;      /* all tokens are kept */
    double *r, *dr;     /* [size][GATES][size] */
    double *b, *db;     /* [GATES][size] */
    double *s;          /* [tokens + 1][STATES][size]; only two rows without a backward */
    double *raw;        /* [tokens][GATES][size]; only one row without a backward */
    double *free_y;     /* [tokens][size]: y before it is clipped, likewise */
    double *ds;         /* [STATES][size] */
    double *dgate, *dy; /* [GATES][size], [size] */
} head;

static double *state_at(const head *a, int64_t t, int which) {
    return a->s + ((a->backward ? t : t % 2) * STATES + which) * a->size;
}

static double *raw_at(const head *a, int64_t t, int gate) {
    return a->raw + ((a->backward ? t : 0) * GATES + gate) * a->size;
}

/* ---- Forward ---- */

static void mix(const head *a, int64_t t) {
    const double *y = state_at(a, t, Y);
    for (int g = 0; g < GATES; g++) {
        double *raw = raw_at(a, t, g);
        array_read(a->call, SLSTM_X, array_at(&a->call->array[SLSTM_X], a->batch, t, g, a->index),
                   a->size, raw);
        for (int64_t d = 0; d < a->size; d++)
            raw[d] += a->b[g * a->size + d];
        for (int64_t p = 0; p < a->size; p++)
            for (int64_t d = 0; d < a->size; d++)
                raw[d] += y[p] * a->r[(p * GATES + g) * a->size + d];
    }
}

/* exp(exponent - maximum), at most 1; 0 where nothing is stored. */
static double weigh(double exponent, double maximum) {
    double weight = maximum == -INFINITY ? 0 : exp(exponent - maximum);
    return weight > 1 ? 1 : weight;
}

static double slstm_unit(const head *a, int64_t t, int64_t d) {
    double i = raw_at(a, t, I)[d];
    double l = state_at(a, t, M)[d] + reference_log_sigmoid(raw_at(a, t, F)[d]);
    double n = state_at(a, t, N)[d], m = n == 0 ? i : reference_larger(i, l);
    double write = weigh(i, m), keep = weigh(l, m);
    double added = write == 0 ? 0 : write * tanh(raw_at(a, t, Z)[d]);
    double c = keep * state_at(a, t, C)[d] + added;
    n = keep * n + write;
    state_at(a, t + 1, C)[d] = c;
    state_at(a, t + 1, N)[d] = n;
    state_at(a, t + 1, M)[d] = m;
    return n == 0 ? 0 : reference_sigmoid(raw_at(a, t, O)[d]) * c / n;
}

static double lstm_unit(const head *a, int64_t t, int64_t d) {
    double c = reference_sigmoid(raw_at(a, t, F)[d]) * state_at(a, t, C)[d] +
               reference_sigmoid(raw_at(a, t, I)[d]) * tanh(raw_at(a, t, Z)[d]);
    state_at(a, t + 1, C)[d] = c;
    return reference_sigmoid(raw_at(a, t, O)[d]) * tanh(c);
}

/* bound 0: none */
static double clipped(double value, double bound) {
    return bound == 0 ? value : value > bound ? bound : value < -bound ? -bound : value;
}

static void forward(head *a) {
    const kernel_call *call = a->call;
    const xlstm_array *array = call->array;
    for (int i = 0; i < a->states; i++)
        array_read(call, SLSTM_S0, array_at(&array[SLSTM_S0], i, a->batch, a->index, 0), a->size,
                   state_at(a, 0, i));
    for (int64_t t = 0; t < a->tokens; t++) {
        double *free_y = a->free_y + (a->backward ? t : 0) * a->size;
        mix(a, t);
        for (int64_t d = 0; d < a->size; d++) {
            free_y[d] = call->lstm ? lstm_unit(a, t, d) : slstm_unit(a, t, d);
            state_at(a, t + 1, Y)[d] = clipped(free_y[d], call->options.forward_clip);
        }
        array_write(call, SLSTM_Y, array_at(&array[SLSTM_Y], a->batch, t, a->index, 0), a->size,
                    state_at(a, t + 1, Y));
        for (int i = 0; i < a->states; i++)
            array_write(call, SLSTM_ALL_S, array_at(&array[SLSTM_ALL_S], i, a->batch, t, a->index),
                        a->size, state_at(a, t + 1, i));
    }
    for (int i = 0; i < a->states; i++)
        array_write(call, SLSTM_S, array_at(&array[SLSTM_S], i, a->batch, a->index, 0), a->size,
                    state_at(a, a->tokens, i));
}

/* ---- Backward ---- */

/* From ds, the gradients after token t, to ds before it and to the raw gates; dy is that of the free
 * y. */
static void slstm_unit_backward(const head *a, int64_t t, int64_t d, double dy) {
    double *ds[STATES], *dgate[GATES];
    for (int i = 0; i < STATES; i++) {
        ds[i] = a->ds + i * a->size + d;
        dgate[i] = a->dgate + i * a->size + d;
    }
    double i = raw_at(a, t, I)[d], f = raw_at(a, t, F)[d], z = tanh(raw_at(a, t, Z)[d]);
    double o = reference_sigmoid(raw_at(a, t, O)[d]);
    double l = state_at(a, t, M)[d] + reference_log_sigmoid(f);
    double c = state_at(a, t, C)[d], n = state_at(a, t, N)[d], m = state_at(a, t + 1, M)[d];
    double c_new = state_at(a, t + 1, C)[d], n_new = state_at(a, t + 1, N)[d];
    double write = weigh(i, m), keep = weigh(l, m), dc = *ds[C], dn = *ds[N];
    *dgate[O] = 0;
    if (n_new != 0) {
        *dgate[O] = dy * c_new / n_new * o * (1 - o);
        dc += dy * o / n_new;
        dn -= dy * o * c_new / (n_new * n_new);
    }
    *dgate[Z] = dc * write * (1 - z * z);
    double from_i = (dc * z + dn) * write, from_l = l > m ? 0 : (dc * c + dn * n) * keep;
    double dm = m == -INFINITY ? 0 : *ds[M] - from_i - from_l;
    bool input_won = n == 0 || i > l || isnan(i);
    double dl = from_l + (input_won ? 0 : dm);
    *dgate[I] = from_i + (input_won ? dm : 0);
    *dgate[F] = dl * reference_sigmoid(-f);
    *ds[C] = keep * dc;
    *ds[N] = keep * dn;
    *ds[M] = dl;
}

static void lstm_unit_backward(const head *a, int64_t t, int64_t d, double dy) {
    double i = reference_sigmoid(raw_at(a, t, I)[d]), f = reference_sigmoid(raw_at(a, t, F)[d]);
    double o = reference_sigmoid(raw_at(a, t, O)[d]), z = tanh(raw_at(a, t, Z)[d]);
    double y = tanh(state_at(a, t + 1, C)[d]);
    double dc = a->ds[C * a->size + d] + dy * o * (1 - y * y);
    double *dgate = a->dgate + d;
    dgate[I * a->size] = dc * z * i * (1 - i);
    dgate[F * a->size] = dc * state_at(a, t, C)[d] * f * (1 - f);
    dgate[Z * a->size] = dc * i * (1 - z * z);
    dgate[O * a->size] = dy * y * o * (1 - o);
    a->ds[C * a->size + d] = dc * f;
}

/* dR, db, and the gradient of y of the token before. */
static void mix_backward(const head *a, int64_t t) {
    const xlstm_kernel_options *options = &a->call->options;
    const double *y = state_at(a, t, Y);
    double *dy = a->ds + Y * a->size;
    int64_t width = GATES * a->size;
    for (int64_t p = 0; p < a->size; p++) {
        double sum = 0;
        for (int64_t j = 0; j < width; j++) {
            sum += a->r[p * width + j] * a->dgate[j];
            a->dr[p * width + j] += y[p] * a->dgate[j];
        }
        dy[p] = options->recurrent_cut ? 0 : clipped(sum, options->recurrent_gradient_clip);
    }
    for (int64_t j = 0; j < width; j++)
        a->db[j] += a->dgate[j];
}

static void backward(head *a) {
    const kernel_call *call = a->call;
    const xlstm_array *array = call->array;
    double clip = call->options.forward_clip;
    for (int i = 0; i < a->states; i++)
        array_read(call, SLSTM_DS, array_at(&array[SLSTM_DS], i, a->batch, a->index, 0), a->size,
                   a->ds + i * a->size);
    for (int64_t t = a->tokens - 1; t >= 0; t--) {
        array_read(call, SLSTM_DY, array_at(&array[SLSTM_DY], a->batch, t, a->index, 0), a->size,
                   a->dy);
        for (int64_t d = 0; d < a->size; d++) {
            double free_y = a->free_y[t * a->size + d];
            double dy = a->dy[d] + a->ds[Y * a->size + d];
            if (clip != 0 && fabs(free_y) > clip)
                dy = 0;
            if (call->lstm)
                lstm_unit_backward(a, t, d, dy);
            else
                slstm_unit_backward(a, t, d, dy);
        }
        mix_backward(a, t);
        for (int g = 0; g < GATES; g++)
            array_write(call, SLSTM_DX, array_at(&array[SLSTM_DX], a->batch, t, g, a->index),
                        a->size, a->dgate + g * a->size);
    }
    for (int i = 0; i < a->states; i++)
        array_write(call, SLSTM_DS0, array_at(&array[SLSTM_DS0], i, a->batch, a->index, 0), a->size,
                    a->ds + i * a->size);
}

/* ---- The kernel ---- */

static void run_head(head *a) {
    const kernel_call *call = a->call;
    const xlstm_array *array = call->array;
    int64_t width = GATES * a->size;
    for (int64_t p = 0; p < a->size; p++)
        array_read(call, SLSTM_R, array_at(&array[SLSTM_R], a->index, p, 0, 0), width,
                   a->r + p * width);
    for (int g = 0; g < GATES; g++)
        array_read(call, SLSTM_B, array_at(&array[SLSTM_B], g, a->index, 0, 0), a->size,
                   a->b + g * a->size);
    memset(a->dr, 0, (size_t)(a->size * width) * sizeof *a->dr);
    memset(a->db, 0, (size_t)width * sizeof *a->db);
    for (a->batch = 0; a->batch < array[SLSTM_X].shape[0]; a->batch++) {
        forward(a);
        if (a->backward)
            backward(a);
    }
    for (int64_t p = 0; p < a->size; p++)
        array_write(call, SLSTM_DR, array_at(&array[SLSTM_DR], a->index, p, 0, 0), width,
                    a->dr + p * width);
    for (int g = 0; g < GATES; g++)
        array_write(call, SLSTM_DB, array_at(&array[SLSTM_DB], g, a->index, 0, 0), a->size,
                    a->db + g * a->size);
}

xlstm_status reference_kernel_slstm(const kernel_call *call) {
    const char *name = call->lstm ? "lstm--reference" : "slstm--reference";
    const xlstm_array *x = &call->array[SLSTM_X];
    head a = {.call = call,
              .tokens = x->shape[1],
              .size = x->shape[4],
              .states = call->lstm ? 2 : STATES,
              .backward = call->options.backward != XLSTM_FORWARD};
    int64_t kept = a.backward ? a.tokens + 1 : 2;
    double *trace = array_scratch(name, kept, (STATES + GATES + 1) * a.size);
    double *weights = array_scratch(name, 2 * GATES * a.size, a.size);
    double *rows = array_scratch(name, 2 * GATES + STATES + GATES + 1, a.size);
    if (trace && weights && rows) {
        a.s = trace;
        a.raw = a.s + kept * STATES * a.size;
        a.free_y = a.raw + kept * GATES * a.size;
        a.r = weights;
        a.dr = weights + GATES * a.size * a.size;
        a.b = rows;
        a.db = a.b + GATES * a.size;
        a.ds = a.db + GATES * a.size;
        a.dgate = a.ds + STATES * a.size;
        a.dy = a.dgate + GATES * a.size;
        for (a.index = 0; a.index < x->shape[3]; a.index++)
            run_head(&a);
    }
    xlstm_status status = trace && weights && rows ? XLSTM_OK : XLSTM_OUT_OF_MEMORY;
    free(trace);
    free(weights);
    free(rows);
    return status;
}
