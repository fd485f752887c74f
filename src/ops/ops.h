/* The seam: every operation on device tensors, and what a device must provide.
 *
 * An op is as large as the maths of xLSTM makes natural (norm + projections, a whole mLSTM over a batch of
 * sequences), so that every device can fuse it; the device picks its own way (matrix-vector or matrix-matrix, chunk
 * length, tiling). Ops are enqueued on a stream and return at once; only wait and read block. Errors stick to the
 * stream and come out of the next wait; after an error, ops of the stream do nothing. No op allocates: a stream gets
 * its scratch when it is created, from the limits given there.
 *
 * Shapes are written [outer][inner]. T is the number of packed tokens of a batch, D the model width. Activations
 * are f32 (f64 where the device says so), matrices of weights any floating-point type or blocks of quantised
 * values (base/blocks.h), other weights any floating-point type, accumulation f32 or better; the maximum is taken
 * before every exp, so that no exponent argument is positive.
 */
#ifndef OPS_OPS_H
#define OPS_OPS_H

#include "base/dtype.h"
#include "xlstm.h"

typedef struct ops_device ops_device;
typedef struct ops_stream ops_stream;
struct kernel_table;
typedef struct ops_fact ops_fact;   /* facts.h */
typedef struct ops_piece ops_piece; /* gather.h */

/* ---- Tensors ---- */

/* A span of device memory. `host` is its address where the processor has one, NULL elsewhere;
 * where the device works ahead, what stands there is known after a wait only. */
typedef struct ops_buffer {
    ops_device *device;
    void *host;
    size_t size;    /* bytes */
    size_t longest; /* bytes that a tensor in it may span; 0: all */
    void *handle;   /* the device's own */
} ops_buffer;

enum { OPS_MAX_RANK = 4 };
/* A view into a buffer. Strides are in elements and the innermost is 1. buffer == NULL: absent. Where
 * the type is one of blocks, rows are whole blocks. */
typedef struct ops_tensor {
    ops_buffer *buffer;
    size_t offset; /* bytes */
    dtype dtype;
    int rank;
    int64_t shape[OPS_MAX_RANK], stride[OPS_MAX_RANK];
} ops_tensor;

static inline bool ops_present(const ops_tensor *t) {
    return t->buffer != NULL;
}
/* A contiguous tensor at `offset`. */
ops_tensor ops_tensor_make(ops_buffer *buffer, size_t offset, dtype type, int rank,
                           const int64_t *shape);
int64_t ops_tensor_elements(const ops_tensor *t);
/* Rows [first, first + count) of the outermost dimension. */
ops_tensor ops_tensor_rows(const ops_tensor *t, int64_t first, int64_t count);
/* [T][A * B] seen as [T][A][B], keeping the row stride. */
ops_tensor ops_tensor_split(const ops_tensor *t, int64_t outer, int64_t inner);
/* Address of the first element on a host device. */
static inline void *ops_data(const ops_tensor *t) {
    return (char *)t->buffer->host + t->offset;
}
/* Bytes from one of the outermost rows to the next. */
static inline int64_t ops_row_bytes(const ops_tensor *t) {
    return dtype_bytes(t->dtype, t->stride[0]);
}
/* Whether all of it lies in its buffer, elements aligned, rows whole blocks. */
bool ops_tensor_fits(const ops_tensor *t);

/* ---- Batches and state ---- */

/* Packed tokens of n sequences: sequence s owns tokens [start[s], start[s + 1]) and the state in slot[s]; its first token
 * has absolute position position[s]. Every sequence has a token at least, no position is negative, no slot there twice. */
typedef struct ops_batch {
    int sequences;
    int64_t tokens;      /* start[sequences] */
    int64_t longest;     /* most tokens of one sequence */
    ops_tensor slot;     /* i32 [n] */
    ops_tensor start;    /* i32 [n + 1] */
    ops_tensor position; /* i64 [n] */
} ops_batch;

/* For devices that can see the batch from the host, once its tensors are known to be there: NULL,
 * or what is wrong with the values in it, for states of `slots` slots. Slots that occur twice are
 * not looked for. */
const char *ops_batch_fault(const ops_batch *batch, int64_t slots);

/* ---- Ops ---- */

enum ops_norm_kind { OPS_NORM_NONE, OPS_NORM_RMS, OPS_NORM_LAYER };

/* Over the last dimension, cut into `groups` equal parts, each with its own mean and variance
 * (biased: divided by the count); weight and bias are [width].
 *   OPS_NORM_RMS:    y = x / sqrt(mean(x^2) + eps) * weight [+ bias]
 *   OPS_NORM_LAYER:  y = (x - mean(x)) / sqrt(var(x) + eps) * weight [+ bias]
 *   OPS_NORM_NONE:   y = x */
typedef struct ops_norm {
    enum ops_norm_kind kind;
    int groups;
    double eps;
    ops_tensor weight, bias; /* bias may be absent */
} ops_norm;

/* out [T][N] = cap(x W^T + b), W [N][K]; cap(z) = soft_cap tanh(z / soft_cap), of a cap of 0: z */
typedef struct ops_projection {
    ops_tensor weight, bias; /* bias [N] may be absent */
    double soft_cap;
    ops_tensor out;
    bool later; /* the next op, an mLSTM of whole prompts, does not read out */
} ops_projection;

/* out [T][D] = table[ids]: table [vocab][D], ids i32 [T], each in range. */
struct ops_embed {
    ops_tensor table, ids, out;
};

/* out [n][D] = x[rows]: rows i32 [n]. */
struct ops_take_rows {
    ops_tensor x, rows, out;
};

/* out [T][D] = sum over inputs of sign * input; sign is +1 or -1. out may be inputs[0]. */
enum { OPS_MAX_TERMS = 8 };
struct ops_sum {
    int count;
    ops_tensor input[OPS_MAX_TERMS];
    int sign[OPS_MAX_TERMS];
    ops_tensor out;
};

/* out [T][D] = norm(x). out may be x. */
struct ops_normalize {
    ops_tensor x;
    ops_norm norm;
    ops_tensor out;
};

/* Each projection applied to y = norm(x), x [T][K]. */
enum { OPS_MAX_PROJECTIONS = 8 };
struct ops_norm_project {
    ops_tensor x;
    ops_norm norm;
    int count;
    ops_projection projection[OPS_MAX_PROJECTIONS];
};

/* out [T][F] = act(y G^T + bg) * (y U^T + bu),  y = norm(x): gate G and up U [F][K]
 *   OPS_SILU:  act(z) = z sigmoid(z), which makes it SwiGLU
 *   OPS_GELU:  act(z) = z Phi(z), the form with erf
 *   OPS_RELU:  max(z, 0);  OPS_RELU_SQUARED: its square;  OPS_SIGMOID: 1 / (1 + exp(-z))
 *   OPS_SELU:  scale * (z if z > 0, else alpha (exp(z) - 1)), with the constants of SELU
 *   OPS_IDENTITY: z */
enum ops_activation {
    OPS_SILU,
    OPS_GELU,
    OPS_RELU,
    OPS_RELU_SQUARED,
    OPS_SIGMOID,
    OPS_SELU,
    OPS_IDENTITY
};
struct ops_norm_project_gated {
    ops_tensor x;
    ops_norm norm;
    enum ops_activation activation;
    ops_tensor gate_weight, gate_bias, up_weight, up_bias; /* biases may be absent */
    ops_tensor out;
};

/* out [T][D] = residual + sign * (x W^T + b), x [T][K], W [D][K]
 * An absent residual is 0; out may be residual. */
struct ops_project_add {
    ops_tensor x, weight, bias, residual;
    int sign;
    ops_tensor out;
};

/* The end of an mLSTM layer:
 *   out [T][D] = residual + sign * ((act(o) * (norm(h) + skip * x)) W^T + b)
 * h [T][heads][d_v]; the norm works by head (norm.groups == heads); o, x [T][heads * d_v]; skip
 * [heads * d_v]. xlstm-large: act is OPS_SIGMOID, skip and x are absent. The NeurIPS model: act is
 * OPS_SILU, x the output of the convolution. */
struct ops_mlstm_output {
    ops_tensor h, output_gate;
    enum ops_activation activation; /* OPS_SIGMOID or OPS_SILU */
    ops_tensor skip, skip_input;    /* both or neither; skip is f32 (f64 with f64 activations) */
    ops_norm norm;
    ops_tensor weight, bias, residual;
    int sign;
    ops_tensor out;
};

/* The mLSTM with exponential input gate (xLSTM, Beck et al. 2024, section 2.3), for every sequence
 * of the batch, starting from and updating the state in its slot. For each token and head, with
 * q' = q / sqrt(d_qk):
 *   log_f = log(sigmoid(f))
 *   m'    = max(log_f + m, i)
 *   F     = exp(log_f + m - m')
 *   I     = exp(i - m')
 *   C'    = F C + I k v^T
 *   n'    = F n + I k
 *   h     = q'^T C' / (max(|q'^T n'|, exp(-m')) + eps)
 * i in [-inf, finite], f in [-inf, +inf].
 *   m' = -inf (nothing stored): F = I = 0, so h, C', n' are 0.
 *   i = -inf with f = +inf (padding): C, n, m stay bit-equal.
 *   i = +inf or NaN: NaN in that head's h, C, n there and after, never before.
 *   exp(-m') may overflow to inf: then h is 0.
 * A device may take a sequence in chunks; its chunks begin at absolute positions divisible by the
 * chunk length, so that cutting a prompt at such a position gives the same bits. A batch that is
 * not as ops_batch says (starts, slots, positions) is an error of the stream.
 * Deferral: with `deferred` = R > 0, C, n and m are those of the last position divisible by R, and the tokens since
 * then, at absolute positions t, stand in the rings at t mod R, as they came. They are read out from there, and folded
 * into C and n when the R-th has come. Whole chunks need no ring where R divides their length; else all go through it. */
enum { OPS_MAX_DEFERRED = 64 };
struct ops_mlstm {
    ops_batch batch;
    ops_tensor q, k;                    /* [T][heads][d_qk] */
    ops_tensor v;                       /* [T][heads][d_v] */
    ops_tensor input_gate, forget_gate; /* [T][heads], pre-activations (after their soft cap) */
    ops_tensor c;                       /* [slots][heads][d_qk][d_v]; f32, bf16, f16 (f64) */
    ops_tensor n;                       /* [slots][heads][d_qk], of the type of c */
    ops_tensor m;                       /* [slots][heads] */
    int deferred;              /* R <= OPS_MAX_DEFERRED; 0: every token is folded at once */
    ops_tensor ring_k, ring_v; /* [slots][heads][R][d_qk or d_v]; absent if R is 0 */
    ops_tensor ring_i, ring_f; /* [slots][heads][R]: the gates */
    double eps;
    int chunk_size; /* 0: the device's choice; 1: token by token; else a multiple of 16 up to 128 */
    ops_tensor h;   /* [T][heads][d_v]; must not overlap q, k, v */
};

/* A causal convolution along time, each channel by itself, for every sequence of the batch:
 *   out[t][d] = act(bias[d] + sum over j < K of weight[d][j] x[t - K + 1 + j][d])
 * What lies before the sequence's first token is in its slot: the last K - 1 inputs, the oldest
 * first; afterwards it holds the last K - 1 inputs again. K is 1 to OPS_MAX_TAPS. */
enum { OPS_MAX_TAPS = 64 };
struct ops_causal_conv {
    ops_batch batch;
    ops_tensor x;            /* [T][D] */
    ops_tensor weight, bias; /* [D][K], any floating-point type; [D], may be absent */
    enum ops_activation activation;
    ops_tensor state; /* [slots][K - 1][D]; absent if K is 1 */
    ops_tensor out;   /* [T][D]; must not overlap x */
};

/* A linear map of each head: out [T][heads][O] = x [T][heads][I] W[head]^T + b. */
struct ops_headwise {
    ops_tensor x;
    ops_tensor weight, bias; /* [heads][O][I]; [heads][O], may be absent */
    ops_tensor out;          /* must not overlap x */
};

/* The sLSTM (xLSTM, Beck et al. 2024, section 2.2) or, with `lstm`, the LSTM, for every sequence of
 * the batch, starting from and updating the states in its slot. For each token and unit, with
 *   raw_g = input_g + sum over p of y[p] R[head][p][g][unit] + bias_g,  g in i, f, z, o
 * sLSTM:  log_f = m + log(sigmoid(raw_f))
 *         m' = raw_i where n = 0, else max(raw_i, log_f)
 *         I = min(1, exp(raw_i - m')),  F = min(1, exp(log_f - m'))
 *         c' = F c + I tanh(raw_z),  n' = F n + I,  y' = sigmoid(raw_o) c' / n'
 *         m' = -inf (nothing stored): I = F = 0, so c', n' and y' are 0.
 * LSTM:   c' = sigmoid(raw_f) c + sigmoid(raw_i) tanh(raw_z),  y' = sigmoid(raw_o) tanh(c') */
struct ops_slstm {
    ops_batch batch;
    bool lstm;
    ops_tensor input[4];   /* i, f, z, o: [T][heads][d] */
    ops_tensor recurrent;  /* R [heads][d in][4][d out] as [heads][d][4 * d], f32 (f64) */
    ops_tensor bias;       /* [4][heads][d] as [4][heads * d], f32 (f64) */
    double clip;           /* y is kept within [-clip, clip]; 0: it is not */
    ops_tensor y, c, n, m; /* [slots][heads][d]; n and m absent for the LSTM */
    ops_tensor out;        /* [T][heads][d]: y of every token */
};

/* Chooses ids from logits (after the soft cap). Row r, over ids [0, limit), in double:
 *   1. The logit of a penalised id is divided (positive) or multiplied (negative) by `penalty`,
 *      once an id; listed ids outside [0, limit) are ignored. penalty 0 or 1: off.
 *   2. temperature <= 0: the highest logit, the lowest id on ties; done.
 *   3. Ids in order of falling logit, ties: lower id; p = exp((logit - highest) / temperature).
 *   4. top_k > 0 keeps the first top_k ids.
 *   5. 0 < top_p < 1 keeps the ids up to the first where the running sum of p reaches top_p * (sum of p).
 *   6. min_p > 0 keeps the ids with p >= min_p.
 *   7. The first kept id where the running sum of p exceeds uniform * (sum of the kept p).
 * A logit of -inf is never chosen. A NaN or +inf among [0, limit), or no finite logit at all, is
 * an error of the stream (XLSTM_DEVICE_ERROR) that names the row. */
struct ops_sample_row {
    int32_t limit, top_k;
    float temperature, top_p, min_p, penalty;
    double uniform;
    int32_t penalised_first, penalised_count; /* span of `penalised` */
};
struct ops_sample {
    ops_tensor logits;                 /* [n][vocab] */
    const struct ops_sample_row *rows; /* [n], host memory, read before the call returns */
    ops_tensor penalised;              /* i32: ids, spans by row; may be absent */
    ops_tensor out;                    /* i32 [n] */
};

/* Where ids[s] is one of `ends`, slot[s] becomes `spare`: ops that were enqueued ahead for a sequence
 * that this id ends work on a state that nobody has. */
struct ops_retire {
    ops_tensor ids, slot; /* i32 [n] */
    ops_tensor ends;      /* i32 [k], k >= 1 */
    int32_t spare;        /* >= 0 */
};

/* ---- Devices ---- */

/* The largest sizes a stream will see; scratch memory is taken for them once. */
typedef struct ops_limits {
    int64_t tokens; /* T of a batch */
    int sequences;  /* of a batch */
    int64_t width;  /* last dimension of any input of a norm or projection */
    int heads;
    int64_t head_dim_qk, head_dim_v, vocab; /* head_dim_v: of the sLSTM too */
    dtype activation;                       /* f32, or f64 where the device says so */
    int deferred;                           /* R of struct ops_mlstm, wherever it is not 0 */
} ops_limits;
typedef enum ops_profile { OPS_EXACT, OPS_FAST } ops_profile;
typedef struct ops_stream_options {
    int threads; /* host devices; 0: all */
    bool pin;    /* the cpu device: each on its own processor */
    bool fp8;    /* fast, of more than 128 tokens: factors in e4m3; weights that were rehearsed */
    ops_profile profile;
    ops_limits limits;
} ops_stream_options;

/* The ops of a device. A NULL entry is an op that the device lacks. */
typedef struct ops_table {
    void (*embed)(ops_stream *, const struct ops_embed *);
    void (*take_rows)(ops_stream *, const struct ops_take_rows *);
    void (*sum)(ops_stream *, const struct ops_sum *);
    void (*normalize)(ops_stream *, const struct ops_normalize *);
    void (*norm_project)(ops_stream *, const struct ops_norm_project *);
    void (*norm_project_gated)(ops_stream *, const struct ops_norm_project_gated *);
    void (*project_add)(ops_stream *, const struct ops_project_add *);
    void (*mlstm_output)(ops_stream *, const struct ops_mlstm_output *);
    void (*mlstm)(ops_stream *, const struct ops_mlstm *);
    void (*causal_conv)(ops_stream *, const struct ops_causal_conv *);
    void (*headwise)(ops_stream *, const struct ops_headwise *);
    void (*slstm)(ops_stream *, const struct ops_slstm *);
    void (*sample)(ops_stream *, const struct ops_sample *);
    void (*retire)(ops_stream *, const struct ops_retire *);
} ops_table;

struct ops_device {
    const char *name;
    ops_table ops;
    bool f64;             /* takes f64 activations and states */
    bool ahead;           /* works while the host goes on: tokens are worth enqueuing ahead */
    int64_t narrow_from;  /* fast: from so many tokens on q, k, v, h, o, gated rows are bf16 */
    int64_t batch_tokens; /* its own choice of the most tokens of a batch; 0: that of the host */
    int chunk_size;       /* its own choice for struct ops_mlstm */
    unsigned state_types; /* of C and n: bits 1 << dtype */
    int most_deferred;    /* longest ring of struct ops_mlstm; 0: it has none */
    const struct kernel_table *kernels; /* of the kernel library (kernels.h) */

    /* Memory. buffer_create gives zeroed memory. Of the next two a device has one: buffer_wrap makes host memory (a mapped
     * file), which must outlive the buffer, usable without a copy where it can; buffer_gather copies pieces of it. */
    xlstm_status (*buffer_create)(ops_device *, size_t size, ops_buffer *);
    xlstm_status (*buffer_wrap)(ops_device *, void *host, size_t size, ops_buffer *);
    xlstm_status (*buffer_gather)(ops_device *, size_t, const ops_piece *, size_t, ops_buffer *);
    void (*buffer_free)(ops_buffer *);
    int64_t (*scratch_size)(ops_device *, const ops_stream_options *); /* bytes for stream_create */
    xlstm_status (*stream_create)(ops_device *, const ops_stream_options *, ops_stream **);
    void (*stream_free)(ops_stream *);
    /* While on, ops make what they would run (pipelines), and run nothing. NULL: there is nothing to make. */
    void (*rehearse)(ops_stream *, bool on);
    int (*stream_threads)(const ops_stream *);
    /* Blocks until everything enqueued is done; the first error since the last wait. */
    xlstm_status (*wait)(ops_stream *);
    /* In stream order. read blocks until its data are there. Spans are contiguous, in bytes. */
    void (*write)(ops_stream *, ops_buffer *, size_t offset, const void *source, size_t size);
    xlstm_status (*read)(ops_stream *, const ops_buffer *, size_t offset, void *to, size_t size);
    void (*copy)(ops_stream *, ops_buffer *to, size_t to_offset, const ops_buffer *from,
                 size_t from_offset, size_t size);
    void (*zero)(ops_stream *, ops_buffer *, size_t offset, size_t size);
    /* One line each: what the device is (instruction set, GPU family), and what it computes in. */
    void (*describe)(ops_device *, char *text, size_t size);
    /* All there is to tell (ops/facts.h); fails where the device cannot be used. NULL: describe has it all. */
    xlstm_status (*facts)(ops_device *, ops_profile, ops_fact *facts, int *count);
    /* Whether a matrix times many tokens runs on bf16 tiles, whose speed counts then. NULL: no. */
    bool (*uses_tiles)(ops_device *, ops_profile);
    xlstm_status (*fp8)(ops_device *); /* whether it has that option, or why not; NULL: no */
    xlstm_status (*limit)(ops_device *, int, double *rate); /* facts.h; NULL: the host's count */
};

/* Every stream begins with this; devices put it first in their own struct. */
struct ops_stream {
    ops_device *device;
    ops_stream_options options;
};

/* The device called `name`, or NULL with an error that says what there is and what is missing. */
ops_device *ops_device_find(const char *name);
/* The devices of this build, in order; NULL past the end. */
ops_device *ops_device_at(int index);
/* Names of the ops, in the order of the table, and whether a device has them. NULL past the end. */
const char *ops_name(int index);
bool ops_device_has(const ops_device *device, int index);

#endif
