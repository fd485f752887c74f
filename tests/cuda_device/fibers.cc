/* Threads, warps and blocks of the test device.
 *
 * A thread is a fiber with its own stack. The lanes of a warp run one after another, each until it meets others, polls
 * or returns; the last that comes to a meeting does for all what they came for. When nobody can run, copies under way
 * arrive, then those that poll look again; if nothing changes by that, it is a deadlock, and an error. Blocks run one
 * after another.
 *
 * A kernel is called by its address with its struct by value, whose type nobody knows here: as many bytes as a struct may
 * have lie where the caller's part of the stack would be. Structs of 16 bytes and less, which would come in registers, are
 * put there, too.
 */
#include "fibers.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern "C" {
void cuda_device_switch(void **save, void *to);
void cuda_device_enter(void);
void cuda_device_leave(void);
__attribute__((noreturn, used)) void cuda_device_ended(void);
/* Where `extern __shared__` arrays begin, and a guard behind the largest (made in kernel_begin). */
enum { DYNAMIC_PAGES = cuda_device::MOST_SHARED / cuda_device::PAGE + 2 };
alignas(4096) char cuda_dynamic_shared[DYNAMIC_PAGES * cuda_device::PAGE];
}

/* Saves what a called function must keep, takes the other stack. A new fiber comes to cuda_device_enter, with the
 * kernel in r12 and the arguments above the return address. */
__asm__(".text\n"
        ".globl cuda_device_switch\n.type cuda_device_switch,@function\ncuda_device_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".globl cuda_device_enter\n.type cuda_device_enter,@function\ncuda_device_enter:\n"
        "movq 8(%rsp), %rdi\nmovq 16(%rsp), %rsi\nmovsd 16(%rsp), %xmm0\njmp *%r12\n"
        ".globl cuda_device_leave\n.type cuda_device_leave,@function\ncuda_device_leave:\n"
        "call cuda_device_ended\n"
        ".section .note.GNU-stack,\"\",@progbits\n.text\n");

cuda_device_lane *cuda_device_now;
uint3 blockIdx;
dim3 blockDim, gridDim;
unsigned cuda_device_votes;

namespace cuda_device {

order schedule;
uint64_t seed = 1;
bool trace;

static block *blocks[2][MOST_CLUSTER], *resident; /* resident: whose memory shared memory is */
static running kernels[2];
running *active;
static void *scheduler; /* its stack pointer */
uint64_t progress;
static unsigned resident_shared;

static uint32_t next_random() {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32);
}

/* ---- Failing ---- */

static void fail_at(const char *where, const char *format, va_list list) {
    char message[4096];
    int n = snprintf(message, sizeof message, "%s%s",
                     active ? report_function(active->l.kernel) : "", where);
    vsnprintf(message + n, sizeof message - (size_t)n, format, list);
    report_end(message);
}

} // namespace cuda_device

using namespace cuda_device;

void cuda_device_fail(const char *format, ...) {
    char where[200] = "";
    const lane *l = now();
    if (l != nullptr) {
        const uint3 b = blockIdx, t = l->thread;
        snprintf(where, sizeof where,
                 ", block (%u %u %u), thread (%u %u %u) (warp %u, lane %u): ", b.x, b.y, b.z, t.x,
                 t.y, t.z, l->index / LANES, l->index % LANES);
    }
    va_list list;
    va_start(list, format);
    fail_at(where, format, list);
    va_end(list);
    abort();
}

namespace cuda_device {

/* What each thread of the block does, threads that do the same in one line. */
__attribute__((noreturn)) static void fail_block(const char *what) {
    char text[3500];
    size_t n = 0;
    const block *b = active->b;
    static const char *const words[] = {"can run",  "waits in", "waits in",        "waits in",
                                        "waits in", "polls in", "is in cuda_wait", "has returned"};
    for (unsigned i = 0; i < b->threads && n + 300 < sizeof text;) {
        const lane *l = &b->lanes[i];
        unsigned last = i;
        while (last + 1 < b->threads && b->lanes[last + 1].is == l->is &&
               (l->is == DONE || (b->lanes[last + 1].site.line == l->site.line &&
                                  b->lanes[last + 1].site.file == l->site.file)))
            last++;
        n += (size_t)snprintf(text + n, sizeof text - n, "\n    threads %u to %u: %s", i, last,
                              words[l->is]);
        if (l->is != DONE && l->is != READY)
            n += (size_t)snprintf(text + n, sizeof text - n, " %s at %s:%d", l->site.what,
                                  l->site.file, l->site.line);
        i = last + 1;
    }
    text[n] = 0;
    cuda_device_now = nullptr;
    cuda_device_fail(", block (%u %u %u): %s%s", b->index.x, b->index.y, b->index.z, what, text);
}

/* ---- Fibers ---- */

static uint32_t pick(uint32_t ready) {
    if (schedule == FORWARD)
        return (uint32_t)__builtin_ctz(ready);
    if (schedule == REVERSE)
        return 31u - (uint32_t)__builtin_clz(ready);
    uint32_t turn = next_random() % 32, turned = ready >> turn;
    return turned != 0 ? turn + (uint32_t)__builtin_ctz(turned) : (uint32_t)__builtin_ctz(ready);
}

/* The next lane of the warp that can run goes on, or the scheduler. */
void sleep_as(lane *l, status is, cuda_device_site site) {
    l->is = is;
    l->site = site;
    warp *w = warp_of(l);
    w->ready &= ~(1u << l->index % LANES);
    if (is == POLLING)
        w->polling |= 1u << l->index % LANES;
    if (w->ready != 0) {
        lane *next = l - l->index % LANES + pick(w->ready);
        cuda_device_now = next;
        cuda_device_switch(&l->stack_pointer, next->stack_pointer);
    } else {
        cuda_device_switch(&l->stack_pointer, scheduler);
    }
}
void wake(lane *l) {
    l->is = READY;
    warp_of(l)->ready |= 1u << l->index % LANES;
    progress++;
}

static void *must_map(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("cuda test device: mmap");
        _exit(3);
    }
    return p;
}

static block *make_block() {
    auto *b = (block *)must_map(sizeof(block));
    b->stacks = (char *)must_map((size_t)MOST_THREADS * STACK);
    size_t shared = (size_t)(__stop_cuda_shared - __start_cuda_shared) + MOST_SHARED + PAGE;
    b->saved = (char *)must_map(shared);
    return b;
}

static void make_stacks(block *b, unsigned count) {
    for (; b->made < count; b->made++) {
        lane *l = &b->lanes[b->made];
        l->stack = b->stacks + (size_t)b->made * STACK;
        mprotect(l->stack, PAGE, PROT_NONE);
        /* Stacks begin at different lines of the caches. */
        l->arguments = l->stack + STACK - ARGUMENT_BYTES - (1 + b->made % 16) * 256;
    }
}

/* ---- Shared memory, which one block has ---- */

static void protect(unsigned pages) {
    if (pages == resident_shared)
        return;
    mprotect(cuda_dynamic_shared, (size_t)DYNAMIC_PAGES * PAGE, PROT_NONE);
    if (pages > 0)
        mprotect(cuda_dynamic_shared, (size_t)pages * PAGE, PROT_READ | PROT_WRITE);
    resident_shared = pages;
}
static size_t fixed_bytes() {
    return (size_t)(__stop_cuda_shared - __start_cuda_shared);
}
static void enter_block(running *r, block *b) {
    active = r;
    r->b = b;
    blockIdx = b->index;
    blockDim = r->l.threads;
    gridDim = r->l.grid;
    if (resident == b)
        return;
    if (resident != nullptr && resident->holds) {
        memcpy(resident->saved, __start_cuda_shared, fixed_bytes());
        memcpy(resident->saved + fixed_bytes(), cuda_dynamic_shared,
               (size_t)resident->pages * PAGE);
    }
    resident = b;
    protect(b->pages);
    if (b->holds) {
        memcpy(__start_cuda_shared, b->saved, fixed_bytes());
        memcpy(cuda_dynamic_shared, b->saved + fixed_bytes(), (size_t)b->pages * PAGE);
    }
}

static void begin_block(running *r, block *b, uint64_t number) {
    const launch *l = &r->l;
    b->holds = false;
    if (resident == b)
        resident = nullptr;
    b->pages = (unsigned)((l->shared + PAGE - 1) / PAGE);
    b->index = {(unsigned)(number % l->grid.x), (unsigned)(number / l->grid.x % l->grid.y),
                (unsigned)(number / l->grid.x / l->grid.y)};
    enter_block(r, b);
    b->holds = true;
    b->threads = l->threads.x * l->threads.y * l->threads.z;
    b->warp_count = (b->threads + LANES - 1) / LANES;
    b->done = b->at_grid = b->first_copy = b->copy_count = 0;
    memset(b->barriers, 0, sizeof b->barriers);
    for (auto &group : b->groups)
        group.mask = 0;
    for (unsigned i = 0; i < b->warp_count; i++) {
        unsigned rest = b->threads - i * LANES;
        warp *w = &b->warps[i];
        w->ready = rest >= LANES ? ~0u : (1u << rest) - 1;
        w->polling = 0;
        w->done = ~w->ready;
        w->open = 0;
        for (auto &meeting : w->meetings)
            meeting.mask = 0;
    }
    for (unsigned i = 0; i < b->threads; i++) {
        lane *t = &b->lanes[i];
        t->index = i;
        t->home = b;
        t->thread = {i % l->threads.x, i / l->threads.x % l->threads.y,
                     i / l->threads.x / l->threads.y};
        t->is = READY;
        t->waited = false;
        t->copy_count = t->groups = 0;
        auto **top = (void **)t->arguments;
        *--top = (void *)cuda_device_leave;
        *--top = (void *)cuda_device_enter;
        *--top = nullptr;           /* rbp */
        *--top = nullptr;           /* rbx */
        *--top = (void *)l->kernel; /* r12 */
        for (int k = 0; k < 3; k++)
            *--top = nullptr;
        t->stack_pointer = top;
    }
    memset(cuda_dynamic_shared, 0xff, (size_t)b->pages * PAGE);
    if (number < 4 || r->size > 1)
        memset(__start_cuda_shared, 0xff, fixed_bytes());
}

/* ---- Running a block ---- */

static void run_warp(block *b, unsigned number) {
    warp *w = &b->warps[number];
    if (w->ready != 0) {
        lane *l = &b->lanes[number * LANES + pick(w->ready)];
        cuda_device_now = l;
        cuda_device_switch(&scheduler, l->stack_pointer);
    }
    cuda_device_now = nullptr;
}

static bool wake_pollers(block *b) {
    bool any = false;
    for (unsigned i = 0; i < b->warp_count; i++) {
        warp *w = &b->warps[i];
        any = any || w->polling != 0;
        for (uint32_t p = w->polling; p != 0; p &= p - 1)
            b->lanes[i * LANES + (unsigned)__builtin_ctz(p)].is = READY;
        w->ready |= w->polling;
        w->polling = 0;
    }
    return any;
}

__attribute__((noreturn)) static void fail_stuck(block *b) {
    for (unsigned i = 0; i < b->threads; i++)
        if (b->lanes[i].is == READY) /* just to look again */
            b->lanes[i].is = POLLING;
    fail_block("nobody can go on");
}

/* Until all threads have returned (true), or can go no further before the kernel in front has ended, or before others of
 * the cluster have run (false). */
static bool run_block(running *r) {
    block *b = r->b;
    const int patience = r->size > 1 ? 2 : 100;
    uint64_t seen = progress;
    int idle = 0;
    for (;;) {
        unsigned first = schedule == RANDOM ? next_random() % b->warp_count : 0;
        for (unsigned i = 0; i < b->warp_count; i++) {
            unsigned w = (i + first) % b->warp_count;
            if (schedule == REVERSE)
                w = b->warp_count - 1 - i;
            run_warp(b, w);
        }
        if (b->done == b->threads)
            return true;
        bool ready = false;
        for (unsigned i = 0; i < b->warp_count; i++)
            ready = ready || b->warps[i].ready != 0;
        idle = ready || progress != seen ? 0 : idle + 1;
        for (unsigned late = ready ? 0 : (unsigned)(b->copy_count + 1) / 2; late > 0; late--)
            arrive_copy(b);
        seen = progress;
        bool polling = wake_pollers(b);
        if (!ready && (!polling || idle > patience)) {
            if (b->at_grid == 0 && r->size == 1)
                fail_stuck(b);
            return false;
        }
    }
}

static void end_block(const running *r) {
    for (size_t i = r->l.shared; i % PAGE != 0; i++)
        if (cuda_dynamic_shared[i] != (char)0xff) {
            char what[120];
            snprintf(what, sizeof what, "byte %zu of shared memory was written, behind its %zu", i,
                     r->l.shared);
            fail_block(what);
        }
    if (r->b->copy_count > 0)
        fail_block("the block ended with copies under way");
    for (unsigned i = 0; i < BARRIERS; i++)
        if (r->b->barriers[i].arrived > 0)
            fail_block("the block ended with threads that arrived at a barrier");
}

/* The same for the blocks of a cluster, which run in turns. */
static bool run_cluster(running *r) {
    if (r->size == 1)
        return run_block(r);
    for (;;) {
        uint64_t seen = progress;
        unsigned ended = 0, at_grid = 0;
        for (unsigned i = 0; i < r->size; i++) {
            block *b = r->group[schedule == REVERSE ? r->size - 1 - i : i];
            if (b->done < b->threads) {
                enter_block(r, b);
                run_block(r);
            }
            ended += b->done == b->threads;
            at_grid += b->at_grid;
        }
        if (ended == r->size)
            return true;
        if (progress == seen && at_grid > 0)
            return false;
        if (progress == seen)
            for (unsigned i = 0; i < r->size; i++)
                if (r->group[i]->done < r->group[i]->threads) {
                    enter_block(r, r->group[i]);
                    fail_stuck(r->group[i]);
                }
    }
}

static void begin_cluster(running *r, uint64_t first) {
    r->at_cluster = 0;
    for (unsigned i = 0; i < r->size; i++)
        begin_block(r, r->group[i], first + i);
}

static void end_cluster(running *r) {
    for (unsigned i = 0; i < r->size; i++) {
        enter_block(r, r->group[i]);
        end_block(r);
        r->group[i]->holds = false;
    }
}

/* ---- Kernels ---- */

running *kernel_begin(const launch *l) {
    report_prepare();
    unsigned slot = kernels[0].in_use ? 1 : 0, threads = l->threads.x * l->threads.y * l->threads.z;
    running *r = &kernels[slot];
    r->l = *l;
    r->size = l->cluster > 1 ? l->cluster : 1;
    if (l->together)
        r->size = l->grid.x * l->grid.y * l->grid.z;
    r->next = 0;
    r->in_use = true;
    for (unsigned k = 0; k < r->size; k++) {
        if (blocks[slot][k] == nullptr)
            blocks[slot][k] = make_block();
        r->group[k] = blocks[slot][k];
        make_stacks(r->group[k], threads);
        for (unsigned i = 0; i < threads; i++)
            memcpy(r->group[k]->lanes[i].arguments, l->arguments, ARGUMENT_BYTES);
    }
    r->begun = false;
    if (!l->programmatic)
        return r;
    begin_cluster(r, 0);
    r->begun = !run_cluster(r);
    if (!r->begun)
        end_cluster(r);
    r->next = r->size;
    active = nullptr;
    return r;
}

/* To the end; the kernel in front has ended. */
static void finish_cluster(running *r) {
    while (!run_cluster(r))
        for (unsigned k = 0; k < r->size; k++) {
            block *b = r->group[k];
            for (unsigned i = 0; i < b->threads; i++)
                if (b->lanes[i].is == AT_GRID) {
                    b->lanes[i].waited = true;
                    wake(&b->lanes[i]);
                }
            b->at_grid = 0;
        }
    end_cluster(r);
}

void kernel_end(running *r) {
    uint64_t count = (uint64_t)r->l.grid.x * r->l.grid.y * r->l.grid.z;
    if (r->begun) {
        enter_block(r, r->group[0]);
        finish_cluster(r);
    }
    for (uint64_t i = r->next; i < count; i += r->size) {
        begin_cluster(r, schedule == REVERSE ? count - r->size - (i - r->next) : i);
        finish_cluster(r);
    }
    r->in_use = false;
    active = nullptr;
}

} // namespace cuda_device

void cuda_device_ended() {
    lane *l = now();
    warp *w = warp_of(l);
    block *b = active->b;
    if (active->l.programmatic && !l->waited)
        cuda_device_fail("the thread returned without cuda_wait");
    w->done |= 1u << l->index % LANES;
    b->done++;
    leave_meetings(l);
    progress++;
    sleep_as(l, DONE, {"", "", 0});
    abort();
}
