/* The words in which kernels say what they found wrong (faults.h), as failures of the stream. */
#include "ops/metal/faults.h"

#include "ops/metal/internal.h"

#include <string.h>

void metal_place_faults(metal_carver *c, metal_scratch *s) {
    s->faults = metal_carve(c, DTYPE_I32, 1, (int64_t[]){METAL_FAULTS});
}

static char *words_of(const metal_stream *s) {
    return (char *)metal_memory_host(s->scratch.faults.buffer->handle) + s->scratch.faults.offset;
}

bool metal_has_faults(const metal_stream *s) {
    const uint32_t *words = (const uint32_t *)(const void *)words_of(s);
    for (int kind = 0; kind < METAL_FAULTS; kind++)
        if (__atomic_load_n(&words[kind], __ATOMIC_RELAXED) != 0)
            return true;
    return false;
}

void metal_take_faults(metal_stream *s) {
    static const char *const texts[METAL_FAULTS] = {
        [METAL_FAULT_EMBED] = "embed: the id of token %lld is not a row of the table",
        [METAL_FAULT_TAKE_ROWS] = "take_rows: index %lld is not a row of the source",
        [METAL_FAULT_SAMPLE] = "sample: a logit of row %lld is NaN or +inf",
        [METAL_FAULT_EMPTY] = "sample: row %lld has no finite logit",
    };
    uint32_t words[METAL_FAULTS];
    char *at = words_of(s);
    memcpy(words, at, sizeof words);
    memset(at, 0, sizeof words);
    for (int kind = 0; kind < METAL_FAULTS; kind++) {
        bool sampling = kind == METAL_FAULT_SAMPLE || kind == METAL_FAULT_EMPTY;
        if (words[kind] != 0)
            ops_fail(&s->check, sampling ? XLSTM_DEVICE_ERROR : XLSTM_INVALID_ARGUMENT, texts[kind],
                     (long long)(uint32_t)~words[kind]);
    }
}
