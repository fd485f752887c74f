/* A session: one timeline of a model, a slot of its state pool and a position. */
#ifndef ENGINE_SESSION_H
#define ENGINE_SESSION_H

#include "model/model.h"

struct xlstm_session {
    xlstm_model *model;
    int slot;
    int64_t position;
    int64_t rewind_floor; /* the ring holds no token before this position */
    bool broken; /* the device failed within a piece: the state is neither before nor after it */
};

/* XLSTM_OK if every id is in the vocabulary; names the first that is not. */
xlstm_status session_check_ids(const xlstm_model *model, const int32_t *ids, int64_t count);

/* Takes in ids and chooses the next on the device, from the logits of the last position. */
xlstm_status session_eval_sample(xlstm_session *session, const int32_t *ids, int64_t count,
                                 xlstm_sampler *sampler, int32_t *id, xlstm_progress progress,
                                 void *context);

/* As xlstm_session_load, from a state file in memory; `name` stands for it in errors. */
xlstm_status session_load_bytes(xlstm_session *session, const uint8_t *bytes, size_t size,
                                const char *name);

/* What the sampler asks of the sample op at `position`; `*penalised` belongs to the sampler. */
struct ops_sample_row sampler_row(const xlstm_sampler *sampler, int64_t position,
                                  const int32_t **penalised);

#endif
