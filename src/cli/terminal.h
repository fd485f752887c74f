/* What the program says to the world: text on standard output, everything else on standard error,
 * and the signals that end it. */
#ifndef CLI_TERMINAL_H
#define CLI_TERMINAL_H

#include <jansson.h>
#include "cli/options.h"

enum { EXIT_WORK_FAILED = 1, EXIT_WRONG_USAGE = 2 };

/* ---- Standard output ---- */

/* A failure ("cannot write to standard output: …") sticks, and comes out of the next call too. */
xlstm_status output_write(const void *bytes, size_t count);
xlstm_status output_flush(void);
/* Writes and flushes the text of a buffer, and frees it. */
xlstm_status output_buffer(buffer *b);
/* One object, indented, with a newline; releases it. A NULL object is memory that was out. */
xlstm_status output_json(json_t *object);
/* A JSON string of any bytes: what is not UTF-8 becomes U+FFFD. */
json_t *json_text(const char *bytes, size_t count);

/* ---- Standard error ---- */

/* Whether standard error is a terminal, and whether it may be coloured there (NO_COLOR, TERM). */
bool terminal_is_live(void);
bool terminal_has_color(void);
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints this thread's error, a line each, and returns the exit status: 1, or 128 + the signal
 * where the work was stopped by one. */
int cli_fail(xlstm_status status);
/* The same after text that breaks off, whose line is ended first if the text is within one. */
int cli_break_off(xlstm_status status, bool within_line);
/* The same for wrong usage, with a pointer to the help; returns 2. */
int cli_fail_usage(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int cli_fail_usage_last(const char *command);

/* A progress bar, drawn only on a terminal and only when the work takes more than a second. */
typedef struct progress {
    const char *what, *unit; /* "reading the prompt", "tokens"; unit NULL: no rate, bytes: "B" */
    double start, drawn_at;
    bool drawn;
} progress;

void progress_begin(progress *p, const char *what, const char *unit);
/* An xlstm_progress: false after Ctrl-C. Removes the bar then, and when all is done. */
bool progress_update(void *p, int64_t done, int64_t total);
void progress_end(progress *p); /* removes the bar: for work that failed on the way */

/* 0 where no time has passed. */
double per_second(int64_t count, double seconds);

/* "13.7 GB"; `text` has room for 16 bytes and is returned. */
const char *format_bytes(double bytes, char *text);

/* ---- Signals ---- */

/* From here on Ctrl-C, SIGTERM and SIGHUP are remembered instead of ending the program; a second
 * one ends it, unless `persistent`. SIGQUIT still ends it at once. */
void interrupt_catch(bool persistent);
int interrupt_signal(void); /* 0: none came */
void interrupt_clear(void);

#endif
