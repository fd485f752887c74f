/* xlstm chat: a conversation, line by line.
 *
 * One session lives through all turns. What an answer ended with has not been taken in by the state
 * (see xlstm_generate), so that id is fed in front of the next turn, and before saving: nothing
 * is lost. Ctrl-C stops an answer, not the program. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/lines.h"
#include "cli/terminal.h"

typedef struct chat {
    const options *options;
    xlstm_model *model;
    xlstm_session *session;
    xlstm_sampler *sampler;
    int32_t pending; /* the id that ended the last answer; -1: none */
    progress prefill;
    char last_byte;
    xlstm_status output; /* of printing */
    xlstm_generate_result last;
    int64_t turns, prompt_tokens, new_tokens;
    double prefill_seconds, decode_seconds;
} chat;

/* ---- A turn ---- */

static bool on_prefill(void *context, int64_t done, int64_t total) {
    chat *c = context;
    return progress_update(&c->prefill, done, total);
}

static bool on_id(void *context, int32_t id) {
    (void)context;
    (void)id;
    return interrupt_signal() == 0;
}

static bool on_text(void *context, const char *bytes, size_t count) {
    chat *c = context;
    c->last_byte = bytes[count - 1];
    c->output = output_write(bytes, count);
    if (c->output == XLSTM_OK)
        c->output = output_flush();
    return c->output == XLSTM_OK;
}

/* The ids of the user's line between prefix and suffix, after the pending one. */
static xlstm_status turn_ids(const chat *c, const char *line, size_t length, int32_t **ids,
                             int64_t *count) {
    const options *o = c->options;
    const char *prefix = option_text(o, OPTION_PREFIX, ""),
               *suffix = option_text(o, OPTION_SUFFIX, "\n");
    buffer text = {0};
    buffer_append(&text, prefix, strlen(prefix));
    buffer_append(&text, line, length);
    buffer_append(&text, suffix, strlen(suffix));
    if (text.failed)
        return error_memory(length, "the text of a turn");
    bool continues = c->pending >= 0 || xlstm_session_position(c->session) > 0;
    int32_t *plain = NULL;
    int64_t tokens = 0;
    xlstm_status status = xlstm_encode_prompt(c->model, text.data ? text.data : "", text.size,
                                              input_bos(o), continues, &plain, &tokens);
    buffer_free(&text);
    if (status != XLSTM_OK)
        return status;
    bool insert = c->pending >= 0;
    *ids = malloc(sizeof(int32_t) * ((size_t)tokens + 1));
    if (!*ids) {
        xlstm_free(plain);
        return error_memory(sizeof(int32_t) * ((size_t)tokens + 1), "the ids of a turn");
    }
    (*ids)[0] = c->pending;
    for (int64_t i = 0; i < tokens; i++)
        (*ids)[i + insert] = plain[i];
    *count = tokens + insert;
    xlstm_free(plain);
    return XLSTM_OK;
}

static void count_turn(chat *c) {
    c->turns++;
    c->prompt_tokens += c->last.prompt_tokens;
    c->new_tokens += c->last.new_tokens;
    c->prefill_seconds += c->last.prefill_seconds;
    c->decode_seconds += c->last.decode_seconds;
}

static xlstm_status take_turn(chat *c, const char *line, size_t length) {
    int32_t *ids;
    int64_t count = 0;
    xlstm_status status = turn_ids(c, line, length, &ids, &count);
    if (status != XLSTM_OK)
        return status;
    xlstm_generate_options wanted = input_generate_options(c->options);
    wanted.prefill_progress = on_prefill;
    wanted.on_id = on_id;
    wanted.on_text = on_text;
    wanted.context = c;
    int64_t before = xlstm_session_position(c->session);
    c->last_byte = '\n';
    progress_begin(&c->prefill, "reading", "tok");
    status = xlstm_generate(c->session, c->sampler, ids, count, &wanted, &c->last);
    progress_end(&c->prefill);
    free(ids);
    if (status != XLSTM_OK)
        return status;
    count_turn(c);
    /* Stopped before its first id was in, the pending one still is to come. */
    if (c->last.last_id >= 0 || xlstm_session_position(c->session) > before)
        c->pending = c->last.last_id;
    if (c->output == XLSTM_OK && c->last_byte != '\n')
        c->output = output_write("\n", 1);
    if (c->output == XLSTM_OK)
        c->output = output_flush();
    if (c->last.end == XLSTM_END_CANCELLED && interrupt_signal() != 0)
        cli_note("(stopped)");
    return c->output;
}

/* ---- Commands ---- */

static xlstm_status renew_sampler(chat *c) {
    xlstm_sampling sampling = input_sampling(c->options);
    xlstm_sampler *fresh;
    xlstm_status status = xlstm_sampler_create(c->model, &sampling, &fresh);
    if (status != XLSTM_OK)
        return status;
    xlstm_sampler_free(c->sampler);
    c->sampler = fresh;
    return XLSTM_OK;
}

static xlstm_status save(chat *c, const char *path) {
    xlstm_status status = XLSTM_OK;
    if (c->pending >= 0) {
        status = xlstm_eval(c->session, &c->pending, 1, NULL, NULL, NULL);
        if (status == XLSTM_OK)
            c->pending = -1;
    }
    if (status == XLSTM_OK)
        status = xlstm_session_save(c->session, path);
    if (status == XLSTM_OK)
        cli_note("saved %" PRId64 " tokens' state to %s", xlstm_session_position(c->session), path);
    return status;
}

static xlstm_status load(chat *c, const char *path) {
    xlstm_status status = xlstm_session_load(c->session, path);
    if (status == XLSTM_OK)
        status = renew_sampler(c);
    if (status != XLSTM_OK)
        return status;
    c->pending = -1;
    cli_note("the state of %" PRId64 " tokens is loaded", xlstm_session_position(c->session));
    input_warn_loaded(c->options);
    return XLSTM_OK;
}

static xlstm_status reset(chat *c) {
    xlstm_status status = xlstm_session_reset(c->session);
    if (status == XLSTM_OK)
        status = renew_sampler(c);
    if (status == XLSTM_OK) {
        c->pending = -1;
        cli_note("everything is forgotten");
    }
    return status;
}

static void print_statistics(const chat *c) {
    xlstm_model_info info;
    char amount[16];
    xlstm_model_get_info(c->model, &info);
    cli_note("%" PRId64 " turns; read %" PRId64 " tokens (%.1f tok/s), wrote %" PRId64
             " (%.1f tok/s); the state holds %" PRId64 " tokens in %s",
             c->turns, c->prompt_tokens, per_second(c->prompt_tokens, c->prefill_seconds),
             c->new_tokens, per_second(c->new_tokens, c->decode_seconds),
             xlstm_session_position(c->session), format_bytes((double)info.state_bytes, amount));
}

static void print_help(void) {
    cli_note("/reset      forget everything\n"
             "/save FILE  save the state\n"
             "/load FILE  go on from a saved state\n"
             "/stats      tokens and speed so far\n"
             "/help       this list\n"
             "/exit       leave (also Ctrl-D)\n"
             "//...       a line that begins with /\n"
             "Ctrl-C stops an answer.");
}

static const char *const commands[] = {"/reset", "/save", "/load", "/stats", "/help", "/exit"};
enum { COMMANDS = sizeof commands / sizeof *commands };

static bool is_known(const char *name) {
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(name, commands[i]) == 0)
            return true;
    return false;
}

static xlstm_status unknown_command(const char *name) {
    const char *nearest = options_nearest(name, commands, COMMANDS);
    if (nearest)
        return error_set(XLSTM_INVALID_ARGUMENT, "unknown command %s: did you mean %s?", name,
                         nearest);
    return error_set(XLSTM_INVALID_ARGUMENT, "unknown command %s; see /help", name);
}

/* A line that begins with /. What goes wrong here does not end the conversation. */
static void run_command(chat *c, const char *line, bool *leave) {
    char name[32];
    size_t length = strcspn(line, " ");
    snprintf(name, sizeof name, "%.*s%s", (int)(length < 24 ? length : 24), line,
             length > 24 ? "…" : "");
    const char *argument = line + length + strspn(line + length, " ");
    bool wants_file = strcmp(name, "/save") == 0 || strcmp(name, "/load") == 0;
    xlstm_status status = XLSTM_OK;
    if (!is_known(name))
        status = unknown_command(name);
    else if (wants_file != (*argument != '\0'))
        status = error_set(XLSTM_INVALID_ARGUMENT,
                           wants_file ? "%s needs the name of a file"
                                      : "%s takes nothing after it; see /help",
                           name);
    else if (strcmp(name, "/save") == 0)
        status = save(c, argument);
    else if (strcmp(name, "/load") == 0)
        status = load(c, argument);
    else if (strcmp(name, "/reset") == 0)
        status = reset(c);
    else if (strcmp(name, "/stats") == 0)
        print_statistics(c);
    else if (strcmp(name, "/help") == 0)
        print_help();
    else
        *leave = true;
    if (status != XLSTM_OK)
        cli_fail(status);
}

/* ---- The conversation ---- */

static bool ends_program(int number) {
    return number != 0 && number != SIGINT;
}

/* Reads lines until the end of input; returns the exit status. */
static int converse(chat *c, lines *in) {
    for (bool leave = false; !leave;) {
        const char *line;
        size_t length;
        enum lines_result got = lines_read(in, &line, &length);
        if (got == LINES_INTERRUPTED && lines_edited(in) && !ends_program(interrupt_signal())) {
            interrupt_clear();
            cli_note("(Ctrl-D leaves)");
            continue;
        }
        if (got == LINES_INTERRUPTED)
            return 128 + interrupt_signal();
        if (got == LINES_END)
            return 0;
        if (got == LINES_FAILED)
            return cli_fail(XLSTM_IO_ERROR);
        if (length == 0)
            continue;
        bool is_command = line[0] == '/' && !(length > 1 && line[1] == '/');
        bool is_slash = line[0] == '/' && !is_command;
        xlstm_status status = XLSTM_OK;
        if (is_command)
            run_command(c, line, &leave);
        else
            status = take_turn(c, line + is_slash, length - is_slash);
        /* What the line itself is to blame for has changed nothing. */
        if (status != XLSTM_OK) {
            int failed = cli_break_off(status, c->last_byte != '\n');
            if (status != XLSTM_INVALID_ARGUMENT)
                return failed;
        }
        if (ends_program(interrupt_signal()))
            return 128 + interrupt_signal();
        interrupt_clear();
    }
    return 0;
}

static xlstm_status start(chat *c) {
    const options *o = c->options;
    xlstm_status status = input_load_model(o, 1, &c->model);
    if (status == XLSTM_OK && !xlstm_model_tokenizer(c->model))
        status = error_prefix(XLSTM_UNSUPPORTED, "chat needs a tokenizer");
    if (status == XLSTM_OK)
        status = input_check_stop_ids(o, c->model);
    if (status == XLSTM_OK)
        status = xlstm_session_create(c->model, &c->session);
    if (status == XLSTM_OK)
        status = renew_sampler(c);
    if (status == XLSTM_OK && option_given(o, OPTION_LOAD_STATE))
        status = load(c, option_text(o, OPTION_LOAD_STATE, ""));
    return status;
}

int command_chat(const options *o) {
    chat c = {.options = o, .pending = -1};
    lines *in = NULL;
    xlstm_status status = start(&c);
    if (status == XLSTM_OK)
        status = lines_open(&in);
    if (status == XLSTM_OK) {
        const char *warning = xlstm_model_warning(c.model);
        if (warning && !option_given(o, OPTION_IGNORE_EOS))
            cli_warn("%s", warning);
        if (lines_edited(in))
            cli_note("/help lists the commands; Ctrl-D leaves");
        interrupt_catch(true);
    }
    int result = status == XLSTM_OK ? converse(&c, in) : cli_fail(status);
    lines_close(in);
    xlstm_sampler_free(c.sampler);
    xlstm_session_free(c.session);
    xlstm_model_free(c.model);
    return result;
}
