/* What `xlstm bench` measures (bench.c) and how it is reported (bench_report.c). */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include <jansson.h>
#include "engine/machine.h"
#include "model/model.h"

/* What was measured, and with what. */
typedef struct bench_subject {
    const char *path;
    char device_text[300]; /* the instruction set, or what else the device says of itself */
    xlstm_model_info info;
    model_memory memory;
    machine_limits limits;
} bench_subject;

/* One line: a prompt of so many tokens, or a step of so many sequences. Seconds, bytes and
 * operations are those of the prompt or of the step. */
typedef struct bench_row {
    bool decode;
    int64_t size; /* tokens of the prompt, or sequences: the tokens that one takes */
    int runs;
    double seconds;                   /* median */
    double weight_bytes, state_bytes; /* moved */
    double updated_bytes;             /* of state_bytes of a decode: read and written */
    double flops;
    bool of_device;              /* the limits are the device's own */
    machine_kind bound;          /* of a prompt: what arithmetic it is compared with */
    double limit[MACHINE_KINDS]; /* medians of the samples beside the runs; 0: not sampled */
    /* The median over the runs of: least seconds by the samples around the run / its seconds. */
    double percent;
} bench_row;

/* The table: text for standard output. */
void bench_print_head(const bench_subject *subject, buffer *out);
void bench_print_row(const bench_row *row, buffer *out);

/* The JSON of the same; NULL when memory is out. */
json_t *bench_subject_json(const bench_subject *subject);
json_t *bench_row_json(const bench_row *row);

/* Reads an earlier run. */
xlstm_status bench_load(const char *path, json_t **earlier);
/* Ratios of a run to an earlier one, new / old, of the rows that both have; also what in machine
 * and model differs. Both are what --json prints. NULL when memory is out. */
json_t *bench_compare(const json_t *run, const json_t *earlier);
void bench_print_comparison(const json_t *comparison, const char *path, buffer *out);

#endif
