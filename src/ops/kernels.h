/* The kernel library inside: what a device gets to see of a call of xlstm_kernel_run.
 *
 * kernel_list.c knows the families with their arguments; kernel_run.c checks a call against that
 * list, turns bf16, f16 and scattered arrays into plain ones, and hands the call to the device. A
 * device of the host therefore sees only
 *   - arrays of one type, `real`: f32 or f64 (indices: i64), with innermost stride 1 and any others;
 *   - shapes that agree with each other, all sizes at least 1;
 *   - data == NULL for what is absent (or empty), and only outputs that are wanted.
 * An output may be the same view as the input it replaces (c and c0, n and n0, m and m0, s and s0).
 *
 * A device whose arrays are in its own memory (kernel_table.memory) gets them as the caller gave
 * them: f32, bf16 and f16 in any mixture, indices i64 or i32, any strides, and values that nobody
 * has looked at. It enqueues on options.stream, and has the workspace that it asked for in
 * options.workspace.
 */
#ifndef OPS_KERNELS_H
#define OPS_KERNELS_H

#include "base/dtype.h"
#include "xlstm_kernels.h"

enum kernel_form {
    KERNEL_PARALLEL,        /* the forget matrix by differences of prefix sums */
    KERNEL_PARALLEL_STABLE, /* every entry a sum of its own span */
    KERNEL_CHUNKWISE,
    KERNEL_SEQUENCE, /* token by token */
    KERNEL_STEP      /* one token; sLSTM and LSTM: sequence and step only */
};

/* The arguments of each group of families, as indices of kernel_call.array. Shapes: kernel_list.c.
 */
enum mlstm_argument {
    MLSTM_Q,
    MLSTM_K,
    MLSTM_V,
    MLSTM_I,
    MLSTM_F,
    MLSTM_C0,
    MLSTM_N0,
    MLSTM_M0,
    MLSTM_H,
    MLSTM_C,
    MLSTM_N,
    MLSTM_M,
    MLSTM_ALL_C, /* inputs if options.stored_states */
    MLSTM_ALL_N,
    MLSTM_ALL_M,
    MLSTM_DH,
    MLSTM_DC,
    MLSTM_DN,
    MLSTM_DM,
    MLSTM_DQ,
    MLSTM_DK,
    MLSTM_DV,
    MLSTM_DI,
    MLSTM_DF,
    MLSTM_DC0,
    MLSTM_DN0,
    MLSTM_DM0,
    MLSTM_ARGUMENTS
};

/* sLSTM: states y, c, n, m; LSTM: states y, c. */
enum slstm_argument {
    SLSTM_X,
    SLSTM_R,
    SLSTM_B,
    SLSTM_S0,
    SLSTM_Y,
    SLSTM_S,
    SLSTM_ALL_S,
    SLSTM_DY,
    SLSTM_DS,
    SLSTM_DX,
    SLSTM_DR,
    SLSTM_DB,
    SLSTM_DS0,
    SLSTM_ARGUMENTS
};

enum conv1d_argument {
    CONV1D_X,
    CONV1D_W,
    CONV1D_B,
    CONV1D_S0,
    CONV1D_Y,
    CONV1D_S,
    CONV1D_DY,
    CONV1D_DS,
    CONV1D_DX,
    CONV1D_DW,
    CONV1D_DB,
    CONV1D_DS0,
    CONV1D_ARGUMENTS
};

/* headwise_linear, rms_norm, layer_norm */
enum affine_argument {
    AFFINE_X,
    AFFINE_W,
    AFFINE_B,
    AFFINE_Y,
    AFFINE_DY,
    AFFINE_DX,
    AFFINE_DW,
    AFFINE_DB,
    AFFINE_ARGUMENTS
};

/* soft_cap: X alone; swiglu and gelu_gate: X is the gate, U what it multiplies */
enum gate_argument { GATE_X, GATE_U, GATE_Y, GATE_DY, GATE_DX, GATE_DU, GATE_ARGUMENTS };

enum cross_entropy_argument {
    CROSS_ENTROPY_LOGITS,
    CROSS_ENTROPY_TARGET, /* each in [0, V) or the index to ignore: checked before, and i64, on the
                             host; elsewhere a loss of NaN tells of one that is not */
    CROSS_ENTROPY_LOSS,
    CROSS_ENTROPY_DLOSS,
    CROSS_ENTROPY_DLOGITS,
    CROSS_ENTROPY_ARGUMENTS
};

enum { KERNEL_MOST_ARGUMENTS = MLSTM_ARGUMENTS };

/* One call. mLSTM: `sigmoid` tells the input gate; slstm: `lstm` the function. */
typedef struct kernel_call {
    enum kernel_form form;
    bool sigmoid, lstm;
    dtype real;                   /* f32 or f64; of host devices */
    xlstm_kernel_options options; /* threads and chunk_size as given, 0 included */
    xlstm_array array[KERNEL_MOST_ARGUMENTS];
} kernel_call;

static inline bool kernel_has(const kernel_call *call, int argument) {
    return call->array[argument].data != NULL;
}

/* Element [i][j][k] … of an array of rank 3 or more, indices past `i` left out being 0. */
static inline int64_t kernel_offset(const xlstm_array *a, int64_t i, int64_t j) {
    return i * a->stride[0] + j * a->stride[1];
}

typedef xlstm_status kernel_function(const kernel_call *call);
typedef xlstm_status kernel_workspace_function(const kernel_call *call, size_t *bytes);

/* A kernel, and what tells how large options.workspace must be for it; NULL: 0. */
typedef struct kernel_functions {
    kernel_function *run;
    kernel_workspace_function *workspace;
} kernel_functions;

/* The memory of a device whose kernels do not work on the host's, for those who have their arrays on
 * the host all the same (kernel_copy.c). Blocking; `read` has what kernels on the default stream
 * wrote. */
typedef struct kernel_memory {
    xlstm_status (*take)(size_t bytes, void **memory);
    void (*give_back)(void *memory);
    xlstm_status (*write)(void *to, const void *host, size_t bytes);
    xlstm_status (*read)(void *host, const void *from, size_t bytes);
} kernel_memory;

/* The kernels of a device by group; run == NULL: it has none of that group. */
typedef struct kernel_table {
    kernel_functions mlstm, slstm, conv1d, headwise_linear, rms_norm, layer_norm, soft_cap, swiglu,
        gelu_gate, cross_entropy;
    bool mlstm_compensated;
    const kernel_memory *memory; /* NULL: the host's */
    kernel_function *enter;      /* before a kernel is run: whether the device can; or NULL */
} kernel_table;

/* A group of families that share arguments and the function of a device. */
enum kernel_group {
    GROUP_MLSTM,
    GROUP_SLSTM,
    GROUP_CONV1D,
    GROUP_HEADWISE_LINEAR,
    GROUP_RMS_NORM,
    GROUP_LAYER_NORM,
    GROUP_SOFT_CAP,
    GROUP_SWIGLU,
    GROUP_GELU_GATE,
    GROUP_CROSS_ENTROPY,
    GROUP_COUNT
};

/* An entry of the list. */
typedef struct kernel_entry {
    xlstm_kernel kernel;
    enum kernel_group group;
    enum kernel_form form;
    bool sigmoid, lstm;
    kernel_functions functions;
    const kernel_table *table;        /* the device's */
    int index[KERNEL_MOST_ARGUMENTS]; /* of each parameter: its place in kernel_call.array */
} kernel_entry;

/* The entry that a kernel of xlstm_kernel_at is part of. */
const kernel_entry *kernel_entry_of(const xlstm_kernel *kernel);

/* Whether `name` is that of a kernel on CUDA, which this build is without. */
bool kernel_needs_cuda(const char *name);

/* xlstm_kernel_run for arrays on the host, whatever memory the kernel works on: where it is another,
 * they are copied there and the outputs back, the workspace is found, and the results are there on
 * return (kernel_copy.c). */
xlstm_status kernel_run_copied(const xlstm_kernel *kernel, const xlstm_kernel_options *options,
                               const xlstm_argument *arguments, int count);

#endif
