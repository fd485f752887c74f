/* A rehearsal: the ops of every kind of run are called, with a device that runs none of them but makes what they need.
 *
 * What a device picks depends on the number of tokens and of rows of logits: one, a few, or many. Afterwards nothing
 * is made while a text is generated, and what the device cannot make (a kernel, copies of weights for which there is no
 * memory) fails the loading of the model.
 */
#include "model/forward_internal.h"

#include <stdlib.h>

/* So many rows of logits of a run; all go to the same place. */
static xlstm_status rehearse_logits(forward *f, int64_t count, float *row) {
    float *out[FORWARD_LOGIT_ROWS];
    int32_t rows[FORWARD_LOGIT_ROWS] = {0};
    for (int64_t i = 0; i < count; i++)
        out[i] = row;
    return forward_logits(f, rows, count, out);
}

static struct ops_sample_row greedy_of(const forward *f) {
    return (struct ops_sample_row){.limit = f->config->vocab_size, .top_p = 1, .penalty = 1};
}

/* Of as many rows as a batch of these tokens has at once. */
static void rehearse_choices(forward *f, int64_t tokens) {
    struct ops_sample_row options[FORWARD_CHOICES];
    int32_t rows[FORWARD_CHOICES] = {0};
    int64_t count = f->limits.sequences < FORWARD_CHOICES ? f->limits.sequences : FORWARD_CHOICES;
    count = tokens < count ? tokens : count;
    for (int64_t i = 0; i < count; i++)
        options[i] = greedy_of(f);
    forward_choose_rows(f, rows, count, options, 0);
}

static xlstm_status rehearse_ahead(forward *f) {
    const struct ops_sample_row greedy = greedy_of(f);
    const int32_t end = 0;
    int32_t id;
    forward_ahead_begin(f, 0, 0, &end, 1);
    forward_ahead_next(f, 0, &greedy, NULL);
    return forward_ahead_see(f, &id);
}

static xlstm_status rehearse_run(forward *f, const int32_t *ids, int64_t tokens, float *row) {
    int32_t id;
    const forward_sequence sequence = {.ids = ids, .count = tokens};
    const struct ops_sample_row greedy = greedy_of(f);
    int64_t rows = tokens < FORWARD_LOGIT_ROWS ? tokens : FORWARD_LOGIT_ROWS;
    forward_run(f, &sequence, 1);
    xlstm_status status = rehearse_logits(f, rows, row);
    if (status != XLSTM_OK)
        return status;
    rehearse_choices(f, tokens);
    return forward_sample(f, 0, &greedy, NULL, &id);
}

xlstm_status forward_rehearse(forward *f) {
    if (!f->device->rehearse)
        return XLSTM_OK;
    const int64_t most = f->limits.tokens, runs[] = {1, 2, most};
    int32_t *ids = calloc((size_t)most, sizeof *ids);
    float *row = malloc((size_t)f->config->vocab_size * sizeof *row);
    xlstm_status status = XLSTM_OK;
    if (!ids || !row)
        status = error_memory((size_t)most * sizeof *ids, "the rehearsal of a model");
    f->device->rehearse(f->stream, true);
    for (int i = 0; i < 3 && status == XLSTM_OK; i++)
        if (runs[i] <= most)
            status = rehearse_run(f, ids, runs[i], row);
    if (status == XLSTM_OK && f->device->ahead)
        status = rehearse_ahead(f);
    f->device->rehearse(f->stream, false);
    if (status == XLSTM_OK)
        status = f->device->wait(f->stream);
    free(ids);
    free(row);
    return status;
}
