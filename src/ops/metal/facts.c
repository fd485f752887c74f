/* What there is to tell of the GPU, and of how it is used: `xlstm info --device metal`. */
#include "ops/facts.h"
#include "ops/metal/internal.h"

#include <stdio.h>

typedef struct fact_list {
    ops_fact *facts;
    int count;
} fact_list;

static ops_fact *add(fact_list *list, const char *name) {
    ops_fact *fact = &list->facts[list->count++];
    *fact = (ops_fact){.name = name};
    return fact;
}

static void add_number(fact_list *list, const char *name, int64_t number) {
    ops_fact *fact = add(list, name);
    fact->kind = OPS_FACT_NUMBER;
    fact->number = number;
}

static void add_bytes(fact_list *list, const char *name, uint64_t bytes) {
    ops_fact *fact = add(list, name);
    fact->kind = OPS_FACT_BYTES;
    fact->number = bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes;
}

static void add_flag(fact_list *list, const char *name, bool flag) {
    ops_fact *fact = add(list, name);
    fact->kind = OPS_FACT_FLAG;
    fact->number = flag;
}

static void add_text(fact_list *list, const char *name, const char *text) {
    ops_fact *fact = add(list, name);
    snprintf(fact->text, sizeof fact->text, "%s", text);
}

/* Apple's feature table; a later family has what family 10 has. */
static const char *chips_of(int family) {
    switch (family) {
    case 7:
        return "M1";
    case 8:
        return "M2";
    case 9:
        return "M3 or M4";
    default:
        return "M5 or later";
    }
}

xlstm_status metal_tell_facts(ops_device *self, ops_profile profile, ops_fact *facts, int *count) {
    (void)self;
    *count = 0;
    const char *library;
    metal_gpu *gpu;
    xlstm_status status = metal_gpu_get(&gpu);
    if (status == XLSTM_OK)
        status = metal_gpu_compile(gpu, &library);
    if (status != XLSTM_OK)
        return status;
    const metal_facts *f = metal_gpu_facts(gpu);
    fact_list list = {.facts = facts};
    add_text(&list, "gpu", f->name);
    add_number(&list, "gpu_family", f->family);
    add_text(&list, "gpu_chips", chips_of(f->family));
    add_bytes(&list, "working_set", f->working_set);
    add_bytes(&list, "largest_buffer", f->largest_buffer);
    add_bytes(&list, "threadgroup_memory", f->threadgroup_bytes);
    add_flag(&list, "bfloat_native", f->bfloat);
    add_flag(&list, "residency_set", f->residency);
    add_text(&list, "kernels", library);
    add_text(&list, "weights", "in place as stored: f32, f16, blocks; bf16 widened by a shift");
    add_text(&list, "few_tokens", "matrix-vector, sums in f32");
    add_text(&list, "many_tokens",
             profile == OPS_FAST
                 ? "simdgroup_matrix, factors in f16 (with weights in f32 or bf16: f32), "
                   "sums in f32"
                 : "matrix-vector, as for one token");
    add_text(&list, "commands",
             "one command buffer for what is evaluated at once, dispatches "
             "concurrent between barriers");
    *count = list.count;
    return XLSTM_OK;
}
