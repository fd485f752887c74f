/* Chains: what one token needs, from the first projection to the last, by one kernel (chain_kernel.h).
 *
 * Decoding is reading the weights, and the memory idles wherever one kernel waits for another. So ops of a single token are
 * not launched when they are called: they become the steps of a chain, and one kernel whose blocks stay on the GPU runs
 * all of them, with a barrier of the grid between two. It asks for the weights of the next steps while it waits. A chain
 * ends, and is launched, when anything else is enqueued or the stream is waited for (cuda_flush, internal.h), and where
 * weights of another type, or more than fits, would follow.
 *
 * The steps lie in device memory. Those of the last few chains are kept there, since tokens are alike: what differs
 * from one to the next (ids, slots, positions) stands in tensors. */
#ifndef OPS_CUDA_CHAIN_H
#define OPS_CUDA_CHAIN_H

#include "ops/cuda/gemv.h"
#include "ops/cuda/mlstm_step.h"

enum chain_kind { CHAIN_PROJECT, CHAIN_MLSTM };
enum {
    CHAIN_WARPS = 8,    /* of a block that stream rows, each through a ring */
    CHAIN_FETCHERS = 2, /* warps that fetch, each for half of those */
    /* One more warp takes the few, and one claims. */
    CHAIN_THREADS = (CHAIN_WARPS + CHAIN_FETCHERS + 2) * WARP,
    CHAIN_STEPS = 256, /* at most */
    /* Steps whose arguments are in shared memory: that which runs, and up to three ahead. */
    CHAIN_NEAR = 4,
    CHAIN_DEPTH = 16, /* most stages of a ring */
    CHAIN_LINE = 128, /* bytes of memory that bulk copies move together */
    CHAIN_CLAIMS = 2  /* chunks whose items are there for the warps that fetch */
};

/* How the rows of a projection are dealt out. A line is a row of a matrix. An item, the work of one warp, is a piece of as
 * many lines as the variant has rows; a group is the items of the lines that end together: those of one item, or, gated,
 * first of the gate and then the same of `up`. A chunk, which blocks claim one after the other, has `chunk_groups` groups. */
struct chain_division {
    int groups, chunks;
    int group_lines, group_items, chunk_groups;
    int pieces, piece_slices;           /* of a line; of a piece, in slices of a stage */
    unsigned by_group_items, by_pieces; /* for chain_quotient() */
    int most; /* chunks that a block takes; 0: any number, and their rows are put out at once */
    int sums; /* behind the input, in floats: the results of the block's groups (chain_results) */
};

struct __attribute__((aligned(16))) chain_step {
    int kind;
    struct chain_division division; /* of a projection */
    union {
        struct gemv_arguments project; /* one token */
        struct mlstm_arguments
            mlstm; /* one sequence of one token, without a ring; slices counted below */
    };
};

/* An item, and what stands beside each of its stages. */
struct __attribute__((aligned(16))) chain_item {
    const uint8_t *at[2]; /* its lines; NULL: none */
    int line;             /* the first; -1: no item, but the end of the block's part of the step */
    int piece;            /* of the line */
    int group;            /* of all that the block has taken in this step; line -1: their number */
    int16_t bulk;         /* the slice behind those that bulk copies take */
    int8_t wide;          /* a bit for each line that copies of 16 bytes can take */
    int8_t joined;        /* its lines come by one copy, one behind the other */
};

/* What a block's shared memory begins with; items of chunks, a step's input, the results of its groups and the rings follow. */
struct chain_head {
    struct chain_step near[CHAIN_NEAR];
    /* Barriers: a step's arguments are there; nothing of it is left to claim or to fetch; the block's input of it is laid. */
    uint64_t step_there[CHAIN_NEAR], step_done[CHAIN_NEAR], step_laid[CHAIN_NEAR];
    /* Chunks: claimed; all warps are past it. Its items, or, behind the last of the step, less than 0. */
    uint64_t claimed[CHAIN_CLAIMS], released[CHAIN_CLAIMS];
    int items[CHAIN_CLAIMS];
    /* Those of the rings: a stage has arrived; it was taken. And the item of each. */
    uint64_t arrived[CHAIN_WARPS][CHAIN_DEPTH], taken[CHAIN_WARPS][CHAIN_DEPTH];
    chain_item item[CHAIN_WARPS][CHAIN_DEPTH];
    int loaded;        /* steps that have come here: known to the warp that loads them */
    int groups;        /* that the block has taken in this step */
    float parts[WARP]; /* of sums over the block */
};

struct chain_arguments {
    const struct chain_step *steps;
    int count;
    int depth;               /* stages of a warp's ring */
    int chunk_items;         /* at most */
    int rings;               /* where they begin in shared memory */
    unsigned *counter, base; /* of the grid's barrier; where it stands before the kernel */
    unsigned *claims;        /* of each step, 0 before the kernel */
    unsigned *clear;         /* those of the next kernel, which this one sets to 0 */
    bool fetches;            /* a warp fetches for all (compute capability 9.0) */
};

typedef void chain_kernel(struct chain_arguments);

/* A kernel for weights of one type, and how it divides its work. */
struct chain_variant {
    chain_kernel *kernel, *plain; /* of any steps; of plain ones */
    int depth, stage_bytes;       /* of a warp's ring */
    int rows, span;               /* of a stage: rows, and bytes of each */
    int elements,
        unit_bytes; /* of a unit: weights, and bytes of activations as integers (0: floats) */
};
/* NULL kernel: not of this file. `integers`: activations of eight bits (integers.h), for weights in blocks. */
chain_variant chain_of_floats(int type);
chain_variant chain_of_four_bits(int type, bool integers);
chain_variant chain_of_more_bits(int type, bool integers);

/* Takes the step into the chain of the stream, or launches that first where they cannot go together. */
void chain_project(cuda_stream *s, const char *name, int type, const gemv_arguments *a);
bool chain_takes_mlstm(const mlstm_arguments *a);
void chain_mlstm(cuda_stream *s, const mlstm_arguments *a);

#endif
