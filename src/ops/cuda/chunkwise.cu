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

int chunkwise_segments(const cuda_chunkwise *c) {
    int values = c->d_qk == 512 ? 64 : c->d_qk == 256 || c->d_v % 256 ? 128 : 256;
    int64_t tasks = c->sequences * c->heads * (c->d_v / values);
    int64_t most = c->tokens / c->sequences / (8 * CHUNK), fill = c->processors / tasks;
    int64_t segments = fill < most ? fill : most, all = CHUNKWISE_SEGMENTS;
    return segments < 1 ? 1 : (int)(segments < all ? segments : all);
}

/* The next `count` elements of `size` bytes; counts alone where base is NULL. */
static void *place(char *base, size_t *used, int64_t count, size_t size) {
    void *at = base ? base + *used : NULL;
    *used += ((size_t)count * size + 1023) / 1024 * 1024;
    return at;
}

static size_t place_all(const cuda_chunkwise *c, const struct chunk_shape *s, bool backward,
                        struct chunk_places *at) {
    char *base = (char *)c->workspace;
    size_t used = 0;
    int64_t chunks = (int64_t)s->places * s->heads, heads = c->sequences * c->heads;
    int segments = chunkwise_segments(c);
    int64_t states = segments > 1 ? segments * heads * c->d_qk * c->d_v : 0;
    at->gates = (struct chunk_gates *)place(base, &used, chunks, sizeof(struct chunk_gates));
    at->factors = (struct chunk_factors *)place(base, &used, chunks, sizeof(struct chunk_factors));
    at->normalizer = (float *)place(base, &used, chunks * c->d_qk, sizeof(float));
    at->denominator = (float *)place(base, &used, chunks * CHUNK, sizeof(float));
    at->scores = (uint16_t *)place(base, &used, chunks * SCORES, sizeof(uint16_t));
    at->states = (float *)place(base, &used, states, sizeof(float));
    if (!backward)
        return used;
    at->delta = (float *)place(base, &used, chunks * CHUNK, sizeof(float));
    at->key_dots = (float *)place(base, &used, chunks * CHUNK, sizeof(float));
    at->dnormalizer = (float *)place(base, &used, chunks * c->d_qk, sizeof(float));
    at->dscores = (uint16_t *)place(base, &used, chunks * SCORES, sizeof(uint16_t));
    at->dstates = (float *)place(base, &used, states, sizeof(float));
    return used;
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
    s.places = c->start ? (int)(c->tokens / CHUNK + 2 * c->sequences) : s.chunks * s.sequences;
    s.start = c->start;
    s.slot = c->slot;
    s.positions = c->positions;
    s.sigmoid = c->sigmoid;
    s.normalize = c->normalize;
    s.exact = c->exact;
    s.eps = (float)c->eps;
    s.scale = (float)(1.0 / sqrt((double)c->d_qk));
    place_all(c, &s, true, &s.at);
    return s;
}

size_t cuda_chunkwise_workspace(const cuda_chunkwise *c, bool backward) {
    struct chunk_shape s = chunkwise_shape(c);
    return place_all(c, &s, backward, &s.at);
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

xlstm_status cuda_chunkwise_forward(cudaStream_t stream, const cuda_chunkwise *c) {
    xlstm_status status = check(c);
    if (status == XLSTM_OK)
        status = chunkwise_run_gates(stream, c);
    if (status == XLSTM_OK)
        status = chunkwise_run_normalizer(stream, c, false);
    if (status == XLSTM_OK)
        status = chunkwise_run_scores(stream, c);
    if (status == XLSTM_OK)
        status = chunkwise_run_borders(stream, c, false);
    return status == XLSTM_OK ? chunkwise_run_sweep(stream, c, CHUNKWISE_H) : status;
}

xlstm_status cuda_chunkwise_backward(cudaStream_t stream, const cuda_chunkwise *c) {
    xlstm_status status = check(c);
    if (status == XLSTM_OK)
        status = chunkwise_run_dscores(stream, c);
    if (status == XLSTM_OK && c->exact)
        status = chunkwise_run_normalizer(stream, c, true);
    if (status == XLSTM_OK)
        status = chunkwise_run_sweep(stream, c, CHUNKWISE_DQ);
    if (status == XLSTM_OK)
        status = chunkwise_run_borders(stream, c, true);
    if (status == XLSTM_OK)
        status = chunkwise_run_sweep(stream, c, CHUNKWISE_DV);
    if (status == XLSTM_OK)
        status = chunkwise_run_sweep(stream, c, CHUNKWISE_DK);
    return status == XLSTM_OK ? chunkwise_run_gate_gradients(stream, c) : status;
}
