/* What kernels find wrong while they run. They cannot stop a stream; they leave the row in a word a kind,
 * which the host reads and clears when it waits (metal_take_faults).
 *
 * A word is 0, or ~row of the lowest row at fault: the maximum of what the threads say, whatever their
 * order. */
#ifndef OPS_METAL_FAULTS_H
#define OPS_METAL_FAULTS_H

enum metal_fault {
    METAL_FAULT_EMBED,     /* an id that is no row of the table */
    METAL_FAULT_TAKE_ROWS, /* an index that is no row */
    METAL_FAULT_SAMPLE,    /* a logit that is NaN or +inf */
    METAL_FAULT_EMPTY,     /* no finite logit */
    METAL_FAULTS
};

#if defined(__METAL_VERSION__)
static inline void report_fault(device metal::atomic_uint *faults, metal_fault kind, uint row) {
    metal::atomic_fetch_max_explicit(faults + kind, ~row, metal::memory_order_relaxed);
}
#endif

#endif
