/* What the files of the kernels slstm_* and lstm_* share: a call as they see it, and who does what.
 *
 * kernel_slstm.cu goes through time for heads of any size and arrays of any type, in f32, and leaves a trace in the
 * workspace; kernel_slstm_backward.cu goes back over it and sums the gradients of the weights. Where arrays are bf16 and
 * heads have a size that the chip can hold, kernel_slstm_tiles.cu does both on tensor cores. */
#ifndef OPS_CUDA_KERNEL_SLSTM_H
#define OPS_CUDA_KERNEL_SLSTM_H

#include "ops/cuda/kernel_call.h"

/* Gates i, f, z, o; states y, c, n, m. */
enum { SLSTM_GATES = 4, SLSTM_STATES = 4 };

/* The LSTM has two states, in arrays and in ds; the trace has room for four. Traces begin at the states before the first
 * token. Without a backward only one token is kept: `kept` 0 makes all tokens use the same place. */
typedef struct slstm_job {
    cuda_array x, r, b, s0, y, s, all_s, dy, ds, dx, dr, db, ds0;
    int64_t batch, tokens, heads, size; /* size: units of a head */
    int states;
    bool lstm, cut;
    float forward_clip, gradient_clip; /* 0: none */
    float *state;                      /* [tokens + 1][batch][heads][SLSTM_STATES][size] */
    float *gate;     /* [tokens][batch][heads][SLSTM_GATES][size]: raw; then their gradients */
    float *gradient; /* [batch][heads][SLSTM_STATES][size]: of the states */
    int64_t kept; /* 1 with a backward, else 0: elements from a token to the next, in steps of it */
} slstm_job;

xlstm_status cuda_slstm_backward(const kernel_call *call, const slstm_job *job);

#endif
