/* Several sessions at once: rounds of packed tokens, as many as the model takes in one run, then the logits, or the ids
 * chosen on the device, of the items that a round finishes. */
#include "engine/session.h"

#include <stdlib.h>

static xlstm_status check_batch(const xlstm_batch_item *items, int count) {
    if (!items || count < 1)
        return error_set(XLSTM_INVALID_ARGUMENT, "the batch is empty");
    for (int i = 0; i < count; i++) {
        if (!items[i].session || items[i].session->model != items[0].session->model)
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "item %d of the batch has no session of the same model", i);
        xlstm_status status = session_check_usable(items[i].session);
        if (status == XLSTM_OK)
            status = session_check_ids(items[i].session->model, items[i].ids, items[i].count);
        if (status != XLSTM_OK)
            return error_prefix(status, "item %d of the batch", i);
        for (int j = 0; j < i; j++)
            if (items[j].session == items[i].session)
                return error_set(XLSTM_INVALID_ARGUMENT,
                                 "items %d and %d of the batch are the same session", j, i);
    }
    return XLSTM_OK;
}

/* How much of an item goes into a run with `room` tokens left: what remains of it, or as much as
 * ends at a chunk border, so that the bits are those of the session alone. */
static int64_t share(const xlstm_session *session, int64_t left, int64_t room) {
    int64_t most = session->model->max_batch_tokens;
    int64_t tokens = most - session->position % most;
    tokens = tokens < left ? tokens : left;
    if (tokens <= room)
        return tokens;
    int64_t border = (session->position + room) / session->model->granule * session->model->granule;
    return border > session->position ? border - session->position : 0;
}

/* One run of as many items as fit; gives the number of tokens taken of each. */
static void run_round(xlstm_batch_item *items, int count, const int64_t *done, int64_t *taken,
                      forward_sequence *sequences) {
    xlstm_model *model = items[0].session->model;
    int64_t room = model->max_batch_tokens;
    int running = 0;
    for (int i = 0; i < count; i++) {
        int64_t left = items[i].count - done[i];
        taken[i] =
            left > 0 && running < model->max_sessions ? share(items[i].session, left, room) : 0;
        if (taken[i] == 0)
            continue;
        room -= taken[i];
        sequences[running++] = (forward_sequence){
            items[i].session->slot, items[i].session->position, items[i].ids + done[i], taken[i]};
    }
    forward_run(model->forward, sequences, running);
}

/* Whether this round ends the item; its last row is then that of all tokens taken up to it, less one. */
static bool ends(const xlstm_batch_item *items, const int64_t *done, const int64_t *taken,
                 int item) {
    return taken[item] > 0 && done[item] + taken[item] == items[item].count;
}

/* The logits of the items that this round finishes. */
static xlstm_status read_logits(xlstm_batch_item *items, int count, const int64_t *done,
                                const int64_t *taken) {
    forward *f = items[0].session->model->forward;
    int32_t rows[FORWARD_LOGIT_ROWS];
    float *out[FORWARD_LOGIT_ROWS];
    int64_t waiting = 0, tokens = 0;
    xlstm_status status = XLSTM_OK;
    for (int i = 0; i < count && status == XLSTM_OK; i++) {
        tokens += taken[i];
        if (items[i].logits && ends(items, done, taken, i)) {
            rows[waiting] = (int32_t)(tokens - 1);
            out[waiting++] = items[i].logits;
        }
        if (waiting == FORWARD_LOGIT_ROWS || (waiting > 0 && i == count - 1)) {
            status = forward_logits(f, rows, waiting, out);
            waiting = 0;
        }
    }
    return status;
}

/* Rows whose ids are chosen together. */
typedef struct choices {
    int64_t begun; /* enqueued */
    int64_t count; /* not yet */
    int32_t rows[FORWARD_CHOICES];
    struct ops_sample_row options[FORWARD_CHOICES];
} choices;

static void enqueue_choices(forward *f, choices *c) {
    if (c->count > 0)
        forward_choose_rows(f, c->rows, c->count, c->options, c->begun);
    c->begun += c->count;
    c->count = 0;
}

static bool asks_for_next(const xlstm_batch_item *item) {
    return item->sampler && item->next;
}

/* Those with penalties are chosen one by one, and at once. */
static xlstm_status choose_next(xlstm_batch_item *items, int count, const int64_t *done,
                                const int64_t *taken, choices *c) {
    forward *f = items[0].session->model->forward;
    xlstm_status status = XLSTM_OK;
    int64_t tokens = 0;
    for (int i = 0; i < count && status == XLSTM_OK; i++) {
        tokens += taken[i];
        if (!asks_for_next(&items[i]) || !ends(items, done, taken, i))
            continue;
        const int32_t row = (int32_t)(tokens - 1);
        const int32_t *penalised;
        struct ops_sample_row options =
            sampler_row(items[i].sampler, items[i].session->position + taken[i], &penalised);
        if (options.penalised_count > 0) {
            status = forward_sample(f, row, &options, penalised, items[i].next);
            continue;
        }
        c->rows[c->count] = row;
        c->options[c->count++] = options;
        if (c->count == FORWARD_CHOICES)
            enqueue_choices(f, c);
    }
    enqueue_choices(f, c);
    return status;
}

static bool is_penalised(const xlstm_batch_item *item) {
    const int32_t *penalised;
    return sampler_row(item->sampler, 0, &penalised).penalised_count > 0;
}

static xlstm_status read_next(xlstm_batch_item *items, int count, const int64_t *done,
                              const int64_t *taken, int64_t chosen) {
    int32_t *ids = malloc((size_t)chosen * sizeof *ids);
    if (!ids)
        return error_memory((size_t)chosen * sizeof *ids, "a batch");
    xlstm_status status = forward_chosen(items[0].session->model->forward, chosen, ids);
    int64_t read = 0;
    for (int i = 0; i < count && status == XLSTM_OK; i++)
        if (asks_for_next(&items[i]) && ends(items, done, taken, i) && !is_penalised(&items[i]))
            *items[i].next = ids[read++];
    free(ids);
    return status;
}

/* Blocks until the round is done. */
static xlstm_status finish_round(xlstm_batch_item *items, int count, const int64_t *done,
                                 const int64_t *taken) {
    xlstm_status status = read_logits(items, count, done, taken);
    choices c = {0};
    if (status == XLSTM_OK)
        status = choose_next(items, count, done, taken, &c);
    if (status == XLSTM_OK && c.begun > 0)
        status = read_next(items, count, done, taken, c.begun);
    return status == XLSTM_OK ? forward_wait(items[0].session->model->forward) : status;
}

xlstm_status xlstm_eval_batch(xlstm_batch_item *items, int count) {
    xlstm_status status = check_batch(items, count);
    if (status != XLSTM_OK)
        return status;
    xlstm_model *model = items[0].session->model;
    int64_t *done = calloc((size_t)count * 2, sizeof *done), *taken = NULL;
    forward_sequence *sequences = calloc((size_t)count, sizeof *sequences);
    if (!done || !sequences)
        status = error_memory((size_t)count * sizeof *sequences, "a batch");
    else
        taken = done + count;
    for (bool more = true; status == XLSTM_OK && more;) {
        engine_lock(model);
        run_round(items, count, done, taken, sequences);
        status = finish_round(items, count, done, taken);
        more = false;
        for (int i = 0; i < count; i++) {
            if (taken[i] > 0 && status != XLSTM_OK)
                items[i].session->broken = true;
            if (status == XLSTM_OK) {
                done[i] += taken[i];
                items[i].session->position += taken[i];
            }
            more |= done[i] < items[i].count;
        }
        engine_unlock(model);
    }
    free(done);
    free(sequences);
    return status;
}
