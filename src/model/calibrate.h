/* Calibration: how much the columns of each matrix count, found by running a text.
 *
 * A projection is y = x W^T. If a row of W is off by e, its output is off by x e^T, whose mean square
 * over tokens is e H e^T with H = mean(x^T x). H is what is measured, within windows of columns
 * (errors in different windows are taken as independent): of whole rows where memory allows. From it
 * comes, for the rounding of W (quantise.h), in which order columns are rounded, how much of an error
 * in one the later ones can make good, and what is left then. Matrices with the same input share
 * theirs.
 *
 * It is measured at the seam: a device that is the model's own but for the ops with projections,
 * which add up the products of their normed (and gated) inputs and then do what they always did.
 */
#ifndef MODEL_CALIBRATE_H
#define MODEL_CALIBRATE_H

#include "format/quantise.h"
#include "model/model.h"

typedef struct calibration calibration;

/* Of what is measured: windows of 608 columns in the 7B shape, whole rows in a small model. */
enum { CALIBRATION_MEMORY = 2000 }; /* MB */
/* A text runs in pieces of so many tokens, each from a fresh state. */
enum { CALIBRATION_PIECE = 512 };

/* Runs the ids. The model must be loaded to run on a device whose ops are done when they return and whose memory the
 * host can read, with f32 activations, have a free session, and must not be used meanwhile; it outlives the
 * calibration, which takes at most `memory` MB beside what the model needs to run (or what windows of
 * one block take). `progress` is in tokens and may be NULL. Released with calibration_free. */
xlstm_status calibration_run(xlstm_model *model, const int32_t *ids, int64_t count, int64_t memory,
                             xlstm_progress progress, void *context, calibration **out);
void calibration_free(calibration *c);
/* What is known of the inputs of a matrix of the model: NULL where it is no right operand of a
 * projection that ran (the embedding, or what is computed with in another form than it is stored),
 * and where its rows are not whole blocks. */
const quantise_columns *calibration_find(const calibration *c, const stored_tensor *tensor);

#endif
