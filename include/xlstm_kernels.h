/* libxlstm's kernel library: every kernel of the xLSTM, forward and backward, on the caller's own
 * arrays.
 *
 * A kernel has a name, "<family>--<device>", and named arguments: arrays of given shapes that it
 * reads or writes. One function runs any of them:
 *
 *     int64_t qk[4] = {B, NH, S, DHQK}, value[4] = {B, NH, S, DHHV}, gate[3] = {B, NH, S};
 *     xlstm_argument arguments[] = {
 *         {"q", xlstm_array_make(q, XLSTM_F32, 4, qk)},
 *         {"k", xlstm_array_make(k, XLSTM_F32, 4, qk)},
 *         {"v", xlstm_array_make(v, XLSTM_F32, 4, value)},
 *         {"i", xlstm_array_make(i, XLSTM_F32, 3, gate)},
 *         {"f", xlstm_array_make(f, XLSTM_F32, 3, gate)},
 *         {"h", xlstm_array_make(h, XLSTM_F32, 4, value)},
 *     };
 *     status = xlstm_kernel_run("chunkwise--cpu", NULL, arguments, 6);
 *
 * What each kernel computes, with its arguments and their shapes: docs/KERNELS.md, `xlstm kernels`,
 * or xlstm_kernel_at() below. Only the outputs that are given are written. Arrays are f64, f32,
 * bf16 or f16, in any mixture without f64, or all f64; f64 is computed in f64, everything else with
 * f32 (or better) accumulation. Results do not depend on the number of threads.
 *
 * Kernels "<family>--cuda" work on arrays in the memory of a GPU, where they lie: no copies, no
 * allocation, no waiting. See xlstm_kernel_options.stream and xlstm_kernel_workspace.
 *
 * Functions may be called from any number of threads at once. Errors are as in xlstm.h.
 */
#ifndef XLSTM_KERNELS_H
#define XLSTM_KERNELS_H

#include "xlstm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Arrays ---- */

typedef enum xlstm_dtype {
    XLSTM_F64,
    XLSTM_F32,
    XLSTM_BF16,
    XLSTM_F16,
    XLSTM_I64, /* indices only */
    XLSTM_I32
} xlstm_dtype;

enum { XLSTM_MAX_RANK = 5 };

/* A view of the caller's memory. Strides are in elements and not negative; any layout goes, as long
 * as no two elements of an output share memory. An output must not overlap an input, except that a
 * state may be written where it was read: the same view as `c0` and as `c`. */
typedef struct xlstm_array {
    void *data; /* aligned to the size of an element */
    xlstm_dtype dtype;
    int rank;
    int64_t shape[XLSTM_MAX_RANK], stride[XLSTM_MAX_RANK];
} xlstm_array;

/* A contiguous array, the last dimension innermost. */
XLSTM_API xlstm_array xlstm_array_make(void *data, xlstm_dtype dtype, int rank,
                                       const int64_t *shape);

typedef struct xlstm_argument {
    const char *name;
    xlstm_array array;
} xlstm_argument;

/* ---- Running ---- */

typedef enum xlstm_backward {
    XLSTM_FORWARD,          /* no gradients */
    XLSTM_BACKWARD_EXACT,   /* the gradient of the formula as written */
    XLSTM_BACKWARD_UPSTREAM /* mLSTM only: as the reference's kernels have it, with the denominator
                               held constant (docs/KERNELS.md) */
} xlstm_backward;

typedef enum xlstm_accumulate {
    XLSTM_ACCUMULATE_PLAIN,
    XLSTM_ACCUMULATE_COMPENSATED /* gate sums, states and their gradients in two-float arithmetic
                                    (docs/NUMERICS.md) */
} xlstm_accumulate;

/* Options that mean nothing to a kernel have no effect; a backward or an accumulation that it lacks
 * is an error. */
typedef struct xlstm_kernel_options {
    xlstm_backward backward;
    xlstm_accumulate accumulate;
    int threads;        /* 0: one for every processor this process may use */
    int64_t chunk_size; /* chunkwise: tokens a chunk, any number; 0: 64 with chunk states, else the
                           device's choice */
    double eps;         /* mLSTM, norms; 1e-6 */
    bool normalize;     /* sigmoid input gate: divide by the denominator; true */
    bool stored_states; /* chunkwise backward: all_c, all_n, all_m hold what the forward wrote, and
                           are read instead of being computed again; false */
    int groups;         /* norms: equal parts of the row, each with its own statistics; 1 */
    double soft_cap;    /* soft_cap: the bound; 15 */
    bool recurrent_cut; /* sLSTM, LSTM: no gradient through R y; false */
    double recurrent_gradient_clip; /* sLSTM, LSTM: bound on every element of the gradient that
                                       enters y from the next step; 0: none */
    double forward_clip;            /* sLSTM, LSTM: bound on every element of y; 0: none */
    int64_t ignore_index;           /* cross_entropy: targets without loss; -1 */

    /* Kernels on device memory (xlstm_kernel.device_memory) */
    void *stream; /* a cudaStream_t of the calling thread's current GPU, where the arrays are too;
                     NULL is CUDA's default stream */
    void *workspace;       /* device memory, aligned to 256 bytes, that the kernel may use until the
                        stream has come past it; NULL if none is needed */
    size_t workspace_size; /* bytes: at least what xlstm_kernel_workspace says */
} xlstm_kernel_options;

/* The values named above. */
XLSTM_API xlstm_kernel_options xlstm_kernel_defaults(void);

/* Runs a kernel. `options` may be NULL. With a backward, forward outputs that are given are written
 * too. Returns when everything is done; kernels on device memory return when everything is enqueued
 * on the stream, and what fails while it runs comes out of the caller's next wait for the stream.
 * These never look at what stands in arrays before they return, so that calls may be captured into
 * a CUDA graph, and they take f32, bf16 and f16 alone. */
XLSTM_API xlstm_status xlstm_kernel_run(const char *name, const xlstm_kernel_options *options,
                                        const xlstm_argument *arguments, int count);

/* How much workspace this call will need: 0 for kernels on host memory. Nothing is run. */
XLSTM_API xlstm_status xlstm_kernel_workspace(const char *name, const xlstm_kernel_options *options,
                                              const xlstm_argument *arguments, int count,
                                              size_t *bytes);

/* ---- What there is ---- */

typedef enum xlstm_role {
    XLSTM_INPUT,
    XLSTM_OPTIONAL_INPUT, /* absent: 0, unless said otherwise */
    XLSTM_OUTPUT,         /* all outputs are optional */
    XLSTM_BACKWARD_INPUT, /* the gradient of an output; absent: 0 */
    XLSTM_BACKWARD_OUTPUT /* the gradient of an input */
} xlstm_role;

typedef struct xlstm_parameter {
    const char *name;
    xlstm_role role;
    const char *shape; /* "B,NH,S,DHQK": names stand for sizes that agree wherever they occur */
} xlstm_parameter;

typedef struct xlstm_kernel {
    const char *name; /* "chunkwise--cpu" */
    const char *family, *device;
    const char *summary; /* one line */
    const xlstm_parameter *parameters;
    int parameter_count;
    bool upstream;      /* has XLSTM_BACKWARD_UPSTREAM besides exact */
    bool compensated;   /* takes XLSTM_ACCUMULATE_COMPENSATED */
    bool device_memory; /* its arrays are in the memory of a GPU */
} xlstm_kernel;

/* The kernels in order; NULL past the end. */
XLSTM_API const xlstm_kernel *xlstm_kernel_at(int index);
/* NULL, with an error that names the nearest ones, if there is none of this name. */
XLSTM_API const xlstm_kernel *xlstm_kernel_find(const char *name);

#ifdef __cplusplus
}
#endif
#endif
