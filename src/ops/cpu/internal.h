/* What the files of the CPU device share: the stream with its scratch memory, and checks of
 * arguments.
 *
 * An op runs at once, on the caller's thread and the pool's; "enqueued" means done. It checks its
 * arguments, cuts the work into tasks whose results do not depend on the cut, and calls kernels.
 * All scratch memory is one block, taken when the stream is created.
 */
#ifndef OPS_CPU_INTERNAL_H
#define OPS_CPU_INTERNAL_H

#include "base/threads.h"
#include "ops/cpu/kernels.h"
#include "ops/expect.h"
#include "ops/kernels.h"
#include "ops/ops.h"

#include <math.h>

enum {
    CPU_CHUNK = 64, /* the device's choice */
    CPU_LONGEST_CHUNK = 128,
    CPU_TASK_ROWS = 128,   /* most weight rows of a task of tiles */
    CPU_PASS_TOKENS = 528, /* most tokens it multiplies before it ends them */
    CPU_CELL_SEQUENCES = 8 /* that share the recurrent weights of the sLSTM in one task */
};

typedef struct cpu_candidate {
    double logit;
    int32_t id;
} cpu_candidate;

/* Scratch memory of one thread. */
typedef struct cpu_worker {
    float *product;        /* [CPU_PRODUCT_SCRATCH] */
    float *z, *z_up;       /* [CPU_PANEL_TOKENS][CPU_PANEL_ROWS] */
    float *bias, *bias_up; /* [CPU_PANEL_ROWS] */
    /* Of tiles, in the profile fast: a panel, sums, and the same token by token. */
    void *panel;
    float *sums, *sums_up;           /* [CPU_TASK_ROWS][CPU_PASS_TOKENS] in an order of their own */
    float *tile_z, *tile_z_up;       /* [CPU_TILE_TOKENS][CPU_TASK_ROWS] */
    float *tile_bias, *tile_bias_up; /* [CPU_TASK_ROWS] */
    float *cell;                     /* [CPU_CELL_SEQUENCES][5][d_v]: y and gates of the sLSTM */
    float *taps;                     /* [OPS_MAX_TAPS][CPU_PANEL_ROWS] */
    cpu_candidate *candidates;       /* [vocab] */
} cpu_worker;

typedef struct cpu_stream {
    ops_stream base;
    const cpu_kernels *kernels;
    thread_pool *pool;
    ops_check check; /* the first failure since the last wait */
    void *arena;
    float *rows;     /* [tokens][cpu_row_stride(width)]: the input of the current projection */
    void *packed;    /* the same for tiles, in the profile fast */
    void *quantised; /* [cpu_quantised_size(width)]: the same as integers */
    float *norm_weight, *norm_bias; /* [width] */
    struct cpu_sequence *sequences; /* [sequences] of an mLSTM call */
    void *mlstm;                    /* [cpu_mlstm_scratch] */
    cpu_worker *workers;            /* [threads] */
} cpu_stream;

/* Of rows in the scratch memory: not a power of two, or the rows would share the sets of a cache.
 */
static inline int64_t cpu_row_stride(int64_t width) {
    return (width + CPU_PADDING - 1) / CPU_PADDING * CPU_PADDING + CPU_PADDING;
}

static inline int64_t cpu_quantised_size(int64_t width) {
    return (width + CPU_DOT_GROUP - 1) / CPU_DOT_GROUP * CPU_DOT_GROUP * CPU_DOT_BYTES;
}

static inline int64_t cpu_padded(int64_t count) {
    return (count + CPU_PADDING - 1) / CPU_PADDING * CPU_PADDING;
}

/* `value` as a float; infinity where it is too large for one. */
static inline float cpu_to_float(double value) {
    return value > 3.4028234663852886e38 ? INFINITY : (float)value;
}

static inline float *cpu_row(const ops_tensor *t, int64_t row) {
    return (float *)ops_data(t) + row * t->stride[0];
}

/* The input of a projection: norm(x) in the scratch memory, or x itself. Rows are padded. */
typedef struct cpu_input {
    const float *rows;
    int64_t stride;
} cpu_input;
/* x has rows of `width` floats. */
cpu_input cpu_normalized(cpu_stream *s, const ops_tensor *x, int64_t width, const ops_norm *norm);
/* act(gate) * (norm(h) + skip * skip_input), of an mlstm_output. */
cpu_input cpu_gated(cpu_stream *s, const struct ops_mlstm_output *op, int64_t width);

/* Bytes of scratch memory that the mLSTM needs within these limits. */
int64_t cpu_mlstm_scratch(const cpu_library *library, const ops_limits *limits, int threads);

void cpu_embed(ops_stream *, const struct ops_embed *);
void cpu_take_rows(ops_stream *, const struct ops_take_rows *);
void cpu_sum(ops_stream *, const struct ops_sum *);
void cpu_normalize(ops_stream *, const struct ops_normalize *);
void cpu_norm_project(ops_stream *, const struct ops_norm_project *);
void cpu_norm_project_gated(ops_stream *, const struct ops_norm_project_gated *);
void cpu_project_add(ops_stream *, const struct ops_project_add *);
void cpu_mlstm_output(ops_stream *, const struct ops_mlstm_output *);
void cpu_mlstm(ops_stream *, const struct ops_mlstm *);
void cpu_causal_conv(ops_stream *, const struct ops_causal_conv *);
void cpu_headwise(ops_stream *, const struct ops_headwise *);
void cpu_slstm(ops_stream *, const struct ops_slstm *);
void cpu_sample(ops_stream *, const struct ops_sample *);
void cpu_retire(ops_stream *, const struct ops_retire *);

/* Of a call of the mLSTM: whether all_c, all_n and all_m are inputs; whether a forward is wanted. */
bool cpu_mlstm_reads_states(const kernel_call *call);
bool cpu_mlstm_has_forward(const kernel_call *call);

/* Kernels of the mLSTM in two-float arithmetic; f32. */
xlstm_status cpu_kernel_mlstm_compensated(const kernel_call *call);

/* A pool of so many threads (0: all), which nobody else uses until it is given back. */
xlstm_status cpu_pool_take(int threads, thread_pool **pool);
void cpu_pool_give_back(thread_pool *pool);
/* At least `size` bytes of scratch memory, aligned to 64; SIZE_MAX is too much. */
typedef struct cpu_block {
    void *memory;
    size_t size;
} cpu_block;
xlstm_status cpu_block_take(size_t size, cpu_block *scratch);
void cpu_block_give_back(cpu_block *scratch);

xlstm_status cpu_kernel_mlstm(const kernel_call *);
xlstm_status cpu_kernel_slstm(const kernel_call *);
xlstm_status cpu_kernel_conv1d(const kernel_call *);
xlstm_status cpu_kernel_headwise(const kernel_call *);
xlstm_status cpu_kernel_rms_norm(const kernel_call *);
xlstm_status cpu_kernel_layer_norm(const kernel_call *);
xlstm_status cpu_kernel_soft_cap(const kernel_call *);
xlstm_status cpu_kernel_swiglu(const kernel_call *);
xlstm_status cpu_kernel_gelu_gate(const kernel_call *);
xlstm_status cpu_kernel_cross_entropy(const kernel_call *);

extern const kernel_table cpu_kernel_table;

#endif
