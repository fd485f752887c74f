/* Rows that are fetched and added: embedding, choice of rows, signed sums. */
#include "ops/reference/internal.h"

/* out[t] = table[ids[t]] */
static void gather(reference_stream *s, const char *op, const ops_tensor *table,
                   const ops_tensor *ids, const ops_tensor *out) {
    int64_t count = out->shape[0], width = out->shape[1];
    if (!reference_shaped(s, op, "out", out, 2, (int64_t[]){count, width}) ||
        !reference_matrix(s, op, "table", table, table->shape[0], width) ||
        !reference_integers(s, op, "ids", ids, DTYPE_I32, count))
        return;
    for (int64_t t = 0; t < count; t++) {
        int64_t row = reference_index(ids, t);
        if (row < 0 || row >= table->shape[0]) {
            reference_fail(s, XLSTM_INVALID_ARGUMENT,
                           "reference %s: row %lld of a table of %lld rows", op, (long long)row,
                           (long long)table->shape[0]);
            return;
        }
        for (int64_t d = 0; d < width; d++)
            reference_set(out, t * out->stride[0] + d,
                          reference_get(table, row * table->stride[0] + d));
    }
}

void reference_embed(ops_stream *stream, const struct ops_embed *op) {
    reference_stream *s = reference_begin(stream);
    if (s)
        gather(s, "embed", &op->table, &op->ids, &op->out);
}

void reference_take_rows(ops_stream *stream, const struct ops_take_rows *op) {
    reference_stream *s = reference_begin(stream);
    if (s)
        gather(s, "take_rows", &op->x, &op->rows, &op->out);
}

/* out = sum_i sign_i input_i */
void reference_sum(ops_stream *stream, const struct ops_sum *op) {
    reference_stream *s = reference_begin(stream);
    if (!s)
        return;
    if (op->count < 1 || op->count > OPS_MAX_TERMS) {
        reference_fail(s, XLSTM_INVALID_ARGUMENT, "reference sum: %d terms, must be 1 to %d",
                       op->count, OPS_MAX_TERMS);
        return;
    }
    if (!reference_shaped(s, "sum", "out", &op->out, 2, op->out.shape))
        return;
    for (int i = 0; i < op->count; i++)
        if (!reference_shaped(s, "sum", "an input", &op->input[i], 2, op->out.shape))
            return;
    for (int64_t t = 0; t < op->out.shape[0]; t++)
        for (int64_t d = 0; d < op->out.shape[1]; d++) {
            double sum = 0;
            for (int i = 0; i < op->count; i++)
                sum += op->sign[i] * reference_get(&op->input[i], t * op->input[i].stride[0] + d);
            reference_set(&op->out, t * op->out.stride[0] + d, sum);
        }
}
