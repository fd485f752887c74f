/* Checks beyond the table, each for one device; they fail the running test. */
#ifndef CONFORMANCE_CHECKS_H
#define CONFORMANCE_CHECKS_H

#include "ops/ops.h"

/* The mLSTM (mlstm_checks.c). */
void check_chunk_sizes(ops_device *device);
void check_splits(ops_device *device);
void check_threads_and_batches(ops_device *device);
void check_gate_extremes(ops_device *device);
void check_padding(ops_device *device);
void check_poisoned_gates(ops_device *device);
void check_nothing_stored(ops_device *device);
void check_kept_weights(ops_device *device);
void check_prompts(ops_device *device);

/* Types of states, and rings (state_checks.c). */
void check_state_rounding(ops_device *device);
void check_deferral(ops_device *device);

/* Memory, streams, rows that are not there, sampling errors, soft caps (device_checks.c). */
void check_memory(ops_device *device);
void check_order(ops_device *device);
void check_row_ids(ops_device *device);
void check_sample_errors(ops_device *device);
void check_sample_reads(ops_device *device);
void check_sample_sums(ops_device *device);
void check_caps(ops_device *device);

/* Ops of several layers in a row (layer_checks.c). */
void check_layers(ops_device *device);

/* Products that may go on beside the next op (beside_checks.c). */
void check_beside(ops_device *device);

/* Calls that are wrong (wrong_calls.c). */
void check_wrong_batches(ops_device *device);
void check_projection_counts(ops_device *device);

/* False on any but the CUDA test device (failed_launch.c). */
bool check_failed_launch(ops_device *device);

/* The causal convolution, the sLSTM and the LSTM (recurrent_checks.c). */
void check_recurrent_batches(ops_device *device);
void check_recurrent_limits(ops_device *device);
void check_recurrent_wrong_calls(ops_device *device);

/* Speed of every op with the shapes of xLSTM-7B, printed (perf.c). */
void measure_speed(ops_device *device);

#endif
