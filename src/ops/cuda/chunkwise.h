/* The chunkwise mLSTM on tensor cores (compute capability 9.0): bf16 arrays, sums, states and gates in f32. Forward and
 * backward, input gate exponential or sigmoid; what is computed: docs/KERNELS.md.
 *
 * Chunks have 64 tokens and begin at absolute positions divisible by 64. Nothing is allocated, nothing waits: work is
 * enqueued on the caller's stream, and all memory between kernels is the caller's workspace. What the forward leaves
 * there (gates, scores, denominators, normalizers) is read by a backward of the same struct. */
#ifndef OPS_CUDA_CHUNKWISE_H
#define OPS_CUDA_CHUNKWISE_H

#include "ops/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

/* [sequences][tokens][heads][width] by strides in elements, the width contiguous; data NULL: absent. Of bf16 arrays
 * address and strides are multiples of 16 bytes. With packed sequences `sequence` is not read. */
typedef struct chunkwise_array {
    void *data;
    int64_t sequence, token, head;
} chunkwise_array;

/* A state [slots][heads]..., contiguous within a head. */
typedef struct chunkwise_state {
    void *c;    /* [d_qk][d_v] */
    void *n;    /* [d_qk] */
    float *m;   /* one */
    dtype type; /* of c and n */
    int64_t c_slot, c_head, n_slot, n_head, m_slot, m_head;
} chunkwise_state;

typedef struct cuda_chunkwise {
    cudaStream_t stream;
    cuda_stream *op; /* an op's stream, in its place: kernels run unless it failed or rehearses */
    int processors, major;     /* of the GPU */
    int64_t sequences, tokens; /* tokens of each sequence; packed: of all */
    int heads, d_qk, d_v;
    int64_t position; /* of every sequence's first token, where `positions` is NULL */
    const int32_t
        *start; /* device, [sequences + 1]: the sequences are packed; NULL: they are not */
    const int64_t *positions; /* device, [sequences] */
    const int32_t *slot;      /* device, [sequences]: of the states; NULL: the sequence's number.
                                 -1: the sequence has none, forward: it starts from zeros and leaves nothing */
    bool sigmoid, normalize;  /* normalize counts with the sigmoid gate alone */
    double eps;
    chunkwise_array q, k, v, h;              /* bf16 */
    chunkwise_array input_gate, forget_gate; /* pre-activations, [sequences][tokens][heads] */
    dtype gate_type;
    chunkwise_state initial, last; /* pointers NULL: zeros, or not wanted; may be the same memory */
    void *workspace;               /* cuda_chunkwise_workspace bytes, at a multiple of 256 */

    /* The backward. */
    bool exact;
    chunkwise_array dh, dq, dk, dv; /* bf16 */
    chunkwise_array di, df;         /* as the gates; data NULL: not wanted */
    dtype di_type, df_type;
    chunkwise_state dlast, dinitial; /* f32; pointers NULL: zeros, or not wanted */
} cuda_chunkwise;

/* Whether these kernels take the call; else *why, where why is not NULL, says what they lack. */
bool cuda_chunkwise_takes(const cuda_chunkwise *c, const char **why);
size_t cuda_chunkwise_workspace(const cuda_chunkwise *c, bool backward);
/* As much as the forward of any packed call needs, of so many tokens, sequences, heads and so wide ones at most, on a
 * GPU of so many processors at most. */
size_t cuda_chunkwise_most(int64_t tokens, int64_t sequences, int64_t heads, int64_t d_qk,
                           int64_t d_v, int64_t processors);
xlstm_status cuda_chunkwise_forward(const cuda_chunkwise *c);
/* After a forward with the same workspace, which had h as an output, and with dlast in the exact form the last state, too.
 * All of dq, dk, dv are written, and what is wanted of the others; for the gradient of the initial m those of its C and n
 * must be wanted. Upstream form: those of n and m are 0, and dn and dm are not read. */
xlstm_status cuda_chunkwise_backward(const cuda_chunkwise *c);

#ifdef __cplusplus
}
#endif

#endif
