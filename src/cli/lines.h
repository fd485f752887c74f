/* Lines from the user: edited, with a history, on a terminal; as they come otherwise. */
#ifndef CLI_LINES_H
#define CLI_LINES_H

#include <stdbool.h>
#include <stddef.h>

#include "xlstm.h"

typedef struct lines lines;

enum lines_result {
    LINES_READ,
    LINES_END,         /* the end of input, or Ctrl-D */
    LINES_INTERRUPTED, /* interrupt_signal() tells by what */
    LINES_FAILED       /* the error is set */
};

xlstm_status lines_open(lines **in);
void lines_close(lines *in); /* keeps the history */
bool lines_edited(const lines *in);
/* A line without its end; NUL-terminated, valid until the next call. */
enum lines_result lines_read(lines *in, const char **line, size_t *length);

#endif
