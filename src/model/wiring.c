/* Building, reading and validating the graph; what it looks like in print is in wiring_print.c. */
#include "model/wiring.h"

#include <stdlib.h>
#include <string.h>

enum { WIRING_MAX_NODES = 4096 }; /* of a `wiring` field: names are compared one by one */

static const char *const kind_names[] = {"embedding", "mlstm", "ffn",  "sum",
                                         "norm",      "head",  "slstm"};
enum { KIND_COUNT = sizeof kind_names / sizeof kind_names[0] };

const char *wiring_kind_name(enum wiring_kind kind) {
    return kind_names[kind];
}

void wiring_free(wiring *w) {
    for (int i = 0; w->nodes && i < w->count; i++) {
        free(w->nodes[i].name);
        free(w->nodes[i].weights);
        free(w->nodes[i].inputs);
    }
    free(w->nodes);
    free(w->order);
    *w = (wiring){0};
}

static int find_node(const wiring *w, const char *name) {
    for (int i = 0; i < w->count; i++)
        if (strcmp(w->nodes[i].name, name) == 0)
            return i;
    return -1;
}

/* ---- Order ---- */

/* The nodes that are ready, as a heap with the lowest index on top. */
typedef struct ready_nodes {
    int *heap;
    int count;
} ready_nodes;

static void push(ready_nodes *r, int node) {
    int at = r->count++;
    for (; at > 0 && r->heap[(at - 1) / 2] > node; at = (at - 1) / 2)
        r->heap[at] = r->heap[(at - 1) / 2];
    r->heap[at] = node;
}

static int pop(ready_nodes *r) {
    int top = r->heap[0], last = r->heap[--r->count], at = 0;
    for (int child; (child = 2 * at + 1) < r->count; at = child) {
        if (child + 1 < r->count && r->heap[child + 1] < r->heap[child])
            child++;
        if (r->heap[child] >= last)
            break;
        r->heap[at] = r->heap[child];
    }
    r->heap[at] = last;
    return top;
}

/* What Kahn's algorithm needs: for each node the inputs it waits for, and who waits for it
 * (followers[first[i]] … followers[first[i + 1] - 1]). */
typedef struct sorter {
    ready_nodes ready;
    int *waiting, *first, *followers;
} sorter;

static void fill_sorter(const wiring *w, sorter *t) {
    for (int i = 0; i < w->count; i++)
        for (int j = 0; j < w->nodes[i].input_count; j++)
            t->first[w->nodes[i].inputs[j].node + 2]++;
    for (int i = 0; i < w->count; i++)
        t->first[i + 2] += t->first[i + 1];
    for (int i = 0; i < w->count; i++) {
        t->waiting[i] = w->nodes[i].input_count;
        for (int j = 0; j < w->nodes[i].input_count; j++)
            t->followers[t->first[w->nodes[i].inputs[j].node + 1]++] = i;
    }
}

static void sort_nodes(wiring *w, sorter *t, error_list *faults) {
    int placed = 0;
    fill_sorter(w, t);
    for (int i = 0; i < w->count; i++)
        if (t->waiting[i] == 0)
            push(&t->ready, i);
    while (t->ready.count > 0) {
        int node = pop(&t->ready);
        w->order[placed++] = node;
        for (int i = t->first[node]; i < t->first[node + 1]; i++)
            if (--t->waiting[t->followers[i]] == 0)
                push(&t->ready, t->followers[i]);
    }
    for (int i = 0; placed < w->count && i < w->count; i++)
        if (t->waiting[i] > 0)
            error_list_add(faults, "node \"%s\" is part of a cycle, or behind one",
                           w->nodes[i].name);
}

/* Kahn's algorithm; among the nodes that are ready, the one listed first. So the sequential model
 * runs in the order in which it is written. The nodes of a cycle are added to `faults` by name. */
static xlstm_status find_order(wiring *w, error_list *faults) {
    size_t nodes = wiring_size(w), edges = 0;
    for (int i = 0; i < w->count; i++)
        edges += (size_t)w->nodes[i].input_count;
    sorter t = {.ready.heap = malloc((nodes + 1) * sizeof(int)),
                .waiting = malloc((nodes + 1) * sizeof(int)),
                .first = calloc(nodes + 2, sizeof(int)),
                .followers = malloc((edges + 1) * sizeof(int))};
    w->order = malloc((nodes + 1) * sizeof *w->order);
    bool ok = t.ready.heap && t.waiting && t.first && t.followers && w->order;
    if (ok)
        sort_nodes(w, &t, faults);
    free(t.ready.heap);
    free(t.waiting);
    free(t.first);
    free(t.followers);
    return ok ? XLSTM_OK : error_memory((nodes + edges) * sizeof(int), "the wiring's order");
}

/* ---- Validation ---- */

static void check_node(const wiring *w, int index, error_list *faults) {
    const wiring_node *node = &w->nodes[index];
    const char *name = node->name;
    if (node->kind == WIRING_EMBEDDING && node->input_count > 0)
        error_list_add(faults, "node \"%s\": an embedding takes no inputs", name);
    if (node->kind != WIRING_EMBEDDING && node->input_count == 0)
        error_list_add(faults, "node \"%s\" has no inputs", name);
    if (node->kind != WIRING_SUM && !node->weights)
        error_list_add(faults,
                       "node \"%s\" of kind %s needs \"weights\", the prefix of its tensors", name,
                       wiring_kind_name(node->kind));
    if (node->kind == WIRING_SUM && node->weights)
        error_list_add(faults, "node \"%s\": a sum has no weights", name);
    for (int j = 0; j < node->input_count; j++)
        if (w->nodes[node->inputs[j].node].kind == WIRING_HEAD)
            error_list_add(
                faults,
                "node \"%s\" takes the logits of \"%s\" as input; nothing may follow the head",
                name, w->nodes[node->inputs[j].node].name);
}

static xlstm_status validate(wiring *w, error_list *faults) {
    int heads = 0;
    bool *used = calloc(wiring_size(w) + 1, sizeof *used);
    if (!used)
        return error_memory(wiring_size(w), "the wiring");
    for (int i = 0; i < w->count; i++) {
        check_node(w, i, faults);
        heads += w->nodes[i].kind == WIRING_HEAD;
        for (int j = 0; j < w->nodes[i].input_count; j++)
            used[w->nodes[i].inputs[j].node] = true;
    }
    if (heads != 1)
        error_list_add(faults, "there must be exactly one node of kind \"head\", there are %d",
                       heads);
    for (int i = 0; i < w->count; i++)
        if (!used[i] && w->nodes[i].kind != WIRING_HEAD)
            error_list_add(faults, "node \"%s\" leads nowhere: nothing takes it as input",
                           w->nodes[i].name);
    free(used);
    return find_order(w, faults);
}

/* ---- The sequential model ---- */

/* Memory failures leave a NULL that validate would trip over, so they are collected in `ok`. */
static void add_node(wiring *w, bool *ok, const char *name, enum wiring_kind kind,
                     const char *weights, int inputs, int first, int second) {
    wiring_node *node = &w->nodes[w->count++];
    *node = (wiring_node){.kind = kind, .input_count = inputs};
    node->name = strdup(name);
    node->weights = weights ? strdup(weights) : NULL;
    node->inputs = calloc((size_t)inputs + 1, sizeof *node->inputs);
    if (!node->name || (weights && !node->weights) || !node->inputs) {
        *ok = false;
        return;
    }
    if (inputs > 0)
        node->inputs[0] = (wiring_input){first, 1};
    if (inputs > 1)
        node->inputs[1] = (wiring_input){second, 1};
}

const wiring_names *wiring_names_of(model_family family) {
    static const wiring_names names[] = {
        [FAMILY_LARGE] = {"backbone.embeddings", "backbone.blocks.", "backbone.out_norm",
                          "lm_head"},
        [FAMILY_NEURIPS] = {"token_embedding", "xlstm_block_stack.blocks.",
                            "xlstm_block_stack.post_blocks_norm", "lm_head"}};
    return &names[family];
}

/* A branch and the sum that joins it with the residual stream, which was the last node. */
static void add_branch(wiring *w, bool *ok, int block, enum wiring_kind kind, const char *weights) {
    char name[64];
    int stream = w->count - 1;
    snprintf(name, sizeof name, "blocks.%d.%s", block, wiring_kind_name(kind));
    add_node(w, ok, name, kind, weights, 1, stream, 0);
    snprintf(name, sizeof name, "blocks.%d.%s_sum", block, wiring_kind_name(kind));
    add_node(w, ok, name, WIRING_SUM, NULL, 2, stream, w->count - 1);
}

xlstm_status wiring_sequential(const model_config *config, wiring *out) {
    const wiring_names *names = wiring_names_of(config->family);
    size_t most = (size_t)config->num_blocks * 4 + 3;
    *out = (wiring){0};
    wiring w = {.nodes = calloc(most, sizeof(wiring_node))};
    if (!w.nodes)
        return error_memory(most * sizeof(wiring_node), "the wiring");
    bool ok = true;
    add_node(&w, &ok, "embedding", WIRING_EMBEDDING, names->embedding, 0, 0, 0);
    for (int i = 0; i < config->num_blocks; i++) {
        char weights[64];
        snprintf(weights, sizeof weights, "%s%d", names->blocks, i);
        add_branch(&w, &ok, i, config_is_slstm(config, i) ? WIRING_SLSTM : WIRING_MLSTM, weights);
        if (config_has_ffn(config, i))
            add_branch(&w, &ok, i, WIRING_FFN, weights);
    }
    if (config->add_out_norm)
        add_node(&w, &ok, "out_norm", WIRING_NORM, names->out_norm, 1, w.count - 1, 0);
    add_node(&w, &ok, "head", WIRING_HEAD, names->head, 1, w.count - 1, 0);
    error_list faults = {0};
    xlstm_status status = ok ? validate(&w, &faults) : error_memory(64, "the wiring");
    if (status == XLSTM_OK)
        status = error_list_finish(&faults, XLSTM_FORMAT_ERROR);
    if (status != XLSTM_OK) {
        wiring_free(&w);
        return status;
    }
    *out = w;
    return XLSTM_OK;
}

/* ---- From JSON ---- */

/* A string field without NUL inside; NULL if it is absent or something else. */
static const char *text_field(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    const char *text = json_string_value(value);
    return text && strlen(text) == json_string_length(value) ? text : NULL;
}

/* Names are printed to terminals and into files. */
static bool is_printable(const char *name) {
    for (; *name; name++)
        if ((unsigned char)*name < 32 || *name == 127)
            return false;
    return true;
}

/* A misspelt key would silently mean its default. */
static void check_keys(const json_t *object, const char *const *known, const char *node,
                       error_list *faults) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        const char *const *name = known;
        while (*name && strcmp(*name, key) != 0)
            name++;
        if (!*name)
            error_list_add(faults, "node \"%s\": unknown key \"%.40s\"", node,
                           is_printable(key) ? key : "?");
    }
}

static void read_kind(const json_t *item, wiring_node *node, error_list *faults) {
    const char *kind = text_field(item, "kind");
    for (int k = 0; kind && k < KIND_COUNT; k++) {
        if (strcmp(kind, kind_names[k]) == 0) {
            node->kind = (enum wiring_kind)k;
            return;
        }
    }
    error_list_add(
        faults,
        "node \"%s\": \"kind\" must be embedding, mlstm, slstm, ffn, sum, norm or head%s%s%s",
        node->name, kind ? ", not \"" : "", kind ? kind : "", kind ? "\"" : "");
}

/* Names, kinds and weights first, since an input may name a node further down. */
static xlstm_status read_node(const json_t *item, wiring *w, error_list *faults) {
    wiring_node *node = &w->nodes[w->count];
    const char *name = text_field(item, "name");
    char numbered[32];
    if (!name || !*name || !is_printable(name)) {
        error_list_add(faults, "node number %d has no \"name\" of printable characters", w->count);
        snprintf(numbered, sizeof numbered, "#%d", w->count);
        name = numbered;
    } else if (find_node(w, name) >= 0) {
        error_list_add(faults, "two nodes are named \"%s\"", name);
    }
    const char *weights = text_field(item, "weights");
    node->name = strdup(name);
    node->weights = weights ? strdup(weights) : NULL;
    w->count++;
    if (!node->name || (weights && !node->weights))
        return error_memory(strlen(name), "the wiring");
    check_keys(item, (const char *const[]){"name", "kind", "weights", "inputs", NULL}, name,
               faults);
    read_kind(item, node, faults);
    return XLSTM_OK;
}

static void read_input(const json_t *value, const wiring *w, wiring_node *node,
                       error_list *faults) {
    const char *from = text_field(value, "from");
    const json_t *polarity = json_object_get(value, "polarity");
    int source = from ? find_node(w, from) : -1;
    check_keys(value, (const char *const[]){"from", "polarity", NULL}, node->name, faults);
    if (!from)
        error_list_add(faults, "node \"%s\": an input has no \"from\"", node->name);
    else if (source < 0)
        error_list_add(faults, "node \"%s\" takes \"%s\" as input, which does not exist",
                       node->name, from);
    json_int_t sign = polarity ? json_integer_value(polarity) : 1;
    if (sign != 1 && sign != -1)
        error_list_add(faults, "node \"%s\": the polarity of an input must be 1 or -1", node->name);
    if (source >= 0 && (sign == 1 || sign == -1))
        node->inputs[node->input_count++] = (wiring_input){source, (int)sign};
}

static xlstm_status read_inputs(const json_t *item, const wiring *w, wiring_node *node,
                                error_list *faults) {
    const json_t *inputs = json_object_get(item, "inputs");
    if (inputs && !json_is_array(inputs))
        error_list_add(faults, "node \"%s\": \"inputs\" must be a list", node->name);
    size_t count = json_is_array(inputs) ? json_array_size(inputs) : 0;
    node->inputs = calloc(count + 1, sizeof *node->inputs);
    if (!node->inputs)
        return error_memory(count * sizeof *node->inputs, "the wiring");
    for (size_t j = 0; j < count; j++)
        read_input(json_array_get(inputs, j), w, node, faults);
    return XLSTM_OK;
}

xlstm_status wiring_from_json(const json_t *value, const char *name, wiring *out) {
    *out = (wiring){0};
    const json_t *list = json_object_get(value, "nodes");
    size_t count = json_is_array(list) ? json_array_size(list) : 0;
    if (count == 0 || count > WIRING_MAX_NODES)
        return error_set(
            XLSTM_FORMAT_ERROR,
            "%s: the wiring must have a list \"nodes\" of 1 to %d nodes, as `xlstm info "
            "--wiring json` prints it",
            name, WIRING_MAX_NODES);
    wiring w = {.nodes = calloc(count, sizeof *w.nodes)};
    if (!w.nodes)
        return error_memory(count * sizeof *w.nodes, "the wiring");
    error_list faults = {0};
    xlstm_status status = XLSTM_OK;
    for (size_t i = 0; status == XLSTM_OK && i < count; i++)
        status = read_node(json_array_get(list, i), &w, &faults);
    for (size_t i = 0; status == XLSTM_OK && i < count; i++)
        status = read_inputs(json_array_get(list, i), &w, &w.nodes[i], &faults);
    /* What could not be read would show again, as something else, in the graph. */
    if (status == XLSTM_OK && faults.count == 0)
        status = validate(&w, &faults);
    if (status == XLSTM_OK) {
        status = error_list_finish(&faults, XLSTM_FORMAT_ERROR);
        if (status != XLSTM_OK)
            error_prefix(status, "%s: wiring", name);
    } else {
        (void)error_list_finish(&faults, status);
    }
    if (status != XLSTM_OK) {
        wiring_free(&w);
        return status;
    }
    *out = w;
    return XLSTM_OK;
}
