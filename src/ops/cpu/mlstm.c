/* The mLSTM over a batch: C is cut into columns, the tokens into pieces.
 *
 * A piece is a stretch of tokens of one sequence within one chunk. Every piece takes the chunkwise
 * form (kernels_mlstm, section 4), in which C is read and written once; for a piece of one token
 * that is the recurrence, and reading and writing are one pass. Three jobs:
 *
 * 1. Gates, a task a sequence and head: everything that is known without touching C. The maximum m
 *    runs through the tokens as in the recurrence, and sums of log F replace products of F:
 *      m'    = max(log_f + m, i)
 *      log F = log_f + m - m' <= 0
 *      log I = i - m' <= 0
 *      B_j   = sum of log F over tokens 1 .. j
 *      exp(B_j - B_l + log I_l), the weight of token l in token j
 *    Where F is 0 the sum begins anew, so that an infinite gate never meets another in a
 *    difference. All of this in double; only m is stored as f32, rounded up, and what is weighed by
 *    it is weighed by the rounded value. n is carried along.
 * 2. Scores, a task a piece and head (with the gates if it is one token): P = (q k^T) with the
 *    weights, and the denominators.
 * 3. Columns, a task a sequence, head and slice of columns: C and h. */
#include "ops/cpu/internal.h"

#include <math.h>

enum { NARROWEST_SLICE = 64, TASKS_PER_THREAD = 4 };
/* exp of less is 0 in double, and keeps running sums small enough for their differences. */
static const double nothing = -1000;

typedef struct mlstm_job {
    const cpu_stream *s;
    const struct ops_mlstm *op;
    const cpu_gates *g;
    int heads;
    int64_t d_qk, d_v;
    double scale;
    int64_t slice; /* columns of a task */
    int64_t slices;
} mlstm_job;

/* ---- Where things lie ---- */

static float *of_token(const ops_tensor *t, int64_t token, int head) {
    return (float *)ops_data(t) + token * t->stride[0] + head * t->stride[1];
}

static int64_t slot_of(const mlstm_job *job, int64_t sequence) {
    return ((const int32_t *)ops_data(&job->op->batch.slot))[sequence];
}

static float *c_of(const mlstm_job *job, int64_t sequence, int head) {
    const ops_tensor *c = &job->op->c;
    return (float *)ops_data(c) + slot_of(job, sequence) * c->stride[0] + head * c->stride[1];
}

static float *n_of(const mlstm_job *job, int64_t sequence, int head) {
    const ops_tensor *n = &job->op->n;
    return (float *)ops_data(n) + slot_of(job, sequence) * n->stride[0] + head * n->stride[1];
}

static float *m_of(const mlstm_job *job, int64_t sequence, int head) {
    const ops_tensor *m = &job->op->m;
    return (float *)ops_data(m) + slot_of(job, sequence) * m->stride[0] + head;
}

/* ---- 1. Gates ---- */

static double log_sigmoid(double x) {
    return x >= 0 ? -log1p(exp(-x)) : x - log1p(exp(x));
}

/* The larger one; NaN if either is NaN. */
static double larger(double a, double b) {
    return a > b || isnan(a) ? a : b;
}

static float rounded_up(double m) {
    float value = (float)m;
    return (double)value < m ? nextafterf(value, INFINITY) : value;
}

static float denominator(const mlstm_job *job, double qn, double m_floor) {
    return cpu_to_float(larger(fabs(qn), m_floor) + job->op->eps);
}

static double log_forget(const mlstm_job *job, int64_t token, int head) {
    const ops_tensor *f = &job->op->forget_gate;
    return log_sigmoid((double)((const float *)ops_data(f))[token * f->stride[0] + head]);
}

static double input(const mlstm_job *job, int64_t token, int head) {
    const ops_tensor *i = &job->op->input_gate;
    return (double)((const float *)ops_data(i))[token * i->stride[0] + head];
}

/* n = keep n + sum of write[l] k[l] over `tokens` tokens. */
static void update_n(const mlstm_job *job, float *n, float keep, int64_t token, int tokens,
                     int head) {
    for (int l = 0; l < tokens; l++) {
        float write = job->g->write[(token + l) * job->heads + head];
        if (write != 0) {
            job->s->kernels->blend(keep, write, of_token(&job->op->k, token + l, head), job->d_qk,
                                   n);
            keep = 1;
        }
    }
    if (keep != 1)
        for (int64_t i = 0; i < job->d_qk; i++)
            n[i] *= keep;
}

/* Leaves in the tables, for each token: row B_j; column B_l - log I_l; begin, the first token whose
 * weight is not 0; inter, the weight of the state before the piece; floor, exp(-m); and share, what
 * that state adds to q n. For the whole piece: keep, in the place of its first token, and write. */
static void piece_gates(const mlstm_job *job, const cpu_piece *piece, int head, float *m,
                        float *n) {
    const cpu_gates *g = job->g;
    double top = (double)*m, sum = 0;
    int begin = 0;
    bool carried = true;
    for (int j = 0; j < piece->tokens; j++) {
        int64_t token = piece->first + j, at = token * job->heads + head;
        double forgotten = log_forget(job, token, head) + top, i = input(job, token, head);
        top = larger(forgotten, i);
        bool empty = top == -INFINITY;
        double log_keep = empty ? -INFINITY : forgotten - top;
        if (log_keep < nothing) {
            sum = 0;
            begin = j;
            carried = false;
        } else {
            sum += log_keep;
        }
        g->row[at] = sum;
        g->column[at] = empty ? INFINITY : sum - (i - top);
        g->begin[at] = begin;
        g->floor[at] = exp(-top);
        double inter = carried ? exp(sum) : 0;
        g->inter[at] = (float)inter;
        g->share[at] =
            inter * job->s->kernels->dot(of_token(&job->op->q, token, head), n, job->d_qk);
    }
    *m = rounded_up(top);
    double rounding = isinf(top) ? 0 : top - (double)*m;
    int64_t first = piece->first * job->heads + head;
    g->keep[first] = carried ? (float)exp(sum + rounding) : 0;
    for (int l = 0; l < piece->tokens; l++) {
        int64_t at = first + (int64_t)l * job->heads;
        g->write[at] = l >= begin ? (float)exp(sum - g->column[at] + rounding) : 0;
    }
    update_n(job, n, g->keep[first], piece->first, piece->tokens, head);
}

/* ---- 2. Scores ---- */

enum { SCORE_BLOCK = CPU_PANEL_ROWS };
_Static_assert((int)SCORE_BLOCK <= (int)CPU_PANEL_TOKENS &&
                   (int)CPU_LONGEST_CHUNK % (int)SCORE_BLOCK == 0,
               "blocks of scores are products");

/* The q of a piece with padded rows. */
static cpu_input padded_q(const mlstm_job *job, const cpu_piece *piece, int head, float *scratch) {
    const ops_tensor *q = &job->op->q;
    if (job->d_qk % CPU_PADDING == 0)
        return (cpu_input){of_token(q, piece->first, head), q->stride[0]};
    int64_t stride = cpu_padded(job->d_qk);
    for (int j = 0; j < piece->tokens; j++) {
        float *row = scratch + j * stride;
        memcpy(row, of_token(q, piece->first + j, head), (size_t)job->d_qk * sizeof(float));
        memset(row + job->d_qk, 0, (size_t)(stride - job->d_qk) * sizeof(float));
    }
    return (cpu_input){scratch, stride};
}

/* p[j][l] = q[j] k[l], at least for l <= j. */
static void raw_scores(const mlstm_job *job, const cpu_piece *piece, int head, const cpu_worker *w,
                       float *p, int64_t p_stride) {
    cpu_input q = padded_q(job, piece, head, w->chunk);
    const ops_tensor *k = &job->op->k;
    for (int j = 0; j < piece->tokens; j += SCORE_BLOCK)
        for (int l = 0; l <= j; l += SCORE_BLOCK) {
            int rows = piece->tokens - l, tokens = piece->tokens - j;
            job->s->kernels->product(&(cpu_product){
                .type = DTYPE_F32,
                .weights = (const char *)of_token(k, piece->first + l, head),
                .row_bytes = k->stride[0] * (int64_t)sizeof(float),
                .width = job->d_qk,
                .x = q.rows + j * q.stride,
                .x_stride = q.stride,
                .z = p + j * p_stride + l,
                .z_stride = p_stride,
                .rows = rows < SCORE_BLOCK ? rows : SCORE_BLOCK,
                .tokens = tokens < SCORE_BLOCK ? tokens : SCORE_BLOCK,
                .scratch = w->product,
            });
        }
}

static void weigh_scores(const mlstm_job *job, const cpu_piece *piece, int head,
                         const cpu_worker *w) {
    const cpu_gates *g = job->g;
    int64_t first = piece->first * job->heads + head,
            p_stride = (int64_t)job->heads * CPU_LONGEST_CHUNK;
    float *p = g->p + first * CPU_LONGEST_CHUNK;
    raw_scores(job, piece, head, w, p, p_stride);
    for (int j = 0; j < piece->tokens; j++, p += p_stride) {
        int64_t at = first + (int64_t)j * job->heads;
        int begin = g->begin[at], end = j + 1;
        for (int l = begin; l < end; l++)
            w->decay[l] = (float)(g->row[at] - g->column[first + (int64_t)l * job->heads]);
        job->s->kernels->exponential(w->decay + begin, end - begin, w->decay + begin);
        memset(p, 0, (size_t)begin * sizeof(float));
        double qn = g->share[at];
        for (int l = begin; l < end; l++) {
            p[l] *= w->decay[l];
            qn += (double)p[l];
            p[l] *= (float)job->scale;
        }
        g->denominator[at] = denominator(job, qn * job->scale, g->floor[at]);
        g->inter[at] *= (float)job->scale;
    }
}

static void gates_task(void *context, int64_t task, int worker) {
    const mlstm_job *job = context;
    int64_t sequence = task / job->heads;
    int head = (int)(task % job->heads);
    float *m = m_of(job, sequence, head), *n = n_of(job, sequence, head);
    for (int p = job->g->first_piece[sequence]; p < job->g->first_piece[sequence + 1]; p++) {
        const cpu_piece *piece = &job->g->pieces[p];
        piece_gates(job, piece, head, m, n);
        if (piece->tokens == 1)
            weigh_scores(job, piece, head, &job->s->workers[worker]);
    }
}

static void scores_task(void *context, int64_t task, int worker) {
    const mlstm_job *job = context;
    const cpu_piece *piece = &job->g->pieces[job->g->chunks[task / job->heads]];
    weigh_scores(job, piece, (int)(task % job->heads), &job->s->workers[worker]);
}

/* ---- 3. Columns ---- */

/* A piece of one token: C is read and written in one pass. */
static void step_columns(const mlstm_job *job, const cpu_piece *piece, int head, float *c,
                         int64_t column, int64_t columns) {
    const struct ops_mlstm *op = job->op;
    const cpu_gates *g = job->g;
    int64_t at = piece->first * job->heads + head;
    job->s->kernels->step(&(cpu_step){
        .c = c,
        .c_stride = op->c.stride[2],
        .q = of_token(&op->q, piece->first, head),
        .k = of_token(&op->k, piece->first, head),
        .v = of_token(&op->v, piece->first, head) + column,
        .h = of_token(&op->h, piece->first, head) + column,
        .d_qk = job->d_qk,
        .columns = columns,
        .keep = g->keep[at],
        .write = g->write[at],
        .inter = g->inter[at],
        .p = g->p[at * CPU_LONGEST_CHUNK],
        .denominator = g->denominator[at],
    });
}

/* wk[l] = write[l] k[l]; returns whether any write is not 0. */
static bool weigh_keys(const mlstm_job *job, const cpu_piece *piece, int head, float *wk) {
    bool any = false;
    for (int l = 0; l < piece->tokens; l++) {
        float write = job->g->write[(piece->first + l) * job->heads + head];
        const float *k = of_token(&job->op->k, piece->first + l, head);
        for (int64_t i = 0; i < job->d_qk; i++)
            wk[l * job->d_qk + i] = write * k[i];
        any = any || write != 0;
    }
    return any;
}

static void piece_columns(const mlstm_job *job, const cpu_piece *piece, int head, float *c,
                          int64_t column, int64_t columns, const cpu_worker *w) {
    const struct ops_mlstm *op = job->op;
    const cpu_gates *g = job->g;
    int64_t first = piece->first * job->heads + head;
    bool writes = weigh_keys(job, piece, head, w->chunk);
    cpu_chunk chunk = {
        .c = c,
        .c_stride = op->c.stride[2],
        .q = of_token(&op->q, piece->first, head),
        .q_stride = op->q.stride[0],
        .v = of_token(&op->v, piece->first, head) + column,
        .v_stride = op->v.stride[0],
        .p = g->p + first * CPU_LONGEST_CHUNK,
        .p_stride = (int64_t)job->heads * CPU_LONGEST_CHUNK,
        .wk = w->chunk,
        .h = of_token(&op->h, piece->first, head) + column,
        .h_stride = op->h.stride[0],
        .inter = g->inter + first,
        .write = g->write + first,
        .denominator = g->denominator + first,
        .gate_stride = job->heads,
        .d_qk = job->d_qk,
        .columns = columns,
        .tokens = piece->tokens,
        .keep = g->keep[first],
    };
    job->s->kernels->chunk_read(&chunk);
    /* Padding alone leaves C as it is, to the bit. */
    if (writes || chunk.keep != 1)
        job->s->kernels->chunk_update(&chunk);
}

static void columns_task(void *context, int64_t task, int worker) {
    const mlstm_job *job = context;
    const cpu_gates *g = job->g;
    int64_t column = task % job->slices * job->slice, left = job->d_v - column;
    int64_t columns = left < job->slice ? left : job->slice, unit = task / job->slices;
    int64_t sequence = unit / job->heads;
    int head = (int)(unit % job->heads);
    float *c = c_of(job, sequence, head) + column;
    for (int p = g->first_piece[sequence]; p < g->first_piece[sequence + 1]; p++) {
        const cpu_piece *piece = &g->pieces[p];
        if (piece->tokens == 1)
            step_columns(job, piece, head, c, column, columns);
        else
            piece_columns(job, piece, head, c, column, columns, &job->s->workers[worker]);
    }
}

/* ---- The op ---- */

static bool check_shapes(cpu_stream *s, const struct ops_mlstm *op) {
    const char *name = "mlstm";
    const ops_limits *limits = &s->base.options.limits;
    if (!cpu_expect(s, name, "q", &op->q, CPU_F32, 3, (int64_t[]){op->batch.tokens, -1, -1}))
        return false;
    int64_t tokens = op->q.shape[0], heads = op->q.shape[1], d_qk = op->q.shape[2];
    if (!cpu_expect(s, name, "v", &op->v, CPU_F32, 3, (int64_t[]){tokens, heads, -1}))
        return false;
    int64_t d_v = op->v.shape[2];
    if (tokens > limits->tokens || heads > limits->heads || d_qk > limits->head_dim_qk ||
        d_v > limits->head_dim_v)
        return cpu_fail(
            s, XLSTM_INVALID_ARGUMENT,
            "mlstm: %lld tokens, %lld heads of %lld and %lld are more than the stream was "
            "created for",
            (long long)tokens, (long long)heads, (long long)d_qk, (long long)d_v);
    const int64_t keys[] = {tokens, heads, d_qk}, values[] = {tokens, heads, d_v};
    return cpu_expect(s, name, "k", &op->k, CPU_F32, 3, keys) &&
           cpu_expect(s, name, "h", &op->h, CPU_F32, 3, values) &&
           cpu_expect2(s, name, "the input gate", &op->input_gate, CPU_F32, tokens, heads) &&
           cpu_expect2(s, name, "the forget gate", &op->forget_gate, CPU_F32, tokens, heads) &&
           cpu_expect(s, name, "c", &op->c, CPU_F32, 4, (int64_t[]){-1, heads, d_qk, d_v}) &&
           cpu_expect(s, name, "n", &op->n, CPU_F32, 3, (int64_t[]){op->c.shape[0], heads, d_qk}) &&
           cpu_expect2(s, name, "m", &op->m, CPU_F32, op->c.shape[0], heads);
}

static bool check(cpu_stream *s, const struct ops_mlstm *op) {
    int length = op->chunk_size;
    if (length < 0 || (length > 1 && (length % 16 != 0 || length > CPU_LONGEST_CHUNK)))
        return cpu_fail(
            s, XLSTM_INVALID_ARGUMENT,
            "mlstm: chunks of %d tokens; 0, 1 and multiples of 16 up to %d are possible", length,
            CPU_LONGEST_CHUNK);
    return check_shapes(s, op) && cpu_expect_batch(s, "mlstm", &op->batch, op->c.shape[0]);
}

/* Cuts the batch at chunk borders; returns how many pieces have more than one token. */
static int64_t cut(const struct ops_mlstm *op, const cpu_gates *g) {
    const int32_t *start = ops_data(&op->batch.start);
    const int64_t *position = ops_data(&op->batch.position);
    int64_t length = op->chunk_size == 0 ? CPU_CHUNK : op->chunk_size, chunks = 0;
    int32_t count = 0;
    for (int i = 0; i < op->batch.sequences; i++) {
        g->first_piece[i] = count;
        for (int64_t token = start[i], end = start[i + 1]; token < end; count++) {
            int64_t room = length - (position[i] + token - start[i]) % length;
            int64_t tokens = room < end - token ? room : end - token;
            g->pieces[count] = (cpu_piece){.first = token, .tokens = (int)tokens};
            if (tokens > 1)
                g->chunks[chunks++] = count;
            token += tokens;
        }
    }
    g->first_piece[op->batch.sequences] = count;
    return chunks;
}

void cpu_mlstm(ops_stream *stream, const struct ops_mlstm *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (cpu_failed(s) || !check(s, op))
        return;
    mlstm_job job = {.s = s,
                     .op = op,
                     .g = &s->gates,
                     .heads = (int)op->q.shape[1],
                     .d_qk = op->q.shape[2],
                     .d_v = op->v.shape[2]};
    job.scale = 1 / sqrt((double)job.d_qk);
    int64_t chunks = cut(op, job.g), units = (int64_t)op->batch.sequences * job.heads;
    /* Whole rows of C are the best for memory; narrower slices give every thread work. */
    int64_t wanted = (int64_t)TASKS_PER_THREAD * thread_pool_size(s->pool);
    job.slice = cpu_padded(job.d_v);
    while (units * ((job.d_v + job.slice - 1) / job.slice) < wanted && job.slice > NARROWEST_SLICE)
        job.slice = cpu_padded(job.slice / 2);
    job.slices = (job.d_v + job.slice - 1) / job.slice;
    thread_pool_run(s->pool, units, gates_task, &job);
    thread_pool_run(s->pool, chunks * job.heads, scores_task, &job);
    thread_pool_run(s->pool, units * job.slices, columns_task, &job);
}
