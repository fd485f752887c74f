/* The reports of `xlstm bench`: the table, the JSON, and the comparison of two JSONs.
 *
 * A comparison is made from two JSON objects alone, so that it is the same whether the new run was
 * just measured or is a file too. */
#include "cli/bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/terminal.h"
#include "format/json.h"

static const struct {
    const char *name, *key;
} kinds[MACHINE_KINDS] = {
    [MACHINE_READ] = {"read", "read_bytes_per_second"},
    [MACHINE_WEIGHTS] = {"read weights", "weights_read_bytes_per_second"},
    [MACHINE_UPDATE] = {"update", "update_bytes_per_second"},
    [MACHINE_FMA] = {"FMA", "fma_flop_per_second"},
    [MACHINE_AMX_BF16] = {"AMX bf16", "amx_bf16_flop_per_second"},
    [MACHINE_AMX_INT8] = {"AMX int8", "amx_int8_op_per_second"},
};

static bool is_fp8(const bench_subject *s) {
    return strcmp(s->info.prefill, "fp8") == 0;
}

/* ---- The table ---- */

void bench_print_head(const bench_subject *s, buffer *out) {
    char stored[16], moved[16];
    const machine_limits *l = &s->limits;
    buffer_print(out, "machine: %d threads, read %.2f GB/s, read-modify-write %.2f GB/s\n",
                 l->threads, l->read_bytes_per_second / 1e9, l->update_bytes_per_second / 1e9);
    buffer_print(out, "         multiply-add %.1f GFLOP/s", l->fma_flops_per_second / 1e9);
    if (l->amx_bf16_flops_per_second > 0)
        buffer_print(out, ", AMX bf16 %.0f GFLOP/s", l->amx_bf16_flops_per_second / 1e9);
    if (l->amx_int8_ops_per_second > 0)
        buffer_print(out, ", AMX int8 %.0f GOP/s", l->amx_int8_ops_per_second / 1e9);
    buffer_print(out, "\nmodel:   %s, %" PRId64 " parameters\n", s->path, s->info.parameters);
    buffer_print(out, "         weights %s, state %s, device %s, profile %s%s\n",
                 format_bytes((double)s->memory.weights, stored),
                 format_bytes((double)s->memory.state_per_session, moved), s->info.device,
                 s->info.profile, is_fp8(s) ? ", prefill fp8" : "");
    buffer_print(out, "\n%-12s %9s %7s %8s %11s %11s %10s  %s\n", "", "tok/s", "GB/s", "GFLOP/s",
                 "weights/tok", "state/tok", "of limit", "limit beside it");
}

/* What a prompt is compared with. */
static const char *bound_name(const bench_row *row) {
    return row->of_device ? "bf16 products" : kinds[row->bound].name;
}

void bench_print_row(const bench_row *row, buffer *out) {
    char name[32], read[16], state[16];
    double bytes = row->weight_bytes + row->state_bytes;
    snprintf(name, sizeof name, row->decode ? "decode x %" PRId64 : "prefill %" PRId64, row->size);
    buffer_print(out, "%-12s %9.*f %7.2f %8.1f %11s %11s %8.1f %%  ", name,
                 (double)row->size / row->seconds < 100 ? 2 : 1, (double)row->size / row->seconds,
                 bytes / row->seconds / 1e9, row->flops / row->seconds / 1e9,
                 format_bytes(row->weight_bytes / (double)row->size, read),
                 format_bytes(row->state_bytes / (double)row->size, state), row->percent);
    if (row->decode)
        buffer_print(out, "%.1f, %.1f GB/s%s\n", row->limit[MACHINE_WEIGHTS] / 1e9,
                     row->limit[MACHINE_UPDATE] / 1e9, row->percent > 100 ? " (caches)" : "");
    else
        buffer_print(out, "%s %.0f GFLOP/s\n", bound_name(row), row->limit[row->bound] / 1e9);
}

/* ---- JSON ---- */

/* null where there is none. */
static json_t *real_or_null(double value) {
    return value > 0 && isfinite(value) ? json_real(value) : json_null();
}

json_t *bench_subject_json(const bench_subject *s) {
    const machine_limits *l = &s->limits;
    return json_pack(
        "{s:{s:i, s:s, s:o, s:o, s:o, s:o, s:o}, s:{s:o, s:I, s:I, s:I, s:s, s:s, s:s*}}",
        "machine", "threads", l->threads, "processor", s->device_text, kinds[MACHINE_READ].key,
        real_or_null(l->read_bytes_per_second), kinds[MACHINE_UPDATE].key,
        real_or_null(l->update_bytes_per_second), kinds[MACHINE_FMA].key,
        real_or_null(l->fma_flops_per_second), kinds[MACHINE_AMX_BF16].key,
        real_or_null(l->amx_bf16_flops_per_second), kinds[MACHINE_AMX_INT8].key,
        real_or_null(l->amx_int8_ops_per_second), "model", "path",
        json_text(s->path, strlen(s->path)), "parameters", (json_int_t)s->info.parameters,
        "weight_bytes", (json_int_t)s->memory.weights, "state_bytes",
        (json_int_t)s->memory.state_per_session, "device", s->info.device, "profile",
        s->info.profile, "prefill", is_fp8(s) ? s->info.prefill : NULL);
}

json_t *bench_row_json(const bench_row *row) {
    double size = (double)row->size, bytes = row->weight_bytes + row->state_bytes;
    json_t *o = json_pack(
        "{s:I, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:s}", row->decode ? "batch" : "tokens",
        (json_int_t)row->size, "runs", row->runs, row->decode ? "seconds_per_step" : "seconds",
        row->seconds, "tokens_per_second", size / row->seconds, "weight_bytes_per_token",
        row->weight_bytes / size, "state_bytes_per_token", row->state_bytes / size,
        "flop_per_token", row->flops / size, "bytes_per_second", bytes / row->seconds,
        "flop_per_second", row->flops / row->seconds, "percent_of_limit", row->percent, "limit",
        row->decode ? "memory" : bound_name(row));
    for (int k = 0; o && k < MACHINE_KINDS; k++)
        if (row->limit[k] > 0)
            json_object_set_new(o, kinds[k].key, json_real(row->limit[k]));
    return o;
}

/* ---- Comparing ---- */

enum { REPORT_LIMIT = 1 << 24 };

xlstm_status bench_load(const char *path, json_t **earlier) {
    xlstm_status status = json_open(path, REPORT_LIMIT, earlier);
    if (status != XLSTM_OK)
        return error_prefix(status, "--compare");
    if (json_is_object(json_object_get(*earlier, "machine")) &&
        json_is_object(json_object_get(*earlier, "model")) &&
        json_is_array(json_object_get(*earlier, "decode")) &&
        json_is_array(json_object_get(*earlier, "prefill")))
        return XLSTM_OK;
    json_decref(*earlier);
    *earlier = NULL;
    return error_set(XLSTM_FORMAT_ERROR,
                     "--compare: %s is not what xlstm bench --json prints: it must be an object "
                     "with machine, model, decode and prefill",
                     path);
}

static double number_of(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

/* Appends "what: there, here" to `differences` where a field of machine or model is not the same.
 */
static void add_difference(const json_t *run, const json_t *earlier, const char *part,
                           const char *key, json_t *differences) {
    const json_t *here = json_object_get(json_object_get(run, part), key);
    const json_t *there = json_object_get(json_object_get(earlier, part), key);
    if (here == there || json_equal(here, there))
        return; /* or both are absent */
    json_array_append_new(differences, json_pack("{s:s, s:s, s:O?, s:O?}", "part", part, "field",
                                                 key, "earlier", there, "now", here));
}

static const json_t *find_row(const json_t *rows, const char *key, const json_t *size) {
    for (size_t i = 0; i < json_array_size(rows); i++)
        if (json_equal(json_object_get(json_array_get(rows, i), key), size))
            return json_array_get(rows, i);
    return NULL;
}

static void add_ratios(const json_t *run, const json_t *earlier, const char *part, const char *key,
                       json_t *rows) {
    const json_t *here = json_object_get(run, part), *there = json_object_get(earlier, part);
    for (size_t i = 0; i < json_array_size(here); i++) {
        const json_t *now = json_array_get(here, i);
        const json_t *size = json_object_get(now, key), *before = find_row(there, key, size);
        double new_speed = number_of(now, "tokens_per_second");
        double old_speed = number_of(before, "tokens_per_second");
        if (!(old_speed > 0))
            continue;
        json_array_append_new(
            rows, json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f}", "what", part, "size",
                            json_integer_value(size), "ratio", new_speed / old_speed, "earlier",
                            old_speed, "now", new_speed, "earlier_percent_of_limit",
                            number_of(before, "percent_of_limit"), "percent_of_limit",
                            number_of(now, "percent_of_limit")));
    }
}

static void add_limits(const json_t *run, const json_t *earlier, json_t *limits) {
    for (int k = 0; k < MACHINE_KINDS; k++) {
        double here = number_of(json_object_get(run, "machine"), kinds[k].key);
        double there = number_of(json_object_get(earlier, "machine"), kinds[k].key);
        if (here > 0 && there > 0)
            json_object_set_new(limits, kinds[k].key, json_real(here / there));
    }
}

json_t *bench_compare(const json_t *run, const json_t *earlier) {
    json_t *differences = json_array(), *limits = json_object(), *rows = json_array();
    json_t *comparison =
        json_pack("{s:o, s:o, s:o}", "differences", differences, "limits", limits, "ratios", rows);
    if (!comparison)
        return NULL;
    add_difference(run, earlier, "machine", "threads", differences);
    add_difference(run, earlier, "machine", "processor", differences);
    add_difference(run, earlier, "model", "parameters", differences);
    add_difference(run, earlier, "model", "weight_bytes", differences);
    add_difference(run, earlier, "model", "state_bytes", differences);
    add_difference(run, earlier, "model", "device", differences);
    add_difference(run, earlier, "model", "profile", differences);
    add_difference(run, earlier, "model", "prefill", differences);
    add_limits(run, earlier, limits);
    add_ratios(run, earlier, "decode", "batch", rows);
    add_ratios(run, earlier, "prefill", "tokens", rows);
    return comparison;
}

/* As JSON: a string of an earlier file may hold what would break the line. */
static void print_value(const json_t *value, buffer *out) {
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_COMPACT |
                                               JSON_REAL_PRECISION(15))
                       : NULL;
    buffer_print(out, "%s", text ? text : "nothing");
    free(text);
}

void bench_print_comparison(const json_t *comparison, const char *path, buffer *out) {
    const json_t *differences = json_object_get(comparison, "differences");
    const json_t *limits = json_object_get(comparison, "limits");
    const json_t *rows = json_object_get(comparison, "ratios");
    buffer_print(out, "\nagainst %s (new / old)\n", path);
    for (size_t i = 0; i < json_array_size(differences); i++) {
        const json_t *d = json_array_get(differences, i);
        buffer_print(out, "  not the same %s: %s was ",
                     json_string_value(json_object_get(d, "part")),
                     json_string_value(json_object_get(d, "field")));
        print_value(json_object_get(d, "earlier"), out);
        buffer_print(out, ", is ");
        print_value(json_object_get(d, "now"), out);
        buffer_print(out, "\n");
    }
    for (int k = 0; k < MACHINE_KINDS; k++)
        if (json_object_get(limits, kinds[k].key))
            buffer_print(out, "  machine, %-14s %6.2f x\n", kinds[k].name,
                         number_of(limits, kinds[k].key));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *r = json_array_get(rows, i);
        char name[48];
        snprintf(name, sizeof name, "%s %s%lld", json_string_value(json_object_get(r, "what")),
                 strcmp(json_string_value(json_object_get(r, "what")), "decode") == 0 ? "x " : "",
                 (long long)json_integer_value(json_object_get(r, "size")));
        buffer_print(out, "  %-23s %6.2f x  (%.2f to %.2f tok/s, %.1f to %.1f %% of the limit)\n",
                     name, number_of(r, "ratio"), number_of(r, "earlier"), number_of(r, "now"),
                     number_of(r, "earlier_percent_of_limit"), number_of(r, "percent_of_limit"));
    }
    if (json_array_size(rows) == 0)
        buffer_print(out, "  no batch and no length is in both\n");
}
