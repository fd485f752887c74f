/* Decoding on a device that works while the host goes on: the next token is begun before the host has seen the id that
 * it takes in, so that the device never waits for the host (model/forward.h, "Tokens ahead").
 *
 * Between two calls one token may be under way, and the lock is free. Whoever takes it next lands that token first: its
 * result is kept in the session, and what belongs to the stream is free again. */
#include "engine/session.h"

#include <stdio.h>

static void land(xlstm_model *model) {
    xlstm_session *session = model->flying;
    struct decode_ahead *ahead = &session->ahead;
    model->flying = NULL;
    if (ahead->dropped) {
        forward_ahead_drop(model->forward);
        *ahead = (struct decode_ahead){0};
        return;
    }
    ahead->stage = AHEAD_LANDED;
    ahead->status = forward_ahead_see(model->forward, &ahead->id);
    if (ahead->status != XLSTM_OK)
        snprintf(ahead->message, sizeof ahead->message, "%s", xlstm_last_error());
}

void engine_lock(xlstm_model *model) {
    pthread_mutex_lock(&model->lock);
    if (model->flying)
        land(model);
}

void engine_unlock(xlstm_model *model) {
    pthread_mutex_unlock(&model->lock);
}

/* Enqueues the token at `position`. */
static void begin(xlstm_session *session, const decode_plan *plan, int64_t position) {
    const int32_t *penalised;
    struct ops_sample_row row = sampler_row(plan->sampler, position + 1, &penalised);
    forward_ahead_next(session->model->forward, position, &row, penalised);
}

static xlstm_status fly(xlstm_session *session, const decode_plan *plan, int32_t id, bool further,
                        int32_t *next) {
    xlstm_model *model = session->model;
    if (session->ahead.stage == AHEAD_NONE) {
        forward_ahead_begin(model->forward, session->slot, id, plan->ends, plan->end_count);
        begin(session, plan, session->position);
    }
    if (further)
        begin(session, plan, session->position + 1);
    xlstm_status status = forward_ahead_see(model->forward, next);
    if (status != XLSTM_OK && further)
        forward_ahead_drop(model->forward);
    further = further && status == XLSTM_OK;
    model->flying = further ? session : NULL;
    session->ahead.stage = further ? AHEAD_FLYING : AHEAD_NONE;
    return status;
}

/* What landed while others used the model. */
static xlstm_status collect(xlstm_session *session, int32_t *next) {
    struct decode_ahead landed = session->ahead;
    session->ahead = (struct decode_ahead){0};
    *next = landed.id;
    return landed.status == XLSTM_OK ? XLSTM_OK : error_set(landed.status, "%s", landed.message);
}

xlstm_status decode_next(xlstm_session *session, const decode_plan *plan, int32_t id, bool further,
                         int32_t *next) {
    xlstm_model *model = session->model;
    pthread_mutex_lock(&model->lock);
    if (model->flying && (model->flying != session || session->ahead.dropped))
        land(model);
    xlstm_status status = session->ahead.stage == AHEAD_LANDED
                              ? collect(session, next)
                              : fly(session, plan, id, further, next);
    if (status == XLSTM_OK)
        session->position++;
    else
        session->broken = true;
    engine_unlock(model);
    return status;
}

xlstm_status decode_end(xlstm_session *session, bool by_id, bool *taken) {
    xlstm_model *model = session->model;
    xlstm_status status = XLSTM_OK;
    int32_t id;
    *taken = false;
    pthread_mutex_lock(&model->lock);
    if (by_id && session->ahead.stage == AHEAD_FLYING) {
        session->ahead.dropped = true; /* nobody waits for it until the model is needed */
    } else if (session->ahead.stage != AHEAD_NONE) {
        if (model->flying)
            land(model);
        status = collect(session, &id);
        *taken = !by_id && status == XLSTM_OK;
        session->position += *taken;
        if (by_id)
            status = XLSTM_OK;
        else if (status != XLSTM_OK)
            session->broken = true;
    }
    engine_unlock(model);
    return status;
}
