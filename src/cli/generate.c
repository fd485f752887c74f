/* xlstm generate: continues a text. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "text/unicode.h"

/* One run, from the callbacks' point of view. */
typedef struct generation {
    progress prefill;
    bool as_json, as_ids;
    buffer text; /* with --json, what was made */
    int32_t *ids;
    int64_t id_count, id_capacity;
    char last_byte;
    xlstm_status status; /* of printing and collecting; its message is this thread's */
    char *message;       /* kept, since the engine may set another one when it is cancelled */
} generation;

static bool keep_error(generation *g, xlstm_status status) {
    if (status == XLSTM_OK)
        return true;
    g->status = status;
    g->message = strdup(xlstm_last_error());
    return false;
}

static bool on_prefill(void *context, int64_t done, int64_t total) {
    generation *g = context;
    return progress_update(&g->prefill, done, total);
}

static bool keep_id(generation *g, int32_t id) {
    if (g->id_count == g->id_capacity) {
        int64_t capacity = g->id_capacity ? 2 * g->id_capacity : 256;
        size_t size = sizeof(int32_t) * (size_t)capacity;
        int32_t *grown = realloc(g->ids, size);
        if (!grown)
            return keep_error(g, error_memory(size, "the new ids"));
        g->ids = grown;
        g->id_capacity = capacity;
    }
    g->ids[g->id_count++] = id;
    return true;
}

static bool on_id(void *context, int32_t id) {
    generation *g = context;
    if (g->as_json && !keep_id(g, id))
        return false;
    if (g->as_ids) {
        char word[16];
        int length = snprintf(word, sizeof word, "%s%" PRId32, g->id_count ? " " : "", id);
        g->id_count++;
        if (!keep_error(g, output_write(word, (size_t)length)) || !keep_error(g, output_flush()))
            return false;
    }
    return interrupt_signal() == 0;
}

static bool print_text(generation *g, const char *bytes, size_t count) {
    if (count > 0)
        g->last_byte = bytes[count - 1];
    return keep_error(g, output_write(bytes, count)) && keep_error(g, output_flush());
}

static bool on_text(void *context, const char *bytes, size_t count) {
    generation *g = context;
    if (!g->as_json)
        return print_text(g, bytes, count);
    buffer_append(&g->text, bytes, count);
    return !g->text.failed || keep_error(g, error_memory(g->text.size + count, "the text"));
}

/* ---- The end ---- */

static const char *end_name(xlstm_end end) {
    switch (end) {
    case XLSTM_END_LENGTH:
        return "length";
    case XLSTM_END_OF_TEXT:
        return "end_of_text";
    case XLSTM_END_STOP:
        return "stop";
    case XLSTM_END_CANCELLED:
        return "cancelled";
    }
    return "";
}

/* Evaluations between the first and the last new id: what decode_seconds measures. */
static int64_t decoded(const xlstm_generate_result *r) {
    return r->new_tokens > 1 ? r->new_tokens - 1 : 0;
}

static xlstm_status print_json(const generation *g, const xlstm_generate_result *r, bool has_text) {
    json_t *ids = json_array();
    for (int64_t i = 0; i < g->id_count; i++)
        json_array_append_new(ids, json_integer(g->ids[i]));
    json_t *text =
        has_text ? json_text(g->text.data ? g->text.data : "", g->text.size) : json_null();
    return output_json(
        json_pack("{s:o, s:o, s:s, s:I, s:I, s:o, s:f, s:f, s:f, s:f}", "text", text, "ids", ids,
                  "stop", end_name(r->end), "prompt_tokens", (json_int_t)r->prompt_tokens,
                  "new_tokens", (json_int_t)r->new_tokens, "last_id",
                  r->last_id < 0 ? json_null() : json_integer(r->last_id), "prefill_seconds",
                  r->prefill_seconds, "decode_seconds", r->decode_seconds,
                  "prefill_tokens_per_second", per_second(r->prompt_tokens, r->prefill_seconds),
                  "decode_tokens_per_second", per_second(decoded(r), r->decode_seconds)));
}

static void print_statistics(const xlstm_generate_result *r, int64_t prompt) {
    if (r->prompt_tokens < prompt)
        cli_note("stopped after %" PRId64 " of the prompt's %" PRId64 " tokens", r->prompt_tokens,
                 prompt);
    cli_note("prompt: %" PRId64 " tokens in %.3f s (%.1f tok/s)", r->prompt_tokens,
             r->prefill_seconds, per_second(r->prompt_tokens, r->prefill_seconds));
    if (r->new_tokens > 0)
        cli_note("new: %" PRId64 " tokens, %" PRId64 " decoded in %.3f s (%.1f tok/s); end: %s",
                 r->new_tokens, decoded(r), r->decode_seconds,
                 per_second(decoded(r), r->decode_seconds), end_name(r->end));
}

/* Finishes the line and says how it went. */
static xlstm_status conclude(generation *g, const xlstm_generate_result *r, int64_t prompt,
                             bool has_text) {
    xlstm_status status = XLSTM_OK;
    if (g->as_json)
        status = print_json(g, r, has_text);
    else if (g->last_byte != '\n' && (g->last_byte != '\0' || r->new_tokens > 0 || g->as_ids))
        status = output_write("\n", 1);
    if (status == XLSTM_OK)
        status = output_flush();
    print_statistics(r, prompt);
    return status;
}

/* ---- The run ---- */

static xlstm_generate_options make_options(const options *o, bool needs_text, generation *g) {
    xlstm_generate_options wanted = input_generate_options(o);
    wanted.prefill_progress = on_prefill;
    wanted.on_id = on_id;
    wanted.on_text = needs_text ? on_text : NULL;
    wanted.context = g;
    return wanted;
}

/* A path as a word of a shell: in quotes where it has more than plain characters. */
static void print_shell_word(const char *word, buffer *out) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "/._-+,:@%=";
    if (word[strspn(word, plain)] == '\0') {
        buffer_print(out, "%s", word);
        return;
    }
    buffer_append(out, "'", 1);
    for (; *word; word++) {
        if (*word == '\'')
            buffer_print(out, "'\\''");
        else
            buffer_append(out, word, 1);
    }
    buffer_append(out, "'", 1);
}

static xlstm_status save_state(const options *o, const xlstm_session *session, int32_t last_id) {
    const char *path = option_text(o, OPTION_SAVE_STATE, NULL);
    if (!path)
        return XLSTM_OK;
    xlstm_status status = xlstm_session_save(session, path);
    if (status != XLSTM_OK)
        return status;
    buffer hint = {0};
    if (last_id >= 0) {
        buffer_print(&hint, "; to go on: --load-state ");
        print_shell_word(path, &hint);
        buffer_print(&hint, " --ids %" PRId32, last_id);
    }
    cli_note("state saved to %s%s", path, hint.data ? hint.data : "");
    buffer_free(&hint);
    return XLSTM_OK;
}

static xlstm_status echo(const options *o, const input_prompt *prompt, generation *g,
                         const xlstm_tokenizer *tokenizer, const int32_t *ids, int64_t count) {
    if (!option_given(o, OPTION_ECHO))
        return XLSTM_OK;
    char *decoded = NULL;
    const char *text = prompt->text.data;
    size_t length = prompt->text.size;
    if (prompt->has_ids) {
        xlstm_status status =
            xlstm_decode(tokenizer, ids, count, XLSTM_SKIP_SPECIAL, &decoded, &length);
        if (status != XLSTM_OK)
            return status;
        text = decoded;
    }
    buffer valid = {0};
    utf8_append_valid((const uint8_t *)text, length, &valid);
    xlstm_free(decoded);
    if (valid.failed)
        keep_error(g, error_memory(length, "the prompt"));
    else
        print_text(g, valid.data ? valid.data : "", valid.size);
    buffer_free(&valid);
    return g->status;
}

/* --save-state comes before the error of a failed output: the work is not lost with the pipe. */
static int run(const options *o, const input_prompt *prompt, xlstm_model *model,
               xlstm_session *session, xlstm_sampler *sampler) {
    generation g = {.as_json = option_given(o, OPTION_JSON),
                    .as_ids = option_given(o, OPTION_PRINT_IDS)};
    const xlstm_tokenizer *tokenizer = xlstm_model_tokenizer(model);
    bool needs_text = !g.as_ids && (tokenizer || !g.as_json);
    if ((needs_text || option_given(o, OPTION_STOP)) && !tokenizer)
        return cli_fail(
            error_prefix(XLSTM_UNSUPPORTED, "text needs a tokenizer (--print-ids does not)"));
    const char *warning = xlstm_model_warning(model);
    if (warning && !option_given(o, OPTION_IGNORE_EOS))
        cli_warn("%s", warning);

    int32_t *ids = NULL;
    int64_t count;
    xlstm_generate_result result = {.last_id = -1};
    xlstm_status status =
        input_prompt_ids(o, prompt, model, option_given(o, OPTION_LOAD_STATE), &ids, &count);
    if (status == XLSTM_OK)
        status = input_check_stop_ids(o, model);
    if (status == XLSTM_OK)
        status = echo(o, prompt, &g, tokenizer, ids, count);
    if (status == XLSTM_OK) {
        xlstm_generate_options wanted = make_options(o, needs_text, &g);
        interrupt_catch(false);
        progress_begin(&g.prefill, "reading the prompt", "tok");
        status = xlstm_generate(session, sampler, ids, count, &wanted, &result);
        progress_end(&g.prefill);
    }
    if (status == XLSTM_OK && g.status == XLSTM_OK)
        keep_error(&g, conclude(&g, &result, count, needs_text));
    bool within_line = (g.last_byte != '\0' && g.last_byte != '\n') || (g.as_ids && g.id_count > 0);
    int exit_status = status == XLSTM_OK ? 0 : cli_break_off(status, within_line && !g.as_json);
    if (status == XLSTM_OK && (status = save_state(o, session, result.last_id)) != XLSTM_OK)
        exit_status = cli_fail(status);
    if (exit_status == 0 && g.status != XLSTM_OK)
        exit_status = cli_fail(error_set(g.status, "%s", g.message ? g.message : "out of memory"));
    if (exit_status == 0 && interrupt_signal() != 0)
        exit_status = 128 + interrupt_signal();
    xlstm_free(ids);
    free(g.ids);
    free(g.message);
    buffer_free(&g.text);
    return exit_status;
}

static int check_usage(const options *o) {
    bool given = option_given(o, OPTION_PROMPT) || option_given(o, OPTION_FILE) ||
                 option_given(o, OPTION_IDS) || option_given(o, OPTION_IDS_FILE);
    if (given)
        return 0;
    if (option_given(o, OPTION_LOAD_STATE))
        return cli_fail_usage("generate",
                              "a loaded state has not taken in the last generated id: give "
                              "it with --ids, or a text that goes on with -p");
    return cli_fail_usage("generate", "no prompt: give -p TEXT, -f FILE, --ids or --ids-file%s",
                          isatty(STDIN_FILENO) ? "" : " (-p - reads standard input)");
}

int command_generate(const options *o) {
    int wrong = check_usage(o);
    if (wrong)
        return wrong;
    input_prompt prompt;
    xlstm_model *model = NULL;
    xlstm_session *session = NULL;
    xlstm_sampler *sampler = NULL;
    xlstm_sampling sampling = input_sampling(o);
    xlstm_status status = input_prompt_read(o, &prompt);
    if (status == XLSTM_OK)
        status = input_load_model(o, 1, &model);
    if (status == XLSTM_OK)
        status = xlstm_session_create(model, &session);
    if (status == XLSTM_OK && option_given(o, OPTION_LOAD_STATE)) {
        status = xlstm_session_load(session, option_text(o, OPTION_LOAD_STATE, ""));
        if (status == XLSTM_OK)
            input_warn_loaded(o);
    }
    if (status == XLSTM_OK)
        status = xlstm_sampler_create(model, &sampling, &sampler);
    int result = status == XLSTM_OK ? run(o, &prompt, model, session, sampler) : cli_fail(status);
    xlstm_sampler_free(sampler);
    xlstm_session_free(session);
    xlstm_model_free(model);
    input_prompt_free(&prompt);
    return result;
}
