/* What the files of the kernel library share on CUDA (kernel_*.cu): launches on the caller's stream, pieces of the
 * caller's workspace, arrays of any type and layout as kernels see them. No synchronisation, no allocation, and no
 * look at what stands in arrays: a call may be captured into a graph. */
#ifndef OPS_CUDA_KERNEL_CALL_H
#define OPS_CUDA_KERNEL_CALL_H

#include "ops/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "ops/kernels.h"

/* ---- The GPU ---- */

typedef struct cuda_kernel_gpu {
    int processors, major, minor;
    size_t shared_bytes; /* most of a block */
    int clusters;        /* whether it has them */
} cuda_kernel_gpu;
/* The calling thread's, which the stream and the arrays belong to. */
xlstm_status cuda_kernel_gpu_now(cuda_kernel_gpu *gpu);

/* ---- The workspace ---- */

/* Pieces of options.workspace, one after the other, aligned to 256 bytes. A function that lays out a kernel's
 * workspace serves kernel_functions.workspace, with base NULL, where it counts, and the kernel itself. */
typedef struct cuda_workspace {
    char *base;
    size_t used;
} cuda_workspace;

static inline cuda_workspace cuda_workspace_of(const kernel_call *call) {
    cuda_workspace w;
    w.base = (char *)call->options.workspace;
    w.used = 0;
    return w;
}
static inline void *cuda_workspace_take(cuda_workspace *w, int64_t count, size_t element) {
    void *piece = w->base ? w->base + w->used : NULL;
    w->used += ((size_t)count * element + 255) / 256 * 256;
    return piece;
}

/* ---- Arrays ---- */

/* An array as kernels see it: an element's place is the sum of index times stride. */
typedef struct cuda_array {
    void *data;
    int type; /* enum dtype: f32, bf16, f16; indices: i64, i32 */
    int64_t stride[XLSTM_MAX_RANK];
} cuda_array;

static inline dtype cuda_kernel_type(const xlstm_array *a) {
    switch (a->dtype) {
    case XLSTM_BF16:
        return DTYPE_BF16;
    case XLSTM_F16:
        return DTYPE_F16;
    case XLSTM_I64:
        return DTYPE_I64;
    case XLSTM_I32:
        return DTYPE_I32;
    default:
        return DTYPE_F32;
    }
}
/* data is NULL where the argument is absent. */
static inline cuda_array cuda_kernel_array(const kernel_call *call, int argument) {
    const xlstm_array *from = &call->array[argument];
    cuda_array a;
    a.data = from->data;
    a.type = (int)cuda_kernel_type(from);
    for (int i = 0; i < XLSTM_MAX_RANK; i++)
        a.stride[i] = from->data && i < from->rank ? from->stride[i] : 0;
    return a;
}

/* ---- The groups ---- */

/* Listed in the table of the device (kernel_table.c), beside the function of the same name that tells the workspace
 * where one is needed. */
xlstm_status cuda_kernel_mlstm(const kernel_call *call);
xlstm_status cuda_kernel_mlstm_workspace(const kernel_call *call, size_t *bytes);
xlstm_status cuda_kernel_slstm(const kernel_call *call);
xlstm_status cuda_kernel_slstm_workspace(const kernel_call *call, size_t *bytes);
xlstm_status cuda_kernel_conv1d(const kernel_call *call);
xlstm_status cuda_kernel_conv1d_workspace(const kernel_call *call, size_t *bytes);
xlstm_status cuda_kernel_headwise(const kernel_call *call);
xlstm_status cuda_kernel_headwise_workspace(const kernel_call *call, size_t *bytes);
xlstm_status cuda_kernel_rms_norm(const kernel_call *call);
xlstm_status cuda_kernel_layer_norm(const kernel_call *call);
xlstm_status cuda_kernel_norm_workspace(const kernel_call *call, size_t *bytes);
xlstm_status cuda_kernel_soft_cap(const kernel_call *call);
xlstm_status cuda_kernel_swiglu(const kernel_call *call);
xlstm_status cuda_kernel_gelu_gate(const kernel_call *call);
xlstm_status cuda_kernel_cross_entropy(const kernel_call *call);

extern const kernel_table cuda_kernel_table;

/* ---- Launches ---- */

/* On options.stream. */
xlstm_status cuda_kernel_launch(const kernel_call *call, const cuda_launch *launch);

#ifdef __cplusplus
}

/* The launch of a kernel with its one argument; does nothing where *status is an error already. */
template <class A>
inline void cuda_kernel_run(const kernel_call *call, xlstm_status *status, const char *name,
                            void (*kernel)(A), dim3 grid, unsigned threads, size_t shared,
                            const A &arguments) {
    cuda_launch launch = cuda_launch_of(name, kernel, grid, threads, shared, arguments);
    if (*status == XLSTM_OK)
        *status = cuda_kernel_launch(call, &launch);
}
#endif

#endif
