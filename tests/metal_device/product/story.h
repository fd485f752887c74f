/* A little of everything that sessions do, on a model of a few kilobytes: to be told with something going wrong in it,
 * and again without, when it must end as it always does. */
#ifndef METAL_DEVICE_STORY_H
#define METAL_DEVICE_STORY_H

#include "product.h"

/* What the model must be. */
#define STORY_MODEL                                                                                \
    "{\"model_type\": \"xlstm\", \"embedding_dim\": 16, \"num_heads\": 1, \"num_blocks\": 1, "     \
    "\"vocab_size\": 48, \"ffn_round_up_to_multiple_of\": 8}"

enum { STORY_VOCAB = 48, STORY_SESSIONS = 3, STORY_NEW = 4, STORY_EVALUATED = 5 };

/* What came out. */
typedef struct story_end {
    int32_t greedy[STORY_NEW], drawn[STORY_NEW], chosen;
    float logits[STORY_EVALUATED][STORY_VOCAB]; /* after a clone, a load, of a batch, of all */
} story_end;

typedef struct story {
    xlstm_model *model;
    const char *file; /* for the saved state */
    xlstm_session *session[STORY_SESSIONS];
    story_end end;
    int greedy_count, drawn_count;
    const char *step;        /* the last one that was begun */
    xlstm_session *used[2];  /* the sessions that it evaluates; NULL: none */
    int64_t before, allowed; /* position of used[0] before it, and the most that it takes in */
} story;

/* The status of the step that failed, or XLSTM_OK. Sessions stay open either way. */
xlstm_status story_tell(story *s);
/* Frees the sessions; the story may be told again. */
void story_forget(story *s);
/* In a child: what the story has brought forth is `right`, or (of a story that failed) its beginning. */
void story_compare(const story *s, const story_end *right, bool whole);
/* In a child: the logits after a few tokens from position 0, of which the session is. */
void story_first_words(xlstm_session *session, float *logits);

/* The same after the state file of a story is loaded, which gives its second logits. */
void story_go_on(xlstm_session *session, const char *file, float *logits);

#endif
