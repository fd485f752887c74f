/* xlstm bench: how fast a model runs, against what this machine can do.
 *
 * The limits are measured first, and sampled again beside every run: other users of a machine, and
 * on some hosts the tile unit itself, change them within seconds. Decoding is bound by memory:
 * every weight is read once a step (the embedding table excepted: one row a token), every state
 * read and written, or written once in as many tokens as are deferred. The limit of a step is the
 * time that the memory needs for that, weights by a plain reading of the same mapped files; its share of
 * the time taken is the percentage. Prefill is bound by arithmetic: two operations a weight and
 * token, and what the recurrence needs; its limit is the peak of the unit that computes it. */
#include "cli/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/median.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "ops/facts.h"

static const double long_enough = 10; /* seconds of a row's runs, after which none is added */
static const double run_seconds = 2;  /* after which a run decodes no further token */
enum { PRIMING = 16 };                /* tokens that a session has seen before it decodes */
/* Between a sample and a run: measuring takes so much power that a GPU's clock stays lower for some 20 ms behind it. */
static const double settling_seconds = 0.04;

typedef struct bench {
    const options *options;
    bench_subject subject;
    xlstm_model *model;
    machine_meter *meter;
    float *logits;          /* [vocab] */
    xlstm_sampler *sampler; /* of the most probable id */
    int32_t *next;          /* [sessions] */
    xlstm_session **sessions;
    xlstm_batch_item *items;
    int session_count;
    json_t *decode, *prefill, *left_out; /* arrays */
} bench;

/* ---- What the work needs ---- */

static int mlstm_nodes(const xlstm_model *model) {
    int nodes = 0;
    for (int i = 0; i < model->graph.count; i++)
        nodes += model->graph.nodes[i].kind == WIRING_MLSTM;
    return nodes;
}

/* Operations of `tokens` with `heads` rows of logits. An mLSTM takes four a state element and
 * token: two to update it, two to read it. */
static double count_flops(const bench *b, double tokens, double heads) {
    const xlstm_model_info *i = &b->subject.info;
    double head = 2.0 * i->vocab_size * i->embedding_dim;
    double tables =
        i->vocab_size * (double)i->embedding_dim * (b->model->config.tie_word_embeddings ? 1 : 2);
    double linear = 2 * ((double)i->parameters - tables);
    double recurrence = 4.0 * mlstm_nodes(b->model) * i->num_heads * i->head_dim_qk * i->head_dim_v;
    return tokens * (linear + recurrence) + heads * head;
}

static double weight_bytes(const bench *b) {
    return (double)(b->subject.memory.weights - b->subject.memory.embedding);
}

static double state_bytes_updated(const bench *b, double times) {
    return 2 * times * (double)b->subject.memory.state_per_session;
}

/* A prompt reads the weights once for each piece that goes through the layers at once, and takes
 * the state along from chunk to chunk. */
static bench_row prefill_row(const bench *b, int64_t tokens) {
    int64_t piece = b->model->max_batch_tokens;
    int64_t chunk = b->model->device->chunk_size > 0 ? b->model->device->chunk_size : 1;
    const ops_device *device = b->model->device;
    bool tiles = device->uses_tiles && device->uses_tiles(b->model->device, b->model->profile) &&
                 (device->limit || machine_has(b->meter, MACHINE_AMX_BF16));
    return (bench_row){
        .size = tokens,
        .weight_bytes = weight_bytes(b) * (double)((tokens + piece - 1) / piece),
        .state_bytes = state_bytes_updated(b, (double)((tokens + chunk - 1) / chunk)),
        .flops = count_flops(b, (double)tokens, 1),
        .of_device = device->limit != NULL,
        .bound = tiles ? MACHINE_AMX_BF16 : MACHINE_FMA,
    };
}

static bench_row decode_row(const bench *b, int batch) {
    return (bench_row){
        .decode = true,
        .size = batch,
        .weight_bytes = weight_bytes(b),
        .state_bytes = batch * (b->subject.memory.state_read + b->subject.memory.state_written),
        .updated_bytes = 2 * batch * b->subject.memory.state_written,
        .flops = count_flops(b, batch, batch),
    };
}

/* The seconds that it takes at these limits. Weights that lie on another device are not sampled. */
static double least_seconds(const bench_row *row, const double *limit) {
    const double reading =
        limit[MACHINE_WEIGHTS] > 0 ? limit[MACHINE_WEIGHTS] : limit[MACHINE_READ];
    return row->decode ? row->weight_bytes / reading +
                             (row->state_bytes - row->updated_bytes) / limit[MACHINE_READ] +
                             row->updated_bytes / limit[MACHINE_UPDATE]
                       : row->flops / limit[row->bound];
}

/* ---- Samples of the limits ---- */

/* Of the device where it has limits of its own, else of the host. */
static double sample_limit(bench *b, machine_kind kind) {
    ops_device *device = b->model->device;
    double rate = 0;
    if (!device->limit)
        return machine_sample(b->meter, kind);
    enum ops_limit limit = kind == MACHINE_AMX_BF16 ? OPS_LIMIT_PRODUCT
                           : kind == MACHINE_UPDATE ? OPS_LIMIT_UPDATE
                                                    : OPS_LIMIT_READ;
    xlstm_status status = device->limit(device, (int)limit, &rate);
    if (status != XLSTM_OK)
        cli_note("a limit of the device was not measured: %s", xlstm_last_error());
    return status == XLSTM_OK ? rate : 0;
}

static bool is_sampled(const bench_row *row, int kind) {
    return row->decode ? kind == MACHINE_READ || kind == MACHINE_WEIGHTS || kind == MACHINE_UPDATE
                       : kind == (int)row->bound;
}

/* The samples around and within one run. */
typedef struct samples {
    double sum[MACHINE_KINDS];
    int count;
    double seconds; /* that they took */
} samples;

static void take_sample(bench *b, const bench_row *row, samples *s) {
    double start = clock_seconds();
    for (int k = 0; k < MACHINE_KINDS; k++)
        if (is_sampled(row, k))
            s->sum[k] += sample_limit(b, (machine_kind)k);
    s->count++;
    s->seconds += clock_seconds() - start;
}

/* ---- Runs ---- */

/* Ids that differ, so that different rows of the table are read. */
static int32_t some_id(const bench *b, int64_t i) {
    return (int32_t)((uint64_t)i * 7919 % (uint64_t)b->subject.info.vocab_size);
}

typedef struct pieces {
    bench *b;
    const bench_row *row;
    samples *samples; /* NULL: none are taken */
} pieces;

/* Between the pieces of a prompt: a long one sees the peak of its own seconds. Not on a GPU, whose next piece would be slower
 * for it (settling_seconds). */
static bool sample_between(void *context, int64_t done, int64_t total) {
    pieces *p = context;
    if (p->samples && done < total && !p->b->model->device->limit)
        take_sample(p->b, p->row, p->samples);
    return interrupt_signal() == 0;
}

static xlstm_status feed(bench *b, const bench_row *row, int64_t tokens, samples *s) {
    int32_t *ids = malloc(sizeof(int32_t) * (size_t)tokens);
    if (!ids)
        return error_memory(sizeof(int32_t) * (size_t)tokens, "a prompt");
    for (int64_t i = 0; i < tokens; i++)
        ids[i] = some_id(b, i);
    pieces p = {b, row, s};
    xlstm_status status = xlstm_session_reset(b->sessions[0]);
    if (status == XLSTM_OK)
        status = xlstm_eval(b->sessions[0], ids, tokens, b->logits, sample_between, &p);
    free(ids);
    return status;
}

/* The seconds of a prompt, less those of the samples within. */
static xlstm_status run_prefill(bench *b, const bench_row *row, samples *s, double *seconds) {
    double start = clock_seconds(), before = s->seconds;
    xlstm_status status = feed(b, row, row->size, s);
    *seconds = clock_seconds() - start - (s->seconds - before);
    return status;
}

/* A step of `batch` sessions; the ids that follow are chosen on the device. */
static xlstm_status decode_step(bench *b, int64_t batch, int64_t t, int32_t *ids) {
    for (int64_t i = 0; i < batch; i++) {
        ids[i] = some_id(b, t + 31 * i);
        b->items[i] = (xlstm_batch_item){.session = b->sessions[i],
                                         .ids = &ids[i],
                                         .count = 1,
                                         .sampler = b->sampler,
                                         .next = &b->next[i]};
    }
    xlstm_status status = xlstm_eval_batch(b->items, (int)batch);
    if (status == XLSTM_OK && interrupt_signal() != 0)
        status = error_set(XLSTM_CANCELLED, "stopped");
    return status;
}

/* One session, as it generates: on a device that works ahead, the next token is under way. */
static xlstm_status run_alone(bench *b, double *seconds) {
    const int32_t id = some_id(b, 0);
    const xlstm_generate_options how = {
        .max_tokens = option_integer(b->options, OPTION_TOKENS, 32) + 1, .ignore_eos = true};
    xlstm_generate_result result;
    xlstm_status status = xlstm_generate(b->sessions[0], b->sampler, &id, 1, &how, &result);
    *seconds = result.decode_seconds / (double)(result.new_tokens > 1 ? result.new_tokens - 1 : 1);
    return status;
}

/* The seconds of a step. The first does not count: measuring has emptied the caches. */
static xlstm_status run_decode(bench *b, const bench_row *row, samples *s, double *seconds) {
    (void)s;
    if (row->size == 1 && b->model->device->ahead)
        return run_alone(b, seconds);
    int64_t most = option_integer(b->options, OPTION_TOKENS, 32), done = 0;
    int32_t *ids = malloc(sizeof(int32_t) * (size_t)row->size);
    if (!ids)
        return error_memory(sizeof(int32_t) * (size_t)row->size, "a batch");
    xlstm_status status = decode_step(b, row->size, 0, ids);
    double start = clock_seconds(), passed = 0;
    while (status == XLSTM_OK && done < most && passed < run_seconds) {
        status = decode_step(b, row->size, ++done, ids);
        passed = clock_seconds() - start;
    }
    *seconds = passed / (double)(done > 0 ? done : 1);
    free(ids);
    return status;
}

/* Before the first run: the sessions have taken in some tokens, and all memory is warm. */
static xlstm_status warm_up(bench *b, const bench_row *row) {
    if (!row->decode) {
        int64_t piece = b->model->max_batch_tokens;
        return feed(b, row, row->size < piece ? row->size : piece, NULL);
    }
    xlstm_status status = XLSTM_OK;
    for (int64_t i = 0; i < row->size && status == XLSTM_OK; i++) {
        int32_t ids[PRIMING];
        for (int t = 0; t < PRIMING; t++)
            ids[t] = some_id(b, t + i);
        status = xlstm_session_reset(b->sessions[i]);
        if (status == XLSTM_OK)
            status = xlstm_eval(b->sessions[i], ids, PRIMING, NULL, NULL, NULL);
    }
    return status;
}

/* ---- A row ---- */

/* By run: [runs] each. */
typedef struct record {
    double *seconds, *percent, *limit[MACHINE_KINDS];
} record;

static xlstm_status run_all_of(bench *b, bench_row *row, int most, record *r) {
    xlstm_status status = warm_up(b, row);
    double start = clock_seconds();
    samples s = {0};
    if (status == XLSTM_OK)
        take_sample(b, row, &s);
    for (; status == XLSTM_OK && row->runs < most; row->runs++) {
        if (row->runs > 0 && clock_seconds() - start > long_enough)
            break;
        int run = row->runs;
        clock_sleep(settling_seconds);
        status = (row->decode ? run_decode : run_prefill)(b, row, &s, &r->seconds[run]);
        if (status != XLSTM_OK)
            break;
        samples next = {0};
        take_sample(b, row, &next);
        double limit[MACHINE_KINDS] = {0};
        for (int k = 0; k < MACHINE_KINDS; k++)
            r->limit[k][run] = limit[k] = (s.sum[k] + next.sum[k]) / (s.count + next.count);
        r->percent[run] = 100 * least_seconds(row, limit) / r->seconds[run];
        s = next;
        if (interrupt_signal() != 0)
            status = error_set(XLSTM_CANCELLED, "stopped");
    }
    return status;
}

static xlstm_status measure_row(bench *b, bench_row *row) {
    int most = (int)option_integer(b->options, OPTION_REPEAT, 5);
    double *values = calloc((size_t)most * (2 + MACHINE_KINDS), sizeof *values);
    if (!values)
        return error_memory(sizeof *values * (size_t)most, "measurements");
    record r = {.seconds = values, .percent = values + most};
    for (int k = 0; k < MACHINE_KINDS; k++)
        r.limit[k] = values + (size_t)most * (size_t)(2 + k);
    xlstm_status status = run_all_of(b, row, most, &r);
    row->seconds = median(r.seconds, row->runs);
    row->percent = median(r.percent, row->runs);
    for (int k = 0; k < MACHINE_KINDS; k++)
        row->limit[k] = is_sampled(row, k) ? median(r.limit[k], row->runs) : 0;
    free(values);
    return status;
}

/* Text goes out as it comes; the arrays are kept for --json and --compare. */
static xlstm_status say(const bench *b, buffer *text) {
    if (!option_given(b->options, OPTION_JSON))
        return output_buffer(text);
    buffer_free(text);
    return XLSTM_OK;
}

static xlstm_status add_row(bench *b, bench_row row) {
    xlstm_status status = measure_row(b, &row);
    if (status != XLSTM_OK)
        return status;
    json_array_append_new(row.decode ? b->decode : b->prefill, bench_row_json(&row));
    buffer line = {0};
    bench_print_row(&row, &line);
    return say(b, &line);
}

/* ---- The command ---- */

static const int32_t usual_batches[] = {1, 4, 16}, usual_lengths[] = {64, 128, 512, 1024, 4096};

typedef struct list {
    const int32_t *values;
    int64_t count;
} list;

static list list_of(const options *o, enum option_id id, const int32_t *usual, int count) {
    const option_value *v = &o->values[id];
    return v->given ? (list){v->ids, v->id_count} : (list){usual, count};
}

static list batches_of(const options *o) {
    return list_of(o, OPTION_BATCH, usual_batches, 3);
}

static bool is_left_out(const bench *b, int batch) {
    for (size_t i = 0; i < json_array_size(b->left_out); i++)
        if (json_integer_value(json_array_get(b->left_out, i)) == batch)
            return true;
    return false;
}

/* The largest batch to measure. Of the usual ones those are left out whose states, with weights
 * and working memory, are more than what is free. */
static xlstm_status choose_batches(bench *b, int *most) {
    xlstm_model_options wanted = input_model_options(b->options, 1);
    xlstm_model *model;
    *most = 1;
    xlstm_status status = model_open(option_text(b->options, OPTION_MODEL, ""), &wanted, &model);
    if (status != XLSTM_OK)
        return status;
    model_memory memory;
    model_get_memory(model, &memory);
    xlstm_model_free(model);
    int64_t available = memory_available();
    list batches = batches_of(b->options);
    bool asked = option_given(b->options, OPTION_BATCH);
    for (int64_t i = 0; i < batches.count; i++) {
        int batch = batches.values[i];
        double needed = (double)memory.weights + (double)memory.working +
                        (double)batch * (double)memory.state_per_session;
        if (asked || batch == 1 || available <= 0 || needed <= (double)available) {
            *most = batch > *most ? batch : *most;
            continue;
        }
        char needs[16], has[16];
        json_array_append_new(b->left_out, json_integer(batch));
        cli_note("decode x %d is left out: it needs %s of memory, and %s are free", batch,
                 format_bytes(needed, needs), format_bytes((double)available, has));
    }
    return XLSTM_OK;
}

static xlstm_status start(bench *b) {
    int sessions;
    xlstm_status status = choose_batches(b, &sessions);
    if (status == XLSTM_OK)
        status = input_load_model(b->options, sessions, &b->model);
    if (status != XLSTM_OK)
        return status;
    bench_subject *s = &b->subject;
    s->path = option_text(b->options, OPTION_MODEL, "");
    xlstm_model_get_info(b->model, &s->info);
    model_get_memory(b->model, &s->memory);
    size_t count = (size_t)sessions, row = sizeof(float) * (size_t)s->info.vocab_size;
    b->logits = calloc(1, row);
    b->next = calloc(count, sizeof *b->next);
    b->sessions = calloc(count, sizeof(xlstm_session *));
    b->items = calloc(count, sizeof *b->items);
    if (!b->logits || !b->next || !b->sessions || !b->items)
        return error_memory(row, "logits");
    status = xlstm_sampler_create(b->model, NULL, &b->sampler);
    for (; b->session_count < sessions && status == XLSTM_OK; b->session_count++)
        status = xlstm_session_create(b->model, &b->sessions[b->session_count]);
    return status == XLSTM_OK ? machine_create((int)option_integer(b->options, OPTION_THREADS, 0),
                                               option_given(b->options, OPTION_PIN), &b->meter)
                              : status;
}

/* Decoding is compared with reading the weights where they lie. */
static void read_weights(bench *b) {
    const weights *w = &b->model->weights;
    machine_span spans[MACHINE_SPANS];
    int count = 0;
    for (int i = 0; i < w->file_count && count < MACHINE_SPANS; i++)
        spans[count++] = (machine_span){w->hosts[i], w->buffers[i].size};
    machine_read_from(b->meter, spans, count);
}

static xlstm_status measure_all(bench *b) {
    char *text = b->subject.device_text;
    if (b->model->device->describe)
        b->model->device->describe(b->model->device, text, sizeof b->subject.device_text);
    text[strcspn(text, "\n")] = '\0';
    read_weights(b);
    machine_measure_all(b->meter, 0, &b->subject.limits);
    buffer head = {0};
    bench_print_head(&b->subject, &head);
    xlstm_status status = say(b, &head);
    list batches = batches_of(b->options);
    list lengths = list_of(b->options, OPTION_PROMPT_TOKENS, usual_lengths, 5);
    for (int64_t i = 0; i < batches.count && status == XLSTM_OK; i++)
        if (!is_left_out(b, batches.values[i]))
            status = add_row(b, decode_row(b, batches.values[i]));
    for (int64_t i = 0; i < lengths.count && status == XLSTM_OK; i++)
        status = add_row(b, prefill_row(b, lengths.values[i]));
    return status;
}

/* The whole run as JSON, and against an earlier one. */
static xlstm_status finish(bench *b, const json_t *earlier, json_t *machine_and_model) {
    json_t *run = machine_and_model;
    if (!run || json_object_set(run, "decode", b->decode) != 0 ||
        json_object_set(run, "prefill", b->prefill) != 0 ||
        json_object_set(run, "left_out", b->left_out) != 0)
        return error_memory(0, "the report");
    json_t *comparison = earlier ? bench_compare(run, earlier) : NULL;
    if (earlier && !comparison)
        return error_memory(0, "the comparison");
    if (comparison)
        json_object_set(run, "compare", comparison);
    xlstm_status status = XLSTM_OK;
    if (option_given(b->options, OPTION_JSON)) {
        status = output_json(json_incref(run));
    } else if (comparison) {
        buffer text = {0};
        bench_print_comparison(comparison, option_text(b->options, OPTION_COMPARE, ""), &text);
        status = output_buffer(&text);
    }
    json_decref(comparison);
    return status;
}

int command_bench(const options *o) {
    bench b = {
        .options = o, .decode = json_array(), .prefill = json_array(), .left_out = json_array()};
    json_t *earlier = NULL;
    xlstm_status status = XLSTM_OK;
    interrupt_catch(false);
    if (option_given(o, OPTION_COMPARE))
        status = bench_load(option_text(o, OPTION_COMPARE, ""), &earlier);
    if (status == XLSTM_OK)
        status = start(&b);
    if (status == XLSTM_OK)
        status = measure_all(&b);
    if (status == XLSTM_OK) {
        json_t *run = bench_subject_json(&b.subject);
        status = finish(&b, earlier, run);
        json_decref(run);
    }
    for (int i = 0; i < b.session_count; i++)
        xlstm_session_free(b.sessions[i]);
    xlstm_sampler_free(b.sampler);
    xlstm_model_free(b.model);
    machine_free(b.meter);
    free(b.next);
    free(b.items);
    free((void *)b.sessions);
    free(b.logits);
    json_decref(b.decode);
    json_decref(b.prefill);
    json_decref(b.left_out);
    json_decref(earlier);
    return status == XLSTM_OK ? 0 : cli_fail(status);
}
