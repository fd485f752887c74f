/* The message of the last failure, one a thread.
 *
 * The text lives in a fixed thread-local array: setting an error needs no memory, so it works when
 * memory is out, and a thread that ends leaves nothing behind. Names in messages come from files
 * that may be hostile, so control characters, which could drive a terminal, are replaced. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_SIZE = 32768, LINE_SIZE = 2048, MOST_LINES = 100 };

static _Thread_local char message[MESSAGE_SIZE];

const char *xlstm_last_error(void) {
    return message;
}

static void replace_control_characters(char *text, bool also_newline) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if ((c < 0x20 && (c != '\n' || also_newline)) || c == 0x7f)
            *text = '?';
    }
}

/* Cuts a text that did not fit, not within a UTF-8 sequence, and marks the cut. */
static void mark_cut(char *text, size_t size) {
    static const char mark[] = " ...";
    size_t at = size - sizeof mark;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80)
        at--;
    memcpy(text + at, mark, sizeof mark);
}

static void format_text(char *text, size_t size, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));

static void format_text(char *text, size_t size, const char *format, va_list arguments) {
    int length = vsnprintf(text, size, format, arguments);
    if (length < 0)
        snprintf(text, size, "(a message that could not be formatted: %s)", format);
    else if ((size_t)length >= size)
        mark_cut(text, size);
}

xlstm_status error_set(xlstm_status status, const char *format, ...) {
    char text[MESSAGE_SIZE]; /* apart from `message`, which may be among the arguments */
    va_list arguments;
    va_start(arguments, format);
    format_text(text, sizeof text, format, arguments);
    va_end(arguments);
    replace_control_characters(text, false);
    memcpy(message, text, strlen(text) + 1);
    return status;
}

xlstm_status error_prefix(xlstm_status status, const char *format, ...) {
    char prefix[LINE_SIZE], text[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    format_text(prefix, sizeof prefix, format, arguments);
    va_end(arguments);
    replace_control_characters(prefix, true);
    size_t size = 0;
    for (const char *line = message; size < sizeof text;) {
        int length = (int)strcspn(line, "\n");
        int wrote = snprintf(text + size, sizeof text - size, "%s%s: %.*s", size ? "\n" : "",
                             prefix, length, line);
        size += wrote > 0 ? (size_t)wrote : 0;
        line += length;
        if (*line++ == '\0')
            break;
    }
    if (size >= sizeof text)
        mark_cut(text, sizeof text);
    memcpy(message, text, strlen(text) + 1);
    return status;
}

xlstm_status error_memory(size_t bytes, const char *what) {
    return error_set(XLSTM_OUT_OF_MEMORY, "out of memory: %zu bytes for %s", bytes, what);
}

xlstm_status error_system(const char *verb, const char *path) {
    int number = errno;
    char buffer[256];
#if defined(__GLIBC__) && defined(_GNU_SOURCE) /* returns the text, which need not be in buffer */
    const char *reason = strerror_r(number, buffer, sizeof buffer);
#else /* POSIX, macOS: returns 0, or an error number */
    const char *reason = buffer;
    if (strerror_r(number, buffer, sizeof buffer) != 0)
        snprintf(buffer, sizeof buffer, "error %d", number);
#endif
    return error_set(XLSTM_IO_ERROR, "cannot %s %s: %s", verb, path, reason);
}

static void add_line(error_list *list, const char *line, size_t length) {
    list->count++;
    if (list->count > MOST_LINES) {
        list->omitted++;
        return;
    }
    char *grown = realloc(list->text, list->size + length + 2);
    if (!grown) { /* still counted: the list stays an error */
        list->omitted++;
        return;
    }
    list->text = grown;
    if (list->size)
        list->text[list->size++] = '\n';
    memcpy(list->text + list->size, line, length);
    list->size += length;
    list->text[list->size] = '\0';
}

void error_list_add(error_list *list, const char *format, ...) {
    char line[LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    format_text(line, sizeof line, format, arguments);
    va_end(arguments);
    replace_control_characters(line, true);
    add_line(list, line, strlen(line));
}

void error_list_add_last(error_list *list) {
    const char *line = message;
    for (;;) {
        size_t length = strcspn(line, "\n");
        add_line(list, line, length);
        if (line[length] == '\0')
            return;
        line += length + 1;
    }
}

xlstm_status error_list_finish(error_list *list, xlstm_status status) {
    if (list->count == 0)
        return XLSTM_OK;
    const char *text = list->text ? list->text : "";
    if (list->omitted)
        error_set(status, "%s%sand %d more", text, list->size ? "\n" : "", list->omitted);
    else
        error_set(status, "%s", text);
    free(list->text);
    *list = (error_list){0};
    return status;
}
