/* Sums over rows (column_sums.h). A block has 32 columns; each of its warps adds up a share of the rows. */
#include "ops/cuda/column_sums.h"

enum { SHARES = 16, THREADS = SHARES * 32 };

static __global__ void __launch_bounds__(THREADS)
    add_columns(const __grid_constant__ struct column_sums a) {
    __shared__ float parts[SHARES][32];
    int share = (int)(threadIdx.x / WARP), lane = (int)(threadIdx.x % WARP);
    int64_t column = (int64_t)blockIdx.x * WARP + lane;
    int64_t length = (a.count + SHARES - 1) / SHARES, first = share * length;
    int64_t end = first + length < a.count ? first + length : a.count;
    float sum = 0.0f;
    cuda_release();
    cuda_wait();
    if (column < a.width)
#pragma unroll 4
        for (int64_t i = first; i < end; i++)
            sum += a.sums[i * a.stride + column];
    parts[share][lane] = sum;
    __syncthreads();
    if (share > 0 || column >= a.width)
        return;
    for (int i = 1; i < SHARES; i++)
        sum += parts[i][lane];
    array_put(a.out, sum, column / a.inner / a.middle, column / a.inner % a.middle,
              column % a.inner);
}

void cuda_column_sums(const kernel_call *call, xlstm_status *status, column_sums sums,
                      int argument) {
    const xlstm_array *to = &call->array[argument];
    if (!to->data)
        return;
    sums.out = cuda_kernel_array(call, argument);
    for (int i = 0; i < 3;
         i++) /* of three dimensions, the first of them being 1 where there are less */
        sums.out.stride[2 - i] = i < to->rank ? to->stride[to->rank - 1 - i] : 0;
    sums.inner = to->shape[to->rank - 1];
    sums.middle = to->rank > 1 ? to->shape[to->rank - 2] : 1;
    cuda_kernel_run(call, status, "add_columns", add_columns,
                    dim3((unsigned)((sums.width + WARP - 1) / WARP)), THREADS, 0, sums);
}
