/* Where threads of the test device wait for each other and for copies, and what is shared memory. */
#include "fibers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace cuda_device {

/* ---- Meetings ---- */

static bool same_site(const cuda_device_site &a, const cuda_device_site &b) {
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

static void meet_done(meeting *m, unsigned count) {
    if (m->combine != nullptr)
        m->combine(m->operands, count);
    m->mask = 0;
    progress++;
}

/* Ends a meeting of lanes whose others have returned. */
static void end_if_all(warp *w, meeting *m, lane *lanes) {
    if (m->mask == 0 || (m->mask & ~w->done & ~m->arrived) != 0)
        return;
    uint32_t there = m->arrived;
    w->open--;
    meet_done(m, LANES);
    for (; there != 0; there &= there - 1) {
        lane *l = &lanes[__builtin_ctz(there)];
        if (l->is == AT_WARP)
            wake(l);
    }
}

void leave_meetings(lane *l) {
    warp *w = warp_of(l);
    for (auto &m : w->meetings)
        end_if_all(w, &m, &active->b->lanes[l->index & ~31u]);
}

} // namespace cuda_device

using namespace cuda_device;

void cuda_device_meet_warp(uint32_t mask, void *operand, cuda_device_combine *combine,
                           cuda_device_site site) {
    lane *l = now();
    warp *w = warp_of(l);
    uint32_t own = 1u << l->index % LANES;
    if ((mask & own) == 0)
        cuda_device_fail("%s with the mask %#x, in which lane %u is not, at %s:%d", site.what, mask,
                         l->index % LANES, site.file, site.line);
    meeting *m = w->open == 1 && w->meetings[0].mask == mask ? &w->meetings[0] : nullptr;
    for (unsigned i = 0; i < 4 && m == nullptr && w->open > 0; i++) {
        meeting &each = w->meetings[i];
        if (each.mask == mask)
            m = &each;
        else if ((each.mask & mask) != 0)
            cuda_device_fail("%s with the mask %#x at %s:%d, while others wait in %s with the mask "
                             "%#x at %s:%d",
                             site.what, mask, site.file, site.line, each.site.what, each.mask,
                             each.site.file, each.site.line);
    }
    if (m == nullptr) {
        for (unsigned i = 4; i-- > 0;)
            if (w->meetings[i].mask == 0)
                m = &w->meetings[i];
        w->open++;
        if (m == nullptr)
            cuda_device_fail("%s: more than four masks at once", site.what);
        m->mask = mask;
        m->arrived = 0;
        m->combine = combine;
        m->site = site;
        memset(m->operands, 0, LANES * sizeof(void *));
    } else if (!same_site(m->site, site) || m->combine != combine) {
        cuda_device_fail("divergence: it is in %s at %s:%d, other lanes wait in %s at %s:%d",
                         site.what, site.file, site.line, m->site.what, m->site.file, m->site.line);
    }
    m->operands[l->index % LANES] = operand;
    m->arrived |= own;
    if ((mask & ~w->done & ~m->arrived) != 0) {
        sleep_as(l, AT_WARP, site);
        return;
    }
    end_if_all(w, m, &active->b->lanes[l->index & ~31u]);
}

void cuda_device_meet_group(unsigned count, void *operand, cuda_device_combine *combine,
                            cuda_device_site site) {
    lane *l = now();
    block *b = active->b;
    if (count == 0 || count > 128 || 128 % count != 0 || count % LANES != 0)
        cuda_device_fail("a meeting of %u threads", count);
    unsigned first = l->index / 128 * 128, part = l->index / count * count;
    meeting *m = &b->groups[first / 128];
    if (count != 128)
        cuda_device_fail("a meeting of %u threads: 128 are a group", count);
    if (m->mask == 0) {
        m->mask = 1;
        m->arrived = 0;
        m->combine = combine;
        m->site = site;
    } else if (!same_site(m->site, site) || m->combine != combine) {
        cuda_device_fail("divergence: it is in %s at %s:%d, others of its warpgroup wait in %s at "
                         "%s:%d",
                         site.what, site.file, site.line, m->site.what, m->site.file, m->site.line);
    }
    m->operands[l->index - part] = operand;
    if (++m->arrived < count) {
        sleep_as(l, AT_GROUP, site);
        return;
    }
    meet_done(m, count);
    for (unsigned i = part; i < part + count; i++)
        if (&b->lanes[i] != l)
            wake(&b->lanes[i]);
}

void cuda_device_barrier(unsigned number, unsigned count, bool arrive_only, cuda_device_site site) {
    lane *l = now();
    block *b = active->b;
    if (number >= BARRIERS || count % LANES != 0 || count > b->warp_count * LANES)
        cuda_device_fail("%s: barrier %u of %u threads at %s:%d", site.what, number, count,
                         site.file, site.line);
    barrier *at = &b->barriers[number];
    unsigned expected = count == 0 ? b->threads : count;
    if (at->arrived == 0) {
        at->expected = expected;
        at->site = site;
    } else if (at->expected != expected) {
        cuda_device_fail("%s: barrier %u of %u threads at %s:%d, and of %u in %s at %s:%d",
                         site.what, number, expected, site.file, site.line, at->expected,
                         at->site.what, at->site.file, at->site.line);
    } else if (count == 0 && !same_site(at->site, site)) {
        cuda_device_fail("divergence: it is in %s at %s:%d, others wait in %s at %s:%d", site.what,
                         site.file, site.line, at->site.what, at->site.file, at->site.line);
    }
    at->arrived++;
    progress++;
    l->number = number;
    if (at->arrived < expected) {
        if (!arrive_only)
            sleep_as(l, AT_BARRIER, site);
        return;
    }
    at->arrived = 0;
    for (unsigned i = 0; i < b->threads; i++)
        if (b->lanes[i].is == AT_BARRIER && b->lanes[i].number == number)
            wake(&b->lanes[i]);
}

void cuda_device_poll(cuda_device_site site) {
    sleep_as(now(), POLLING, site);
}
void cuda_device_progress() {
    progress++;
}

/* ---- Copies ---- */

void cuda_device::arrive_copy(block *b) {
    copy c = b->copies[b->first_copy];
    b->first_copy = (b->first_copy + 1) % MOST_COPIES;
    b->copy_count--;
    memcpy(c.to, c.from, c.bytes);
    c.done(c.context, c.bytes);
    progress++;
}

void cuda_device_copy_later(void *to, const void *from, unsigned bytes,
                            void (*done)(void *context, unsigned bytes), void *context) {
    block *b = active->b;
    if (b->copy_count == MOST_COPIES)
        arrive_copy(b);
    b->copies[(b->first_copy + b->copy_count++) % MOST_COPIES] = {to, from, bytes, done, context};
    memset(to, 0xff, bytes);
}

/* The first group of a thread's copies arrives. */
static void arrive_group(lane *l) {
    unsigned i = 0;
    for (; l->copies[i].bytes != 0; i++) {
        const lane_copy *c = &l->copies[i];
        memcpy(c->to, c->from, c->there);
        memset((char *)c->to + c->there, 0, c->bytes - c->there);
    }
    i++;
    memmove(l->copies, l->copies + i, (l->copy_count - i) * sizeof *l->copies);
    l->copy_count -= i;
    l->groups--;
}
void cuda_device_lane_copy(void *to, const void *from, unsigned bytes, unsigned there) {
    lane *l = now();
    if (((uintptr_t)to | (uintptr_t)from) % bytes != 0 || !cuda_device_is_shared(to) ||
        !cuda_device_is_shared((char *)to + bytes - 1))
        cuda_device_fail("an asynchronous copy of %u bytes from %p to %p: not aligned, or not into "
                         "shared memory",
                         bytes, from, to);
    if (l->copy_count + 2 >= MOST_LANE_COPIES)
        cuda_device_fail("more than %d copies of a thread under way", MOST_LANE_COPIES - 3);
    if (there > bytes)
        cuda_device_fail("an asynchronous copy of %u bytes of %u", there, bytes);
    if (there > 0)
        (void)*(const volatile char *)from; /* to be found where it is asked for */
    memset(to, 0xff, bytes);
    l->copies[l->copy_count++] = {to, from, bytes, there};
}
void cuda_device_lane_commit() {
    lane *l = now();
    if (l->copy_count + 1 >= MOST_LANE_COPIES)
        cuda_device_fail("more than %d groups of copies of a thread under way", MOST_LANE_COPIES);
    l->copies[l->copy_count++] = {nullptr, nullptr, 0, 0};
    l->groups++;
}
void cuda_device_lane_wait(unsigned left) {
    while (now()->groups > left)
        arrive_group(now());
}

void cuda_device_wait_grid(cuda_device_site site) {
    lane *l = now();
    if (!active->l.programmatic || l->waited)
        return;
    if (active->next == 0) {
        active->b->at_grid++;
        sleep_as(l, AT_GRID, site);
    }
    l->waited = true;
}

/* ---- Clusters ---- */

unsigned cuda_device_cluster_rank() {
    unsigned rank = 0;
    while (active->group[rank] != active->b)
        rank++;
    return rank;
}

void cuda_device_cluster_sync(cuda_device_site site) {
    running *r = active;
    lane *l = now();
    progress++;
    if (++r->at_cluster < r->size * r->b->threads) {
        sleep_as(l, AT_CLUSTER, site);
        return;
    }
    r->at_cluster = 0;
    for (unsigned k = 0; k < r->size; k++)
        for (unsigned i = 0; i < r->group[k]->threads; i++)
            if (r->group[k]->lanes[i].is == AT_CLUSTER)
                wake(&r->group[k]->lanes[i]);
}

void *cuda_device_cluster_map(void *p, unsigned rank) {
    const block *to = rank < active->size ? active->group[rank] : nullptr;
    if (to == nullptr || !cuda_device_is_shared(p))
        cuda_device_fail(
            "%p of block %u of a cluster of %u: not in shared memory, or no such block", p, rank,
            active->size);
    if (to->done == to->threads)
        cuda_device_fail("block %u of the cluster, whose memory is written, has ended", rank);
    if (to == active->b)
        return p;
    auto at = (uintptr_t)p, fixed = (uintptr_t)__start_cuda_shared;
    if (at >= fixed && at < (uintptr_t)__stop_cuda_shared)
        return to->saved + (at - fixed);
    return to->saved + (__stop_cuda_shared - __start_cuda_shared) +
           (at - (uintptr_t)cuda_dynamic_shared);
}

/* ---- Shared memory ---- */

bool cuda_device_is_shared(const void *p) {
    auto at = (uintptr_t)p, dynamic = (uintptr_t)cuda_dynamic_shared,
         fixed = (uintptr_t)__start_cuda_shared;
    return (at >= dynamic && at < dynamic + active->l.shared) ||
           (at >= fixed && at < (uintptr_t)__stop_cuda_shared);
}
uint32_t cuda_device_shared_address(const void *p, cuda_device_site site) {
    auto at = (uintptr_t)p, dynamic = (uintptr_t)cuda_dynamic_shared;
    if (at >= dynamic && at <= dynamic + active->l.shared)
        return (uint32_t)(at - dynamic);
    if (!cuda_device_is_shared(p))
        cuda_device_fail("%s at %s:%d of %p, which is not in shared memory", site.what, site.file,
                         site.line, p);
    return (uint32_t)(MOST_SHARED + (at - (uintptr_t)__start_cuda_shared));
}
