// What must not compile. Every kernel is right as it stands; with BUG set to a number it has the mistake of that
// number, and the generator or the compiler refuses it with the message that stands behind (a regular expression).
#include <metal_stdlib>

#if BUG != 1 // use of undeclared identifier 'mem_flags'|'exp'
using namespace metal;
#endif

struct numbers {
    uint count, a, b, c;
};

static inline float first_of(device const float *p) {
    return p[0];
}
static inline float first_in_group(threadgroup const float *p) {
    return p[0];
}

#if BUG == 2 // pointer or reference without address space
static inline float second_of(const float *p) {
#else
static inline float second_of(device const float *p) {
#endif
    return p[1];
}

#if BUG == 3 // pointer or reference without address space
static inline uint count_of(const numbers &n) {
#else
static inline uint count_of(constant numbers &n) {
#endif
    return n.count;
}

#if BUG == 4 // variables at program scope are constant
float table[2] = {1.0f, 2.0f};
#elif BUG == 5 // variables at program scope are constant
static const float table[2] = {1.0f, 2.0f};
#else
constant float table[2] = {1.0f, 2.0f};
#endif

static inline float helper(float x) {
#if BUG == 6 // threadgroup variables belong to kernels
    threadgroup float shared[4];
    shared[0] = x;
    return shared[0];
#elif BUG == 7 // static variable of a function
    static float last = 0.0f;
    last += x;
    return last;
#elif BUG == 8 // no recursion
    return x > 1.0f ? helper(x - 1.0f) : x;
#else
    return x + table[1];
#endif
}

kernel void spaces(constant numbers &n [[buffer(0)]], device const float *in [[buffer(1)]],
                   device float *out [[buffer(2)]], threadgroup float *memory [[threadgroup(0)]],
                   uint t [[thread_position_in_grid]]) {
#if BUG == 9 // initialiser
    threadgroup float shared[4] = {0.0f};
#else
    threadgroup float shared[4];
#endif
#if BUG == 10 // outermost block
    if (t == 0) {
        threadgroup float inner[4];
        inner[t] = 1.0f;
    }
#endif
    shared[t & 3] = 1.0f;
    memory[t] = 1.0f;
#if BUG == 11 // no matching function for call to 'first_in_group'
    float x = first_in_group(in);
#elif BUG == 12 // no matching function for call to 'first_of'
    float x = first_of(memory);
#else
    float x = first_of(in) + first_in_group(shared);
#endif
#if BUG == 13 // cannot initialize a variable of type
    device const float *p = memory;
#elif BUG == 14 // without address space
    const float *p = in;
#else
    device const float *p = in;
#endif
#if BUG == 15 // read-only|const-qualified|cannot assign
    n.a = 1;
#elif BUG == 16 // read-only|const-qualified|cannot assign
    in[0] = 1.0f;
#endif
#if BUG == 17 // no matching constructor for initialization of 'numbers'
    numbers copy = n;
    uint a = copy.a;
#else
    uint a = n.a;
#endif
    out[t] = helper(x) + p[1] + second_of(in) + float(a + count_of(n));
}

#if BUG == 18 // exactly one attribute
kernel void attributes(device float *out [[buffer(0)]], constant uint &n, uint t [[thread_position_in_grid]]) {
#elif BUG == 19 // a second buffer\(0\)
kernel void attributes(device float *out [[buffer(0)]], constant uint &n [[buffer(0)]], uint t [[thread_position_in_grid]]) {
#elif BUG == 20 // 0 to 30
kernel void attributes(device float *out [[buffer(0)]], constant uint &n [[buffer(31)]], uint t [[thread_position_in_grid]]) {
#elif BUG == 21 // unknown attribute
kernel void attributes(device float *out [[buffer(0)]], constant uint &n [[buffer(1)]], uint t [[thread_index_in_grid]]) {
#elif BUG == 22 // is in device or constant memory
kernel void attributes(thread float *out [[buffer(0)]], constant uint &n [[buffer(1)]], uint t [[thread_position_in_grid]]) {
#elif BUG == 23 // a pointer or a reference
kernel void attributes(device float *out [[buffer(0)]], constant uint n [[buffer(1)]], uint t [[thread_position_in_grid]]) {
#elif BUG == 24 // kernels return void
kernel float attributes(device float *out [[buffer(0)]], constant uint &n [[buffer(1)]], uint t [[thread_position_in_grid]]) {
#elif BUG == 25 // ushort or uint
kernel void attributes(device float *out [[buffer(0)]], constant uint &n [[buffer(1)]], int t [[thread_position_in_grid]]) {
#elif BUG == 26 // same number of components
kernel void attributes(device float *out [[buffer(0)]], constant uint &n [[buffer(1)]], uint t [[thread_position_in_grid]],
                       uint2 group [[threadgroup_position_in_grid]]) {
#elif BUG == 27 // is a scalar
kernel void attributes(device float *out [[buffer(0)]], constant uint &n [[buffer(1)]], uint t [[thread_position_in_grid]],
                       uint2 lane [[thread_index_in_simdgroup]]) {
#elif BUG == 28 // a second kernel
kernel void spaces(device float *out [[buffer(0)]], constant uint &n [[buffer(1)]], uint t [[thread_position_in_grid]]) {
#elif BUG == 29 // is in threadgroup memory
kernel void attributes(device float *out [[threadgroup(0)]], constant uint &n [[buffer(1)]], uint t [[thread_position_in_grid]]) {
#else
kernel void attributes(device float *out [[buffer(0)]], constant uint &n [[buffer(1)]], uint t [[thread_position_in_grid]]) {
#endif
    if (t < n)
        out[t] = 1.0f;
}

template <typename T> kernel void typed(device T *out [[buffer(0)]], uint t [[thread_position_in_grid]]) {
    out[t] = T(1);
}
#if BUG == 30 // without host_name
template kernel void typed<float>(device float *out [[buffer(0)]], uint t [[thread_position_in_grid]]);
#elif BUG == 31 // explicit instantiation of 'typed' does not refer
template [[host_name("typed_f32")]] kernel void typed<float>(device half *out [[buffer(0)]], uint t [[thread_position_in_grid]]);
#elif BUG == 32 // not those of the template
template [[host_name("typed_f32")]] kernel void typed<float>(device float *out [[buffer(1)]], uint t [[thread_position_in_grid]]);
#else
template [[host_name("typed_f32")]] kernel void typed<float>(device float *out [[buffer(0)]], uint t [[thread_position_in_grid]]);
#endif
#if BUG == 33 // a second kernel of the name
template [[host_name("typed_f32")]] kernel void typed<half>(device half *out [[buffer(0)]], uint t [[thread_position_in_grid]]);
#else
template [[host_name("typed_f16")]] kernel void typed<half>(device half *out [[buffer(0)]], uint t [[thread_position_in_grid]]);
#endif

kernel void language(constant numbers &n [[buffer(0)]], device float *out [[buffer(1)]],
                     device atomic_uint *counter [[buffer(2)]], uint t [[thread_position_in_grid]]) {
    half h = 1.0h;
    float x = 2.0f;
#if BUG == 34 // has no double
    double d = x;
    x = float(d);
#elif BUG == 35 // is a double
    x *= 1.5;
#elif BUG == 36 // has no goto
    goto end;
end:
#elif BUG == 37 // no lambdas
    auto twice = [](float y) { return 2.0f * y; };
    x = twice(x);
#elif BUG == 38 // no pointers to functions
    float (*function)(float) = helper;
    x = function(x);
#elif BUG == 39 // no std::
    x = std::max(x, 1.0f);
#elif BUG == 40 // has no new
    thread float *p = new float(1.0f);
    x = *p;
#elif BUG == 41 // variable length array
    float several[n.count];
    several[0] = x;
    x = several[0];
#elif BUG == 42 // call to 'max' is ambiguous
    x = max(x, h);
#elif BUG == 43 // other than its components
    x = float4(x, x, x).w;
#elif BUG == 44 // cannot convert between vector
    x = (float4(1.0f) + int4(1)).x;
#elif BUG == 45 // address of vector element
    float4 v = float4(x);
    thread float *p = &v.y;
    x = *p;
#elif BUG == 46 // memory_order_seq_cst
    atomic_fetch_add_explicit(counter, 1u, memory_order_seq_cst);
#elif BUG == 47 // 'log1p'
    x = log1p(x);
#elif BUG == 48 // C\+\+17
    if constexpr (sizeof(float) == 4)
        x = 1.0f;
#elif BUG == 49 // has no asm
    asm("");
#elif BUG == 50 // no __builtin_ functions
    x = __builtin_expf(x);
#elif BUG == 51 // are 8 x 8
    simdgroup_matrix<float, 8, 4> m;
    x = m.thread_elements()[0];
#elif BUG == 52 // no exceptions
    if (n.count == 0)
        throw 1;
#elif BUG == 53 // no type named 'float5'|unknown type name 'float5'
    float5 v;
#elif BUG == 54 // no member named 'w'|out of bounds|vector component
    x = float3(x).w;
#else
    x = max(x, float(h));
    atomic_fetch_add_explicit(counter, 1u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_none);
#endif
    out[t] = exp(-fabs(x)) + float(h) + float(n.b);
}
