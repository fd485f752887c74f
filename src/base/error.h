/* Errors: a status code and, for the calling thread, a message that says what was wrong, where and
 * what would be right. Nothing below cli/ exits or aborts. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "xlstm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sets this thread's message and returns `status`. A message has no trailing newline or full stop.
 */
xlstm_status error_set(xlstm_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts `format` and ": " in front of every line of this thread's message; returns `status`. */
xlstm_status error_prefix(xlstm_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The message for a failed allocation of `bytes`; returns XLSTM_OUT_OF_MEMORY. */
xlstm_status error_memory(size_t bytes, const char *what);

/* The message for a failed system call, with strerror(errno); returns XLSTM_IO_ERROR.
 * "cannot <verb> <path>: <reason>" */
xlstm_status error_system(const char *verb, const char *path);

/* A list of faults that become one error, a line each: reading a checkpoint reports all of them. */
typedef struct error_list {
    char *text; /* lines separated by '\n' */
    size_t size;
    int count;
    int omitted; /* lines after the hundredth are only counted */
} error_list;

void error_list_add(error_list *list, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Adds every line of this thread's message. */
void error_list_add_last(error_list *list);
/* XLSTM_OK if the list is empty; else sets the message and returns `status`. Empties the list. */
xlstm_status error_list_finish(error_list *list, xlstm_status status);

#ifdef __cplusplus
}
#endif

#endif
