/* Weights for products on tensor cores: matrices of any type as bf16, in rows that begin at multiples of 16 bytes.
 * A thread makes a piece (blocks.h). */
#include "ops/cuda/blocks.h"
#include "ops/cuda/products.h"

enum { THREADS = 256, MOST_ROWS = 32768 /* of a launch */ };

struct unpack_arguments {
    const unsigned char *rows; /* of the matrix, from the first that is wanted */
    int64_t row_bytes, stride;
    uint16_t *out;
    int width;
    bool aligned;
};

/* Four neighbouring values, at a multiple of 8 bytes. */
static __device__ __forceinline__ void unpack_store(uint16_t *to, const float *y) {
    *(uint2 *)to = make_uint2((uint32_t)to_bf16(y[0]) | (uint32_t)to_bf16(y[1]) << 16,
                              (uint32_t)to_bf16(y[2]) | (uint32_t)to_bf16(y[3]) << 16);
}

template <int type>
static __global__ void __launch_bounds__(THREADS)
    unpack_weights(const __grid_constant__ struct unpack_arguments a) {
    const int piece = (int)(blockIdx.x * THREADS + threadIdx.x);
    const int64_t row = blockIdx.y;
    const bool there = (int64_t)piece * PIECE < a.stride;
    float y[PIECE];
    if (there)
        load_piece<type>(a.rows + row * a.row_bytes, piece, a.width, a.aligned, y);
    cuda_wait();
    cuda_release();
    if (!there)
        return;
    uint16_t *to = a.out + row * a.stride;
    unpack_store(to + piece_first<type>(piece), y);
    unpack_store(to + piece_second<type>(piece), y + 4);
}

typedef void unpack_kernel(struct unpack_arguments);

static unpack_kernel *unpack_kernel_of(dtype type) {
    switch (type) {
    case DTYPE_F32:
        return unpack_weights<DTYPE_F32>;
    case DTYPE_BF16:
        return unpack_weights<DTYPE_BF16>;
    case DTYPE_F16:
        return unpack_weights<DTYPE_F16>;
    case DTYPE_Q8_0:
        return unpack_weights<DTYPE_Q8_0>;
    case DTYPE_Q5_0:
        return unpack_weights<DTYPE_Q5_0>;
    case DTYPE_Q5_1:
        return unpack_weights<DTYPE_Q5_1>;
    case DTYPE_Q4_0:
        return unpack_weights<DTYPE_Q4_0>;
    case DTYPE_Q4_1:
        return unpack_weights<DTYPE_Q4_1>;
    default:
        return unpack_weights<DTYPE_IQ4_NL>;
    }
}

void cuda_unpack(cuda_stream *s, const ops_tensor *weight, int64_t first, int64_t count,
                 const ops_tensor *to) {
    struct unpack_arguments a = {};
    a.row_bytes = ops_row_bytes(weight);
    a.stride = to->stride[0];
    a.width = (int)weight->shape[1];
    const unsigned blocks = (unsigned)((a.stride / PIECE + THREADS - 1) / THREADS);
    for (int64_t row = 0; row < count; row += MOST_ROWS) {
        a.rows = (const unsigned char *)cuda_at(weight) + (first + row) * a.row_bytes;
        a.aligned = (uintptr_t)a.rows % 16 == 0 && a.row_bytes % 16 == 0;
        a.out = (uint16_t *)cuda_at(to) + row * a.stride;
        const int64_t left = count - row, rows = left < MOST_ROWS ? left : (int64_t)MOST_ROWS;
        cuda_run(s, "unpack_weights", unpack_kernel_of(weight->dtype), dim3(blocks, (unsigned)rows),
                 THREADS, 0, a);
    }
}
