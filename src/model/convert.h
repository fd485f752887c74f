/* Conversion: the tensors of a checkpoint under their own names in other types, written as one GGUF
 * file or as a folder with model.safetensors.
 *
 * Matrices (embedding, head, and what projections multiply with) get the type that is asked for.
 * Everything else, norms, gates, biases, convolutions and what is recurrent, is never rounded: it
 * becomes f32 beside quantised matrices, and beside bf16 or f16 ones that type where that is exact,
 * else f32. Matrices whose rows are not whole blocks stay in the floating-point type that they have.
 *
 * Tensors are streamed, a few rows at a time on all threads, and what was read is given back to the
 * system: the memory needed does not grow with the model.
 */
#ifndef MODEL_CONVERT_H
#define MODEL_CONVERT_H

#include "model/calibrate.h"
#include "model/model.h"

typedef struct convert_options {
    bool same;                      /* every tensor stays as it is; no other type has a meaning */
    dtype type;                     /* of matrices: f32, bf16, f16, or blocks */
    dtype embedding, head;          /* theirs; DTYPE_COUNT: convert_end_type(type) */
    const calibration *calibration; /* of this model; may be NULL */
    int threads;                    /* 0: all; the same bytes for any number */
    bool replace;                   /* an existing file */
    xlstm_progress progress;        /* in bytes written; may be NULL */
    void *context;
} convert_options;

/* What embedding and head are stored in where nothing else is asked for. */
dtype convert_end_type(dtype type);

typedef struct convert_result {
    int64_t weights, bytes;          /* in tensors of the output */
    int64_t type_count[DTYPE_COUNT]; /* tensors of each type */
    int narrow;                      /* matrices left alone because of their width */
    char narrow_example[128];
    int requantised;  /* matrices that were in blocks of another type before */
    int uncalibrated; /* quantised matrices that the calibration knows nothing of: the embedding,
                         and what is not the right operand of a projection */
} convert_result;

/* What convert_model would refuse before it writes, found without the calibration: for a caller who
 * is about to make one. */
xlstm_status convert_check(const xlstm_model *model, const char *output,
                           const convert_options *options);
/* `output` ends in .gguf, or is a folder, which is created or must not hold a checkpoint. The model
 * need only be opened. A quantised type and a folder do not go together. On failure nothing stays
 * behind, and what was there before is as it was. */
xlstm_status convert_model(const xlstm_model *model, const char *output,
                           const convert_options *options, convert_result *result);

#endif
