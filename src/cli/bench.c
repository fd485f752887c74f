/* xlstm bench: how fast a model runs, against what this machine can do.
 *
 * The limits are measured first, in the same run. Decoding is bound by memory: every weight is read
 * once a step (the embedding table excepted: one row a token), every state read and written. The
 * limit of a step is the time that the memory needs for that; its share of the time taken is the
 * percentage. Prefill is bound by arithmetic: two operations a weight and token, and what the
 * recurrence needs. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "engine/machine.h"
#include "model/model.h"

static const double long_enough = 10; /* seconds of one measurement, after which no run is added */
enum { PRIMING = 16 };                /* tokens that a session has seen before it decodes */

typedef struct bench {
    const options *options;
    xlstm_model *model;
    xlstm_model_info info;
    model_memory memory;
    machine_limits limits;
    float *logits; /* [sessions][vocab] */
    xlstm_session **sessions;
    xlstm_batch_item *items;
    int session_count;
} bench;

/* ---- What the work needs ---- */

static int mlstm_nodes(const xlstm_model *model) {
    int nodes = 0;
    for (int i = 0; i < model->graph.count; i++)
        nodes += model->graph.nodes[i].kind == WIRING_MLSTM;
    return nodes;
}

/* Operations of a prompt of `tokens` with the logits of its last position. An mLSTM takes four a
 * state element and token: two to update it, two to read it. */
static double prefill_flops(const bench *b, int64_t tokens) {
    const xlstm_model_info *i = &b->info;
    double head = 2.0 * i->vocab_size * i->embedding_dim;
    double tables =
        i->vocab_size * (double)i->embedding_dim * (b->model->config.tie_word_embeddings ? 1 : 2);
    double linear = 2 * ((double)i->parameters - tables);
    double recurrence = 4.0 * mlstm_nodes(b->model) * i->num_heads * i->head_dim_qk * i->head_dim_v;
    return (double)tokens * (linear + recurrence) + head;
}

static double weight_bytes(const bench *b) {
    return (double)(b->memory.weights - b->memory.embedding);
}

static double state_bytes_moved(const bench *b, int batch) {
    return 2.0 * batch * (double)b->memory.state_per_session;
}

/* ---- Measuring ---- */

static int compare_doubles(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

typedef xlstm_status (*bench_run)(bench *b, int64_t size);

/* The median of the seconds that `run` takes, after one run that does not count. */
static xlstm_status measure(bench *b, bench_run run, int64_t size, double *median, int *runs) {
    int most = (int)option_integer(b->options, OPTION_REPEAT, 5);
    double *seconds = malloc(sizeof(double) * (size_t)most);
    if (!seconds)
        return error_memory(sizeof(double) * (size_t)most, "measurements");
    xlstm_status status = run(b, size);
    double start = clock_seconds();
    for (*runs = 0; status == XLSTM_OK && *runs < most; ++*runs) {
        if (*runs > 0 && clock_seconds() - start > long_enough)
            break;
        double before = clock_seconds();
        status = run(b, size);
        seconds[*runs] = clock_seconds() - before;
        if (interrupt_signal() != 0)
            status = error_set(XLSTM_CANCELLED, "stopped");
    }
    if (status == XLSTM_OK) {
        qsort(seconds, (size_t)*runs, sizeof *seconds, compare_doubles);
        *median = seconds[*runs / 2];
    }
    free(seconds);
    return status;
}

static bool go_on(void *context, int64_t done, int64_t total) {
    (void)context;
    (void)done;
    (void)total;
    return interrupt_signal() == 0;
}

/* Ids that differ, so that different rows of the table are read. */
static int32_t some_id(const bench *b, int64_t i) {
    return (int32_t)((uint64_t)i * 7919 % (uint64_t)b->info.vocab_size);
}

static xlstm_status run_prefill(bench *b, int64_t tokens) {
    int32_t *ids = malloc(sizeof(int32_t) * (size_t)tokens);
    if (!ids)
        return error_memory(sizeof(int32_t) * (size_t)tokens, "a prompt");
    for (int64_t i = 0; i < tokens; i++)
        ids[i] = some_id(b, i);
    xlstm_status status = xlstm_session_reset(b->sessions[0]);
    if (status == XLSTM_OK)
        status = xlstm_eval(b->sessions[0], ids, tokens, b->logits, go_on, NULL);
    free(ids);
    return status;
}

/* OPTION_TOKENS steps of `batch` sessions, each with its logits. */
static xlstm_status run_decode(bench *b, int64_t batch) {
    int64_t tokens = option_integer(b->options, OPTION_TOKENS, 32);
    int32_t *ids = malloc(sizeof(int32_t) * (size_t)batch);
    if (!ids)
        return error_memory(sizeof(int32_t) * (size_t)batch, "a batch");
    xlstm_status status = XLSTM_OK;
    for (int64_t t = 0; t < tokens && status == XLSTM_OK; t++) {
        for (int64_t i = 0; i < batch; i++) {
            ids[i] = some_id(b, t + 31 * i);
            b->items[i] =
                (xlstm_batch_item){b->sessions[i], &ids[i], 1, b->logits + i * b->info.vocab_size};
        }
        status = xlstm_eval_batch(b->items, (int)batch);
        if (status == XLSTM_OK && interrupt_signal() != 0)
            status = error_set(XLSTM_CANCELLED, "stopped");
    }
    free(ids);
    return status;
}

/* ---- Reports ---- */

typedef struct report {
    json_t *prefill, *decode; /* arrays */
    bool as_json;
} report;

static xlstm_status say(const report *r, buffer *line) {
    if (!r->as_json)
        return output_buffer(line);
    buffer_free(line);
    return XLSTM_OK;
}

static xlstm_status report_prefill(bench *b, report *r, int64_t tokens) {
    double seconds = 0;
    int runs;
    xlstm_status status = measure(b, run_prefill, tokens, &seconds, &runs);
    if (status != XLSTM_OK)
        return status;
    double flops = prefill_flops(b, tokens), rate = flops / seconds;
    double percent = 100 * rate / b->limits.fma_flops_per_second;
    json_array_append_new(
        r->prefill, json_pack("{s:I, s:i, s:f, s:f, s:f, s:f, s:f}", "tokens", (json_int_t)tokens,
                              "runs", runs, "seconds", seconds, "tokens_per_second",
                              (double)tokens / seconds, "flop_per_token", flops / (double)tokens,
                              "flop_per_second", rate, "percent_of_limit", percent));
    buffer line = {0};
    buffer_print(
        &line,
        "prefill %-8" PRId64 "%10.1f tok/s %10.3f GFLOP/token %9.1f GFLOP/s %5.1f %% of limit\n",
        tokens, (double)tokens / seconds, flops / (double)tokens / 1e9, rate / 1e9, percent);
    return say(r, &line);
}

static xlstm_status report_decode(bench *b, report *r, int batch) {
    double seconds = 0;
    int runs;
    for (int i = 0; i < batch; i++) {
        int32_t ids[PRIMING];
        for (int t = 0; t < PRIMING; t++)
            ids[t] = some_id(b, t + i);
        xlstm_status status = xlstm_session_reset(b->sessions[i]);
        if (status == XLSTM_OK)
            status = xlstm_eval(b->sessions[i], ids, PRIMING, NULL, go_on, NULL);
        if (status != XLSTM_OK)
            return status;
    }
    xlstm_status status = measure(b, run_decode, batch, &seconds, &runs);
    if (status != XLSTM_OK)
        return status;
    double per_step = seconds / (double)option_integer(b->options, OPTION_TOKENS, 32);
    double once = weight_bytes(b), state = state_bytes_moved(b, batch), bytes = once + state;
    double least =
        once / b->limits.read_bytes_per_second + state / b->limits.update_bytes_per_second;
    double of_read = 100 * bytes / per_step / b->limits.read_bytes_per_second;
    json_array_append_new(r->decode,
                          json_pack("{s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "batch", batch,
                                    "runs", runs, "seconds_per_step", per_step, "tokens_per_second",
                                    batch / per_step, "weight_bytes_per_step", once,
                                    "state_bytes_per_step", state, "bytes_per_second",
                                    bytes / per_step, "percent_of_limit", 100 * least / per_step,
                                    "percent_of_read_bandwidth", of_read));
    buffer line = {0};
    buffer_print(
        &line,
        "decode x %-6d%10.1f tok/s %10.4f GB/step     %9.2f GB/s    %5.1f %% of limit, %.1f %% "
        "of read bandwidth%s\n",
        batch, batch / per_step, bytes / 1e9, bytes / per_step / 1e9, 100 * least / per_step,
        of_read,
        of_read > 100 ? "; above 100 %: from the caches, or the machine was busy when measured"
                      : "");
    return say(r, &line);
}

static xlstm_status print_head(const bench *b, const report *r) {
    buffer line = {0};
    char stored[16], moved[16];
    buffer_print(
        &line,
        "machine: %d threads, read %.2f GB/s, read-modify-write %.2f GB/s, multiply-add %.1f "
        "GFLOP/s\n"
        "model:   %s, %" PRId64 " parameters, weights %s, state %s, device %s, profile %s\n",
        b->limits.threads, b->limits.read_bytes_per_second / 1e9,
        b->limits.update_bytes_per_second / 1e9, b->limits.fma_flops_per_second / 1e9,
        option_text(b->options, OPTION_MODEL, ""), b->info.parameters,
        format_bytes((double)b->memory.weights, stored),
        format_bytes((double)b->memory.state_per_session, moved), b->info.device, b->info.profile);
    return say(r, &line);
}

static xlstm_status print_json(const bench *b, report *r) {
    json_t *machine = json_pack("{s:i, s:f, s:f, s:f}", "threads", b->limits.threads,
                                "read_bytes_per_second", b->limits.read_bytes_per_second,
                                "update_bytes_per_second", b->limits.update_bytes_per_second,
                                "fma_flop_per_second", b->limits.fma_flops_per_second);
    json_t *model = json_pack(
        "{s:s, s:I, s:I, s:I, s:s, s:s}", "path", option_text(b->options, OPTION_MODEL, ""),
        "parameters", (json_int_t)b->info.parameters, "weight_bytes", (json_int_t)b->memory.weights,
        "state_bytes", (json_int_t)b->memory.state_per_session, "device", b->info.device, "profile",
        b->info.profile);
    return output_json(json_pack("{s:o, s:o, s:O, s:O}", "machine", machine, "model", model,
                                 "prefill", r->prefill, "decode", r->decode));
}

/* ---- The command ---- */

static xlstm_status run_all(bench *b) {
    static const int32_t usual_lengths[] = {64, 128, 512}, usual_batches[] = {1};
    const option_value *lengths = &b->options->values[OPTION_PROMPT_TOKENS];
    const option_value *batches = &b->options->values[OPTION_BATCH];
    const int32_t *length = lengths->given ? lengths->ids : usual_lengths;
    const int32_t *batch = batches->given ? batches->ids : usual_batches;
    int64_t length_count = lengths->given ? lengths->id_count : 3;
    int64_t batch_count = batches->given ? batches->id_count : 1;
    report r = {json_array(), json_array(), option_given(b->options, OPTION_JSON)};
    xlstm_status status = print_head(b, &r);
    for (int64_t i = 0; i < length_count && status == XLSTM_OK; i++)
        status = report_prefill(b, &r, length[i]);
    for (int64_t i = 0; i < batch_count && status == XLSTM_OK; i++)
        status = report_decode(b, &r, batch[i]);
    if (status == XLSTM_OK && r.as_json)
        status = print_json(b, &r);
    json_decref(r.prefill);
    json_decref(r.decode);
    return status;
}

static int most_sessions(const options *o) {
    const option_value *batches = &o->values[OPTION_BATCH];
    int32_t most = 1;
    for (int64_t i = 0; i < batches->id_count; i++)
        most = batches->ids[i] > most ? batches->ids[i] : most;
    return (int)most;
}

static xlstm_status start(bench *b) {
    int sessions = most_sessions(b->options);
    xlstm_status status = input_load_model(b->options, sessions, &b->model);
    if (status != XLSTM_OK)
        return status;
    xlstm_model_get_info(b->model, &b->info);
    model_get_memory(b->model, &b->memory);
    size_t count = (size_t)sessions, row = sizeof(float) * (size_t)b->info.vocab_size;
    b->logits = calloc(count, row);
    b->sessions = calloc(count, sizeof(xlstm_session *));
    b->items = calloc(count, sizeof *b->items);
    if (!b->logits || !b->sessions || !b->items)
        return error_memory(count * row, "logits");
    for (; b->session_count < sessions && status == XLSTM_OK; b->session_count++)
        status = xlstm_session_create(b->model, &b->sessions[b->session_count]);
    return status;
}

int command_bench(const options *o) {
    bench b = {.options = o};
    interrupt_catch(false);
    xlstm_status status = start(&b);
    if (status == XLSTM_OK)
        status = machine_measure((int)option_integer(o, OPTION_THREADS, 0), 0, &b.limits);
    if (status == XLSTM_OK)
        status = run_all(&b);
    for (int i = 0; i < b.session_count; i++)
        xlstm_session_free(b.sessions[i]);
    xlstm_model_free(b.model);
    free(b.items);
    free((void *)b.sessions);
    free(b.logits);
    return status == XLSTM_OK ? 0 : cli_fail(status);
}
