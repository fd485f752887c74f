/* Weights in e4m3, beside those of the file: one buffer, taken when a rehearsal has shown which matrices are multiplied
 * by many tokens. Each row is multiplied so that its largest magnitude becomes 448. */
#include "ops/cuda/fp8.h"

#include <stdlib.h>

#include "base/error.h"
#include "ops/cuda/blocks.h"
#include "ops/cuda/e4m3.h"

/* ---- Making a copy: a block takes a row, first for its largest magnitude, then for its values ---- */

enum { THREADS = 256 };

struct fp8_copy_arguments {
    const unsigned char *rows;
    int64_t row_bytes, stride;
    unsigned char *values;
    float *scale;
    int width;
    bool aligned;
};

template <int type>
static __global__ void __launch_bounds__(THREADS)
    copy_fp8(const __grid_constant__ struct fp8_copy_arguments a) {
    __shared__ float parts[WARP];
    const unsigned char *row = a.rows + blockIdx.x * a.row_bytes;
    unsigned char *to = a.values + blockIdx.x * a.stride;
    float y[PIECE], most = 0.0f;
    cuda_wait();
    for (int i = (int)threadIdx.x; i < a.stride / PIECE; i += THREADS) {
        load_piece<type>(row, i, a.width, a.aligned, y);
#pragma unroll
        for (int j = 0; j < PIECE; j++)
            most = fmaxf(most, fabsf(y[j]));
    }
    most = block_max(most, parts);
    const float factor = e4m3_factor(most);
    for (int i = (int)threadIdx.x; i < a.stride / PIECE; i += THREADS) {
        load_piece<type>(row, i, a.width, a.aligned, y);
        *(uint32_t *)(to + piece_first<type>(i)) = pack_e4m3_four(y, factor);
        *(uint32_t *)(to + piece_second<type>(i)) = pack_e4m3_four(y + 4, factor);
    }
    if (threadIdx.x == 0)
        a.scale[blockIdx.x] = e4m3_scale(most);
}

typedef void fp8_copy_kernel(struct fp8_copy_arguments);

static fp8_copy_kernel *kernel_of(dtype type) {
    switch (type) {
    case DTYPE_F32:
        return copy_fp8<DTYPE_F32>;
    case DTYPE_BF16:
        return copy_fp8<DTYPE_BF16>;
    case DTYPE_F16:
        return copy_fp8<DTYPE_F16>;
    case DTYPE_Q8_0:
        return copy_fp8<DTYPE_Q8_0>;
    case DTYPE_Q5_0:
        return copy_fp8<DTYPE_Q5_0>;
    case DTYPE_Q5_1:
        return copy_fp8<DTYPE_Q5_1>;
    case DTYPE_Q4_0:
        return copy_fp8<DTYPE_Q4_0>;
    case DTYPE_Q4_1:
        return copy_fp8<DTYPE_Q4_1>;
    default:
        return copy_fp8<DTYPE_IQ4_NL>;
    }
}

/* ---- The copies of a stream ---- */

typedef struct fp8_entry {
    ops_tensor weight;
    fp8_matrix copy;
} fp8_entry;

struct fp8_weights {
    fp8_entry *entry; /* in the order of their first use */
    int count, room;
    int next;          /* where the one after the last that was found stands */
    ops_buffer buffer; /* of all; absent before they are made */
};

xlstm_status fp8_weights_create(fp8_weights **weights) {
    *weights = (fp8_weights *)calloc(1, sizeof **weights);
    return *weights ? XLSTM_OK : error_memory(sizeof **weights, "copies of weights in fp8");
}

void fp8_weights_free(fp8_weights *w) {
    if (!w)
        return;
    if (w->buffer.device)
        w->buffer.device->buffer_free(&w->buffer);
    free(w->entry);
    free(w);
}

static bool is_of(const fp8_entry *e, const ops_tensor *weight) {
    return cuda_at(&e->weight) == cuda_at(weight) && e->weight.dtype == weight->dtype &&
           e->weight.shape[0] == weight->shape[0] && e->weight.shape[1] == weight->shape[1] &&
           e->weight.stride[0] == weight->stride[0];
}

/* Every run takes them in the same order, so that the search is short. */
static fp8_entry *look_up(fp8_weights *w, const ops_tensor *weight) {
    for (int i = 0; i < w->count; i++) {
        const int at = (w->next + i) % w->count;
        if (is_of(&w->entry[at], weight)) {
            w->next = at + 1;
            return &w->entry[at];
        }
    }
    return NULL;
}

static bool add(cuda_stream *s, const ops_tensor *weight) {
    fp8_weights *w = s->fp8;
    if (w->count == w->room) {
        const int room = 2 * w->room + 64;
        fp8_entry *more = (fp8_entry *)realloc(w->entry, (size_t)room * sizeof *more);
        if (!more)
            return ops_fail(&s->check, XLSTM_OUT_OF_MEMORY,
                            "out of memory: the list of weights in fp8");
        w->entry = more;
        w->room = room;
    }
    w->entry[w->count] = {};
    w->entry[w->count++].weight = *weight;
    return true;
}

bool fp8_weights_find(cuda_stream *s, const ops_tensor *weight, fp8_matrix *found) {
    const fp8_entry *e = look_up(s->fp8, weight);
    *found = {};
    if (s->rehearsing && !s->fp8->buffer.device)
        return e || add(s, weight);
    if (!e)
        return ops_fail(&s->check, XLSTM_INVALID_ARGUMENT,
                        "fp8: a matrix of %lld x %lld is multiplied that the stream's rehearsal "
                        "did not have",
                        (long long)weight->shape[0], (long long)weight->shape[1]);
    *found = e->copy;
    return true;
}

/* Places the copies one after the other, and counts; without a buffer it only counts. */
static size_t place_all(fp8_weights *w) {
    size_t used = 0;
    for (int i = 0; i < w->count; i++) {
        fp8_entry *e = &w->entry[i];
        const int64_t rows = e->weight.shape[0], width = e->weight.shape[1];
        const int64_t stride = (width + FP8_ALIGNMENT - 1) / FP8_ALIGNMENT * FP8_ALIGNMENT;
        const size_t scales = ((size_t)rows * sizeof(float) + 255) / 256 * 256;
        unsigned char *at = (unsigned char *)w->buffer.handle + used;
        e->copy = {at + scales, stride, (const float *)at};
        used += scales + ((size_t)(rows * stride) + 255) / 256 * 256;
    }
    return used;
}

static void make_copy(cuda_stream *s, const fp8_entry *e) {
    struct fp8_copy_arguments a = {};
    a.rows = (const unsigned char *)cuda_at(&e->weight);
    a.row_bytes = ops_row_bytes(&e->weight);
    a.stride = e->copy.stride;
    a.values = (unsigned char *)e->copy.values;
    a.scale = (float *)e->copy.scale;
    a.width = (int)e->weight.shape[1];
    a.aligned = (uintptr_t)a.rows % 16 == 0 && a.row_bytes % 16 == 0;
    cuda_run(s, "copy_fp8", kernel_of(e->weight.dtype), dim3((unsigned)e->weight.shape[0]), THREADS,
             0, a);
}

void fp8_weights_make(cuda_stream *s) {
    fp8_weights *w = s->fp8;
    ops_device *device = s->base.device;
    if (!w || w->count == 0 || w->buffer.device || ops_failed(&s->check))
        return;
    const xlstm_status status = device->buffer_create(device, place_all(w), &w->buffer);
    if (status != XLSTM_OK) {
        ops_fail(&s->check, status, "%d matrices in fp8: %s", w->count, xlstm_last_error());
        return;
    }
    place_all(w);
    for (int i = 0; i < w->count; i++)
        make_copy(s, &w->entry[i]);
}
