/* The generation loop: a prompt goes in, ids and text come out, until an end is reached. */

#include <string.h>

#include "base/clock.h"
#include "engine/session.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

/* ---- Text that comes out ---- */

/* Bytes are held back while they may be the beginning of a stop string. */
typedef struct outlet {
    const xlstm_generate_options *options;
    bool active; /* somebody wants text */
    text_stream stream;
    buffer pending;
} outlet;

/* The first place where a stop string stands in the pending bytes, or their number. */
static size_t find_stop(const outlet *o) {
    size_t first = o->pending.size;
    for (int i = 0; i < o->options->stop_string_count; i++) {
        const char *stop = o->options->stop_strings[i];
        const char *at =
            o->pending.size ? memmem(o->pending.data, o->pending.size, stop, strlen(stop)) : NULL;
        if (at && (size_t)(at - o->pending.data) < first)
            first = (size_t)(at - o->pending.data);
    }
    return first;
}

/* How many bytes at the end could begin a stop string. */
static size_t held_back(const outlet *o) {
    size_t most = 0;
    for (int i = 0; i < o->options->stop_string_count; i++) {
        const char *stop = o->options->stop_strings[i];
        size_t length = strlen(stop);
        for (size_t n = o->pending.size < length - 1 ? o->pending.size : length - 1; n > most;
             n--) {
            if (memcmp(o->pending.data + o->pending.size - n, stop, n) == 0) {
                most = n;
                break;
            }
        }
    }
    return most;
}

/* Gives out the first `count` pending bytes; false if the receiver wants no more. */
static bool give_out(outlet *o, size_t count) {
    bool more = true;
    if (count > 0 && o->options->on_text)
        more = o->options->on_text(o->options->context, o->pending.data, count);
    if (count > 0)
        memmove(o->pending.data, o->pending.data + count, o->pending.size - count);
    o->pending.size -= count;
    return more;
}

/* Takes in one id. *end is set when a stop string or the receiver ends the text. */
static xlstm_status outlet_id(outlet *o, int32_t id, bool *ended, xlstm_end *end) {
    if (!o->active)
        return XLSTM_OK;
    text_stream_feed(&o->stream, id, &o->pending);
    if (o->pending.failed)
        return error_memory(o->pending.size, "the text that is generated");
    size_t stop = find_stop(o);
    bool stopped = stop < o->pending.size;
    if (!give_out(o, stopped ? stop : o->pending.size - held_back(o))) {
        *ended = true;
        *end = XLSTM_END_CANCELLED;
    } else if (stopped) {
        o->pending.size = 0; /* the stop string and what the same id brought after it */
        *ended = true;
        *end = XLSTM_END_STOP;
    }
    return XLSTM_OK;
}

/* Gives out what is left; after a stop string or a cancellation, what was held back within a
 * character is dropped. */
static void outlet_close(outlet *o, xlstm_end end) {
    if (o->active && end != XLSTM_END_STOP && end != XLSTM_END_CANCELLED)
        text_stream_flush(&o->stream, &o->pending);
    if (o->active && end != XLSTM_END_CANCELLED)
        (void)give_out(o, o->pending.size);
    buffer_free(&o->pending);
}

/* ---- The loop ---- */

/* The ids that end a text, and whether tokens may be begun before the one before is seen: not where the ids so far
 * change what is chosen, or their text may end it. */
typedef struct ending {
    const xlstm_generate_options *options;
    int32_t end_of_text; /* -1: no id is */
    int32_t ids[FORWARD_MOST_ENDS];
    decode_plan plan;
    bool ahead;
} ending;

static void plan_ending(ending *e, xlstm_sampler *sampler, const xlstm_generate_options *options,
                        int32_t end_of_text) {
    const int32_t *penalised;
    *e = (ending){.options = options, .end_of_text = options->ignore_eos ? -1 : end_of_text};
    e->plan = (decode_plan){.sampler = sampler, .ends = e->ids};
    e->ahead = options->stop_string_count == 0 && options->stop_id_count < FORWARD_MOST_ENDS &&
               sampler_row(sampler, 0, &penalised).penalty == 1;
    if (!e->ahead)
        return;
    for (int i = 0; i < options->stop_id_count; i++)
        e->ids[e->plan.end_count++] = options->stop_ids[i];
    if (e->end_of_text >= 0)
        e->ids[e->plan.end_count++] = e->end_of_text;
}

static bool is_end(const ending *e, int32_t id) {
    return e->end_of_text >= 0 && id == e->end_of_text;
}

static bool ends_text(const ending *e, int32_t id) {
    for (int i = 0; i < e->options->stop_id_count; i++)
        if (e->options->stop_ids[i] == id)
            return true;
    return is_end(e, id);
}

/* One sampled id becomes part of the text, or ends it. */
static xlstm_status take_id(xlstm_sampler *sampler, outlet *out, const ending *e,
                            xlstm_generate_result *result, bool *ended) {
    const xlstm_generate_options *options = out->options;
    int32_t id = result->last_id;
    if (ends_text(e, id)) {
        result->end = is_end(e, id) ? XLSTM_END_OF_TEXT : XLSTM_END_STOP;
        *ended = true;
        return XLSTM_OK;
    }
    result->new_tokens++;
    xlstm_sampler_accept(sampler, id);
    xlstm_status status = outlet_id(out, id, ended, &result->end);
    if (status == XLSTM_OK && options->on_id && !options->on_id(options->context, id) && !*ended) {
        result->end = XLSTM_END_CANCELLED;
        *ended = true;
    }
    if (options->max_tokens >= 0 && result->new_tokens >= options->max_tokens)
        *ended = true;
    return status;
}

/* From the first id on. */
static xlstm_status decode(xlstm_session *session, xlstm_sampler *sampler, outlet *out,
                           xlstm_generate_result *result) {
    const xlstm_generate_options *options = out->options;
    const bool device_ahead = session->model->pool.spare >= 0;
    bool ended = false, taken = false;
    ending e;
    plan_ending(&e, sampler, options, model_end_of_text(session->model));
    xlstm_status status = take_id(sampler, out, &e, result, &ended);
    while (status == XLSTM_OK && !ended) {
        int32_t id = result->last_id;
        bool further =
            e.ahead && (options->max_tokens < 0 || result->new_tokens + 1 < options->max_tokens);
        if (device_ahead)
            status = decode_next(session, &e.plan, id, further, &result->last_id);
        else
            status = session_eval_sample(session, &id, 1, sampler, &result->last_id, NULL, NULL);
        if (status == XLSTM_OK)
            status = take_id(sampler, out, &e, result, &ended);
    }
    if (device_ahead) {
        xlstm_status last = decode_end(session, ends_text(&e, result->last_id), &taken);
        status = status == XLSTM_OK ? last : status;
    }
    if (taken)
        result->last_id = -1;
    return status;
}

static xlstm_status run(xlstm_session *session, xlstm_sampler *sampler, outlet *out,
                        const int32_t *ids, int64_t count, xlstm_generate_result *result) {
    const xlstm_generate_options *options = out->options;
    int64_t before = session->position;
    double start = clock_seconds();
    xlstm_status status;
    if (options->max_tokens == 0)
        status = xlstm_eval(session, ids, count, NULL, options->prefill_progress, options->context);
    else
        status = session_eval_sample(session, ids, count, sampler, &result->last_id,
                                     options->prefill_progress, options->context);
    double prefilled = clock_seconds();
    result->prefill_seconds = prefilled - start;
    result->prompt_tokens = session->position - before;
    if (status == XLSTM_OK && options->max_tokens != 0)
        status = decode(session, sampler, out, result);
    result->decode_seconds = clock_seconds() - prefilled;
    return status;
}

xlstm_status xlstm_generate(xlstm_session *session, xlstm_sampler *sampler, const int32_t *ids,
                            int64_t count, const xlstm_generate_options *options,
                            xlstm_generate_result *result) {
    /* Apart from *result until the end: the caller may feed its last_id. */
    xlstm_generate_result made = {.end = XLSTM_END_LENGTH, .last_id = -1};
    outlet out = {.options = options, .active = options->on_text || options->stop_string_count > 0};
    const xlstm_tokenizer *tokenizer = out.active ? xlstm_model_tokenizer(session->model) : NULL;
    if (out.active && !tokenizer)
        return error_prefix(XLSTM_UNSUPPORTED, "text and stop strings need a tokenizer");
    for (int i = 0; i < options->stop_string_count; i++) {
        const char *stop = options->stop_strings[i];
        if (!stop[0])
            return error_set(XLSTM_INVALID_ARGUMENT, "a stop string is empty");
        /* It would cut a character, or never come up. */
        if (utf8_valid_length((const uint8_t *)stop, strlen(stop)) < strlen(stop))
            return error_set(XLSTM_INVALID_ARGUMENT, "a stop string is not UTF-8");
    }
    /* Before the sampler is told of any: what is wrong leaves everything as it was. */
    xlstm_status status = session_check_ids(session->model, ids, count);
    if (status != XLSTM_OK)
        return status;
    if (out.active)
        text_stream_init(&out.stream, tokenizer, true);
    out.stream.replace = true;
    for (int64_t i = 0; i < count; i++)
        xlstm_sampler_accept(sampler, ids[i]);
    status = run(session, sampler, &out, ids, count, &made);
    if (status == XLSTM_CANCELLED) {
        made.end = XLSTM_END_CANCELLED; /* during the prefill */
        status = XLSTM_OK;
    }
    outlet_close(&out, made.end);
    *result = made;
    return status;
}
