/* Small kernels, each right or with one mistake, for test_planted.c. A block of 64 threads, unless said otherwise. */
#include "planted.h"

#include "ops/cuda/async.h"
#include "ops/cuda/cluster.h"
#include "ops/cuda/copy.h"
#include "ops/cuda/device.h"

enum { THREADS = 64, VALUES = 1024 };

struct arguments {
    float *out;
    const float *in;
    int wrong;
};

/* out[t] = in[63 - t], over shared memory. */
static __global__ void missing_barrier(const __grid_constant__ struct arguments a) {
    __shared__ float values[THREADS];
    cuda_wait();
    values[threadIdx.x] = a.in[threadIdx.x];
    if (!a.wrong)
        __syncthreads();
    a.out[threadIdx.x] = values[THREADS - 1 - threadIdx.x];
}

static __global__ void behind_the_end(const __grid_constant__ struct arguments a) {
    cuda_wait();
    a.out[threadIdx.x] = a.in[THREADS - 1 - threadIdx.x];
    if (a.wrong && threadIdx.x == 33)
        a.out[VALUES] = 1.0f;
}

static __global__ void behind_shared(const __grid_constant__ struct arguments a) {
    extern __shared__ float staged[];
    cuda_wait();
    staged[threadIdx.x + (a.wrong && threadIdx.x == 7 ? THREADS : 0)] = a.in[threadIdx.x];
    __syncthreads();
    a.out[threadIdx.x] = staged[THREADS - 1 - threadIdx.x];
}

static __global__ void divergence(const __grid_constant__ struct arguments a) {
    cuda_wait();
    a.out[threadIdx.x] = a.in[THREADS - 1 - threadIdx.x];
    if (!a.wrong || threadIdx.x < 40)
        __syncthreads();
}

static __global__ void absent_lane(const __grid_constant__ struct arguments a) {
    cuda_wait();
    float value = a.in[threadIdx.x];
    if (a.wrong && threadIdx.x == 5) {
        __syncthreads();
        return;
    }
    float other = __shfl_xor_sync(ALL_LANES, value, 31);
    __syncthreads();
    a.out[threadIdx.x ^ 32] = other;
}

/* Writes in ^ what early_read reads. */
static __global__ void writer(const __grid_constant__ struct arguments a) {
    cuda_wait();
    a.out[threadIdx.x] = a.in[threadIdx.x];
}
static __global__ void early_read(const __grid_constant__ struct arguments a) {
    float early = a.in[THREADS - 1 - threadIdx.x];
    cuda_wait();
    a.out[threadIdx.x] = a.wrong ? early : a.in[THREADS - 1 - threadIdx.x];
}

static __global__ void no_wait(const __grid_constant__ struct arguments a) {
    if (a.wrong && threadIdx.x == 63)
        return;
    cuda_wait();
    a.out[threadIdx.x] = a.in[THREADS - 1 - threadIdx.x];
    if (threadIdx.x == 0)
        a.out[63] = a.in[0];
}

static __global__ void bulk_copy(const __grid_constant__ struct arguments a) {
    __shared__ __align__(16) float staged[THREADS];
    __shared__ uint64_t arrived;
    cuda_wait();
    if (threadIdx.x == 0) {
        barrier_make(&arrived, 1);
        barrier_made();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        barrier_arrive_for(&arrived, sizeof staged);
        copy_bulk(staged, a.in, sizeof staged, &arrived);
    }
    if (!a.wrong)
        barrier_wait(&arrived, 0);
    a.out[threadIdx.x] = staged[THREADS - 1 - threadIdx.x];
    barrier_wait(&arrived, 0);
}

static __global__ void own_copy(const __grid_constant__ struct arguments a) {
    __shared__ __align__(16) float staged[THREADS];
    cuda_wait();
    if (threadIdx.x < THREADS / 4)
        copy_16(staged + 4 * threadIdx.x, a.in + 4 * threadIdx.x, 16);
    copy_close();
    if (!a.wrong)
        copy_wait<0>();
    __syncthreads();
    a.out[threadIdx.x] = staged[THREADS - 1 - threadIdx.x];
}

static __global__ void never_arrives(const __grid_constant__ struct arguments a) {
    __shared__ uint64_t arrived;
    cuda_wait();
    if (threadIdx.x == 0)
        barrier_make(&arrived, a.wrong ? 2 : 1);
    __syncthreads();
    if (threadIdx.x == 0)
        barrier_arrive(&arrived);
    barrier_wait(&arrived, 0);
    a.out[threadIdx.x] = a.in[THREADS - 1 - threadIdx.x];
}

/* A warp takes what came; the other one copies over it when it is told of the room. */
static __global__ void early_room(const __grid_constant__ struct arguments a) {
    __shared__ __align__(16) float staged[THREADS];
    __shared__ uint64_t arrived, room;
    int lane = (int)threadIdx.x;
    cuda_wait();
    if (lane == 0) {
        barrier_make(&arrived, 1);
        barrier_make(&room, 1);
        barrier_made();
    }
    __syncthreads();
    for (int i = 0; i < 2 && lane == WARP; i++) {
        if (i > 0)
            barrier_wait(&room, 0);
        barrier_arrive_for(&arrived, sizeof staged);
        copy_bulk(staged, a.in + i * THREADS, sizeof staged, &arrived);
    }
    if (lane < WARP) {
        barrier_wait(&arrived, 0);
        if (a.wrong && lane == 0)
            barrier_arrive(&room);
        a.out[lane] = staged[THREADS - 1 - lane];
        a.out[lane + WARP] = staged[WARP - 1 - lane];
        __syncwarp();
        if (!a.wrong && lane == 0)
            barrier_arrive(&room);
    }
    barrier_wait(&arrived, 1);
}

/* Two blocks; values go by the other one. */
static __global__ void cluster_hand(const __grid_constant__ struct arguments a) {
    __shared__ __align__(16) float values[THREADS];
    __shared__ uint64_t arrived;
    cuda_wait();
    if (threadIdx.x == 0)
        cluster_make(&arrived);
    cluster_sync();
    if (threadIdx.x == 0)
        cluster_expect(&arrived, sizeof values);
    if (threadIdx.x < THREADS / 4)
        cluster_store(values + 4 * threadIdx.x, ((const uint4 *)a.in)[threadIdx.x], &arrived,
                      cluster_rank() ^ 1);
    if (!a.wrong)
        cluster_wait(&arrived, 0);
    if (cluster_rank() == 0)
        a.out[threadIdx.x] = values[THREADS - 1 - threadIdx.x];
    cluster_sync();
}
typedef void kernel(struct arguments);
static const struct {
    const char *name;
    kernel *run;
    unsigned shared;
} kernels[] = {
    {"missing_barrier", missing_barrier, 0},
    {"behind_the_end", behind_the_end, 0},
    {"behind_shared", behind_shared, THREADS * sizeof(float)},
    {"divergence", divergence, 0},
    {"absent_lane", absent_lane, 0},
    {"early_read", early_read, 0},
    {"no_wait", no_wait, 0},
    {"bulk_copy", bulk_copy, 0},
    {"own_copy", own_copy, 0},
    {"never_arrives", never_arrives, 0},
    {"early_room", early_room, 0},
    {"cluster_hand", cluster_hand, 0},
};

static bool launch(cudaStream_t stream, kernel *run, const struct arguments *a, unsigned shared) {
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {run == cluster_hand ? 2u : 1u, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(attributes[1].val.clusterDim.x);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
    void *arguments[1] = {(void *)a};
    return cudaLaunchKernelExC(&config, (const void *)run, arguments) == cudaSuccess;
}

extern "C" bool planted_run(const char *name, bool wrong) {
    cudaStream_t stream;
    float *in, *middle, *out, *host, *back;
    size_t bytes = VALUES * sizeof(float);
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess ||
        cudaMalloc((void **)&in, bytes) != cudaSuccess ||
        cudaMalloc((void **)&middle, bytes) != cudaSuccess ||
        cudaMalloc((void **)&out, bytes) != cudaSuccess ||
        cudaMallocHost((void **)&host, bytes) != cudaSuccess ||
        cudaMallocHost((void **)&back, bytes) != cudaSuccess)
        return false;
    for (int i = 0; i < VALUES; i++)
        host[i] = (float)i;
    bool good = cudaMemcpyAsync(in, host, bytes, cudaMemcpyHostToDevice, stream) == cudaSuccess;
    struct arguments first = {middle, in, 0}, second = {out, middle, wrong};
    good = good && launch(stream, writer, &first, 0);
    bool found = false;
    for (const auto &each : kernels)
        if (strcmp(each.name, name) == 0) {
            found = true;
            good = good && launch(stream, each.run, &second, each.shared);
        }
    if (strcmp(name, "late_read") == 0) {
        found = true;
        good = good && launch(stream, early_read, &first, 0);
        second.wrong = 0;
        good = good && launch(stream, early_read, &second, 0);
    }
    good = good && cudaMemcpyAsync(back, out, bytes, cudaMemcpyDeviceToHost, stream) == cudaSuccess;
    if (!(wrong && strcmp(name, "late_read") == 0))
        good = good && cudaStreamSynchronize(stream) == cudaSuccess;
    bool forward = strcmp(name, "late_read") == 0;
    for (int i = 0; i < THREADS && good && found; i++)
        good = back[i] == (float)(forward ? i : THREADS - 1 - i);
    return good && found;
}
