/* What is known of memory: which bytes may be touched, who touched them last, which bytes a dispatch has touched.
 *
 * The compiler calls the hooks at the end of this file for each load and store (-fsanitize=thread; the
 * sanitizer's own library is not linked). A cell tells of the last write and two reads: who, when, and from where.
 * Two accesses of which one writes are ordered if they are of one thread, or if since the first both threads
 * have come to a barrier that makes this memory visible; else they race. Threadgroups of a dispatch are never
 * ordered. Between dispatches since the last fence maps of bytes suffice.
 */
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace metal_device {

struct stamp {
    uint32_t thread; /* group * GPU_MOST_THREADS + thread */
    uint32_t clock;
    uint32_t code; /* offset in the library, and in the lowest bit: atomic */
};
struct cell {
    stamp write, read[2];
};
enum { WORDS = PAGE_BYTES / 64 };

/* What is known of a page of memory. */
struct page {
    uintptr_t address;
    uint32_t dispatch;         /* that the maps are of */
    uint32_t earlier_dispatch; /* the last that the earlier maps have; 0: none */
    uint32_t shift;            /* a cell stands for 1 << shift bytes */
    cell *cells;               /* made when something is written in place */
    page *next;                /* that this dispatch touched */
    uint64_t read[WORDS], written[WORDS];
    uint64_t earlier_read[WORDS], earlier_written[WORDS];
};

enum region_kind : uint8_t { NOWHERE, BUFFER, CONSTANT, PRIVATE, GROUP };
struct region {
    uintptr_t begin, end;
    region_kind kind;
};

/* Where an address was found the last time. */
struct remembered {
    uintptr_t number; /* of the page */
    uintptr_t begin, end;
    page *known;
    region_kind kind;
};

static region regions[2 * GPU_BUFFERS + 2];
static int region_count;
static remembered cache[1024];
static uint32_t dispatch, fence_dispatch;
static page *touched;
static const char *names[64]; /* of dispatches since the fence */

/* Pages by number, two levels. */
enum { LEVEL_BITS = 18 };
static page ***table;

static page **slot_of(uintptr_t number, bool make) {
    if (table == nullptr) {
        void *p = mmap(nullptr, sizeof(page **) << LEVEL_BITS, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            fail(0, 0, "out of memory");
        table = (page ***)p;
    }
    uintptr_t high = number >> LEVEL_BITS & ((1u << LEVEL_BITS) - 1);
    if (table[high] == nullptr) {
        if (!make)
            return nullptr;
        void *p = mmap(nullptr, sizeof(page *) << LEVEL_BITS, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            fail(0, 0, "out of memory");
        table[high] = (page **)p;
    }
    return &table[high][number & ((1u << LEVEL_BITS) - 1)];
}

static page *page_at(uintptr_t number) {
    page **where = slot_of(number, true);
    if (*where == nullptr) {
        *where = (page *)calloc(1, sizeof(page));
        if (*where == nullptr)
            fail(0, 0, "out of memory");
        (*where)->address = number << PAGE_BITS;
        (*where)->shift = 2;
    }
    return *where;
}

/* The first touch of a page in a dispatch: what its maps tell becomes the past. */
static void renew(page *p) {
    if (p->dispatch > fence_dispatch) {
        bool has_earlier = p->earlier_dispatch > fence_dispatch;
        for (int i = 0; i < WORDS; i++) {
            p->earlier_read[i] = p->read[i] | (has_earlier ? p->earlier_read[i] : 0);
            p->earlier_written[i] = p->written[i] | (has_earlier ? p->earlier_written[i] : 0);
        }
        p->earlier_dispatch = p->dispatch;
    }
    memset(p->read, 0, sizeof p->read);
    memset(p->written, 0, sizeof p->written);
    p->dispatch = dispatch;
    p->next = touched;
    touched = p;
}

/* ---- What may be touched ---- */

void shadow_begin(const gpu_launch *launch) {
    dispatch++;
    names[dispatch % 64] = launch->kernel->name;
    touched = nullptr;
    memset(cache, 0, sizeof cache);
    /* Where bindings overlap, the one that may be written counts. */
    uintptr_t edges[2 * GPU_BUFFERS];
    region bound[GPU_BUFFERS];
    int edge_count = 0, bound_count = 0;
    for (int i = 0; i < launch->kernel->count; i++) {
        const metal_device_parameter *p = &launch->kernel->parameter[i];
        if (p->kind != METAL_DEVICE_BUFFER)
            continue;
        const gpu_bound *b = &launch->buffer[p->index];
        uintptr_t begin = (uintptr_t)b->base + b->offset, end = (uintptr_t)b->base + b->length;
        region_kind kind = b->bytes ? PRIVATE : p->reads_only ? CONSTANT : BUFFER;
        if (begin == end)
            continue;
        bound[bound_count++] = {begin, end, kind};
        edges[edge_count++] = begin;
        edges[edge_count++] = end;
    }
    for (int i = 1; i < edge_count; i++)
        for (int j = i; j > 0 && edges[j - 1] > edges[j]; j--) {
            uintptr_t t = edges[j];
            edges[j] = edges[j - 1];
            edges[j - 1] = t;
        }
    region_count = 0;
    for (int i = 0; i + 1 < edge_count; i++) {
        region_kind kind = NOWHERE;
        for (int j = 0; j < bound_count; j++)
            if (bound[j].begin <= edges[i] && edges[i + 1] <= bound[j].end &&
                (kind == NOWHERE || bound[j].kind == BUFFER))
                kind = bound[j].kind;
        if (kind == NOWHERE || edges[i] == edges[i + 1])
            continue;
        region *last = region_count > 0 ? &regions[region_count - 1] : nullptr;
        if (last != nullptr && last->end == edges[i] && last->kind == kind)
            last->end = edges[i + 1];
        else
            regions[region_count++] = {edges[i], edges[i + 1], kind};
    }
}

void shadow_variables_changed() {
    memset(cache, 0, sizeof cache);
}

static bool find_region(uintptr_t a, region *out) {
    for (int i = 0; i < region_count; i++)
        if (a >= regions[i].begin && a < regions[i].end) {
            *out = regions[i];
            return true;
        }
    for (uint32_t i = 0; i < state.variable_count; i++) {
        const span *s = &state.variables[i];
        if (a >= s->begin && a < s->begin + s->size) {
            *out = {s->begin, s->begin + s->size, GROUP};
            return true;
        }
    }
    if (a >= image_begin && a < image_end) {
        *out = {image_begin, image_end, PRIVATE};
        return true;
    }
    return false;
}

[[noreturn]] static void out_of_bounds(uintptr_t a, unsigned size, bool writes, uintptr_t code) {
    const char *what = writes ? "writes" : "reads";
    const gpu_launch *l = state.launch;
    if (a >= stacks && a < stacks + (uintptr_t)GPU_MOST_THREADS * STACK_BYTES)
        fail(code, 0, "%s %u bytes of another thread's private memory", what, size);
    if (a >= arena && a < arena + arena_bytes) {
        int nearest = -1;
        uintptr_t distance = UINTPTR_MAX;
        for (uint32_t i = 0; i < state.variable_count; i++) {
            const span *s = &state.variables[i];
            uintptr_t d = a < s->begin ? s->begin - a : a - s->begin;
            if (d < distance) {
                distance = d;
                nearest = (int)i;
            }
        }
        const span *s = &state.variables[nearest];
        fail(code, 0, "%s %u bytes out of bounds: byte %ld of threadgroup memory of %u bytes", what,
             size, (long)(a - s->begin), s->size);
    }
    int nearest = -1;
    uintptr_t distance = UINTPTR_MAX;
    for (int i = 0; i < l->kernel->count; i++) {
        const metal_device_parameter *p = &l->kernel->parameter[i];
        if (p->kind != METAL_DEVICE_BUFFER)
            continue;
        const gpu_bound *b = &l->buffer[p->index];
        uintptr_t begin = (uintptr_t)b->base + b->offset, end = (uintptr_t)b->base + b->length;
        uintptr_t d = a < begin ? begin - a : a >= end ? a - end + 1 : 0;
        if (d < distance) {
            distance = d;
            nearest = p->index;
        }
    }
    if (nearest < 0 || distance > (uintptr_t)1 << 32)
        fail(code, 0, "%s %u bytes out of bounds, at %p", what, size, (void *)a);
    const gpu_bound *b = &l->buffer[nearest];
    fail(code, 0, "%s %u bytes out of bounds: byte %ld of buffer %d, which has %lu", what, size,
         (long)(a - ((uintptr_t)b->base + b->offset)), nearest,
         (unsigned long)(b->length - b->offset));
}

static remembered *find(uintptr_t a, unsigned size, bool writes, uintptr_t code) {
    uintptr_t number = a >> PAGE_BITS;
    region r;
    if (!find_region(a, &r) || a + size > r.end)
        out_of_bounds(a, size, writes, code);
    remembered *c = &cache[number & 1023];
    c->number = number;
    c->begin = r.begin > number << PAGE_BITS ? r.begin : number << PAGE_BITS;
    c->end = r.end < (number + 1) << PAGE_BITS ? r.end : (number + 1) << PAGE_BITS;
    c->kind = r.kind;
    c->known = r.kind == PRIVATE ? nullptr : page_at(number);
    if (c->known != nullptr && r.kind != GROUP && c->known->dispatch != dispatch)
        renew(c->known);
    return c;
}

/* ---- Who touched it ---- */

static void make_cells(page *p) {
    p->cells = (cell *)calloc(PAGE_BYTES >> p->shift, sizeof(cell));
    if (p->cells == nullptr)
        fail(0, 0, "out of memory");
}

/* Cells for fewer bytes each, from now on. */
static void refine(page *p, uint32_t shift) {
    uint32_t count = PAGE_BYTES >> shift, by = p->shift - shift;
    cell *finer = (cell *)malloc(count * sizeof(cell));
    if (finer == nullptr)
        fail(0, 0, "out of memory");
    for (uint32_t i = 0; i < count; i++)
        finer[i] = p->cells[i >> by];
    free(p->cells);
    p->cells = finer;
    p->shift = shift;
}

enum access { READ, WRITE, ATOMIC_READ, ATOMIC_WRITE, ATOMIC_CHANGE /* reads and writes */ };

static inline bool writing(access kind) {
    return kind == WRITE || kind >= ATOMIC_WRITE;
}

[[noreturn]] static void race(uintptr_t a, bool writes, const char *earlier, const stamp *s,
                              bool of_group, uintptr_t code) {
    uint32_t group = s->thread / GPU_MOST_THREADS, t = s->thread % GPU_MOST_THREADS;
    uintptr_t code_before = image_begin + (s->code & ~1u);
    char where[100] = "";
    if (!of_group)
        for (int i = 0; i < state.launch->kernel->count; i++) {
            const metal_device_parameter *p = &state.launch->kernel->parameter[i];
            const gpu_bound *b = &state.launch->buffer[p->index];
            if (p->kind == METAL_DEVICE_BUFFER && a >= (uintptr_t)b->base + b->offset &&
                a < (uintptr_t)b->base + b->length)
                snprintf(where, sizeof where, "buffer %d, byte %lu", p->index,
                         (unsigned long)(a - ((uintptr_t)b->base + b->offset)));
        }
    else
        for (uint32_t i = 0; i < state.variable_count; i++)
            if (a >= state.variables[i].begin &&
                a < state.variables[i].begin + state.variables[i].size)
                snprintf(where, sizeof where, "threadgroup memory, byte %lu of %u",
                         (unsigned long)(a - state.variables[i].begin), state.variables[i].size);
    if (group == state.group)
        fail(code, code_before, "race: %s %s, which thread %u (SIMD-group %u) has %s",
             writes ? "writes" : "reads", where, t, t / GPU_SIMD, earlier);
    fail(code, code_before, "race: %s %s, which threadgroup %u has %s", writes ? "writes" : "reads",
         where, group, earlier);
}

struct observer {
    uint32_t thread, simd; /* in the dispatch */
    uint32_t since;        /* accesses of an earlier time are of another dispatch or threadgroup */
    uint32_t group_visible, simd_visible;
};

static inline bool ordered(const stamp *s, const observer *o) {
    if (s->clock < o->since || s->thread == o->thread)
        return true;
    if ((s->thread ^ o->thread) >= GPU_MOST_THREADS)
        return false;
    if (s->clock < o->group_visible)
        return true;
    return (s->thread ^ o->thread) < GPU_SIMD && s->clock < o->simd_visible;
}

/* Two reads are kept. Of more, those that lie further from each other: a writer is then unordered to one of them. */
static inline void keep_read(cell *c, const stamp *now, const observer *o) {
    stamp *first = &c->read[0], *second = &c->read[1];
    if (first->thread == now->thread || ordered(first, o)) {
        *first = *now;
    } else if (second->thread == now->thread || ordered(second, o)) {
        *second = *now;
    } else {
        uint32_t between = first->thread ^ second->thread, from = first->thread ^ now->thread;
        if (between < GPU_SIMD ? from >= GPU_SIMD
                               : between < GPU_MOST_THREADS && from >= GPU_MOST_THREADS)
            *second = *now;
    }
}

static void look(page *p, uintptr_t a, unsigned size, access kind, bool of_group, uintptr_t code) {
    uint32_t offset = (uint32_t)(a & (PAGE_BYTES - 1));
    uint32_t shift = p->shift;
    while (shift > 0 && ((offset | size) & ((1u << shift) - 1)) != 0)
        shift--;
    if (p->cells == nullptr) {
        p->shift = shift;
        make_cells(p);
    } else if (shift < p->shift) {
        refine(p, shift);
    }
    uint32_t t = state.current->thread, simd = t / GPU_SIMD;
    int memory = of_group ? 0 : 1;
    bool atomic = kind >= ATOMIC_READ, writes = writing(kind);
    observer o = {state.group * GPU_MOST_THREADS + t, simd,
                  of_group ? state.group_clock : state.dispatch_clock, state.group_visible[memory],
                  state.simd_visible[memory][simd]};
    stamp now = {o.thread, state.clock, (uint32_t)(code - image_begin) & ~1u};
    now.code |= atomic;
    cell *c = &p->cells[offset >> p->shift], *end = &p->cells[(offset + size - 1) >> p->shift];
    for (; c <= end; c++) {
        if (!ordered(&c->write, &o) && !(atomic && (c->write.code & 1)))
            race(a, writes, "written", &c->write, of_group, code);
        if (of_group && c->write.clock < o.since && kind != WRITE && kind != ATOMIC_WRITE)
            fail(code, 0, "reads threadgroup memory that nobody has written");
        if (!writes) {
            keep_read(c, &now, &o);
            continue;
        }
        for (int i = 0; i < 2; i++)
            if (!ordered(&c->read[i], &o) && !(atomic && (c->read[i].code & 1)))
                race(a, writes, "read", &c->read[i], of_group, code);
        c->write = now;
    }
}

[[noreturn]] static void race_of_dispatches(const page *p, uintptr_t a, bool writes,
                                            const char *earlier, uintptr_t code) {
    fail(code, 0, "race: %s byte %p, which a dispatch since the last barrier (%s) has %s",
         writes ? "writes" : "reads", (void *)a, names[p->earlier_dispatch % 64], earlier);
}

static inline void mark(page *p, uintptr_t a, unsigned size, bool writes, uintptr_t code) {
    uint32_t offset = (uint32_t)(a & (PAGE_BYTES - 1)), word = offset / 64, bit = offset % 64;
    uint64_t low = ((1ull << size) - 1) << bit;
    uint64_t high = bit + size > 64 ? ((1ull << size) - 1) >> (64 - bit) : 0;
    uint64_t *map = writes ? p->written : p->read;
    if (p->earlier_dispatch > fence_dispatch) {
        for (int i = 0; i < (high != 0 ? 2 : 1); i++) {
            uint64_t bits = i == 0 ? low : high;
            if (p->earlier_written[word + (uint32_t)i] & bits)
                race_of_dispatches(p, a, writes, "written", code);
            if (writes && p->earlier_read[word + (uint32_t)i] & bits)
                race_of_dispatches(p, a, writes, "read", code);
        }
    }
    map[word] |= low;
    if (high != 0)
        map[word + 1] |= high;
}

static void touch(uintptr_t a, unsigned size, access kind, uintptr_t code) {
    fiber *self = state.current;
    if (self == nullptr || a - self->stack < STACK_BYTES)
        return;
    remembered *c = &cache[a >> PAGE_BITS & 1023];
    if (c->number != a >> PAGE_BITS || a < c->begin || a + size > c->end) {
        unsigned here = PAGE_BYTES - (unsigned)(a & (PAGE_BYTES - 1));
        if (size > here) {
            touch(a, here, kind, code);
            touch(a + here, size - here, kind, code);
            return;
        }
        c = find(a, size, writing(kind), code);
    }
    bool writes = writing(kind);
    switch (c->kind) {
    case GROUP:
        look(c->known, a, size, kind, true, code);
        break;
    case BUFFER:
        mark(c->known, a, size, writes, code);
        if (kind == ATOMIC_CHANGE)
            mark(c->known, a, size, false, code);
        look(c->known, a, size, kind, false, code);
        break;
    case CONSTANT:
        if (writes)
            fail(code, 0, "writes memory that is bound to be read only");
        mark(c->known, a, size, false, code);
        break;
    default:
        if (writes)
            fail(code, 0, "writes constant memory");
    }
}

/* ---- Between dispatches ---- */

void shadow_end(gpu_traffic *traffic) {
    if (traffic == nullptr)
        return;
    for (const page *p = touched; p != nullptr; p = p->next)
        for (int i = 0; i < WORDS; i++) {
            traffic->read += (uint64_t)__builtin_popcountll(p->read[i]);
            traffic->written += (uint64_t)__builtin_popcountll(p->written[i]);
        }
}

void shadow_fence() {
    fence_dispatch = dispatch;
}

void shadow_forget(uintptr_t base, size_t length) {
    uintptr_t end = base + length;
    if (table == nullptr)
        return;
    touched = nullptr;
    for (uintptr_t number = base >> PAGE_BITS; number << PAGE_BITS < end; number++) {
        page **where = slot_of(number, false);
        if (where == nullptr) {
            number |= (1u << LEVEL_BITS) - 1;
            continue;
        }
        page *p = *where;
        if (p == nullptr)
            continue;
        if (number << PAGE_BITS >= base && (number + 1) << PAGE_BITS <= end) {
            free(p->cells);
            free(p);
            *where = nullptr;
            continue;
        }
        for (uintptr_t a = number << PAGE_BITS; a < (number + 1) << PAGE_BITS; a++)
            if (a >= base && a < end) {
                uint32_t offset = (uint32_t)(a & (PAGE_BYTES - 1));
                uint64_t keep = ~(1ull << offset % 64);
                p->read[offset / 64] &= keep;
                p->written[offset / 64] &= keep;
                p->earlier_read[offset / 64] &= keep;
                p->earlier_written[offset / 64] &= keep;
            }
    }
}

} // namespace metal_device

/* ---- The compiler's hooks ---- */

using namespace metal_device;

#define CODE ((uintptr_t)__builtin_return_address(0) - 1)

static void aligned(uintptr_t a, unsigned size, access kind, uintptr_t code) {
    if (a & (size - 1))
        fail(code, 0, "%s %u bytes at an address that is no multiple of %u",
             writing(kind) ? "writes" : "reads", size, size);
    touch(a, size, kind, code);
}

extern "C" {
void __tsan_init() {
}
#define HOOKS(size)                                                                                \
    void __tsan_read##size(void *a) {                                                              \
        aligned((uintptr_t)a, size, READ, CODE);                                                   \
    }                                                                                              \
    void __tsan_write##size(void *a) {                                                             \
        aligned((uintptr_t)a, size, WRITE, CODE);                                                  \
    }                                                                                              \
    void __tsan_unaligned_read##size(void *a) {                                                    \
        touch((uintptr_t)a, size, READ, CODE);                                                     \
    }                                                                                              \
    void __tsan_unaligned_write##size(void *a) {                                                   \
        touch((uintptr_t)a, size, WRITE, CODE);                                                    \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

static void touch_range(uintptr_t a, size_t size, access kind, uintptr_t code) {
    while (size > 0) {
        unsigned part = 16 - (unsigned)(a & 15);
        if (part > size)
            part = (unsigned)size;
        touch(a, part, kind, code);
        a += part;
        size -= part;
    }
}
void *__tsan_memset(void *to, int value, size_t size) {
    touch_range((uintptr_t)to, size, WRITE, CODE);
    return memset(to, value, size);
}
void *__tsan_memcpy(void *to, const void *from, size_t size) {
    touch_range((uintptr_t)from, size, READ, CODE);
    touch_range((uintptr_t)to, size, WRITE, CODE);
    return memcpy(to, from, size);
}
void *__tsan_memmove(void *to, const void *from, size_t size) {
    touch_range((uintptr_t)from, size, READ, CODE);
    touch_range((uintptr_t)to, size, WRITE, CODE);
    return memmove(to, from, size);
}

#define ATOMIC_HOOKS(bits, type)                                                                   \
    type __tsan_atomic##bits##_load(const volatile type *a, int) {                                 \
        aligned((uintptr_t)a, bits / 8, ATOMIC_READ, CODE);                                        \
        return *a;                                                                                 \
    }                                                                                              \
    void __tsan_atomic##bits##_store(volatile type *a, type x, int) {                              \
        aligned((uintptr_t)a, bits / 8, ATOMIC_WRITE, CODE);                                       \
        *a = x;                                                                                    \
    }                                                                                              \
    type __tsan_atomic##bits##_exchange(volatile type *a, type x, int) {                           \
        aligned((uintptr_t)a, bits / 8, ATOMIC_CHANGE, CODE);                                      \
        type old = *a;                                                                             \
        *a = x;                                                                                    \
        return old;                                                                                \
    }                                                                                              \
    type __tsan_atomic##bits##_fetch_add(volatile type *a, type x, int) {                          \
        aligned((uintptr_t)a, bits / 8, ATOMIC_CHANGE, CODE);                                      \
        type old = *a;                                                                             \
        *a = old + x;                                                                              \
        return old;                                                                                \
    }                                                                                              \
    type __tsan_atomic##bits##_fetch_sub(volatile type *a, type x, int) {                          \
        aligned((uintptr_t)a, bits / 8, ATOMIC_CHANGE, CODE);                                      \
        type old = *a;                                                                             \
        *a = old - x;                                                                              \
        return old;                                                                                \
    }                                                                                              \
    type __tsan_atomic##bits##_fetch_and(volatile type *a, type x, int) {                          \
        aligned((uintptr_t)a, bits / 8, ATOMIC_CHANGE, CODE);                                      \
        type old = *a;                                                                             \
        *a = old & x;                                                                              \
        return old;                                                                                \
    }                                                                                              \
    type __tsan_atomic##bits##_fetch_or(volatile type *a, type x, int) {                           \
        aligned((uintptr_t)a, bits / 8, ATOMIC_CHANGE, CODE);                                      \
        type old = *a;                                                                             \
        *a = old | x;                                                                              \
        return old;                                                                                \
    }                                                                                              \
    type __tsan_atomic##bits##_fetch_xor(volatile type *a, type x, int) {                          \
        aligned((uintptr_t)a, bits / 8, ATOMIC_CHANGE, CODE);                                      \
        type old = *a;                                                                             \
        *a = old ^ x;                                                                              \
        return old;                                                                                \
    }                                                                                              \
    type __tsan_atomic##bits##_compare_exchange_val(volatile type *a, type expected, type x, int,  \
                                                    int) {                                         \
        aligned((uintptr_t)a, bits / 8, ATOMIC_CHANGE, CODE);                                      \
        type old = *a;                                                                             \
        if (old == expected)                                                                       \
            *a = x;                                                                                \
        return old;                                                                                \
    }
ATOMIC_HOOKS(32, uint32_t)
ATOMIC_HOOKS(64, uint64_t)
}
