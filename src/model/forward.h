/* The forward program, written once over the op seam, for every device.
 *
 * It takes packed tokens of one or more sequences through the steps of the program, advances the
 * states of their slots, and leaves the input of the head on the device; logits are then made for
 * the rows that are asked for. Memory is taken once, for the limits given; nothing is allocated
 * while running.
 */
#ifndef MODEL_FORWARD_H
#define MODEL_FORWARD_H

#include "model/program.h"
#include "model/state.h"
#include "model/weights.h"
#include "ops/ops.h"

typedef struct forward forward;

typedef struct forward_limits {
    int64_t tokens; /* of one run, over all sequences */
    int sequences;
    dtype activation; /* f32; f64 where the device has it */
    int deferred;     /* tokens in a ring of the pool */
} forward_limits;

/* Rows of logits that are made at once, and those of which ids are chosen at once, where there are as many sequences: the
 * weights of the head are read once for all of them. */
enum { FORWARD_LOGIT_ROWS = 64, FORWARD_CHOICES = 128 };

typedef struct forward_sequence {
    int slot;
    int64_t position;
    const int32_t *ids; /* in [0, vocab_size): the caller has checked */
    int64_t count;      /* >= 1 */
} forward_sequence;

ops_limits forward_ops_limits(const model_config *config, const forward_limits *limits);
/* Bytes of activations, beside the stream's scratch. */
int64_t forward_bytes(const model_config *config, const wiring *graph,
                      const forward_limits *limits);

/* All pointers must outlive the forward. Fails if the device lacks an op that the program needs,
 * naming it, or cannot make what it needs to run one. */
xlstm_status forward_create(const model_config *config, const wiring *graph, const weights *w,
                            const state_pool *pool, ops_stream *stream,
                            const forward_limits *limits, forward **out);
void forward_free(forward *f);

/* Enqueues all tokens of the sequences. */
void forward_run(forward *f, const forward_sequence *sequences, int count);
/* Blocks until everything enqueued is done; the first failure since the last wait. */
xlstm_status forward_wait(forward *f);

/* Logits of packed rows (0 … tokens - 1) of the last run, row i into out[i] [vocab]; count <=
 * FORWARD_LOGIT_ROWS. */
xlstm_status forward_logits(forward *f, const int32_t *rows, int64_t count, float *const *out);
/* Makes the logits of a row and chooses an id there, on the device. penalised: span of ids, may be
 * NULL. */
xlstm_status forward_sample(forward *f, int32_t row, const struct ops_sample_row *options,
                            const int32_t *penalised, int32_t *id);
/* The same for some rows, without penalties: enqueues choice number first + i of rows[i]. count <=
 * FORWARD_CHOICES; there are as many choices as sequences. */
void forward_choose_rows(forward *f, const int32_t *rows, int64_t count,
                         const struct ops_sample_row *options, int64_t first);
/* Blocks until the first `count` choices are made. */
xlstm_status forward_chosen(forward *f, int64_t count, int32_t *ids);
/* Chooses from the caller's logits [vocab]. */
xlstm_status forward_sample_from(forward *f, const float *logits,
                                 const struct ops_sample_row *options, const int32_t *penalised,
                                 int32_t *id);

/* ---- Tokens ahead ----
 *
 * Where a device works while the host goes on (ops_device.ahead), the next token is enqueued before the host
 * has seen the id that it takes in: the device has it. An id that ends the text makes the token that was
 * enqueued behind it work on the pool's spare slot, so that the sequence's state stays as it is. */

enum { FORWARD_MOST_ENDS = 64 };

/* A sequence of its own: its slot, the first id to take in, and ids that end it (at most FORWARD_MOST_ENDS). */
void forward_ahead_begin(forward *f, int slot, int32_t id, const int32_t *ends, int end_count);
/* Enqueues the next token, at `position`: takes in the id before, and chooses the one that follows. At most two
 * may be enqueued and not seen. */
void forward_ahead_next(forward *f, int64_t position, const struct ops_sample_row *options,
                        const int32_t *penalised);
/* Blocks until the oldest that was not seen is done; the id that it chose. */
xlstm_status forward_ahead_see(forward *f, int32_t *id);
/* Blocks until all are done, and forgets what came of them. */
void forward_ahead_drop(forward *f);

#endif
