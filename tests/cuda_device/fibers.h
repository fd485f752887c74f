/* Fibers and what they wait for: what fibers.cc, which runs them, and meetings.cc, where they wait, share. */
#ifndef CUDA_DEVICE_FIBERS_H
#define CUDA_DEVICE_FIBERS_H

#include "machine.h"

extern "C" {
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
/* Where `extern __shared__` arrays begin. */
extern char cuda_dynamic_shared[];
}

namespace cuda_device {

enum status : uint8_t { READY, AT_WARP, AT_GROUP, AT_BARRIER, AT_CLUSTER, POLLING, AT_GRID, DONE };

enum { MOST_LANE_COPIES = 512 };

/* A copy of a thread that it waits for by itself; bytes 0: the end of a group. */
struct lane_copy {
    void *to;
    const void *from;
    unsigned bytes, there;
};

struct block;

struct lane : cuda_device_lane {
    block *home;
    lane_copy copies[MOST_LANE_COPIES];
    unsigned copy_count, groups;
    void *stack_pointer;
    char *stack; /* the lowest byte, a guard page */
    char *arguments;
    status is;
    bool waited;     /* has called cuda_wait */
    unsigned number; /* of the barrier */
    cuda_device_site site;
};

/* Lanes that wait for each other; `expected` of them. */
struct meeting {
    uint32_t mask; /* lanes of a warp; 0: nobody is there */
    unsigned expected, arrived;
    cuda_device_combine *combine;
    cuda_device_site site;
    void *operands[MOST_THREADS > 128 ? 128 : MOST_THREADS];
};

struct warp {
    uint32_t ready, polling, done;
    unsigned open; /* meetings */
    meeting meetings[4];
};

struct barrier {
    unsigned expected, arrived;
    cuda_device_site site;
};

struct copy {
    void *to;
    const void *from;
    unsigned bytes;
    void (*done)(void *, unsigned);
    void *context;
};

enum { PAGE = 4096, MOST_COPIES = 1024, STACK = 32 * PAGE };

/* Room for a block: its fibers, and its memory while another runs. */
struct block {
    lane lanes[MOST_THREADS];
    warp warps[MOST_WARPS];
    meeting groups[MOST_THREADS / 128];
    barrier barriers[BARRIERS];
    copy copies[MOST_COPIES];
    unsigned first_copy, copy_count;
    unsigned threads, warp_count, done, at_grid;
    uint3 index;
    char *stacks;
    unsigned made;  /* lanes that have a stack */
    bool holds;     /* what is in shared memory, or saved, is its own */
    char *saved;    /* shared memory while another block has it: the variables, the dynamic part */
    unsigned pages; /* of the dynamic part */
};

/* A kernel; its blocks run one after another, but those of a cluster, or of a cooperative launch, in turns. */
struct running {
    launch l;
    block *group[MOST_CLUSTER], *b; /* b: the block that runs */
    unsigned size;                  /* blocks that run in turns */
    unsigned at_cluster;            /* threads at the barrier of the cluster */
    uint64_t next;                  /* block */
    bool begun, in_use;
};

extern running *active;
extern uint64_t progress; /* rises with whatever somebody may wait for */

static inline lane *now() {
    return static_cast<lane *>(cuda_device_now);
}
static inline warp *warp_of(const lane *l) {
    return &l->home->warps[l->index / LANES];
}

/* Lets others run until it is woken (READY). */
void sleep_as(lane *l, status is, cuda_device_site site);
void wake(lane *l);
/* The first of the copies under way arrives. */
void arrive_copy(block *b);
/* A thread returns: meetings of its warp that wait for it alone end. */
void leave_meetings(lane *l);

} // namespace cuda_device

#endif
