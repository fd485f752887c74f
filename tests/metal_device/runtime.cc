/* Threads, SIMD-groups and threadgroups of the test device.
 *
 * A thread is a fiber with its own stack. The lanes of a SIMD-group run one after another, each until it waits at a
 * rendezvous or returns; when all lanes are there, what they came for is done and they go on. A threadgroup's
 * barrier is met when all its SIMD-groups are there. Anything else, lanes at different places or lanes that returned
 * while others wait, is divergence, and an error. Threadgroups run one after another.
 */
#include "runtime.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

extern "C" {
extern gpu_kernel __start_metal_kernels[] __attribute__((weak, visibility("hidden")));
extern gpu_kernel __stop_metal_kernels[] __attribute__((weak, visibility("hidden")));
extern metal_device_variable __start_metal_variables[] __attribute__((weak, visibility("hidden")));
extern metal_device_variable __stop_metal_variables[] __attribute__((weak, visibility("hidden")));
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
void metal_device_switch(void **save, void *to);
}

/* Saves what a called function must keep, takes the other stack. */
__asm__(".text\n.hidden metal_device_switch\n.globl metal_device_switch\n"
        ".type metal_device_switch,@function\n"
        "metal_device_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\n"
        "ret\n");

namespace metal_device {

machine state;
uintptr_t arena, stacks, image_begin, image_end;

static fiber fibers[GPU_MOST_THREADS];
static void *scheduler; /* its stack pointer */
static bool failed, fresh = true;
static gpu_schedule schedule;
static uint64_t random_state = 1;

struct slot {
    alignas(16) char bytes[METAL_DEVICE_SLOT];
};
static slot slots[GPU_MOST_THREADS / GPU_SIMD][GPU_SIMD];

static uint32_t next_random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

/* A way through 0 .. count - 1 as the schedule wants it: first, then by steps that share no factor with count. */
struct order {
    uint32_t count, at, stride;
};
static uint32_t common_divisor(uint32_t a, uint32_t b) {
    return b == 0 ? a : common_divisor(b, a % b);
}
static order begin_order(uint32_t count) {
    if (schedule == GPU_FORWARD || count < 2)
        return {count, 0, 1};
    if (schedule == GPU_REVERSE)
        return {count, count - 1, count - 1};
    order o = {count, next_random() % count, 1 + next_random() % (count - 1)};
    while (common_divisor(o.stride, count) != 1)
        o.stride--;
    return o;
}
static uint32_t take(order *o) {
    uint32_t i = o->at;
    o->at = (uint32_t)(((uint64_t)o->at + o->stride) % o->count);
    return i;
}

/* ---- Failing ---- */

static void record(uintptr_t code, uintptr_t earlier, const char *format, va_list list) {
    gpu_fault *fault = state.fault;
    const gpu_kernel *k = state.launch->kernel;
    size_t size = sizeof fault->message;
    int n = snprintf(fault->message, size, "%s", k->name);
    if (state.current != nullptr) {
        uint32_t t = state.current->thread;
        n += snprintf(fault->message + n, size - (size_t)n,
                      ", threadgroup (%u %u %u), thread %u (SIMD-group %u, lane %u)",
                      state.position[0], state.position[1], state.position[2], t, t / GPU_SIMD,
                      t % GPU_SIMD);
    }
    n += snprintf(fault->message + n, size - (size_t)n, ": ");
    vsnprintf(fault->message + n, size - (size_t)n, format, list);
    fault->code[0] = code;
    fault->code[1] = earlier;
    failed = true;
    fresh = true; /* the stacks of the other fibers are in the middle of something */
}

void fail(uintptr_t code, uintptr_t earlier, const char *format, ...) {
    va_list list;
    va_start(list, format);
    record(code, earlier, format, list);
    va_end(list);
    void *nowhere;
    metal_device_switch(&nowhere, scheduler);
    __builtin_unreachable();
}

/* ---- Fibers ---- */

/* The lanes that still have to run in this round, of one SIMD-group. */
static fiber *round_of[GPU_SIMD];
static uint32_t round_next, round_count;

static void go_on(fiber *from) {
    if (round_next < round_count) {
        fiber *to = round_of[round_next++];
        state.current = to;
        metal_device_switch(&from->stack_pointer, to->stack_pointer);
    } else {
        metal_device_switch(&from->stack_pointer, scheduler);
    }
}

static void fiber_main() {
    for (;;) {
        fiber *self = state.current;
        state.launch->kernel->call();
        self->status = DONE;
        go_on(self);
    }
}

static bool make_fibers() {
    const size_t bytes = (size_t)GPU_MOST_THREADS * STACK_BYTES;
    if (stacks == 0) {
        void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        void *q =
            mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || q == MAP_FAILED)
            return false;
        stacks = (uintptr_t)p;
        arena = (uintptr_t)q;
        image_begin = (uintptr_t)__ehdr_start;
        image_end = (uintptr_t)_end;
    }
    if (fresh) {
        for (uint32_t i = 0; i < GPU_MOST_THREADS; i++) {
            fiber *f = &fibers[i];
            f->thread = i;
            f->stack = stacks + (uintptr_t)i * STACK_BYTES;
            /* Stacks begin at different lines of the caches. */
            void **top = (void **)(f->stack + STACK_BYTES - 64 - (i % 32) * 192);
            *--top = nullptr;
            *--top = (void *)fiber_main;
            for (int r = 0; r < 6; r++)
                *--top = nullptr;
            f->stack_pointer = top;
        }
        fresh = false;
    }
    return true;
}

/* ---- Rendezvous ---- */

static bool same_site(const fiber *a, const fiber *b) {
    return a->site.line == b->site.line && a->combine == b->combine && a->flags == b->flags &&
           a->status == b->status &&
           (a->site.file == b->site.file || strcmp(a->site.file, b->site.file) == 0);
}

static void describe(const fiber *f, char *to, size_t size) {
    if (f->status == DONE)
        snprintf(to, size, "thread %u has returned", f->thread);
    else
        snprintf(to, size, "thread %u waits in %s at %s:%d", f->thread, f->site.what, f->site.file,
                 f->site.line);
}

static void divergence(const fiber *a, const fiber *b) {
    char first[400], second[400];
    describe(a, first, sizeof first);
    describe(b, second, sizeof second);
    state.current = nullptr;
    gpu_fault *fault = state.fault;
    snprintf(fault->message, sizeof fault->message,
             "%s, threadgroup (%u %u %u): divergence: %s, %s", state.launch->kernel->name,
             state.position[0], state.position[1], state.position[2], first, second);
    fault->code[0] = fault->code[1] = 0;
    failed = fresh = true;
}

static void make_visible(unsigned flags, uint32_t *group, uint32_t simd) {
    state.clock++;
    for (int memory = 0; memory < 2; memory++) {
        if ((flags & (memory == 0 ? 2u : 1u)) == 0)
            continue;
        if (group != nullptr)
            group[memory] = state.clock;
        else
            state.simd_visible[memory][simd] = state.clock;
    }
}

/* Runs the ready lanes of a SIMD-group and does what they meet for, until none is ready. */
static bool run_simd(uint32_t simd) {
    fiber *lanes = &fibers[simd * GPU_SIMD];
    uint32_t active = state.threads - simd * GPU_SIMD;
    if (active > GPU_SIMD)
        active = GPU_SIMD;
    for (;;) {
        order o = begin_order(active);
        for (uint32_t i = 0; i < active; i++)
            round_of[i] = &lanes[take(&o)];
        round_next = 1;
        round_count = active;
        state.current = round_of[0];
        metal_device_switch(&scheduler, round_of[0]->stack_pointer);
        if (failed)
            return false;
        for (uint32_t i = 1; i < active; i++)
            if (!(lanes[i].status == lanes[0].status &&
                  (lanes[0].status == DONE || same_site(&lanes[0], &lanes[i])))) {
                divergence(&lanes[0], &lanes[i]);
                return false;
            }
        if (lanes[0].status != AT_SIMD)
            return true;
        state.current = &lanes[0];
        if (lanes[0].combine != nullptr)
            lanes[0].combine(slots[simd], active);
        else
            make_visible(lanes[0].flags, nullptr, simd);
        if (failed)
            return false;
        for (uint32_t i = 0; i < active; i++)
            lanes[i].status = READY;
    }
}

static bool run_group() {
    uint32_t simds = (state.threads + GPU_SIMD - 1) / GPU_SIMD;
    for (uint32_t i = 0; i < state.threads; i++) {
        fibers[i].status = READY;
        fibers[i].variables = 0;
    }
    state.group_clock = ++state.clock;
    for (;;) {
        order o = begin_order(simds);
        for (uint32_t i = 0; i < simds; i++)
            if (!run_simd(take(&o)))
                return false;
        for (uint32_t i = 1; i < simds; i++) {
            const fiber *a = &fibers[0], *b = &fibers[i * GPU_SIMD];
            if (a->status != b->status || (a->status != DONE && !same_site(a, b))) {
                divergence(a, b);
                return false;
            }
        }
        if (fibers[0].status == DONE)
            return true;
        make_visible(fibers[0].flags, state.group_visible, 0);
        for (uint32_t i = 0; i < state.threads; i++)
            fibers[i].status = READY;
    }
}

/* ---- A dispatch ---- */

static uint32_t place_variable(uint32_t size) {
    uintptr_t begin = arena;
    if (state.variable_count > 0) {
        const span *last = &state.variables[state.variable_count - 1];
        begin = (last->begin + last->size + 2 * PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
    }
    state.variables[state.variable_count++] = {begin, size};
    shadow_variables_changed();
    return state.variable_count - 1;
}

static uint32_t threadgroup_bytes(const gpu_kernel *k) {
    uint32_t bytes = 0;
    for (const metal_device_variable *v = __start_metal_variables; v < __stop_metal_variables; v++)
        if (v->function == k->function)
            bytes = ((bytes + v->alignment - 1) & ~(v->alignment - 1)) + v->size;
    return (bytes + 15) & ~15u;
}

__attribute__((format(printf, 2, 3))) static bool refuse(const gpu_launch *l, const char *format,
                                                         ...) {
    char reason[512];
    va_list list;
    va_start(list, format);
    vsnprintf(reason, sizeof reason, format, list);
    va_end(list);
    snprintf(state.fault->message, sizeof state.fault->message, "%s: %s", l->kernel->name, reason);
    return false;
}

static bool check_launch(const gpu_launch *l) {
    const gpu_kernel *k = l->kernel;
    uint64_t threads = (uint64_t)l->threads[0] * l->threads[1] * l->threads[2];
    uint64_t groups = (uint64_t)l->groups[0] * l->groups[1] * l->groups[2];
    uint64_t bytes = threadgroup_bytes(k);
    if (threads == 0 || threads > GPU_MOST_THREADS)
        return refuse(l, "%lu threads a threadgroup", (unsigned long)threads);
    if (k->most_threads != 0 && threads > (uint64_t)k->most_threads)
        return refuse(l, "%lu threads a threadgroup, but it says at most %d",
                      (unsigned long)threads, k->most_threads);
    if (groups == 0 || groups > UINT32_MAX / GPU_MOST_THREADS)
        return refuse(l, "%lu threadgroups", (unsigned long)groups);
    for (int i = 0; i < k->count; i++) {
        const metal_device_parameter *p = &k->parameter[i];
        if (p->kind == METAL_DEVICE_BUFFER) {
            const gpu_bound *b = &l->buffer[p->index];
            if (b->base == nullptr)
                return refuse(l, "nothing is bound to buffer %d", p->index);
            if (b->offset > b->length || b->length - b->offset < p->size)
                return refuse(l,
                              "buffer %d has %lu bytes from offset %lu on, the kernel's struct %u",
                              p->index, (unsigned long)(b->length - b->offset),
                              (unsigned long)b->offset, p->size);
            if (b->bytes && !p->reads_only)
                return refuse(l, "setBytes to buffer %d, which the kernel may write", p->index);
        } else if (p->kind == METAL_DEVICE_THREADGROUP) {
            if (l->threadgroup_bytes[p->index] == 0)
                return refuse(l, "threadgroup memory %d has no length", p->index);
            bytes += l->threadgroup_bytes[p->index];
        }
    }
    if (bytes > GPU_THREADGROUP_BYTES)
        return refuse(l, "%lu bytes of threadgroup memory, the most is %d", (unsigned long)bytes,
                      GPU_THREADGROUP_BYTES);
    return true;
}

static void poison_variables() {
    for (uint32_t i = 0; i < state.variable_count; i++)
        memset((void *)state.variables[i].begin, 0xff, state.variables[i].size);
}

static bool run(const gpu_launch *launch, gpu_traffic *traffic, gpu_fault *fault) {
    memset(fault, 0, sizeof *fault);
    state.fault = fault;
    state.launch = launch;
    state.current = nullptr;
    failed = false;
    if (traffic != nullptr)
        memset(traffic, 0, sizeof *traffic);
    if (!make_fibers())
        return refuse(launch, "out of memory");
    if (!check_launch(launch))
        return false;
    state.threads = launch->threads[0] * launch->threads[1] * launch->threads[2];
    state.variable_count = 0;
    state.dispatch_clock = ++state.clock;
    memset(state.simd_visible, 0, sizeof state.simd_visible);
    memset(state.group_visible, 0, sizeof state.group_visible);
    for (int i = 0; i < GPU_BUFFERS; i++)
        if (launch->threadgroup_bytes[i] != 0)
            place_variable(launch->threadgroup_bytes[i]);
    state.arguments = state.variable_count;
    shadow_begin(launch);
    uint32_t groups = launch->groups[0] * launch->groups[1] * launch->groups[2];
    order o = begin_order(groups);
    bool fine = true;
    for (uint32_t i = 0; i < groups && fine; i++) {
        state.group = take(&o);
        state.position[0] = state.group % launch->groups[0];
        state.position[1] = state.group / launch->groups[0] % launch->groups[1];
        state.position[2] = state.group / launch->groups[0] / launch->groups[1];
        poison_variables();
        fine = run_group();
    }
    state.current = nullptr;
    shadow_end(traffic);
    return fine;
}

static void fence() {
    state.clock++;
    shadow_fence();
}

static void forget(const void *base, size_t length) {
    shadow_forget((uintptr_t)base, length);
}

static void set_schedule(gpu_schedule to, uint64_t seed) {
    schedule = to;
    random_state = seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
    if (random_state == 0)
        random_state = 1;
}

static int kernel_count() {
    return (int)(__stop_metal_kernels - __start_metal_kernels);
}
static const gpu_kernel *kernel_at(int index) {
    return index >= 0 && index < kernel_count() ? &__start_metal_kernels[index] : nullptr;
}
static const char *name_of(const gpu_kernel *k) {
    return k->name;
}
static bool uses(const gpu_kernel *k, int index, bool *writes) {
    for (int i = 0; i < k->count; i++)
        if (k->parameter[i].kind == METAL_DEVICE_BUFFER && k->parameter[i].index == index) {
            if (writes != nullptr)
                *writes = !k->parameter[i].reads_only;
            return true;
        }
    return false;
}

} // namespace metal_device

using namespace metal_device;

extern "C" __attribute__((visibility("default"))) const gpu_module *metal_device_module(void) {
    static gpu_module module;
    module = {METAL_DEVICE_HASH,
              kernel_count(),
              run,
              fence,
              forget,
              set_schedule,
              kernel_at,
              name_of,
              threadgroup_bytes,
              uses,
              (uintptr_t)__ehdr_start};
    for (gpu_kernel *k = __start_metal_kernels; k < __stop_metal_kernels; k++)
        k->module = &module;
    return &module;
}

/* ---- What kernels call ---- */

extern "C" void *metal_device_buffer(int index) {
    const gpu_bound *b = &state.launch->buffer[index];
    return (char *)b->base + b->offset;
}

extern "C" void *metal_device_threadgroup(int index) {
    uint32_t n = 0;
    for (int i = 0; i < index; i++)
        n += state.launch->threadgroup_bytes[i] != 0;
    return (void *)state.variables[n].begin;
}

/* All threads come by the variables of a kernel in the same order. */
extern "C" void *metal_device_variable_address(unsigned size, unsigned) {
    uint32_t n = state.arguments + state.current->variables++;
    if (n == state.variable_count) {
        if (n == MOST_VARIABLES + GPU_BUFFERS)
            fail(0, 0, "more than %d threadgroup variables", MOST_VARIABLES);
        place_variable(size);
        memset((void *)state.variables[n].begin, 0xff, size);
    }
    return (void *)state.variables[n].begin;
}

extern "C" unsigned metal_device_lane() {
    return state.current->thread % GPU_SIMD;
}

extern "C" void metal_device_position(int which, unsigned *out) {
    const uint32_t *threads = state.launch->threads, *groups = state.launch->groups;
    uint32_t t = state.current->thread;
    uint32_t in_group[3] = {t % threads[0], t / threads[0] % threads[1],
                            t / threads[0] / threads[1]};
    uint32_t simds = (state.threads + GPU_SIMD - 1) / GPU_SIMD;
    for (int i = 0; i < 3; i++) {
        switch (which) {
        case METAL_DEVICE_thread_position_in_grid:
            out[i] = state.position[i] * threads[i] + in_group[i];
            break;
        case METAL_DEVICE_thread_position_in_threadgroup:
            out[i] = in_group[i];
            break;
        case METAL_DEVICE_threadgroup_position_in_grid:
            out[i] = state.position[i];
            break;
        case METAL_DEVICE_threads_per_threadgroup:
        case METAL_DEVICE_dispatch_threads_per_threadgroup:
            out[i] = threads[i];
            break;
        case METAL_DEVICE_threadgroups_per_grid:
            out[i] = groups[i];
            break;
        case METAL_DEVICE_threads_per_grid:
            out[i] = groups[i] * threads[i];
            break;
        case METAL_DEVICE_thread_index_in_threadgroup:
            out[i] = t;
            break;
        case METAL_DEVICE_thread_index_in_simdgroup:
            out[i] = t % GPU_SIMD;
            break;
        case METAL_DEVICE_simdgroup_index_in_threadgroup:
            out[i] = t / GPU_SIMD;
            break;
        case METAL_DEVICE_threads_per_simdgroup:
        case METAL_DEVICE_thread_execution_width:
            out[i] = GPU_SIMD;
            break;
        default:
            out[i] = simds;
        }
    }
}

static void wait(fiber_status status, metal_device_combine *combine, unsigned flags,
                 const metal_device_site *site) {
    fiber *self = state.current;
    if ((uintptr_t)__builtin_frame_address(0) - self->stack < 4096)
        fail(0, 0, "private memory of a thread: more than %d bytes, in %s at %s:%d", STACK_BYTES,
             site->what, site->file, site->line);
    self->status = status;
    self->site = *site;
    self->combine = combine;
    self->flags = flags;
    go_on(self);
}

extern "C" void *metal_device_simd(metal_device_combine *combine, const void *value, unsigned size,
                                   const metal_device_site *site) {
    uint32_t t = state.current->thread;
    slot *mine = &slots[t / GPU_SIMD][t % GPU_SIMD];
    memcpy(mine->bytes, value, size);
    wait(AT_SIMD, combine, 0, site);
    return mine->bytes;
}

extern "C" void metal_device_barrier(bool of_threadgroup, unsigned flags,
                                     const metal_device_site *site) {
    wait(of_threadgroup ? AT_THREADGROUP : AT_SIMD, nullptr, flags, site);
}

__attribute__((format(printf, 1, 2))) static void record_here(const char *format, ...) {
    va_list list;
    va_start(list, format);
    record(0, 0, format, list);
    va_end(list);
}

extern "C" void metal_device_fault(const char *what) {
    const metal_device_site *at = &state.current->site;
    record_here("%s, in %s at %s:%d", what, at->what, at->file, at->line);
}

/* libgcc 12 has no conversion to bfloat16. To the nearest, ties to even. */
extern "C" __bf16 __truncsfbf2(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t high =
        (uint16_t)(x != x ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    __bf16 y;
    memcpy(&y, &high, sizeof y);
    return y;
}
extern "C" __bf16 __truncdfbf2(double x) {
    return __truncsfbf2((float)x);
}
