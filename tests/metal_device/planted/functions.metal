// What the look-alike of the standard library computes, and what kernels are told of their place; test_device.c knows
// what must come out.
#include <metal_stdlib>
using namespace metal;

struct sizes {
    uint count, repeats, first, unused;
};

kernel void places(device uint *out [[buffer(0)]], uint3 at [[thread_position_in_grid]],
                   uint3 in_group [[thread_position_in_threadgroup]],
                   uint3 group [[threadgroup_position_in_grid]], uint3 threads [[threads_per_threadgroup]],
                   uint3 groups [[threadgroups_per_grid]], uint3 all [[threads_per_grid]],
                   uint index [[thread_index_in_threadgroup]], ushort lane [[thread_index_in_simdgroup]],
                   ushort simd [[simdgroup_index_in_threadgroup]], ushort simds [[simdgroups_per_threadgroup]],
                   uint width [[threads_per_simdgroup]]) {
    uint number = at.x + all.x * (at.y + all.y * at.z);
    device uint *mine = out + number * 8;
    mine[0] = index;
    mine[1] = lane;
    mine[2] = simd;
    mine[3] = simds * 1000 + width;
    mine[4] = in_group.x + 100 * in_group.y + 10000 * in_group.z;
    mine[5] = group.x + 100 * group.y + 10000 * group.z;
    mine[6] = threads.x + 100 * threads.y + 10000 * threads.z;
    mine[7] = groups.x + 100 * groups.y + 10000 * groups.z;
}

/* Each lane holds 1 + lane. */
kernel void lanes(device float *out [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {
    float x = float(1 + lane);
    device float *mine = out + lane * 16;
    mine[0] = simd_sum(x);
    mine[1] = simd_max(x);
    mine[2] = simd_min(x);
    mine[3] = simd_prefix_inclusive_sum(x);
    mine[4] = simd_prefix_exclusive_sum(x);
    mine[5] = simd_shuffle_xor(x, 5);
    mine[6] = simd_shuffle_down(x, 3);
    mine[7] = simd_shuffle_up(x, 3);
    mine[8] = simd_broadcast(x, 7);
    mine[9] = simd_broadcast_first(x);
    mine[10] = float((ulong)simd_ballot(lane % 4 == 1) & 0xffff);
    mine[11] = simd_any(lane == 9) ? 1.0f : 0.0f;
    mine[12] = simd_all(lane < 31) ? 1.0f : 0.0f;
    mine[13] = float2(simd_sum(float2(x, 2.0f * x))).y;
    mine[14] = float(simd_sum(half(1.0h)));
    mine[15] = float(simd_or(1u << lane) == 0xffffffffu);
}

/* d = a b + c, once straight and once with a read across. */
kernel void matrices(device const half *a [[buffer(0)]], device const float *b [[buffer(1)]],
                     device float *d [[buffer(2)]]) {
    simdgroup_half8x8 x;
    simdgroup_float8x8 y, z(2.0f);
    simdgroup_load(x, a, 8);
    simdgroup_load(y, b, 10, ulong2(1, 2));
    simdgroup_multiply_accumulate(z, x, y, z);
    simdgroup_store(z, d, 8);
    simdgroup_load(x, a, 8, ulong2(0), true);
    simdgroup_multiply(z, x, y);
    simdgroup_store(z, d + 64, 8, ulong2(0), true);
}

kernel void vectors(device const float *in [[buffer(0)]], device float *out [[buffer(1)]]) {
    float4 v = float4(in[0], float2(in[1], in[2]), in[3]);
    half4 h = half4(v);
    float4 back = float4(h), again = (float4)h;
    int4 whole = int4(v * 10.0f);
    out[0] = dot(v, back);
    out[1] = v.zyxw.x + again.w;
    out[2] = float(whole.y);
    out[3] = float4(2.0f).z;
    out[4] = as_type<float>(as_type<uint>(in[0]));
    out[5] = float(as_type<half2>(0x40003c00u).y);
    out[6] = max(v, float4(1.5f)).x + clamp(in[3], 0.0f, 1.0f);
    out[7] = fma(in[0], in[1], in[2]);
    out[8] = rsqrt(4.0f) + precise::exp(0.0f) + exp2(3.0f);
    out[9] = select(1.0f, 2.0f, in[0] > 0.0f) + float(popcount(0xf0u)) + float(clz(1u)) + float(ctz(8u));
    out[10] = length(float3(3.0f, 0.0f, 4.0f));
    out[11] = float(1.5h) + float(bfloat(1.0f));
    out[12] = float(any(v > float4(2.5f))) + float(all(v > float4(2.5f)));
    out[13] = ldexp(0.5f, 4) + fract(2.25f) + sign(-3.0f);
    out[14] = float(uchar4(1, 2, 3, 250).w) + float(min(3, -4)) + float(abs(-6));
    out[15] = float(isnan(NAN)) + float(isinf(INFINITY)) + float(rotate(0x80000001u, 1u));
}

kernel void counted(device atomic_uint *count [[buffer(0)]], device atomic_float *sum [[buffer(1)]],
                    device atomic_int *most [[buffer(2)]], uint at [[thread_position_in_grid]]) {
    atomic_fetch_add_explicit(count, 1u, memory_order_relaxed);
    atomic_fetch_add_explicit(sum, 0.5f, memory_order_relaxed);
    atomic_fetch_max_explicit(most, int(at), memory_order_relaxed);
}

kernel void added(constant sizes &n [[buffer(0)]], device const float *x [[buffer(1)]], device float *y [[buffer(2)]],
                  uint at [[thread_position_in_grid]], uint all [[threads_per_grid]]) {
    for (uint r = 0; r < n.repeats; r++)
        for (uint i = at; i < n.count; i += all)
            y[i] += x[n.first + i];
}

kernel void told(threadgroup float *x [[threadgroup(0)]], threadgroup half *y [[threadgroup(3)]],
                 device float *out [[buffer(5)]], uint t [[thread_index_in_threadgroup]]) {
    threadgroup float own[5];
    threadgroup ushort small[3];
    x[t] = 1.0f;
    y[t] = 2.0h;
    if (t < 5)
        own[t] = 4.0f;
    if (t < 3)
        small[t] = 8;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[t] = x[31 - t] + float(y[31 - t]) + own[t % 5] + float(small[t % 3]);
}
