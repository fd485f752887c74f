/* What the files of the Metal device share: the stream, dispatches of kernels, scratch memory.
 *
 * The seam's ops are plain C here: each checks its arguments, picks a kernel by name and a grid, and
 * hands both to metal_run, which encodes. Objective-C is in host.m alone, behind host.h.
 *
 * Commands run concurrently; metal_run puts a barrier in front of a dispatch that touches what one
 * since the last barrier has written, or writes what one has read. Operands are whole spans of
 * memory, so a kernel must say of each whether it writes.
 */
#ifndef OPS_METAL_INTERNAL_H
#define OPS_METAL_INTERNAL_H

#include "ops/expect.h"
#include "ops/metal/host.h"
#include "ops/ops.h"

enum { METAL_MOST_OPERANDS = 30, METAL_SIMD = 32 /* lanes of a SIMD-group, checked at start */ };

typedef struct metal_operand {
    const ops_tensor *tensor; /* absent: a buffer that the kernel must not touch is bound */
    bool written;
} metal_operand;

/* One dispatch. The kernel's [[buffer(0)]] are the arguments, a struct of arguments.h; [[buffer(1 + i)]]
 * is operand i, bound at the multiple of METAL_ALIGNMENT bytes at or below its first element: what is
 * left is metal_first elements, for the kernel to add. */
typedef struct metal_dispatch {
    const char *kernel;
    const void *arguments;
    size_t argument_bytes; /* <= 4096 */
    metal_operand operand[METAL_MOST_OPERANDS];
    int operands;
    uint32_t groups[3]; /* threadgroups of the grid; 0 counts as 1 */
    uint32_t threads;   /* of a threadgroup, in one dimension; a multiple of METAL_SIMD */
    uint32_t
        threadgroup_bytes; /* of [[threadgroup(0)]], a multiple of 16; 0: the kernel has none */
} metal_dispatch;

/* Scratch tensors of a stream, placed once (metal_place_*). They are shared by all ops: what stands in
 * them does not outlive an op. */
typedef struct metal_scratch {
    ops_tensor rows;    /* [tokens][width]: the input of a projection of several tokens */
    ops_tensor halves;  /* f16, the same for tiles, each row times a power of two */
    ops_tensor factors; /* [tokens]: what undoes it */
    ops_tensor mlstm_gates, mlstm_states; /* tables and chunk states of the chunkwise mLSTM */
    ops_tensor mlstm_sums;                /* what the steps' parts leave for each other */
    ops_tensor sample;
    ops_tensor
        faults; /* what kernels found wrong (faults.h); not scratch: it lasts to the next wait */
} metal_scratch;

typedef struct metal_stream {
    ops_stream base;
    metal_gpu *gpu;
    metal_commands *commands;
    ops_check check; /* the first failure since the last wait */
    ops_buffer arena;
    metal_scratch scratch;
    struct metal_hazards *hazards;
    bool rehearsing; /* kernels are made, and not run */
} metal_stream;

/* Waits for everything that was enqueued; false where something failed, which the stream then has. */
bool metal_finish(metal_stream *s);
/* Does nothing on a stream that has failed (ops_failed(&s->check)), and only finds the kernel on one that rehearses. */
void metal_run(metal_stream *s, const metal_dispatch *d);
/* Elements (of blocks: bytes) from the address that is bound to the tensor's first. */
uint32_t metal_first(const ops_tensor *t);
/* enum metal_type (types.h); METAL_TYPES where the kernels do not have it. */
uint32_t metal_type_of(dtype type);

/* Hands out pieces of the arena; without a buffer it only counts. */
typedef struct metal_carver {
    ops_buffer *buffer;
    size_t used;
    bool overflow;
} metal_carver;
ops_tensor metal_carve(metal_carver *c, dtype type, int rank, const int64_t *shape);

/* The scratch of each family, for the stream's options. */
void metal_place_project(metal_carver *c, const ops_stream_options *o, metal_scratch *s);
void metal_place_mlstm(metal_carver *c, const ops_stream_options *o, metal_scratch *s);
void metal_place_sample(metal_carver *c, const ops_stream_options *o, metal_scratch *s);
void metal_place_faults(metal_carver *c, metal_scratch *s);
/* Whether commands, of which some may be under way, have found anything wrong so far. */
bool metal_has_faults(const metal_stream *s);
/* Once the stream's commands are done: what they found wrong fails the stream, and is forgotten. */
void metal_take_faults(metal_stream *s);

/* The entry `facts` of the device. */
xlstm_status metal_tell_facts(ops_device *self, ops_profile profile, ops_fact *facts, int *count);

/* The ops. */
void metal_embed(ops_stream *, const struct ops_embed *);
void metal_take_rows(ops_stream *, const struct ops_take_rows *);
void metal_sum(ops_stream *, const struct ops_sum *);
void metal_normalize(ops_stream *, const struct ops_normalize *);
void metal_norm_project(ops_stream *, const struct ops_norm_project *);
void metal_norm_project_gated(ops_stream *, const struct ops_norm_project_gated *);
void metal_project_add(ops_stream *, const struct ops_project_add *);
void metal_mlstm_output(ops_stream *, const struct ops_mlstm_output *);
void metal_mlstm(ops_stream *, const struct ops_mlstm *);
void metal_causal_conv(ops_stream *, const struct ops_causal_conv *);
void metal_headwise(ops_stream *, const struct ops_headwise *);
void metal_slstm(ops_stream *, const struct ops_slstm *);
void metal_sample(ops_stream *, const struct ops_sample *);
void metal_retire(ops_stream *, const struct ops_retire *);

#endif
