/* Standard output, standard error, progress and signals of the command. */
#include "cli/terminal.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "text/unicode.h"

/* ---- Standard output ---- */

static int output_error; /* errno of the first failure */

static xlstm_status output_status(bool written) {
    if (!written && output_error == 0)
        output_error = errno ? errno : EIO;
    if (output_error == 0)
        return XLSTM_OK;
    errno = output_error;
    return error_system("write to", "standard output");
}

xlstm_status output_write(const void *bytes, size_t count) {
    errno = 0;
    return output_status(output_error == 0 && fwrite(bytes, 1, count, stdout) == count);
}

xlstm_status output_flush(void) {
    errno = 0;
    return output_status(output_error == 0 && fflush(stdout) == 0);
}

xlstm_status output_buffer(buffer *b) {
    xlstm_status status = b->failed ? error_memory(b->size, "the output") : XLSTM_OK;
    if (status == XLSTM_OK)
        status = output_write(b->data ? b->data : "", b->size);
    if (status == XLSTM_OK)
        status = output_flush();
    buffer_free(b);
    return status;
}

xlstm_status output_json(json_t *object) {
    char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    json_decref(object);
    if (!text)
        return error_memory(0, "the output");
    xlstm_status status = output_write(text, strlen(text));
    free(text);
    if (status == XLSTM_OK)
        status = output_write("\n", 1);
    return status == XLSTM_OK ? output_flush() : status;
}

json_t *json_text(const char *bytes, size_t count) {
    buffer valid = {0};
    utf8_append_valid((const uint8_t *)bytes, count, &valid);
    json_t *text = valid.failed ? NULL : json_stringn(valid.data ? valid.data : "", valid.size);
    buffer_free(&valid);
    return text;
}

/* ---- Standard error ---- */

bool terminal_is_live(void) {
    return isatty(STDERR_FILENO) == 1;
}

bool terminal_has_color(void) {
    const char *no = getenv("NO_COLOR"), *terminal = getenv("TERM");
    return terminal_is_live() && !(no && *no) && terminal && strcmp(terminal, "dumb") != 0;
}

void cli_note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static void label(const char *word, const char *color) {
    bool colored = terminal_has_color();
    fprintf(stderr, "%s%s:%s ", colored ? color : "", word, colored ? "\033[0m" : "");
}

void cli_warn(const char *format, ...) {
    va_list arguments;
    label("warning", "\033[33m");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static void print_error(void) {
    for (const char *line = xlstm_last_error(); *line;) {
        size_t length = strcspn(line, "\n");
        label("error", "\033[31m");
        fprintf(stderr, "%.*s\n", (int)length, line);
        line += length + (line[length] == '\n');
    }
}

int cli_fail(xlstm_status status) {
    int number = interrupt_signal();
    if (status == XLSTM_CANCELLED && number != 0) {
        fprintf(stderr, "stopped\n");
        return 128 + number;
    }
    print_error();
    return EXIT_WORK_FAILED;
}

int cli_break_off(xlstm_status status, bool within_line) {
    char *cause = strdup(xlstm_last_error());
    if (cause && within_line && output_write("\n", 1) == XLSTM_OK)
        (void)output_flush();
    if (cause)
        error_set(status, "%s", cause);
    free(cause);
    return cli_fail(status);
}

int cli_fail_usage_last(const char *command) {
    print_error();
    fprintf(stderr, "see: xlstm %s%s--help\n", command ? command : "", command ? " " : "");
    return EXIT_WRONG_USAGE;
}

int cli_fail_usage(const char *command, const char *format, ...) {
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    error_set(XLSTM_INVALID_ARGUMENT, "%s", message);
    return cli_fail_usage_last(command);
}

/* ---- Progress ---- */

void progress_begin(progress *p, const char *what, const char *unit) {
    *p = (progress){.what = what, .unit = unit, .start = clock_seconds()};
}

bool progress_update(void *context, int64_t done, int64_t total) {
    progress *p = context;
    if (interrupt_signal() != 0) {
        progress_end(p);
        return false;
    }
    if (done >= total) {
        progress_end(p);
        return true;
    }
    double now = clock_seconds(), passed = now - p->start;
    bool worth_it = passed > 0.3 && done > 0 &&
                    passed * (double)total / (double)done > 1.0; /* seconds that it will take */
    if (!terminal_is_live() || (!p->drawn && !worth_it) || now - p->drawn_at < 0.1)
        return true;
    enum { WIDTH = 24 };
    char bar[WIDTH + 1], rate[32] = "", amount[16];
    double part = (double)done / (double)total;
    for (int i = 0; i < WIDTH; i++)
        bar[i] = (i + 0.5) / WIDTH < part ? '#' : '.';
    bar[WIDTH] = '\0';
    if (p->unit && strcmp(p->unit, "B") == 0)
        snprintf(rate, sizeof rate, "%s/s", format_bytes((double)done / passed, amount));
    else if (p->unit)
        snprintf(rate, sizeof rate, "%.0f %s/s", (double)done / passed, p->unit);
    fprintf(stderr, "\r%s [%s] %3.0f %%  %s\033[K", p->what, bar, 100 * part, rate);
    fflush(stderr);
    p->drawn = true;
    p->drawn_at = now;
    return true;
}

void progress_end(progress *p) {
    if (p->drawn)
        fprintf(stderr, "\r\033[K");
    p->drawn = false;
}

double per_second(int64_t count, double seconds) {
    return seconds > 0 ? (double)count / seconds : 0;
}

const char *format_bytes(double bytes, char *text) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int unit = 0;
    while (bytes >= 999.95 && unit < 5) {
        bytes /= 1000;
        unit++;
    }
    snprintf(text, 16,
             unit == 0       ? "%.0f %s"
             : bytes < 9.995 ? "%.2f %s"
                             : "%.1f %s",
             bytes, units[unit]);
    return text;
}

/* ---- Signals ---- */

static volatile sig_atomic_t signal_number;

static void remember(int number) {
    signal_number = number;
}

void interrupt_catch(bool persistent) {
    struct sigaction action = {.sa_handler = remember};
    sigemptyset(&action.sa_mask);
    if (!persistent)
        action.sa_flags = (int)SA_RESETHAND;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    /* Ignored from the start, under nohup, it stays so. */
    struct sigaction hangup;
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
        sigaction(SIGHUP, &action, NULL);
}

int interrupt_signal(void) {
    return signal_number;
}

void interrupt_clear(void) {
    signal_number = 0;
}
