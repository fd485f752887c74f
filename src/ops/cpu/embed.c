/* Ops that move rows: embedding, picking rows, sums of rows. */
#include "ops/cpu/internal.h"

typedef struct rows_job {
    const cpu_stream *s;
    const ops_tensor *source, *index, *out;
    const struct ops_sum *sum;
} rows_job;

/* out[row] = source[index[row]], as floats. */
static void take_row(void *context, int64_t row, int worker) {
    (void)worker;
    const rows_job *job = context;
    int32_t index;
    memcpy(&index, (const int32_t *)ops_data(job->index) + row, sizeof index);
    const ops_tensor *source = job->source;
    const char *from = (const char *)ops_data(source) + index * ops_row_bytes(source);
    job->s->kernels->widen(source->dtype, from, source->shape[1], cpu_row(job->out, row));
}

static bool indices_fit(cpu_stream *s, const char *op, const ops_tensor *index, int64_t rows) {
    const int32_t *values = ops_data(index);
    for (int64_t i = 0; i < index->shape[0]; i++)
        if (values[i] < 0 || values[i] >= rows)
            return ops_fail(&s->check, XLSTM_INVALID_ARGUMENT, "%s: index %d is not in 0 … %lld",
                            op, values[i], (long long)rows - 1);
    return true;
}

static void take(cpu_stream *s, const char *op, const ops_tensor *source, int types,
                 const ops_tensor *index, const ops_tensor *out) {
    if (ops_failed(&s->check) || !ops_expect_take(&s->check, op, source, types, index, out) ||
        !indices_fit(s, op, index, source->shape[0]))
        return;
    rows_job job = {.s = s, .source = source, .index = index, .out = out};
    thread_pool_run(s->pool, index->shape[0], take_row, &job);
}

void cpu_embed(ops_stream *stream, const struct ops_embed *op) {
    take((cpu_stream *)stream, "embed", &op->table, OPS_MATRICES, &op->ids, &op->out);
}

void cpu_take_rows(ops_stream *stream, const struct ops_take_rows *op) {
    take((cpu_stream *)stream, "take_rows", &op->x, OPS_F32, &op->rows, &op->out);
}

static void sum_row(void *context, int64_t row, int worker) {
    (void)worker;
    const rows_job *job = context;
    const struct ops_sum *op = job->sum;
    int64_t width = op->out.shape[1];
    const float *input[OPS_MAX_TERMS] = {0};
    float sign[OPS_MAX_TERMS] = {0};
    for (int i = 0; i < op->count; i++) {
        input[i] = cpu_row(&op->input[i], row);
        sign[i] = (float)op->sign[i];
    }
    float *out = cpu_row(&op->out, row);
    for (int64_t j = 0; j < width; j++) {
        float total = sign[0] * input[0][j];
        for (int i = 1; i < op->count; i++)
            total += sign[i] * input[i][j];
        out[j] = total;
    }
}

void cpu_sum(ops_stream *stream, const struct ops_sum *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_sum(&s->check, op))
        return;
    rows_job job = {.s = s, .sum = op};
    thread_pool_run(s->pool, op->out.shape[0], sum_row, &job);
}
