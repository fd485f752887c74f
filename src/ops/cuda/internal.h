/* What the files of the CUDA device share on the host's side: the stream, launches of kernels, scratch
 * memory, faults. Read by C (cuda.c and other files without kernels) and by C++ (*.cu, each a family of ops:
 * its kernels, and the functions of the seam that launch them).
 *
 * Kernels take one argument, a struct by value, declared `const __grid_constant__ struct X a`. They are
 * launched with programmatic serialisation: a kernel may begin while the one before it still runs, so
 *   - every thread calls cuda_wait() (device.h) before it touches memory that any kernel writes, and before it
 *     returns, whatever it does; constants (weights) may be fetched before that;
 *   - cuda_release() lets the next kernel begin; without it that happens when the last block has ended. Where it stands
 *     behind cuda_wait(), all that was enqueued before has ended when the next kernel begins, which may read at once what
 *     this kernel does not write (mlstm_stream.h).
 * Those that run together (chain.h) are launched without it, and do neither.
 */
#ifndef OPS_CUDA_INTERNAL_H
#define OPS_CUDA_INTERNAL_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "ops/expect.h"
#include "ops/ops.h"

/* A GPU, which is one device of the seam. */
typedef struct cuda_gpu {
    ops_device base;
    int ordinal;
    bool known; /* what follows has been read */
    int processors, major, minor;
    size_t shared_bytes; /* most of a block */
    size_t level2_bytes;
    char name[256];
} cuda_gpu;

/* What kernels find wrong while they run. They leave ~row of the lowest row at fault in a word a kind: the
 * maximum of what threads say. The host reads and clears the words when it waits (reads.c). */
enum cuda_fault {
    CUDA_FAULT_EMBED,     /* an id that is no row of the table */
    CUDA_FAULT_TAKE_ROWS, /* an index that is no row */
    CUDA_FAULT_SAMPLE,    /* a logit that is NaN or +inf */
    CUDA_FAULT_EMPTY,     /* no finite logit */
    CUDA_FAULT_BATCH, /* starts, slots or positions that are not as ops_batch says; the row is the sequence */
    CUDA_FAULTS
};

/* Scratch tensors of a stream, placed once (cuda_place_*). What stands in them does not outlive an op,
 * but for the faults, the chains' steps and counter, and the arrivals of the mLSTM, which are 0 between launches. */
typedef struct cuda_scratch {
    ops_tensor faults;        /* u32 [CUDA_FAULTS] */
    ops_tensor halves;        /* bf16 [tokens][width], the same for tensor cores */
    ops_tensor unpacked;      /* bf16: a matrix of quantised weights, for tensor cores */
    ops_tensor bytes, scales; /* e4m3 [tokens][width], f32 [tokens]: rows as fp8.h has them */
    ops_tensor mlstm, sample; /* each family's own, bytes */
    ops_tensor chain, chain_counters; /* steps of chains; of their barrier and claims (chain.h) */
    ops_tensor chunkwise;             /* bytes, of the mLSTM of prompts (mlstm_chunkwise.h) */
} cuda_scratch;

/* Spans that are to become 0 before anything else is enqueued (transfer.cu). */
enum { CUDA_MOST_ZEROS = 192 };
struct cuda_zeros {
    int count;
    struct {
        char *to;
        size_t size;
    } span[CUDA_MOST_ZEROS];
};

/* Small writes that wait likewise, behind the zeros; their bytes travel as a kernel's argument. */
enum { CUDA_MOST_PUT = 3072, CUDA_MOST_SPANS = 16 };
struct cuda_puts {
    int count;
    struct {
        char *to;
        unsigned first, size; /* of `bytes` */
    } span[CUDA_MOST_SPANS];
    uint8_t bytes[CUDA_MOST_PUT];
};

typedef struct cuda_stream {
    ops_stream base;
    cuda_gpu *gpu;
    cudaStream_t stream;
    ops_check check; /* the first failure since the last wait */
    ops_buffer arena;
    cuda_scratch scratch;
    bool rehearsing; /* kernels are loaded, and not run */
    bool
        written; /* the last kernel was a write of the host, perhaps of what the next takes as constant */
    struct cuda_reads *reads; /* what ops leave for the host */
    unsigned enqueued;        /* things, so far */
    unsigned ended;           /* the host knows that the first so many have */
    struct fp8_weights *fp8;  /* with the option `fp8`: fp8.h */
    struct cuda_zeros zeros;
    struct cuda_puts puts;
    struct cuda_chain *chain; /* steps of one token that are not launched yet (chain.h), or NULL */
    struct cuda_beside *beside; /* beside.h, or NULL */
} cuda_stream;

/* ---- Calls of the runtime ---- */

/* Whether it went well; else the stream fails with the call's name and the runtime's reason. */
bool cuda_check(cuda_stream *s, cudaError_t error, const char *call);
/* The same as a status with an error (base/error.h). */
xlstm_status cuda_status(cudaError_t error, const char *call);
/* Makes the GPU the calling thread's. */
xlstm_status cuda_enter(const cuda_gpu *gpu);

/* ---- Launches ---- */

typedef struct cuda_launch {
    const void *kernel;
    const char *name;      /* for errors */
    const void *arguments; /* the struct that the kernel takes by value */
    unsigned grid[3];      /* 0 counts as 1 */
    unsigned threads;
    size_t shared;    /* bytes of dynamic shared memory */
    unsigned cluster; /* blocks of a cluster along the first dimension; 0: none */
    bool alone;       /* begins when everything before has ended (no programmatic serialisation) */
    bool together;    /* alone, and all of its blocks run at once */
} cuda_launch;

/* Enqueues on any stream of the current GPU. */
xlstm_status cuda_enqueue(cudaStream_t stream, const cuda_launch *launch);
/* Does nothing on a stream that has failed, and only loads the kernel on one that rehearses. */
void cuda_run_launch(cuda_stream *s, const cuda_launch *launch);
/* Launches the steps of a token that ops have left behind (chain.h), before anything else is enqueued. */
void cuda_flush(cuda_stream *s);

/* ---- Memory ---- */

/* Where the tensor's first element is, on the GPU; NULL if it is absent. */
static inline void *cuda_at(const ops_tensor *t) {
    return t->buffer ? (char *)t->buffer->handle + t->offset : NULL;
}
/* The words of the faults, for kernels. */
static inline unsigned *cuda_fault_words(const cuda_stream *s) {
    return (unsigned *)cuda_at(&s->scratch.faults);
}
/* Before the `launches` kernels of an op whose output, ids, the host will read soon (sample): where they tell the host each of
 * them (told.h). Reads of these ids wait for those kernels, and not for what comes behind. */
enum { CUDA_TOLD_WRONG = 32, CUDA_TOLD_NUMBER }; /* bits of a word above the id */
struct cuda_told {
    unsigned long long *words; /* [ids]; NULL: nobody waits */
    unsigned number;           /* of the read, 31 bits */
};
struct cuda_told cuda_expect_ids(cuda_stream *s, const ops_tensor *out, int launches);

/* Hands out pieces of the arena, 256-byte aligned; without a buffer it only counts. */
typedef struct cuda_carver {
    ops_buffer *buffer;
    size_t used;
    bool overflow;
} cuda_carver;
ops_tensor cuda_carve(cuda_carver *c, dtype type, int rank, const int64_t *shape);

/* The scratch of each family, for the stream's options (ops_limits say the largest sizes). */
void cuda_place_project(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s);
void cuda_place_products(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s);
void cuda_place_chain(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s);
void cuda_place_mlstm(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s);
void cuda_place_sample(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s);

/* ---- The ops ---- */

void cuda_embed(ops_stream *, const struct ops_embed *);
void cuda_take_rows(ops_stream *, const struct ops_take_rows *);
void cuda_sum(ops_stream *, const struct ops_sum *);
void cuda_normalize(ops_stream *, const struct ops_normalize *);
void cuda_norm_project(ops_stream *, const struct ops_norm_project *);
void cuda_norm_project_gated(ops_stream *, const struct ops_norm_project_gated *);
void cuda_project_add(ops_stream *, const struct ops_project_add *);
void cuda_mlstm_output(ops_stream *, const struct ops_mlstm_output *);
void cuda_mlstm(ops_stream *, const struct ops_mlstm *);
void cuda_causal_conv(ops_stream *, const struct ops_causal_conv *);
void cuda_headwise(ops_stream *, const struct ops_headwise *);
void cuda_slstm(ops_stream *, const struct ops_slstm *);
void cuda_sample(ops_stream *, const struct ops_sample *);
void cuda_retire(ops_stream *, const struct ops_retire *);

#ifdef __cplusplus
}

/* The launch of a kernel with its one argument, which is to outlive it. */
template <class A>
inline cuda_launch cuda_launch_of(const char *name, void (*kernel)(A), dim3 grid, unsigned threads,
                                  size_t shared, const A &arguments) {
    cuda_launch launch = {};
    launch.kernel = (const void *)kernel;
    launch.name = name;
    launch.arguments = &arguments;
    launch.grid[0] = grid.x;
    launch.grid[1] = grid.y;
    launch.grid[2] = grid.z;
    launch.threads = threads;
    launch.shared = shared;
    return launch;
}

template <class A>
inline void cuda_run(cuda_stream *s, const char *name, void (*kernel)(A), dim3 grid,
                     unsigned threads, size_t shared, const A &arguments) {
    cuda_launch launch = cuda_launch_of(name, kernel, grid, threads, shared, arguments);
    cuda_run_launch(s, &launch);
}
#endif

#endif
