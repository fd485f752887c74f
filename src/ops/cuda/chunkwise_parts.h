/* What the kernels of the chunkwise mLSTM share (chunkwise.h): how chunks lie in memory, the workspace, and the
 * launches of each file.
 *
 * A call is a chain of kernels. With b_j the sum of log(sigmoid(f)) over a chunk's tokens up to j, m the running
 * maximum, s = 1 / sqrt(d_qk), and per chunk C, n, m the state before it:
 *   gates    (chunkwise_gates.cu)  b_j - m_j, i_l - b_l, m_j; the weights of the chunk's tokens and of the state
 *                                  before it in the state after it: abar_l = exp(b_L - b_l + i_l - m_L), gbar
 *   n        (chunkwise_gates.cu)  the normalizer before every chunk
 *   scores   (chunkwise_scores.cu) P_jl = rho_j s (q_j . k_l) D_jl, D_jl = exp(b_j - b_l + i_l - m_j), as bf16, with
 *                                  rho_j = 1 / (max(|d_j|, exp(-m_j)) + eps), d_j the sum of the row with n's part
 *   sweep    (chunkwise_sweep.cu)  chunk after chunk, with a slice of the state in registers:
 *                                      O_j = sum_l P_jl Z_l + read_j X_j S,   S <- keep S + sum_l write_l Y_l Z_l^T
 * The sweep makes h and all three large gradients:
 *            X   Y   Z   order     P        read             write
 *       h    q   k   v   forward   P        s bbar_j rho_j   abar_l
 *       dQ   dh  v   k   forward   dS       s bbar_j rho_j   abar_l
 *       dK   v   dh  q   backward  dS^T     abar_l           s bbar_j rho_j
 *       dV   k   q   dh  backward  P^T      abar_l           s bbar_j rho_j
 *   with dS_jl = s (rho_j dh_j . v_l + e_j) D_jl.
 * For h the scores of a row, and read_j, are divided by its largest score, top_j, and O_j is multiplied by it in the end: that
 * score is 1 then and loses nothing when it is rounded, which makes h a fifth more accurate. (Not where the sweep makes P
 * itself: it would be 130 us of 840 slower, a second P to write for dV.) */
#ifndef OPS_CUDA_CHUNKWISE_PARTS_H
#define OPS_CUDA_CHUNKWISE_PARTS_H

#include "ops/cuda/chunkwise.h"
#include "ops/cuda/device.h"
#include "ops/cuda/wgmma.h"

enum { CHUNK = 64, SCORES = CHUNK * CHUNK, CHUNKWISE_SEGMENTS = 32 /* most of a sequence */ };

/* ---- The workspace, an element a chunk and head: [chunk place][head] ---- */

/* Of tokens that the chunk lacks: row and column -inf, m 0. */
struct chunk_gates {
    float row[CHUNK];    /* b_j - m_j */
    float column[CHUNK]; /* i_l - b_l */
    float m[CHUNK];
    float before, after; /* m before and after the chunk; until then, what the chunk does to it */
    uint32_t highest[2]; /* bit l / 2 of l % 2: at token l, i_l became m_l */
};

/* As the sweep reads them, by a bulk copy. Of tokens that the chunk lacks: 0, but for `after`, whose outputs nobody takes.
 * `before` and `after` are written for heads of 256/512 alone. */
struct chunk_factors {
    float read[CHUNK];   /* s bbar_j rho_j; s bbar_j until scores are made */
    float write[CHUNK];  /* abar_l */
    float share[CHUNK];  /* e_j / rho_j: how much of n goes with C in dQ */
    float before[CHUNK]; /* h alone, whose scores are P_jl / top_j: s bbar_j rho_j / top_j */
    float after[CHUNK];  /* top_j, the largest of |P_jl|: of h, when all is summed */
    float keep;          /* gbar */
    float unused[3];
};

/* What some tokens do to a sum that comes from behind: it begins anew (cut), and something is added. */
struct span {
    float sum;
    bool cut;
};

/* What the chunk does to the sums of the gates' gradients. */
struct chunk_spans {
    struct span gate, maximum;
};

struct chunk_places {
    struct chunk_gates *gates;
    struct chunk_factors *factors;
    float *normalizer;  /* [d_qk]: n before the chunk */
    float *denominator; /* [CHUNK]: d_j */
    uint16_t *scores;   /* P as a tile; without a backward what h takes, P_jl / top_j */
    float *states;      /* [segment][sequence][head][d_qk][d_v]: C at the borders of segments */
    float *normalizers; /* [segment][sequence][head][d_qk]: n there, where whole heads are swept */
    /* The backward's: */
    float *delta;       /* [CHUNK]: dh_j . h_j, of the exact form alone */
    float *query_dots;  /* [d_qk / 64][CHUNK]: parts of q_j . dq_j */
    float *key_dots;    /* the same of k_l . dk_l */
    float *dnormalizer; /* [d_qk]: dn after the chunk */
    uint16_t *dscores;  /* dS as a tile; until then, what h takes */
    float *dstates;     /* as states */
    struct chunk_spans *spans;
};

/* What all kernels are told. */
struct chunk_shape {
    int sequences, heads, d_qk, d_v;
    int tokens; /* of each sequence, unless packed */
    int offset; /* position % CHUNK of each sequence, unless there are positions */
    int chunks; /* places of chunks of a sequence, unless packed */
    int places; /* of all */
    const int32_t *start, *slot;
    const int64_t *positions;
    bool sigmoid, normalize, exact;
    float eps, scale;
    struct chunk_places at;
};

/* A sequence: its tokens, and where they and its chunks are. */
struct chunk_sequence {
    int batch, first; /* of its tokens, in arrays */
    int tokens, offset;
    int place, chunks;
};

/* A chunk: tokens `first` on of a sequence. */
struct chunk {
    int first, tokens;
};

static __device__ __forceinline__ struct chunk_sequence sequence_at(const struct chunk_shape &a,
                                                                    int i) {
    struct chunk_sequence s;
    s.offset = a.positions ? (int)(a.positions[i] % CHUNK) : a.offset;
    if (a.start) {
        s.batch = 0;
        s.first = a.start[i];
        s.tokens = a.start[i + 1] - s.first;
        s.place = s.first / CHUNK + 2 * i;
    } else {
        s.batch = i;
        s.first = 0;
        s.tokens = a.tokens;
        s.place = i * a.chunks;
    }
    s.chunks = s.tokens > 0 ? (s.offset + s.tokens + CHUNK - 1) / CHUNK : 0;
    return s;
}

/* The sequence that a place of a chunk belongs to. */
static __device__ __forceinline__ int sequence_of(const struct chunk_shape &a, int place) {
    if (!a.start)
        return place / a.chunks;
    int low = 0, high = a.sequences - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (a.start[middle] / CHUNK + 2 * middle <= place)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static __device__ __forceinline__ struct chunk chunk_at(const struct chunk_sequence &s, int index) {
    int from = index * CHUNK - s.offset, to = from + CHUNK;
    struct chunk c;
    c.first = from > 0 ? from : 0;
    c.tokens = (to < s.tokens ? to : s.tokens) - c.first;
    return c;
}

static __device__ __forceinline__ int64_t element_of(const chunkwise_array &x,
                                                     const struct chunk_sequence &s, int token,
                                                     int head) {
    return s.batch * x.sequence + (int64_t)(s.first + token) * x.token + head * x.head;
}

/* NaN if either is. */
static __device__ __forceinline__ float larger(float a, float b) {
    return a != a || b != b ? a + b : fmaxf(a, b);
}

/* ---- Gates that are -inf: chunkwise_gates.cu ---- */

#define LOWEST_LOG -1000.0f
#define LOWEST_MAXIMUM -1e30f

/* Whether anything is stored under this maximum. NaN: yes. */
static __device__ __forceinline__ bool is_something(float m) {
    return !(m <= 0.5f * LOWEST_MAXIMUM);
}

/* ---- The launches ---- */

struct chunk_shape chunkwise_shape(const cuda_chunkwise *c);
/* Into how many segments a sequence is cut, so that few sequences fill the GPU. */
int chunkwise_segments(const cuda_chunkwise *c);
/* Whether a block of the sweep has all values of a head: then it makes the scores of its chunks itself, those of the
 * exact backward excepted, and what is left to the other kernels is less. */
static inline bool chunkwise_whole_heads(const cuda_chunkwise *c) {
    return c->d_qk == 128 && c->d_v == 256;
}
/* Where the scores that h takes are: there is a backward, or there is not. */
static inline uint16_t *chunkwise_h_scores(const cuda_chunkwise *c, const struct chunk_places *at) {
    return c->dh.data ? at->dscores : at->scores;
}
/* A bf16 array by tiles of a chunk's rows. */
xlstm_status chunkwise_map(tile_map *map, const cuda_chunkwise *c, const chunkwise_array *x,
                           int width);

template <class A>
static inline xlstm_status
chunkwise_launch(const cuda_chunkwise *c, const char *name, void (*kernel)(A), dim3 grid,
                 unsigned threads, size_t shared, const A &arguments, unsigned cluster = 1) {
    cuda_launch launch = cuda_launch_of(name, kernel, grid, threads, shared, arguments);
    launch.cluster = cluster > 1 ? cluster : 0;
    if (!c->op)
        return cuda_enqueue(c->stream, &launch);
    cuda_run_launch(c->op, &launch);
    return c->op->check.status;
}

xlstm_status chunkwise_run_gates(const cuda_chunkwise *c);
/* The tables of every chunk alone, which chunkwise_run_normalizer writes, too. */
xlstm_status chunkwise_run_tables(const cuda_chunkwise *c);
/* The normalizers before every chunk, and the last one; backward: dn after every chunk, and of the initial one. */
xlstm_status chunkwise_run_normalizer(const cuda_chunkwise *c, bool backward);
xlstm_status chunkwise_run_scores(const cuda_chunkwise *c);
xlstm_status chunkwise_run_dscores(const cuda_chunkwise *c);

enum chunkwise_target { CHUNKWISE_H, CHUNKWISE_DQ, CHUNKWISE_DK, CHUNKWISE_DV };
xlstm_status chunkwise_run_sweep(const cuda_chunkwise *c, enum chunkwise_target target);
/* C (backward: dC) at the borders of segments. */
xlstm_status chunkwise_run_borders(const cuda_chunkwise *c, bool backward);
xlstm_status chunkwise_run_gate_gradients(const cuda_chunkwise *c);

#endif
