/* Compiling a wiring: values are taken and given back as their last use passes, and branches absorb
 * the sums behind them. */
#include "model/program.h"

#include <stdlib.h>
#include <string.h>

/* What is known of each node while compiling. */
typedef struct node_state {
    int uses;     /* edges that still want the value */
    int consumer; /* the node behind its only edge, or -1 */
    int value;    /* -1: not computed */
    int block;
} node_state;

typedef struct compiler {
    const wiring *graph;
    program *out;
    node_state *nodes;
    bool *busy; /* [values] */
    int value_capacity;
} compiler;

/* ---- Weights by name ---- */

/* N of "backbone.blocks.N", or -1. */
static int block_number(const char *prefix, const char *start, int blocks) {
    if (!prefix || strncmp(prefix, start, strlen(start)) != 0)
        return -1;
    const char *digits = prefix + strlen(start);
    char *end;
    long number = strtol(digits, &end, 10);
    bool plain =
        *digits >= '0' && *digits <= '9' && *end == 0 && (*digits != '0' || end == digits + 1);
    return plain && number < blocks ? (int)number : -1;
}

/* A branch's block must be there and be of its kind. */
static void resolve_branch(compiler *c, const model_config *config, int index, error_list *faults) {
    const wiring_node *node = &c->graph->nodes[index];
    const char *start = wiring_names_of(config->family)->blocks;
    int block = block_number(node->weights, start, config->num_blocks);
    c->nodes[index].block = block;
    if (block < 0) {
        error_list_add(faults,
                       "node \"%s\": weights \"%s\" do not exist; the model has %s0 to %s%d",
                       node->name, node->weights, start, start, config->num_blocks - 1);
        return;
    }
    bool slstm = config_is_slstm(config, block);
    bool fits = node->kind == WIRING_FFN ? config_has_ffn(config, block)
                                         : (node->kind == WIRING_SLSTM) == slstm;
    if (!fits)
        error_list_add(faults, "node \"%s\" is of kind %s, but %s is an %s block%s", node->name,
                       wiring_kind_name(node->kind), node->weights, slstm ? "sLSTM" : "mLSTM",
                       node->kind == WIRING_FFN ? " without feed-forward" : "");
}

static void resolve(compiler *c, const model_config *config, int index, error_list *faults) {
    const wiring_node *node = &c->graph->nodes[index];
    const wiring_names *names = wiring_names_of(config->family);
    const char *expected = NULL;
    switch (node->kind) {
    case WIRING_EMBEDDING:
        expected = names->embedding;
        break;
    case WIRING_NORM:
        expected = names->out_norm;
        if (!config->add_out_norm)
            error_list_add(faults, "node \"%s\" is a norm, but the config has %s false", node->name,
                           config->family == FAMILY_NEURIPS ? "add_post_blocks_norm"
                                                            : "add_out_norm");
        break;
    case WIRING_HEAD:
        expected = names->head;
        break;
    case WIRING_MLSTM:
    case WIRING_SLSTM:
    case WIRING_FFN:
        resolve_branch(c, config, index, faults);
        break;
    case WIRING_SUM:
        break;
    }
    if (expected && strcmp(node->weights, expected) != 0)
        error_list_add(faults, "node \"%s\": weights of kind %s are \"%s\", not \"%s\"", node->name,
                       wiring_kind_name(node->kind), expected, node->weights);
}

/* ---- Values ---- */

static int take_value(compiler *c) {
    for (int i = 0; i < c->value_capacity; i++) {
        if (!c->busy[i]) {
            c->busy[i] = true;
            if (i >= c->out->values)
                c->out->values = i + 1;
            return i;
        }
    }
    return -1; /* cannot happen: there are as many as nodes can hold at once */
}

static void used_once(compiler *c, int node) {
    if (--c->nodes[node].uses == 0)
        c->busy[c->nodes[node].value] = false;
}

/* ---- Steps ---- */

static step *add_step(compiler *c, enum step_kind kind, int node) {
    step *s = &c->out->steps[c->out->count++];
    *s = (step){.kind = kind,
                .node = node,
                .block = c->nodes[node].block,
                .residual = -1,
                .branch_sign = 1};
    return s;
}

/* Sums all inputs of a node into `value`, OPS_MAX_TERMS at a time. */
static void add_sums(compiler *c, int index, int value) {
    const wiring_node *node = &c->graph->nodes[index];
    step *s = NULL;
    for (int j = 0; j < node->input_count; j++) {
        if (!s || s->input_count == OPS_MAX_TERMS) {
            bool more = s != NULL;
            s = add_step(c, STEP_SUM, index);
            s->output = value;
            if (more) {
                s->input[0] = value;
                s->sign[0] = 1;
                s->input_count = 1;
            }
        }
        s->input[s->input_count] = c->nodes[node->inputs[j].node].value;
        s->sign[s->input_count++] = node->inputs[j].polarity;
    }
    for (int j = 0; j < node->input_count; j++)
        used_once(c, node->inputs[j].node);
}

/* The value that a node reads. A single positive input is read where it is; then *source is that
 * node, whose use ends with release_input, else a sum of its own was made. */
static int gather_input(compiler *c, int index, int *source) {
    const wiring_node *node = &c->graph->nodes[index];
    *source = -1;
    if (node->input_count == 1 && node->inputs[0].polarity == 1) {
        *source = node->inputs[0].node;
        return c->nodes[*source].value;
    }
    int value = take_value(c);
    add_sums(c, index, value);
    return value;
}

static void release_input(compiler *c, int value, int source) {
    if (source >= 0)
        used_once(c, source);
    else
        c->busy[value] = false;
}

/* The sum node that this branch can write itself: its only consumer, with one other input, positive
 * and already computed. Gives the other input's node and the branch's polarity. */
static int fusible_sum(const compiler *c, int index, int *other, int *sign) {
    int sum = c->nodes[index].consumer;
    if (sum < 0 || c->graph->nodes[sum].kind != WIRING_SUM || c->graph->nodes[sum].input_count != 2)
        return -1;
    const wiring_input *inputs = c->graph->nodes[sum].inputs;
    int mine = inputs[0].node == index ? 0 : 1;
    *other = inputs[1 - mine].node;
    *sign = inputs[mine].polarity;
    return inputs[1 - mine].polarity == 1 && c->nodes[*other].value >= 0 ? sum : -1;
}

static void compile_branch(compiler *c, int index, enum step_kind kind) {
    int source, other = -1, sign = 1;
    int input = gather_input(c, index, &source);
    step *s = add_step(c, kind, index);
    s->input[0] = input;
    s->sign[0] = 1;
    s->input_count = 1;
    int sum = fusible_sum(c, index, &other, &sign);
    if (sum < 0) {
        s->output = c->nodes[index].value = take_value(c);
        release_input(c, input, source);
        return;
    }
    s->residual = c->nodes[other].value;
    s->branch_sign = sign;
    /* In place if this step holds the last uses of the other value. */
    bool last = c->nodes[other].uses == (source == other ? 2 : 1);
    s->output = last ? s->residual : take_value(c);
    c->nodes[sum].value = s->output;
    release_input(c, input, source);
    used_once(c, other);
    c->busy[s->output] = true;
}

static void compile_norm(compiler *c, int index) {
    int head = c->nodes[index].consumer, source;
    int input = gather_input(c, index, &source);
    if (head >= 0 && c->graph->nodes[head].kind == WIRING_HEAD &&
        c->graph->nodes[head].input_count == 1 && c->graph->nodes[head].inputs[0].polarity == 1) {
        c->out->head_norm = true; /* its input stays busy until the end */
        c->nodes[index].value = input;
        return;
    }
    step *s = add_step(c, STEP_NORM, index);
    s->input[0] = input;
    s->input_count = 1;
    s->output = c->nodes[index].value = take_value(c);
    release_input(c, input, source);
}

static void compile_node(compiler *c, int index) {
    int source;
    switch (c->graph->nodes[index].kind) {
    case WIRING_EMBEDDING:
        c->nodes[index].value = take_value(c);
        add_step(c, STEP_EMBED, index)->output = c->nodes[index].value;
        break;
    case WIRING_MLSTM:
        compile_branch(c, index, STEP_MLSTM);
        break;
    case WIRING_SLSTM:
        compile_branch(c, index, STEP_SLSTM);
        break;
    case WIRING_FFN:
        compile_branch(c, index, STEP_FFN);
        break;
    case WIRING_SUM:
        if (c->nodes[index].value >= 0)
            break; /* written by a branch */
        c->nodes[index].value = take_value(c);
        add_sums(c, index, c->nodes[index].value);
        break;
    case WIRING_NORM:
        compile_norm(c, index);
        break;
    case WIRING_HEAD:
        c->out->head_input = gather_input(c, index, &source);
        break;
    }
}

static xlstm_status prepare(compiler *c) {
    const wiring *graph = c->graph;
    size_t nodes = wiring_size(graph),
           steps = 2 * nodes; /* a node is a step, and a sum before it */
    for (int i = 0; i < graph->count; i++)
        steps += (size_t)graph->nodes[i].input_count; /* long sums take more */
    c->value_capacity = graph->count + 2;
    c->nodes = calloc(nodes, sizeof *c->nodes);
    c->busy = calloc(nodes + 2, sizeof *c->busy);
    c->out->steps = calloc(steps, sizeof *c->out->steps);
    if (!c->nodes || !c->busy || !c->out->steps)
        return error_memory(steps * sizeof *c->out->steps, "the forward program");
    for (int i = 0; i < graph->count; i++)
        c->nodes[i] = (node_state){.value = -1, .consumer = -1, .block = -1};
    for (int i = 0; i < graph->count; i++) {
        for (int j = 0; j < graph->nodes[i].input_count; j++) {
            node_state *source = &c->nodes[graph->nodes[i].inputs[j].node];
            source->consumer = source->uses++ == 0 ? i : -1;
        }
    }
    return XLSTM_OK;
}

xlstm_status program_compile(const wiring *graph, const model_config *config, program *out) {
    *out = (program){0};
    compiler c = {.graph = graph, .out = out};
    error_list faults = {0};
    xlstm_status status = prepare(&c);
    if (status == XLSTM_OK) {
        for (int i = 0; i < graph->count; i++)
            resolve(&c, config, i, &faults);
        status = error_list_finish(&faults, XLSTM_FORMAT_ERROR);
        if (status != XLSTM_OK)
            error_prefix(status, "wiring");
    }
    for (int at = 0; status == XLSTM_OK && at < graph->count; at++)
        compile_node(&c, graph->order[at]);
    free(c.nodes);
    free(c.busy);
    if (status != XLSTM_OK)
        program_free(out);
    return status;
}

void program_free(program *p) {
    free(p->steps);
    *p = (program){0};
}
