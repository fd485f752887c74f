/* Sessions: creation, cloning, and evaluation in pieces.
 *
 * A long prompt goes through the layers in pieces of at most max_batch_tokens, cut at absolute
 * positions divisible by it, so memory is bounded and the bits do not depend on how a prompt was
 * handed over at such positions. The model's lock is held for one piece at a time: sessions of
 * several threads take turns. */
#include "engine/session.h"

#include <stdlib.h>
#include <string.h>

/* ---- Lifetime ---- */

xlstm_status xlstm_session_create(xlstm_model *model, xlstm_session **out) {
    if (!out)
        return error_set(XLSTM_INVALID_ARGUMENT, "no place to put the session");
    *out = NULL;
    if (!model || !model->forward)
        return error_set(XLSTM_INVALID_ARGUMENT, "a session needs a loaded model");
    xlstm_session *session = calloc(1, sizeof *session);
    if (!session)
        return error_memory(sizeof *session, "a session");
    session->model = model;
    engine_lock(model);
    xlstm_status status = state_acquire(&model->pool, model->stream, &session->slot);
    if (status == XLSTM_OK)
        status = model->device->wait(model->stream);
    if (status != XLSTM_OK && status != XLSTM_BUSY)
        state_release(&model->pool, session->slot);
    engine_unlock(model);
    if (status != XLSTM_OK) {
        free(session);
        return status;
    }
    *out = session;
    return XLSTM_OK;
}

void xlstm_session_free(xlstm_session *session) {
    if (!session)
        return;
    engine_lock(session->model);
    state_release(&session->model->pool, session->slot);
    engine_unlock(session->model);
    free(session);
}

xlstm_status xlstm_session_reset(xlstm_session *session) {
    xlstm_model *model = session->model;
    engine_lock(model);
    state_zero(&model->pool, model->stream, session->slot);
    xlstm_status status = model->device->wait(model->stream);
    engine_unlock(model);
    session->broken = status != XLSTM_OK;
    if (status == XLSTM_OK)
        session->position = session->rewind_floor = 0;
    return status;
}

/* Whether nobody knows what the state is after an evaluation that ended so. */
static bool breaks(xlstm_status status) {
    return status != XLSTM_OK && status != XLSTM_CANCELLED;
}

xlstm_status session_check_usable(const xlstm_session *session) {
    if (session->broken)
        return error_set(
            XLSTM_DEVICE_ERROR,
            "the device failed while this session was evaluated; reset it or load a state");
    return XLSTM_OK;
}

xlstm_status xlstm_session_clone(const xlstm_session *session, xlstm_session **out) {
    *out = NULL;
    xlstm_model *model = session->model;
    xlstm_session *copy;
    xlstm_status status = session_check_usable(session);
    if (status == XLSTM_OK)
        status = xlstm_session_create(model, &copy);
    if (status != XLSTM_OK)
        return status;
    engine_lock(model);
    state_copy(&model->pool, model->stream, copy->slot, session->slot);
    status = model->device->wait(model->stream);
    engine_unlock(model);
    if (status != XLSTM_OK) {
        xlstm_session_free(copy);
        return status;
    }
    copy->position = session->position;
    copy->rewind_floor = session->rewind_floor;
    *out = copy;
    return XLSTM_OK;
}

int64_t xlstm_session_position(const xlstm_session *session) {
    return session->position;
}

/* Whether the state of a session is nothing but what the last multiple of the ring's length left, and
 * the tokens since then in the ring. */
static bool all_deferred(const state_pool *pool) {
    for (int i = 0; i < pool->count; i++) {
        const state_tensor *t = &pool->tensors[i];
        if (!state_in_ring(t) && !state_find(pool, t->node_index, "ring_k"))
            return false;
        if (strcmp(t->kind, "conv") == 0)
            return false;
    }
    return pool->options.deferred > 0;
}

/* The ring's rows are known by their position alone: those past it are not read. */
xlstm_status xlstm_session_rewind(xlstm_session *session, int64_t tokens) {
    const state_pool *pool = &session->model->pool;
    if (tokens < 0)
        return error_set(XLSTM_INVALID_ARGUMENT, "%lld tokens cannot be taken back",
                         (long long)tokens);
    if (!all_deferred(pool))
        return error_set(XLSTM_UNSUPPORTED,
                         "tokens can be taken back only where all state is that of mLSTM blocks "
                         "without a convolution, and the model was loaded with deferred > 0");
    int64_t waiting = session->position % pool->options.deferred;
    if (session->position - waiting < session->rewind_floor)
        waiting = session->position - session->rewind_floor;
    if (tokens > waiting)
        return error_set(XLSTM_UNSUPPORTED,
                         "%lld tokens cannot be taken back: only the last %lld are not folded in",
                         (long long)tokens, (long long)waiting);
    xlstm_status status = session_check_usable(session);
    if (status == XLSTM_OK)
        session->position -= tokens;
    return status;
}

/* ---- One session ---- */

xlstm_status session_check_ids(const xlstm_model *model, const int32_t *ids, int64_t count) {
    if (!ids || count < 1)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "there are no ids to take in; at least one is needed");
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= model->config.vocab_size)
            return error_set(
                XLSTM_INVALID_ARGUMENT,
                "id %d at index %lld is not in the vocabulary, which has the ids 0 to %d", ids[i],
                (long long)i, model->config.vocab_size - 1);
    return XLSTM_OK;
}

/* What to do with the logits of a piece, while the model is locked. `last`: nothing follows it. */
typedef xlstm_status (*after_piece)(void *context, xlstm_session *session, int64_t first,
                                    int64_t tokens, bool last);

static xlstm_status run_piece(xlstm_session *session, const int32_t *ids, int64_t first,
                              int64_t tokens, bool last, after_piece after, void *context) {
    xlstm_model *model = session->model;
    forward_sequence sequence = {session->slot, session->position, ids + first, tokens};
    engine_lock(model);
    forward_run(model->forward, &sequence, 1);
    session->position += tokens;
    xlstm_status status = after(context, session, first, tokens, last);
    if (status == XLSTM_OK)
        status = forward_wait(model->forward); /* where nothing was read yet */
    session->broken = breaks(status);
    if (session->broken)
        session->position -= tokens;
    engine_unlock(model);
    return status;
}

static xlstm_status run_pieces(xlstm_session *session, const int32_t *ids, int64_t count,
                               after_piece after, void *after_context, xlstm_progress progress,
                               void *context) {
    xlstm_status status = session_check_usable(session);
    if (status == XLSTM_OK)
        status = session_check_ids(session->model, ids, count);
    int64_t most = session->model->max_batch_tokens;
    for (int64_t done = 0; status == XLSTM_OK && done < count;) {
        int64_t tokens = most - session->position % most;
        tokens = tokens < count - done ? tokens : count - done;
        status =
            run_piece(session, ids, done, tokens, done + tokens == count, after, after_context);
        done += tokens;
        if (status == XLSTM_OK && progress && !progress(context, done, count) && done < count)
            return error_set(XLSTM_CANCELLED, "stopped after %lld of %lld tokens", (long long)done,
                             (long long)count);
    }
    return status;
}

static xlstm_status last_logits(void *context, xlstm_session *session, int64_t first,
                                int64_t tokens, bool last) {
    (void)first;
    float *logits = context;
    int32_t row = (int32_t)(tokens - 1);
    return last && logits ? forward_logits(session->model->forward, &row, 1, &logits) : XLSTM_OK;
}

xlstm_status xlstm_eval(xlstm_session *session, const int32_t *ids, int64_t count, float *logits,
                        xlstm_progress progress, void *context) {
    return run_pieces(session, ids, count, last_logits, logits, progress, context);
}

typedef struct sample_target {
    xlstm_sampler *sampler;
    int32_t *id;
} sample_target;

static xlstm_status sample_last(void *context, xlstm_session *session, int64_t first,
                                int64_t tokens, bool last) {
    (void)first;
    const sample_target *target = context;
    const int32_t *penalised;
    if (!last)
        return XLSTM_OK;
    struct ops_sample_row row = sampler_row(target->sampler, session->position, &penalised);
    return forward_sample(session->model->forward, (int32_t)(tokens - 1), &row, penalised,
                          target->id);
}

xlstm_status session_eval_sample(xlstm_session *session, const int32_t *ids, int64_t count,
                                 xlstm_sampler *sampler, int32_t *id, xlstm_progress progress,
                                 void *context) {
    sample_target target = {sampler, id};
    return run_pieces(session, ids, count, sample_last, &target, progress, context);
}

/* ---- All logits ---- */

typedef struct sink_target {
    xlstm_logits_sink sink;
    void *context;
    float *rows; /* [FORWARD_LOGIT_ROWS][vocab] */
} sink_target;

static xlstm_status all_logits(void *context, xlstm_session *session, int64_t first, int64_t tokens,
                               bool last) {
    (void)last;
    const sink_target *target = context;
    int32_t rows[FORWARD_LOGIT_ROWS];
    float *pointers[FORWARD_LOGIT_ROWS];
    for (int64_t at = 0; at < tokens; at += FORWARD_LOGIT_ROWS) {
        int64_t count = tokens - at < FORWARD_LOGIT_ROWS ? tokens - at : FORWARD_LOGIT_ROWS;
        for (int64_t i = 0; i < count; i++) {
            rows[i] = (int32_t)(at + i);
            pointers[i] = target->rows + i * session->model->config.vocab_size;
        }
        xlstm_status status = forward_logits(session->model->forward, rows, count, pointers);
        if (status != XLSTM_OK)
            return status;
        if (!target->sink(target->context, first + at, count, target->rows))
            return error_set(XLSTM_CANCELLED, "stopped after the logits of %lld tokens",
                             (long long)(first + at + count));
    }
    return XLSTM_OK;
}

xlstm_status xlstm_eval_all(xlstm_session *session, const int32_t *ids, int64_t count,
                            xlstm_logits_sink sink, void *context) {
    size_t bytes = FORWARD_LOGIT_ROWS * (size_t)session->model->config.vocab_size * sizeof(float);
    sink_target target = {sink, context, malloc(bytes)};
    if (!target.rows)
        return error_memory(bytes, "logits");
    xlstm_status status = run_pieces(session, ids, count, all_logits, &target, NULL, NULL);
    free(target.rows);
    return status;
}
