/* What a randomly initialised checkpoint consists of: its tensors, their initial values, their
 * shards. */
#ifndef MODEL_INIT_PLAN_H
#define MODEL_INIT_PLAN_H

#include "model/init.h"

enum { INIT_MOST_PARTS = 4, INIT_NAME_SIZE = 96 };

enum init_kind {
    INIT_NORMAL,     /* N(0, a) */
    INIT_UNIFORM,    /* from -a to a */
    INIT_CONSTANT,   /* a */
    INIT_LINEAR,     /* evenly from a to b */
    INIT_FORGET_BIAS /* of an sLSTM: 0, and for the forget gate a - b x^exponent, x in 0 … 1 */
};

typedef struct init_part {
    uint64_t stream; /* of random numbers: a hash of the part's own name */
    int64_t count;
    enum init_kind kind;
    double a, b;
    /* Only INIT_FORGET_BIAS: value j belongs to unit j % units of gate j / gate_stride % 4. */
    double exponent;
    int64_t units, gate_stride;
} init_part;

typedef struct init_tensor {
    char name[INIT_NAME_SIZE];
    int rank;
    int64_t shape[3];
    init_part parts[INIT_MOST_PARTS];
    int part_count;
    int64_t bytes;
    int shard;
} init_tensor;

typedef struct init_plan {
    const model_config *config;
    const init_options *options;
    init_tensor *tensors;
    size_t count, capacity;
    int shards;
    int64_t bytes;
    xlstm_status status; /* of building the list */
} init_plan;

/* p->config and p->options are set, the rest is 0. On failure too, the caller frees p->tensors. */
xlstm_status init_plan_make(init_plan *p);

/* A tensor of one part, whose stream and count are filled in. For the files that know a family. */
void init_plan_add(init_plan *p, const char *prefix, const char *name, int rank,
                   const int64_t *shape, init_part part);
/* What config.json says of the checkpoint: the source's fields, and every field that the shape
 * depends on; NULL without memory. In init_config.c. */
json_t *init_config(const init_plan *p);
/* The tensors of an xlstm-neurips block, in init_neurips.c. */
void init_neurips_block(init_plan *p, int block);

#endif
