/* The chunkwise mLSTM on tensor cores: what it takes, its workspace, and the chain of kernels of forward and backward
 * (chunkwise_parts.h). */
extern "C" {
#include "base/error.h"
}
#include "ops/cuda/chunkwise_parts.h"

/* ---- What it takes ---- */

static bool refuse(const char **why, const char *text) {
    if (why)
        *why = text;
    return false;
}

static bool aligned(const chunkwise_array *x) {
    return !x->data || ((uintptr_t)x->data % 16 == 0 && x->sequence % 8 == 0 && x->token % 8 == 0 &&
                        x->head % 8 == 0);
}

static bool width_fits(int width) {
    return width == 128 || width == 256 || width == 512;
}

bool cuda_chunkwise_takes(const cuda_chunkwise *c, const char **why) {
    if (c->major != 9)
        return refuse(why, "its tensor cores are not those of compute capability 9.0");
    if (!width_fits(c->d_qk) || !width_fits(c->d_v))
        return refuse(why, "heads should be 128, 256 or 512 wide");
    const int64_t most = 65535; /* of a grid's second and third dimension */
    if (c->tokens > (int64_t)INT32_MAX / 2 || c->sequences > most || c->heads > most)
        return refuse(why, "there are too many tokens, sequences or heads");
    const chunkwise_array *arrays[] = {&c->q, &c->k, &c->v, &c->h, &c->dh, &c->dq, &c->dk, &c->dv};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        if (!aligned(arrays[i]))
            return refuse(why, "addresses and strides should be multiples of 16 bytes");
    return true;
}

/* ---- The workspace ---- */

enum {
    SEGMENT_TOKENS = 8 * CHUNK, /* at least */
    BLOCK_STATE = 256 * 128     /* elements of a state that a block of the sweep has, at most */
};

/* Blocks of the sweep are as many as processors at most, if there is more than one segment. */
int chunkwise_segments(const cuda_chunkwise *c) {
    int values = c->d_qk == 512 ? 64 : c->d_qk == 256 || c->d_v % 256 ? 128 : 256;
    int64_t tasks = c->sequences * c->heads * (c->d_v / values);
    int64_t most = c->tokens / c->sequences / SEGMENT_TOKENS, fill = c->processors / tasks;
    int64_t segments = fill < most ? fill : most, all = CHUNKWISE_SEGMENTS;
    return segments < 1 ? 1 : (int)(segments < all ? segments : all);
}

/* The next `count` elements of `size` bytes; counts alone where base is NULL. */
static void *place(char *base, size_t *used, int64_t count, size_t size) {
    void *at = base ? base + *used : NULL;
    *used += ((size_t)count * size + 1023) / 1024 * 1024;
    return at;
}

/* `states`: elements of C at all borders of segments. */
static size_t place_all(char *base, int64_t chunks, int64_t d_qk, int64_t d_v, int64_t states,
                        bool backward, struct chunk_places *at) {
    size_t used = 0;
    at->gates = (struct chunk_gates *)place(base, &used, chunks, sizeof(struct chunk_gates));
    at->factors = (struct chunk_factors *)place(base, &used, chunks, sizeof(struct chunk_factors));
    at->normalizer = (float *)place(base, &used, chunks * d_qk, sizeof(float));
    at->denominator = (float *)place(base, &used, chunks * CHUNK, sizeof(float));
    at->scores = (uint16_t *)place(base, &used, chunks * SCORES, sizeof(uint16_t));
    at->states = (float *)place(base, &used, states, sizeof(float));
    at->normalizers = (float *)place(base, &used, states / d_v, sizeof(float));
    if (!backward)
        return used;
    at->delta = (float *)place(base, &used, chunks * CHUNK, sizeof(float));
    at->query_dots = (float *)place(base, &used, chunks * d_qk, sizeof(float));
    at->key_dots = (float *)place(base, &used, chunks * d_qk, sizeof(float));
    at->spans = (struct chunk_spans *)place(base, &used, chunks, sizeof(struct chunk_spans));
    at->dnormalizer = (float *)place(base, &used, chunks * d_qk, sizeof(float));
    at->dscores = (uint16_t *)place(base, &used, chunks * SCORES, sizeof(uint16_t));
    at->dstates = (float *)place(base, &used, states, sizeof(float));
    return used;
}

static size_t place_call(const cuda_chunkwise *c, const struct chunk_shape *s, bool backward,
                         struct chunk_places *at) {
    int64_t segments = chunkwise_segments(c), states = c->sequences * c->heads * c->d_qk * c->d_v;
    return place_all((char *)c->workspace, (int64_t)s->places * s->heads, c->d_qk, c->d_v,
                     segments > 1 ? segments * states : 0, backward, at);
}

/* Places of chunks of packed sequences: each may begin and end within one. */
static int64_t packed_places(int64_t tokens, int64_t sequences) {
    return tokens / CHUNK + 2 * sequences;
}

struct chunk_shape chunkwise_shape(const cuda_chunkwise *c) {
    struct chunk_shape s = {};
    s.sequences = (int)c->sequences;
    s.heads = c->heads;
    s.d_qk = c->d_qk;
    s.d_v = c->d_v;
    s.tokens = (int)c->tokens;
    s.offset = (int)(c->position % CHUNK);
    s.chunks = (int)((s.offset + c->tokens + CHUNK - 1) / CHUNK);
    if (!c->start && c->positions)
        s.chunks++;
    s.places = c->start ? (int)packed_places(c->tokens, c->sequences) : s.chunks * s.sequences;
    s.start = c->start;
    s.slot = c->slot;
    s.positions = c->positions;
    s.sigmoid = c->sigmoid;
    s.normalize = c->normalize;
    s.exact = c->exact;
    s.eps = (float)c->eps;
    s.scale = (float)(1.0 / sqrt((double)c->d_qk));
    place_call(c, &s, true, &s.at);
    return s;
}

size_t cuda_chunkwise_workspace(const cuda_chunkwise *c, bool backward) {
    struct chunk_shape s = chunkwise_shape(c);
    return place_call(c, &s, backward, &s.at);
}

size_t cuda_chunkwise_most(int64_t tokens, int64_t sequences, int64_t heads, int64_t d_qk,
                           int64_t d_v, int64_t processors) {
    int64_t blocks = processors * BLOCK_STATE, whole = tokens / SEGMENT_TOKENS * heads * d_qk * d_v;
    struct chunk_places at;
    return place_all(NULL, packed_places(tokens, sequences) * heads, d_qk, d_v,
                     blocks < whole ? blocks : whole, false, &at);
}

xlstm_status chunkwise_map(tile_map *map, const cuda_chunkwise *c, const chunkwise_array *x,
                           int width) {
    tile_tensor t = {};
    t.data = x->data;
    t.size[0] = width;
    t.size[1] = c->tokens;
    t.size[2] = c->heads;
    t.size[3] = c->start ? 1 : c->sequences;
    t.stride[0] = 1;
    t.stride[1] = x->token;
    t.stride[2] = x->head;
    t.stride[3] = x->sequence;
    return tile_map_make(map, &t, CHUNK, TILE_COLUMNS);
}

/* ---- Forward and backward ---- */

static xlstm_status check(const cuda_chunkwise *c) {
    const char *why = NULL;
    if (!cuda_chunkwise_takes(c, &why))
        return error_set(XLSTM_UNSUPPORTED, "the chunkwise mLSTM on tensor cores: %s", why);
    return XLSTM_OK;
}

xlstm_status cuda_chunkwise_forward(const cuda_chunkwise *c) {
    xlstm_status status = check(c);
    if (status == XLSTM_OK)
        status = chunkwise_run_gates(c);
    bool whole = chunkwise_whole_heads(c);
    if (status == XLSTM_OK)
        status = whole ? chunkwise_run_tables(c) : chunkwise_run_normalizer(c, false);
    if (status == XLSTM_OK && !whole)
        status = chunkwise_run_scores(c);
    if (status == XLSTM_OK)
        status = chunkwise_run_borders(c, false);
    return status == XLSTM_OK ? chunkwise_run_sweep(c, CHUNKWISE_H) : status;
}

xlstm_status cuda_chunkwise_backward(const cuda_chunkwise *c) {
    xlstm_status status = check(c);
    if (status == XLSTM_OK && (c->exact || !chunkwise_whole_heads(c)))
        status = chunkwise_run_dscores(c);
    if (status == XLSTM_OK && c->exact)
        status = chunkwise_run_normalizer(c, true);
    if (status == XLSTM_OK)
        status = chunkwise_run_sweep(c, CHUNKWISE_DQ);
    if (status == XLSTM_OK)
        status = chunkwise_run_borders(c, true);
    if (status == XLSTM_OK)
        status = chunkwise_run_sweep(c, CHUNKWISE_DV);
    if (status == XLSTM_OK)
        status = chunkwise_run_sweep(c, CHUNKWISE_DK);
    return status == XLSTM_OK ? chunkwise_run_gate_gradients(c) : status;
}
