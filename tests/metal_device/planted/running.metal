// What compiles and is wrong when it runs: every kernel twice, right, and with BUG wrong. All of them take n numbers
// and give n numbers, with 64 threads a threadgroup; test_planted.c tells what the device must say of each.
#include <metal_stdlib>
using namespace metal;

#define ARGUMENTS                                                                                   \
    constant uint &n [[buffer(0)]], device const float *in [[buffer(1)]],                           \
        device float *out [[buffer(2)]], uint at [[thread_position_in_grid]],                       \
        uint t [[thread_index_in_threadgroup]], uint group [[threadgroup_position_in_grid]],        \
        uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]

#ifdef BUG
#define RIGHT(...)
#define WRONG(...) __VA_ARGS__
#else
#define RIGHT(...) __VA_ARGS__
#define WRONG(...)
#endif

// ---- Barriers ----

kernel void barrier_missing(ARGUMENTS) {
    threadgroup float tile[64];
    tile[t] = in[at];
    RIGHT(threadgroup_barrier(mem_flags::mem_threadgroup);)
    out[at] = tile[63 - t];
}

kernel void barrier_before_reuse_missing(ARGUMENTS) {
    threadgroup float tile[64];
    float sum = 0.0f;
    for (uint k = 0; k < 3; k++) {
        tile[t] = in[at] + float(k);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        sum += tile[63 - t];
        RIGHT(threadgroup_barrier(mem_flags::mem_threadgroup);)
    }
    out[at] = sum;
}

kernel void barrier_of_nothing(ARGUMENTS) {
    threadgroup float tile[64];
    tile[t] = in[at];
    threadgroup_barrier(RIGHT(mem_flags::mem_threadgroup) WRONG(mem_flags::mem_none));
    out[at] = tile[63 - t];
}

kernel void barrier_of_threadgroup_for_device(ARGUMENTS) {
    out[at] = in[at];
    threadgroup_barrier(RIGHT(mem_flags::mem_device) WRONG(mem_flags::mem_threadgroup));
    float x = out[at ^ 1];
    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    out[at] = x;
}

kernel void barrier_of_device_for_threadgroup(ARGUMENTS) {
    threadgroup float tile[64];
    tile[t] = in[at];
    threadgroup_barrier(RIGHT(mem_flags::mem_device | mem_flags::mem_threadgroup)
                            WRONG(mem_flags::mem_device));
    out[at] = tile[63 - t];
}

kernel void barrier_of_simd_for_threadgroup(ARGUMENTS) {
    threadgroup float tile[64];
    tile[t] = in[at];
    RIGHT(threadgroup_barrier(mem_flags::mem_threadgroup);)
    WRONG(simdgroup_barrier(mem_flags::mem_threadgroup);)
    out[at] = tile[63 - t];
}

kernel void lock_step(ARGUMENTS) {
    threadgroup float tile[64];
    tile[t] = in[at];
    RIGHT(simdgroup_barrier(mem_flags::mem_threadgroup);)
    out[at] = tile[t ^ 1];
}

kernel void lock_step_through_sum(ARGUMENTS) {
    threadgroup float tile[64];
    tile[t] = in[at];
    float sum = simd_sum(in[at]);
    RIGHT(simdgroup_barrier(mem_flags::mem_threadgroup);)
    out[at] = tile[t ^ 1] + sum;
}

kernel void written_after_read(ARGUMENTS) {
    threadgroup float shared[1];
    if (t == 0)
        shared[0] = in[group];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float x = shared[0];
    RIGHT(threadgroup_barrier(mem_flags::mem_threadgroup);)
    if (t == 0)
        shared[0] = 0.0f;
    out[at] = x;
}

// ---- Divergence ----

kernel void barrier_in_branch(ARGUMENTS) {
    if (RIGHT(group < 1) WRONG(simd < 1))
        threadgroup_barrier(mem_flags::mem_threadgroup);
    out[at] = in[at];
}

kernel void barrier_in_branch_of_lanes(ARGUMENTS) {
    if (RIGHT(group < 1) WRONG(lane < 7))
        threadgroup_barrier(mem_flags::mem_threadgroup);
    out[at] = in[at];
}

kernel void barrier_after_return(ARGUMENTS) {
    out[at] = in[at];
    if (RIGHT(group >= 1) WRONG(t >= 40))
        return;
    threadgroup_barrier(mem_flags::mem_device);
    out[at] = in[at] + 1.0f;
}

kernel void barriers_of_two_branches(ARGUMENTS) {
    if (RIGHT(group) WRONG(simd) == 0)
        threadgroup_barrier(mem_flags::mem_threadgroup);
    else
        threadgroup_barrier(mem_flags::mem_threadgroup);
    out[at] = in[at];
}

kernel void sum_in_branch(ARGUMENTS) {
    float x = in[at];
    if (RIGHT(simd < 1) WRONG(lane < 16))
        x = simd_sum(x);
    out[at] = x;
}

kernel void sum_in_loop(ARGUMENTS) {
    float x = in[at];
    for (uint k = 0; k < RIGHT(simd) WRONG(lane) + 1; k++)
        x = simd_sum(x) * 0.01f;
    out[at] = x;
}

kernel void shuffle_after_break(ARGUMENTS) {
    float x = in[at];
    for (ushort k = 1; k < 32; k *= 2) {
        WRONG(if (lane == 5 && k == 4) break;)
        x += simd_shuffle_xor(x, k);
    }
    out[at] = x;
}

// ---- Bounds ----

kernel void read_beyond(ARGUMENTS) {
    if (at < n)
        out[at] = in[RIGHT(at) WRONG(at + 1)];
}

kernel void read_before(ARGUMENTS) {
    out[at] = in[RIGHT(at) WRONG(int(at) - 1)];
}

kernel void write_beyond(ARGUMENTS) {
    out[RIGHT(at) WRONG(at + 3)] = in[at];
}

kernel void threadgroup_beyond(ARGUMENTS) {
    threadgroup float tile[64], other[64];
    tile[t] = in[at];
    other[t] = in[at];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[at] = tile[RIGHT(63 - t) WRONG(64 - t)] + other[t];
}

kernel void vector_beyond(ARGUMENTS) {
    if (at < n / 4 RIGHT() WRONG(+1))
        ((device float4 *)out)[at] = ((device const float4 *)in)[at];
}

kernel void written_through_constant(ARGUMENTS) {
    RIGHT(out[at] = in[at];)
    WRONG(((device float *)in)[at] = 1.0f;)
}

kernel void misaligned(ARGUMENTS) {
    RIGHT(float4 v = *(device const packed_float4 *)(in + 1);)
    WRONG(float4 v = *(device const float4 *)(in + 1);)
    out[at] = v.x + in[at];
}

kernel void misaligned_half(ARGUMENTS) {
    device const uchar *bytes = (device const uchar *)in;
    RIGHT(half h = as_type<half>(ushort(bytes[3] | bytes[4] << 8));)
    WRONG(half h = *(device const half *)(bytes + 3);)
    out[at] = float(h) * 0.0f + in[at];
}

// ---- Values that nobody wrote ----

kernel void unwritten(ARGUMENTS) {
    threadgroup float tile[64];
    if (RIGHT(t < 64) WRONG(t < 63))
        tile[t] = in[at];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[at] = tile[63 - t];
}

kernel void unwritten_counter(ARGUMENTS) {
    threadgroup atomic_uint counter;
    RIGHT(if (t == 0) atomic_store_explicit(&counter, 0u, memory_order_relaxed);)
    threadgroup_barrier(mem_flags::mem_threadgroup);
    atomic_fetch_add_explicit(&counter, 1u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[at] = float(atomic_load_explicit(&counter, memory_order_relaxed)) + in[at];
}

kernel void left_from_the_group_before(ARGUMENTS) {
    threadgroup float tile[64];
    if (RIGHT(true) WRONG(group == 0))
        tile[t] = in[at];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[at] = tile[63 - t];
}

// ---- Races in device memory ----

kernel void groups_write_one(ARGUMENTS) {
    out[at] = in[at];
    if (t == 0)
        out[RIGHT(at) WRONG(0)] = 1.0f;
}

kernel void group_reads_another(ARGUMENTS) {
    out[at] = in[at];
    threadgroup_barrier(mem_flags::mem_device);
    float x = out[RIGHT(at) WRONG(n - 1 - at)];
    threadgroup_barrier(mem_flags::mem_device);
    out[at] = x;
}

kernel void sum_without_atomics(ARGUMENTS) {
    out[at] = in[at];
    threadgroup_barrier(mem_flags::mem_device);
    RIGHT(if (lane == 0 && simd == 0) out[at] += 1.0f;)
    WRONG(out[group * 64] += 1.0f;)
}

kernel void atomic_and_plain(ARGUMENTS) {
    device atomic_float *sum = (device atomic_float *)out;
    if (t == 1)
        out[at] = in[at];
    RIGHT(if (t != 1) atomic_store_explicit(&sum[at], 1.0f, memory_order_relaxed);)
    WRONG(atomic_fetch_add_explicit(&sum[group * 64 + 1], 1.0f, memory_order_relaxed);)
}

kernel void halves_of_a_word(ARGUMENTS) {
    device half *halves = (device half *)out;
    halves[RIGHT(at) WRONG(at | 1)] = half(in[at]);
    halves[n + at] = half(in[at]);
}

kernel void bytes_of_a_word(ARGUMENTS) {
    device uchar *bytes = (device uchar *)out;
    bytes[RIGHT(at) WRONG(at - at % 3)] = uchar(lane);
    if (at + n < 4 * n)
        bytes[at + n] = 0;
    bytes[at + 2 * n] = 0;
    bytes[at + 3 * n] = 0;
}

// ---- SIMD-groups and their matrices ----

kernel void lane_that_is_not_there(ARGUMENTS) {
    out[at] = simd_shuffle(in[at], ushort(RIGHT(31 - lane) WRONG(32 - lane)));
}

kernel void stored_matrix_read_at_once(ARGUMENTS) {
    threadgroup float tile[2][64];
    simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
    simdgroup_store(m, &tile[simd][0], 8);
    RIGHT(simdgroup_barrier(mem_flags::mem_threadgroup);)
    out[at] = tile[simd][lane] + in[at];
}

kernel void tile_of_another_loaded(ARGUMENTS) {
    threadgroup float tile[2][64];
    for (uint i = lane; i < 64; i += 32)
        tile[simd][i] = in[at];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_float8x8 m;
    simdgroup_load(m, &tile[RIGHT(simd) WRONG(1 - simd)][0], 8);
    out[at] = m.thread_elements()[0];
}

kernel void accumulator_not_zeroed(ARGUMENTS) {
    simdgroup_float8x8 x = make_filled_simdgroup_matrix<float, 8, 8>(1.0f), sum;
    RIGHT(sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);)
    simdgroup_multiply_accumulate(sum, x, x, sum);
    out[at] = sum.thread_elements()[0] + in[at];
}

kernel void matrix_row_too_long(ARGUMENTS) {
    simdgroup_float8x8 m;
    simdgroup_load(m, in + group * 64, RIGHT(8) WRONG(16));
    out[at] = m.thread_elements()[0];
}

kernel void matrix_in_branch(ARGUMENTS) {
    simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    if (RIGHT(simd == 0) WRONG(lane < 8))
        simdgroup_load(m, in, 8);
    out[at] = m.thread_elements()[0];
}

// ---- Memory of a thread and of a threadgroup ----

kernel void private_value_not_set(ARGUMENTS) {
    float sums[4];
    for (uint i = RIGHT(0) WRONG(1); i < 4; i++)
        sums[i] = in[at];
    out[at] = sums[lane % 4];
}

kernel void threadgroup_memory_too_large(ARGUMENTS) {
    threadgroup float tile[RIGHT(8192) WRONG(8208)];
    tile[t] = in[at];
    out[at] = tile[t];
}
