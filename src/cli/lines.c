/* Lines from the user, by libedit where there is a terminal. The editor writes to standard error:
 * standard output is for text alone. */
#include "cli/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "base/error.h"
#include "base/file.h"
#include "cli/terminal.h"

enum { HISTORY_LINES = 1000 };

struct lines {
    EditLine *editor; /* NULL: not a terminal */
    History *history;
    char *history_path; /* NULL: none is kept */
    char *line;
    size_t capacity;
};

/* ---- History ---- */

/* Creates the folders above a file. */
static void make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* $XDG_STATE_HOME/xlstm/history; relative paths there are to be ignored, says the specification. */
static char *find_history(void) {
    const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (base && base[0] == '/')
        return path_join(base, "xlstm/history");
    return home && home[0] == '/' ? path_join(home, ".local/state/xlstm/history") : NULL;
}

static void open_history(lines *in) {
    HistEvent event;
    in->history = history_init();
    if (!in->history)
        return;
    history(in->history, &event, H_SETSIZE, HISTORY_LINES);
    history(in->history, &event, H_SETUNIQUE, 1);
    in->history_path = find_history();
    if (in->history_path)
        history(in->history, &event, H_LOAD, in->history_path);
    el_set(in->editor, EL_HIST, history, in->history);
}

/* The file is created for its owner alone before anything is written into it. */
static void keep_history(const lines *in) {
    HistEvent event;
    if (!in->history || !in->history_path)
        return;
    make_folders(in->history_path);
    int fd = open(in->history_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    bool open_to_others = fd < 0 || fchmod(fd, 0600) != 0;
    if (fd >= 0)
        close(fd);
    if (open_to_others || history(in->history, &event, H_SAVE, in->history_path) < 0)
        cli_warn("cannot keep the history in %s", in->history_path);
}

/* ---- The editor ---- */

static char *prompt(EditLine *editor) {
    static char text[] = "> ";
    (void)editor;
    return text;
}

/* One character from the terminal. libedit's own reader would read on after a signal; this one
 * stops, so that Ctrl-C drops the line. */
static int read_character(EditLine *editor, wchar_t *character) {
    mbstate_t state;
    memset(&state, 0, sizeof state);
    (void)editor;
    for (;;) {
        char byte;
        ssize_t count = read(STDIN_FILENO, &byte, 1);
        if (count < 0 && errno == EINTR && interrupt_signal() == 0)
            continue; /* the window changed its size */
        if (count <= 0)
            return (int)count;
        size_t used = mbrtowc(character, &byte, 1, &state);
        if (used == (size_t)-2)
            continue; /* not yet complete */
        if (used != (size_t)-1)
            return 1;
        memset(&state, 0, sizeof state); /* not a character of this locale: dropped */
    }
}

static void open_editor(lines *in) {
    in->editor = el_init("xlstm", stdin, stderr, stderr);
    if (!in->editor)
        return;
    el_set(in->editor, EL_PROMPT, prompt);
    el_set(in->editor, EL_EDITOR, "emacs");
    el_set(in->editor, EL_GETCFN, read_character);
    open_history(in);
}

/* ---- Reading ---- */

xlstm_status lines_open(lines **out) {
    lines *in = *out = calloc(1, sizeof *in);
    if (!in)
        return error_memory(sizeof *in, "line editing");
    if (isatty(STDIN_FILENO) && terminal_is_live())
        open_editor(in);
    return XLSTM_OK;
}

void lines_close(lines *in) {
    if (!in)
        return;
    keep_history(in);
    if (in->history)
        history_end(in->history);
    if (in->editor)
        el_end(in->editor);
    free(in->history_path);
    free(in->line);
    free(in);
}

bool lines_edited(const lines *in) {
    return in->editor != NULL;
}

static void remember(lines *in, const char *line) {
    HistEvent event;
    if (in->history && line[strspn(line, " \r\n")] != '\0')
        history(in->history, &event, H_ENTER, line);
}

static enum lines_result read_edited(lines *in, const char **line, size_t *length) {
    int count = 0;
    el_resize(in->editor);
    *line = el_gets(in->editor, &count);
    if (*line && count > 0) {
        *length = (size_t)count;
        remember(in, *line);
        return LINES_READ;
    }
    fputc('\n', stderr);
    if (interrupt_signal() != 0) {
        el_reset(in->editor);
        return LINES_INTERRUPTED;
    }
    return LINES_END;
}

static enum lines_result read_plain(lines *in, const char **line, size_t *length) {
    errno = 0;
    ssize_t count = getline(&in->line, &in->capacity, stdin);
    if (count >= 0) {
        *line = in->line;
        *length = (size_t)count;
        return LINES_READ;
    }
    if (interrupt_signal() != 0)
        return LINES_INTERRUPTED;
    if (ferror(stdin) || errno == ENOMEM) {
        error_system("read", "standard input");
        return LINES_FAILED;
    }
    return LINES_END;
}

enum lines_result lines_read(lines *in, const char **line, size_t *length) {
    enum lines_result result =
        in->editor ? read_edited(in, line, length) : read_plain(in, line, length);
    if (result != LINES_READ)
        return result;
    /* The text without its end, in memory of our own. */
    size_t kept = *length;
    while (kept > 0 && ((*line)[kept - 1] == '\n' || (*line)[kept - 1] == '\r'))
        kept--;
    if (*line != in->line) {
        char *copy = realloc(in->line, kept + 1);
        if (!copy) {
            error_memory(kept + 1, "a line");
            return LINES_FAILED;
        }
        memcpy(copy, *line, kept);
        in->line = copy;
        in->capacity = kept + 1;
    }
    in->line[kept] = '\0';
    *line = in->line;
    *length = kept;
    return LINES_READ;
}
