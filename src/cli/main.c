/* The xlstm command: finds the subcommand, parses its options, runs it. */
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/options.h"
#include "cli/terminal.h"

/* A file that the program opens must never get the number of a standard stream that was closed: its
 * text would be written into a model or a state. */
static void occupy_standard_streams(void) {
    for (int fd = 0; fd <= 2; fd++) {
        /* Opened the wrong way round, so that using it is an error as before. */
        if (fcntl(fd, F_GETFD) == -1)
            (void)!open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
    }
}

static int print_made(void (*make)(buffer *)) {
    buffer text = {0};
    make(&text);
    xlstm_status status = output_buffer(&text);
    return status == XLSTM_OK ? 0 : cli_fail(status);
}

static void make_version(buffer *out) {
    buffer_print(out, "xlstm %s\n", xlstm_build());
}

static int run_global_option(int count, char *const *arguments) {
    const char *option = arguments[0];
    if (strncmp(option, "--completion", 12) == 0 && (option[12] == '\0' || option[12] == '=')) {
        const char *shell = option[12] ? option + 13 : count > 1 ? arguments[1] : "";
        if (strcmp(shell, "bash") == 0)
            return print_made(manual_bash);
        if (strcmp(shell, "zsh") == 0)
            return print_made(manual_zsh);
        return cli_fail_usage(NULL, "--completion \"%s\": takes one of bash, zsh", shell);
    }
    if (count > 1 && (strcmp(option, "--version") == 0 || strcmp(option, "--man") == 0))
        return cli_fail_usage(NULL, "unexpected argument \"%s\" after %s", arguments[1], option);
    if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0)
        return print_made(manual_overview);
    if (strcmp(option, "--version") == 0)
        return print_made(make_version);
    if (strcmp(option, "--man") == 0)
        return print_made(manual_roff);
    static const char *const names[] = {"help", "version", "man", "completion"};
    const char *nearest = options_nearest(option + strspn(option, "-"), names, 4);
    if (nearest)
        return cli_fail_usage(NULL, "unknown option %s: did you mean --%s?", option, nearest);
    return cli_fail_usage(NULL, "unknown option %s: the command comes first", option);
}

static int run_command(const command_spec *command, int count, char *const *arguments) {
    options parsed;
    if (options_parse(command, count, arguments, &parsed) != XLSTM_OK)
        return cli_fail_usage_last(command->name);
    int result;
    if (option_given(&parsed, OPTION_HELP)) {
        buffer text = {0};
        manual_command(command, &text);
        xlstm_status status = output_buffer(&text);
        result = status == XLSTM_OK ? 0 : cli_fail(status);
    } else {
        result = command->run(&parsed);
    }
    options_free(&parsed);
    return result;
}

int main(int count, char **arguments) {
    occupy_standard_streams();
    /* Writing then fails with a message, and what was written so far is removed. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    setlocale(LC_CTYPE, ""); /* line editing needs to know the characters; numbers stay as in C */
    if (count < 2) {
        buffer text = {0};
        manual_overview(&text);
        fputs(text.data ? text.data : "", stderr);
        buffer_free(&text);
        return EXIT_WRONG_USAGE;
    }
    if (arguments[1][0] == '-')
        return run_global_option(count - 1, arguments + 1);
    const command_spec *command = command_find(arguments[1]);
    if (!command) {
        options_unknown_command(arguments[1]);
        return cli_fail_usage_last(NULL);
    }
    return run_command(command, count - 2, arguments + 2);
}
