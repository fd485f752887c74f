/* Which type each tensor of a conversion gets. */
#ifndef MODEL_CONVERT_PLAN_H
#define MODEL_CONVERT_PLAN_H

#include "model/convert.h"

typedef struct convert_tensor {
    const stored_tensor *from;
    dtype to;
    const quantise_columns *columns; /* what is known of its inputs, or NULL */
} convert_tensor;

typedef struct convert_plan {
    convert_tensor *tensors; /* [count] */
    stored_entry *entries;   /* [count]: the same for a writer */
    size_t count;
    int64_t bytes; /* of the output's tensors */
    dtype most;    /* the type that most bytes are in */
} convert_plan;

/* Also fills `result`. */
xlstm_status convert_plan_make(const xlstm_model *model, const convert_options *options,
                               convert_plan *plan, convert_result *result);
void convert_plan_free(convert_plan *plan);

#endif
