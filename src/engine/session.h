/* A session: one timeline of a model, a slot of its state pool and a position. */
#ifndef ENGINE_SESSION_H
#define ENGINE_SESSION_H

#include "model/model.h"

/* A token that is evaluated though nobody has said yet that the id it takes in does not end the text (decode.c);
 * under the model's lock. */
struct decode_ahead {
    enum { AHEAD_NONE, AHEAD_FLYING, AHEAD_LANDED } stage;
    bool dropped; /* flying, and what comes of it does not matter */
    int32_t id;   /* landed: what it chose, or the failure */
    xlstm_status status;
    char message[400];
};

struct xlstm_session {
    xlstm_model *model;
    int slot;
    int64_t position;
    int64_t rewind_floor; /* the ring holds no token before this position */
    bool broken; /* the device failed within a piece: the state is neither before nor after it */
    struct decode_ahead ahead;
};

/* XLSTM_OK if every id is in the vocabulary; names the first that is not. */
xlstm_status session_check_ids(const xlstm_model *model, const int32_t *ids, int64_t count);

/* Fails for a session that is broken, or none. */
xlstm_status session_check_usable(const xlstm_session *session);

/* Takes in ids and chooses the next on the device, from the logits of the last position. */
xlstm_status session_eval_sample(xlstm_session *session, const int32_t *ids, int64_t count,
                                 xlstm_sampler *sampler, int32_t *id, xlstm_progress progress,
                                 void *context);

/* Takes the model's lock, with nothing on its stream that another would disturb: all but decode.c use this. */
void engine_lock(xlstm_model *model);
void engine_unlock(xlstm_model *model);

/* How a text is decoded: its sampler, and the ids that end it (FORWARD_MOST_ENDS at most). */
typedef struct decode_plan {
    xlstm_sampler *sampler;
    const int32_t *ends;
    int end_count;
} decode_plan;
/* Takes in `id` and chooses the next, on a device that works ahead. With `further` the token behind it is begun, to
 * take in *next: then the next call must take in that id, or decode_end be called. */
xlstm_status decode_next(xlstm_session *session, const decode_plan *plan, int32_t id, bool further,
                         int32_t *next);
/* The text is over. Where the id last chosen is one of the plan's ends the session has not taken it in; otherwise, if a
 * token was begun, it has: *taken. */
xlstm_status decode_end(xlstm_session *session, bool by_id, bool *taken);

/* As xlstm_session_load, from a state file in memory; `name` stands for it in errors. */
xlstm_status session_load_bytes(xlstm_session *session, const uint8_t *bytes, size_t size,
                                const char *name);

/* What the sampler asks of the sample op at `position`; `*penalised` belongs to the sampler. */
struct ops_sample_row sampler_row(const xlstm_sampler *sampler, int64_t position,
                                  const int32_t **penalised);

#endif
