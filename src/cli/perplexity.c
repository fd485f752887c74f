/* xlstm perplexity: how well a model predicts a text.
 *
 * A window of T ids gives T - 1 predictions, each -ln p = log(sum(exp(logit))) - logit of the id
 * that came; sums in double, the maximum taken first. A text without --window is one window. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "engine/session.h"

typedef struct tally {
    progress progress;
    const int32_t *ids; /* of the window */
    int64_t count, at;  /* at: positions of the window seen */
    int64_t vocab;
    double sum; /* of -ln p */
    int64_t tokens, windows, done, total;
} tally;

static double minus_log_p(const float *logits, int64_t vocab, int32_t id) {
    double highest = logits[0];
    for (int64_t i = 1; i < vocab; i++)
        highest = logits[i] > highest ? logits[i] : highest;
    double sum = exp(logits[0] - highest);
    for (int64_t i = 1; i < vocab; i++)
        sum += exp(logits[i] - highest);
    return log(sum) + highest - logits[id];
}

static bool take_rows(void *context, int64_t first, int64_t rows, const float *logits) {
    tally *t = context;
    (void)first;
    for (int64_t r = 0; r < rows; r++, t->at++) {
        if (t->at + 1 >= t->count)
            continue; /* nothing is known to follow the last id */
        t->sum += minus_log_p(logits + r * t->vocab, t->vocab, t->ids[t->at + 1]);
        t->tokens++;
    }
    t->done += rows;
    return progress_update(&t->progress, t->done, t->total);
}

/* Windows of `length` ids, each from a fresh state; the last one may be shorter. */
static xlstm_status measure(xlstm_session *session, const int32_t *ids, int64_t count,
                            int64_t length, tally *t) {
    t->total = count;
    for (int64_t from = 0; from < count; from += length) {
        t->ids = ids + from;
        t->count = count - from < length ? count - from : length;
        t->at = 0;
        if (t->count < 2)
            continue; /* one id left over predicts nothing */
        xlstm_status status = xlstm_session_reset(session);
        if (status == XLSTM_OK)
            status = xlstm_eval_all(session, t->ids, t->count, take_rows, t);
        if (status != XLSTM_OK)
            return status;
        t->windows++;
    }
    return XLSTM_OK;
}

static xlstm_status print_result(const options *o, const tally *t, double seconds) {
    double nll = t->sum / (double)t->tokens, speed = per_second(t->done, seconds);
    cli_note("%" PRId64 " tokens in %.3f s (%.1f tok/s)", t->done, seconds, speed);
    /* A model that gives NaN has no perplexity, and JSON no NaN. */
    if (!isfinite(nll) || !isfinite(exp(nll)))
        return error_set(XLSTM_DEVICE_ERROR, "the mean of -ln p over %" PRId64 " tokens is %g",
                         t->tokens, nll);
    if (option_given(o, OPTION_JSON))
        return output_json(json_pack("{s:f, s:f, s:I, s:I, s:f, s:f}", "nll", nll, "perplexity",
                                     exp(nll), "tokens", (json_int_t)t->tokens, "windows",
                                     (json_int_t)t->windows, "seconds", seconds,
                                     "tokens_per_second", speed));
    buffer text = {0};
    buffer_print(&text,
                 "nll %.6f (nats per token)\nperplexity %.4f\ntokens %" PRId64 "\nwindows %" PRId64
                 "\n",
                 nll, exp(nll), t->tokens, t->windows);
    return output_buffer(&text);
}

/* The ids of a text with BOS in front, where the config has one. */
static xlstm_status encode_stream(const options *o, const xlstm_model *model, int32_t **ids,
                                  int64_t *count) {
    const xlstm_tokenizer *tokenizer = xlstm_model_tokenizer(model);
    if (!tokenizer)
        return error_prefix(XLSTM_UNSUPPORTED, "a text needs a tokenizer (--ids-file does not)");
    buffer text = {0};
    bool given;
    xlstm_status status = input_text(o, &text, &given);
    xlstm_model_info info;
    xlstm_model_get_info(model, &info);
    xlstm_bos bos =
        info.bos_id >= 0 && !option_given(o, OPTION_NO_BOS) ? XLSTM_BOS_ALWAYS : XLSTM_BOS_NEVER;
    if (status == XLSTM_OK)
        status = xlstm_encode_prompt(model, text.data ? text.data : "", text.size, bos, false, ids,
                                     count);
    buffer_free(&text);
    return status;
}

static xlstm_status run(const options *o, const xlstm_model *model, xlstm_session *session) {
    xlstm_model_info info;
    xlstm_model_get_info(model, &info);
    const char *path = option_text(o, OPTION_WINDOWS_FILE, NULL);
    int32_t *ids = NULL;
    int64_t count = 0, rows = 1, length = 0;
    xlstm_status status;
    if (path) {
        status = input_ids_file(path, &ids, &rows, &length);
        count = rows * length;
        if (status == XLSTM_OK)
            status = session_check_ids(model, ids, count);
    } else {
        status = encode_stream(o, model, &ids, &count);
        length = option_integer(o, OPTION_WINDOW, count > 0 ? count : 1);
    }
    if (status == XLSTM_OK && (length < 2 || count < 2))
        status = error_set(XLSTM_INVALID_ARGUMENT,
                           "nothing to predict: a window needs at least two tokens");
    if (status == XLSTM_OK) {
        tally t = {.vocab = info.vocab_size};
        interrupt_catch(false);
        progress_begin(&t.progress, "predicting", "tok");
        double start = clock_seconds();
        status = measure(session, ids, count, length, &t);
        progress_end(&t.progress);
        if (status == XLSTM_OK)
            status = print_result(o, &t, clock_seconds() - start);
    }
    free(ids);
    return status;
}

int command_perplexity(const options *o) {
    if (!option_given(o, OPTION_TEXT_FILE) && !option_given(o, OPTION_WINDOWS_FILE))
        return cli_fail_usage("perplexity", "nothing to read: give -f FILE or --ids-file FILE");
    xlstm_model *model = NULL;
    xlstm_session *session = NULL;
    xlstm_status status = input_load_model(o, 1, &model);
    if (status == XLSTM_OK)
        status = xlstm_session_create(model, &session);
    if (status == XLSTM_OK)
        status = run(o, model, session);
    int result = status == XLSTM_OK ? 0 : cli_fail(status);
    xlstm_session_free(session);
    xlstm_model_free(model);
    return result;
}
