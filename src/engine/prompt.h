/* The beginning of a prompt, for those who have no model but its tokenizer and config. */
#ifndef ENGINE_PROMPT_H
#define ENGINE_PROMPT_H

#include "xlstm.h"

/* Puts `bos` in front of the ids of xlstm_encode, unless it is the first already. The ids stay
 * valid, and the caller's, on failure. */
xlstm_status prompt_put_bos(int32_t bos, int32_t **ids, int64_t *count);

#endif
