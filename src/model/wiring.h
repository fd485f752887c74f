/* The wiring: a directed graph of named blocks, from which a model is executed.
 *
 * A node computes one thing from the sum of its inputs; each input has a polarity, +1 adds and -1
 * subtracts. Residual connections are edges like any other: a `sum` node joins a branch with the
 * stream that passes it. The graph comes from the config and the tensor names (the sequential
 * model), or from the config's `wiring` field. It is validated, brought into a deterministic
 * topological order, and the forward program runs in that order.
 */
#ifndef MODEL_WIRING_H
#define MODEL_WIRING_H

#include "base/buffer.h"
#include "format/config.h"

enum wiring_kind {
    WIRING_EMBEDDING, /* token ids -> [T][D]; no inputs */
    WIRING_MLSTM,     /* norm + mLSTM layer, without the residual */
    WIRING_FFN,       /* norm + gated feed-forward, without the residual */
    WIRING_SUM,       /* the sum of its inputs */
    WIRING_NORM,      /* the norm after the last block */
    WIRING_HEAD,      /* [T][D] -> logits [T][vocab]; the output of the model; exactly one */
    WIRING_SLSTM      /* norm + sLSTM layer, without the residual */
};

typedef struct wiring_input {
    int node;     /* index into wiring.nodes */
    int polarity; /* +1 or -1 */
} wiring_input;

typedef struct wiring_node {
    char *name; /* "blocks.3.mlstm" */
    enum wiring_kind kind;
    char *weights; /* the tensors' prefix, "backbone.blocks.3", or NULL for a sum */
    wiring_input *inputs;
    int input_count;
} wiring_node;

typedef struct wiring {
    wiring_node *nodes;
    int count;
    int *order; /* [count]: node indices in the order of execution */
} wiring;

/* The number of nodes as a size. */
static inline size_t wiring_size(const wiring *w) {
    return w->count > 0 ? (size_t)w->count : 0;
}

const char *
wiring_kind_name(enum wiring_kind kind); /* "embedding" "mlstm" "slstm" "ffn" "sum" "norm" "head" */

/* How the tensors of a family are called; a block's prefix is `blocks` and its number. */
typedef struct wiring_names {
    const char *embedding, *blocks, *out_norm, *head;
} wiring_names;
const wiring_names *wiring_names_of(model_family family);

/* The sequential model: embedding, blocks.i.{mlstm, mlstm_sum} or {slstm, slstm_sum}, blocks.i.{ffn,
 * ffn_sum} where the block has one, out_norm, head. */
xlstm_status wiring_sequential(const model_config *config, wiring *out);
/* From JSON as wiring_json prints it. All faults (cycles, dangling inputs, doubled names, wrong
 * polarity or arity, not one head) are reported at once. */
xlstm_status wiring_from_json(const json_t *value, const char *name, wiring *out);
/* The text that `info --wiring STYLE` prints. */
enum wiring_style { WIRING_UNICODE, WIRING_ASCII, WIRING_DOT, WIRING_JSON };
void wiring_print(const wiring *w, enum wiring_style style, buffer *out);
void wiring_free(wiring *w);

#endif
