/* Calibration: how much each column of each matrix counts, found by running a text.
 *
 * A projection is y = x W^T. If W is off by E, y is off by x E^T, whose mean square over tokens is,
 * for columns of x that do not move together, sum over j of mean(x_j^2) E_ij^2. So mean(x_j^2), over
 * all tokens of the text, is the importance of column j for the rounding of W (quantise.h). Matrices
 * with the same input share theirs.
 *
 * It is measured at the seam: a device that is the model's own but for the ops with projections,
 * which add up the squares of their normed (and gated) inputs and then do what they always did.
 */
#ifndef MODEL_CALIBRATE_H
#define MODEL_CALIBRATE_H

#include "model/model.h"

typedef struct calibration calibration;

/* Runs the ids as one stream from a fresh state. The model must be loaded to run on a device of the
 * host with f32 activations, have a free session, and must not be used meanwhile; it outlives the
 * calibration. `progress` is in tokens and may be NULL. Released with calibration_free. */
xlstm_status calibration_run(xlstm_model *model, const int32_t *ids, int64_t count,
                             xlstm_progress progress, void *context, calibration **out);
void calibration_free(calibration *c);
/* The importances of a tensor of the model, [columns]: NULL where it is no right operand of a
 * projection that ran (the embedding, or what is computed with in another form than it is stored). */
const float *calibration_find(const calibration *c, const stored_tensor *tensor);

#endif
