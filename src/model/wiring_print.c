/* The wiring in print: for people (unicode, ascii), for Graphviz (dot), and as the JSON that a
 * config's `wiring` field takes. */
#include "model/wiring.h"

static void print_lines(const wiring *w, bool ascii, buffer *out) {
    const char *plus = ascii ? "--(+)--> " : "──(+)─→ ", *minus = ascii ? "--(-)--> " : "──(−)─→ ";
    for (int at = 0; at < w->count; at++) {
        const wiring_node *node = &w->nodes[w->order[at]];
        buffer_print(out, "%4d  %s [%s]", at, node->name, wiring_kind_name(node->kind));
        if (node->weights)
            buffer_print(out, "  %s", node->weights);
        buffer_print(out, "\n");
        for (int j = 0; j < node->input_count; j++)
            buffer_print(out, "        %s %s%s\n", w->nodes[node->inputs[j].node].name,
                         node->inputs[j].polarity > 0 ? plus : minus, node->name);
    }
}

/* Names come from files: quotes and backslashes would end the string. */
static void print_quoted(const char *text, buffer *out) {
    buffer_print(out, "\"");
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            buffer_print(out, "\\");
        buffer_append(out, text, 1);
    }
    buffer_print(out, "\"");
}

static void print_dot(const wiring *w, buffer *out) {
    buffer_print(out, "digraph xlstm {\n    rankdir=TB;\n    node [shape=box];\n");
    for (int at = 0; at < w->count; at++) {
        const wiring_node *node = &w->nodes[w->order[at]];
        buffer_print(out, "    ");
        print_quoted(node->name, out);
        buffer_print(out, " [tooltip=\"%s\"%s];\n", wiring_kind_name(node->kind),
                     node->kind == WIRING_SUM ? ", shape=circle" : "");
        for (int j = 0; j < node->input_count; j++) {
            buffer_print(out, "    ");
            print_quoted(w->nodes[node->inputs[j].node].name, out);
            buffer_print(out, " -> ");
            print_quoted(node->name, out);
            buffer_print(out, " [label=\"%+d\"];\n", node->inputs[j].polarity);
        }
    }
    buffer_print(out, "}\n");
}

static json_t *node_json(const wiring *w, const wiring_node *node) {
    json_t *inputs = json_array();
    for (int j = 0; j < node->input_count; j++)
        json_array_append_new(inputs,
                              json_pack("{s:s, s:i}", "from", w->nodes[node->inputs[j].node].name,
                                        "polarity", node->inputs[j].polarity));
    json_t *item =
        json_pack("{s:s, s:s}", "name", node->name, "kind", wiring_kind_name(node->kind));
    if (node->weights)
        json_object_set_new(item, "weights", json_string(node->weights));
    json_object_set_new(item, "inputs", inputs);
    return item;
}

static void print_json(const wiring *w, buffer *out) {
    json_t *nodes = json_array();
    for (int at = 0; at < w->count; at++)
        json_array_append_new(nodes, node_json(w, &w->nodes[w->order[at]]));
    json_t *value = json_pack("{s:o}", "nodes", nodes);
    char *text = value ? json_dumps(value, JSON_INDENT(1)) : NULL;
    if (text)
        buffer_print(out, "%s\n", text);
    else
        out->failed = true;
    free(text);
    json_decref(value);
}

void wiring_print(const wiring *w, enum wiring_style style, buffer *out) {
    switch (style) {
    case WIRING_UNICODE:
    case WIRING_ASCII:
        print_lines(w, style == WIRING_ASCII, out);
        break;
    case WIRING_DOT:
        print_dot(w, out);
        break;
    case WIRING_JSON:
        print_json(w, out);
        break;
    }
}
