/* Help, man page and shell completions, all made from the option table. */
#include "cli/options.h"

#include <ctype.h>
#include <string.h>

enum { TEXT_WIDTH = 92, NAME_WIDTH = 30 };

/* Appends `text` in lines of at most TEXT_WIDTH; all but the first begin with `indent` spaces. */
static void wrap(const char *text, int column, int indent, buffer *out) {
    while (*text) {
        if (*text == '\n') {
            buffer_append(out, text++, 1);
            column = 0;
            continue;
        }
        size_t word = strcspn(text, " \n");
        if (column > indent && column + 1 + (int)word > TEXT_WIDTH) {
            buffer_print(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            buffer_append(out, " ", 1);
            column++;
        }
        buffer_append(out, text, word);
        column += (int)word;
        text += word;
        text += strspn(text, " ");
    }
    buffer_append(out, "\n", 1);
}

static void print_usage(const command_spec *command, buffer *out) {
    buffer_print(out, "xlstm %s", command->name);
    if (command->operands)
        buffer_print(out, " %s", command->operands);
    for (const enum option_id *id = command->required; *id; id++) {
        const option_spec *spec = &option_table[*id];
        if (spec->letter)
            buffer_print(out, " -%c %s", spec->letter, spec->value);
        else
            buffer_print(out, " --%s %s", spec->name, spec->value);
    }
    buffer_print(out, " [options]");
}

static void print_option(const option_spec *spec, buffer *out) {
    size_t before = out->size;
    if (spec->letter)
        buffer_print(out, "  -%c, ", spec->letter);
    else
        buffer_print(out, "      ");
    buffer_print(out, "--%s%s%s", spec->name, spec->value ? " " : "",
                 spec->value ? spec->value : "");
    int column = (int)(out->size - before);
    if (column + 2 > NAME_WIDTH) {
        buffer_print(out, "\n");
        column = 0;
    }
    buffer_print(out, "%*s", NAME_WIDTH - column, "");
    if (spec->choices) {
        for (const char *c = spec->choices; *c; c++)
            buffer_print(out, *c == '|' ? ", " : "%c", *c);
        buffer_print(out, "\n%*s", NAME_WIDTH, "");
    }
    wrap(spec->help, NAME_WIDTH, NAME_WIDTH, out);
}

/* The first option of each section, in the order of the list: sections need not be contiguous. */
static bool is_first_of_section(const command_spec *command, int at) {
    const char *section = option_table[command->options[at]].section;
    for (int i = 0; i < at; i++) {
        if (strcmp(option_table[command->options[i]].section, section) == 0)
            return false;
    }
    return true;
}

static void print_options(const command_spec *command, buffer *out) {
    for (int at = 0; command->options[at]; at++) {
        if (!is_first_of_section(command, at))
            continue;
        const char *section = option_table[command->options[at]].section;
        buffer_print(out, "\n%s:\n", section);
        for (int i = at; command->options[i]; i++) {
            const option_spec *spec = &option_table[command->options[i]];
            if (strcmp(spec->section, section) == 0)
                print_option(spec, out);
        }
    }
}

void manual_overview(buffer *out) {
    buffer_print(out, "Usage: xlstm COMMAND [options]\n\n"
                      "Runs xLSTM language models.\n\nCommands:\n");
    for (int i = 0; i < command_count; i++)
        buffer_print(out, "  %-14s%s\n", command_table[i].name, command_table[i].summary);
    buffer_print(out,
                 "\nOptions:\n"
                 "  -h, --help               print this help; after a command, the help of it\n"
                 "      --version            print version, commit and the devices built in\n"
                 "      --man                print the manual page (roff)\n"
                 "      --completion SHELL   print a completion script for bash or zsh\n"
                 "\nExample:\n  %s\n",
                 command_table[0].examples[0]);
}

void manual_command(const command_spec *command, buffer *out) {
    buffer_print(out, "Usage: ");
    print_usage(command, out);
    buffer_print(out, "\n\n");
    wrap(command->description, 0, 0, out);
    print_options(command, out);
    buffer_print(out, "\nExamples:\n");
    for (int i = 0; i < COMMAND_EXAMPLES && command->examples[i]; i++)
        buffer_print(out, "  %s\n", command->examples[i]);
}

/* ---- The manual page ---- */

static void roff_text(const char *text, buffer *out) {
    bool line_start = true;
    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\''))
            buffer_print(out, "\\&");
        line_start = *text == '\n';
        if (*text == '\\')
            buffer_print(out, "\\e");
        else if (*text == '-')
            buffer_print(out, "\\-");
        else if (text[0] == '\n' && text[1] == '\n') {
            buffer_print(out, "\n.PP\n");
            text++;
        } else
            buffer_append(out, text, 1);
    }
}

static void roff_option(const option_spec *spec, buffer *out) {
    buffer_print(out, ".TP\n\\fB");
    if (spec->letter)
        buffer_print(out, "\\-%c\\fR, \\fB", spec->letter);
    buffer_print(out, "\\-\\-");
    roff_text(spec->name, out);
    buffer_print(out, "\\fR");
    if (spec->value)
        buffer_print(out, " \\fI%s\\fR", spec->value);
    buffer_print(out, "\n");
    if (spec->choices) {
        for (const char *c = spec->choices; *c; c++)
            buffer_print(out, *c == '|' ? ", " : "%c", *c);
        buffer_print(out, ": ");
    }
    roff_text(spec->help, out);
    buffer_print(out, "\n");
}

static void roff_command(const command_spec *command, buffer *out) {
    buffer usage = {0};
    print_usage(command, &usage);
    buffer_print(out, ".SH ");
    for (const char *c = command->name; *c; c++)
        buffer_print(out, "%c", toupper((unsigned char)*c));
    buffer_print(out, "\n.B ");
    roff_text(usage.data ? usage.data : command->name, out);
    buffer_print(out, "\n.PP\n");
    buffer_free(&usage);
    roff_text(command->description, out);
    buffer_print(out, "\n");
    for (const enum option_id *id = command->options; *id; id++)
        roff_option(&option_table[*id], out);
    buffer_print(out, ".PP\nExamples:\n.PP\n.nf\n.RS\n");
    for (int i = 0; i < COMMAND_EXAMPLES && command->examples[i]; i++) {
        roff_text(command->examples[i], out);
        buffer_print(out, "\n");
    }
    buffer_print(out, ".RE\n.fi\n");
}

void manual_roff(buffer *out) {
    buffer_print(
        out,
        ".TH XLSTM 1 \"\" \"xlstm %s\" \"User Commands\"\n"
        ".SH NAME\nxlstm \\- run xLSTM language models\n"
        ".SH SYNOPSIS\n.B xlstm\n\\fICOMMAND\\fR [options]\n.br\n"
        ".B xlstm\n\\-\\-help | \\-\\-version | \\-\\-man | \\-\\-completion bash|zsh\n"
        ".SH DESCRIPTION\nText goes to standard output and nothing else does; progress and "
        "statistics go to standard error,\nprogress only when it is a terminal.\n"
        ".SH COMMANDS\n",
        xlstm_version());
    for (int i = 0; i < command_count; i++)
        buffer_print(out, ".TP\n.B %s\n%s\n", command_table[i].name, command_table[i].summary);
    for (int i = 0; i < command_count; i++)
        roff_command(&command_table[i], out);
    buffer_print(out,
                 ".SH EXIT STATUS\n"
                 "0 success, 1 the work failed, 2 wrong usage, 130 stopped by Ctrl\\-C (143 by "
                 "SIGTERM, 129 by SIGHUP).\n"
                 ".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nwhen set, nothing is coloured\n"
                 ".TP\n.B XDG_STATE_HOME\nwhere \\fBchat\\fR keeps its history of lines "
                 "(default: ~/.local/state)\n");
}

/* ---- Completion ---- */

static bool is_path(const option_spec *spec) {
    return spec->kind == OPTION_NONEMPTY && strcmp(spec->value, "TEXT") != 0;
}

static void print_choices(const option_spec *spec, buffer *out) {
    for (const char *c = spec->choices; *c; c++)
        buffer_print(out, "%c", *c == '|' ? ' ' : *c);
}

/* One line of a case: the options of each command, then the values of each option. */
void manual_bash(buffer *out) {
    buffer_print(out, "# bash completion for xlstm, made by: xlstm --completion bash\n"
                      "_xlstm() {\n"
                      "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} "
                      "words=\n"
                      "    COMPREPLY=()\n"
                      "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words='");
    for (int i = 0; i < command_count; i++)
        buffer_print(out, "%s ", command_table[i].name);
    buffer_print(out, "--help --version --man --completion'\n    else\n        case $before in\n"
                      "        --completion) words='bash zsh' ;;\n");
    for (int id = OPTION_NONE + 1; id < OPTION_COUNT; id++) {
        const option_spec *spec = &option_table[id];
        if (!spec->choices)
            continue;
        buffer_print(out, "        --%s) words='", spec->name);
        print_choices(spec, out);
        buffer_print(out, "' ;;\n");
    }
    buffer_print(out, "        ");
    const char *separator = "";
    for (int id = OPTION_NONE + 1; id < OPTION_COUNT; id++) {
        const option_spec *spec = &option_table[id];
        if (!is_path(spec))
            continue;
        buffer_print(out, "%s--%s", separator, spec->name);
        if (spec->letter)
            buffer_print(out, "|-%c", spec->letter);
        separator = "|";
    }
    buffer_print(out, ") COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n"
                      "        *) case ${COMP_WORDS[1]} in\n");
    for (int i = 0; i < command_count; i++) {
        buffer_print(out, "            %s) words='", command_table[i].name);
        separator = "";
        for (const enum option_id *id = command_table[i].options; *id; id++) {
            buffer_print(out, "%s--%s", separator, option_table[*id].name);
            separator = " ";
        }
        buffer_print(out, "' ;;\n");
    }
    buffer_print(out, "            esac ;;\n        esac\n    fi\n"
                      "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\n"
                      "complete -o filenames -F _xlstm xlstm\n");
}

/* Text within '…[here]' of _arguments. */
static void zsh_text(const char *text, buffer *out) {
    for (; *text; text++) {
        if (*text == '\'')
            buffer_print(out, "'\\''");
        else if (strchr("[]:\\", *text))
            buffer_print(out, "\\%c", *text);
        else
            buffer_append(out, text, 1);
    }
}

static void zsh_option(const option_spec *spec, buffer *out) {
    buffer_print(out, " \\\n            ");
    if (spec->repeatable && spec->letter == 0)
        buffer_print(out, "'*");
    else if (spec->letter)
        buffer_print(out, "'(-%c --%s)'{-%c%s,--%s%s}'", spec->letter, spec->name, spec->letter,
                     spec->value ? "+" : "", spec->name, spec->value ? "=" : "");
    else
        buffer_print(out, "'");
    if (!spec->letter)
        buffer_print(out, "--%s%s", spec->name, spec->value ? "=" : "");
    buffer_print(out, "[");
    zsh_text(spec->help, out);
    buffer_print(out, "]");
    if (spec->value)
        buffer_print(out, ":%s:", spec->value);
    if (spec->choices) {
        buffer_print(out, "(");
        print_choices(spec, out);
        buffer_print(out, ")");
    } else if (is_path(spec))
        buffer_print(out, "_files");
    buffer_print(out, "'");
}

void manual_zsh(buffer *out) {
    buffer_print(out,
                 "#compdef xlstm\n# zsh completion for xlstm, made by: xlstm --completion zsh\n"
                 "_xlstm() {\n    if (( CURRENT == 2 )); then\n"
                 "        local -a commands\n        commands=(\n");
    for (int i = 0; i < command_count; i++) {
        buffer_print(out, "            '%s:", command_table[i].name);
        zsh_text(command_table[i].summary, out);
        buffer_print(out, "'\n");
    }
    buffer_print(out, "        )\n        _describe command commands\n"
                      "        _arguments '(-h --help)'{-h,--help}'[print help]' "
                      "'--version[print the version]' '--man[print the manual page]' "
                      "'--completion=[print a completion script]:SHELL:(bash zsh)'\n"
                      "        return\n    fi\n    local command=$words[2]\n"
                      "    shift words\n    (( CURRENT-- ))\n    case $command in\n");
    for (int i = 0; i < command_count; i++) {
        buffer_print(out, "    %s)\n        _arguments -s", command_table[i].name);
        for (const enum option_id *id = command_table[i].options; *id; id++)
            zsh_option(&option_table[*id], out);
        buffer_print(out, " ;;\n");
    }
    buffer_print(out, "    esac\n}\n_xlstm \"$@\"\n");
}
