/* Sequences that an id has ended go on in a spare slot: a thread a sequence. */
#include <metal_stdlib>

#include "ops/metal/common.h"
#include "ops/metal/retire_arguments.h"

kernel void retire(constant retire_arguments &a [[buffer(0)]], device const int *ids [[buffer(1)]],
                   device const int *ends [[buffer(2)]], device int *slot [[buffer(3)]],
                   uint index [[thread_position_in_grid]]) {
    if (index >= a.sequences)
        return;
    int id = ids[a.ids_first + index];
    bool ended = false;
    for (uint i = 0u; i < a.ends; i++)
        ended = ended || ends[a.ends_first + i] == id;
    if (ended)
        slot[a.slot_first + index] = a.spare;
}
