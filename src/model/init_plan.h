/* What a randomly initialised checkpoint consists of: its tensors, their initial values, their
 * shards. */
#ifndef MODEL_INIT_PLAN_H
#define MODEL_INIT_PLAN_H

#include "model/init.h"

enum { INIT_MOST_PARTS = 4, INIT_NAME_SIZE = 96 };

enum init_kind { INIT_NORMAL, INIT_CONSTANT, INIT_LINEAR };

/* count values: N(0, a), or a, or evenly from a to b. */
typedef struct init_part {
    uint64_t stream; /* of random numbers: a hash of the part's own name */
    int64_t count;
    enum init_kind kind;
    double a, b;
} init_part;

typedef struct init_tensor {
    char name[INIT_NAME_SIZE];
    int rank;
    int64_t shape[2];
    init_part parts[INIT_MOST_PARTS];
    int part_count;
    int64_t bytes;
    int shard;
} init_tensor;

typedef struct init_plan {
    const xlstm_large_config *config;
    const init_options *options;
    init_tensor *tensors;
    size_t count, capacity;
    int shards;
    int64_t bytes;
    xlstm_status status; /* of building the list */
} init_plan;

/* p->config and p->options are set, the rest is 0. On failure too, the caller frees p->tensors. */
xlstm_status init_plan_make(init_plan *p);

#endif
