/* What narrow states cost when a text is taken in token by token, as in decoding.
 * (`xlstm perplexity` takes a text in chunks, after each of which a state is rounded
 * once; here it is rounded after every token, or with deferral once in so many.)
 *
 *     state_types MODEL TEXT
 *
 * cuts the ids of the text into STREAMS parts, decodes them side by side from fresh states, and prints
 * the mean of -ln p over all predictions for each type and ring. To build it:
 *
 *     make build/bench/state_types */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "xlstm.h"

enum { STREAMS = 16 };

static const struct {
    const char *type;
    int deferred;
} settings[] = {{"f32", -1}, {"f32", 16}, {"f16", -1}, {"f16", 16}, {"bf16", -1}, {"bf16", 16}};

static _Noreturn void stop(const char *what) {
    fprintf(stderr, "%s: %s\n", what, xlstm_last_error());
    exit(1);
}

static char *read_text(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    if (!file || fseek(file, 0, SEEK_END) || (*size = (size_t)ftell(file)) < 1)
        goto failed;
    rewind(file);
    text = malloc(*size);
    if (text && fread(text, 1, *size, file) == *size) {
        fclose(file);
        return text;
    }
failed:
    fprintf(stderr, "%s cannot be read\n", path);
    exit(1);
}

static double log_probability(const float *logits, int32_t vocab, int32_t id) {
    double highest = -INFINITY, sum = 0;
    for (int32_t i = 0; i < vocab; i++)
        highest = fmax(highest, (double)logits[i]);
    for (int32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - highest);
    return (double)logits[id] - highest - log(sum);
}

static double mean_nll(xlstm_model *model, const int32_t *ids, int64_t length) {
    xlstm_model_info info;
    xlstm_batch_item items[STREAMS];
    double sum = 0;
    xlstm_model_get_info(model, &info);
    float *logits = malloc((size_t)STREAMS * (size_t)info.vocab_size * sizeof *logits);
    if (!logits)
        stop("logits");
    for (int s = 0; s < STREAMS; s++) {
        items[s] = (xlstm_batch_item){.count = 1, .logits = logits + s * info.vocab_size};
        if (xlstm_session_create(model, &items[s].session) != XLSTM_OK)
            stop("a session");
    }
    for (int64_t t = 0; t + 1 < length; t++) {
        for (int s = 0; s < STREAMS; s++)
            items[s].ids = ids + s * length + t;
        if (xlstm_eval_batch(items, STREAMS) != XLSTM_OK)
            stop("a batch");
        for (int s = 0; s < STREAMS; s++)
            sum -= log_probability(items[s].logits, info.vocab_size, items[s].ids[1]);
    }
    for (int s = 0; s < STREAMS; s++)
        xlstm_session_free(items[s].session);
    free(logits);
    return sum / (double)(STREAMS * (length - 1));
}

int main(int count, char **arguments) {
    size_t size;
    double plain = 0;
    if (count != 3) {
        fprintf(stderr, "state_types MODEL TEXT\n");
        return 2;
    }
    char *text = read_text(arguments[2], &size);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        xlstm_model *model;
        int32_t *ids;
        int64_t tokens;
        xlstm_model_options options = {.profile = "exact",
                                       .max_sessions = STREAMS,
                                       .state_dtype = settings[i].type,
                                       .deferred = settings[i].deferred};
        if (xlstm_model_load(arguments[1], &options, &model) != XLSTM_OK)
            stop(arguments[1]);
        const xlstm_tokenizer *tokenizer = xlstm_model_tokenizer(model);
        if (!tokenizer || xlstm_encode(tokenizer, text, size, 0, &ids, &tokens) != XLSTM_OK)
            stop(arguments[2]);
        double nll = mean_nll(model, ids, tokens / STREAMS);
        plain = i == 0 ? nll : plain;
        printf("%-5s deferred %2d  nll %.8f  perplexity %.5f  change %+.4f %%  (%lld tokens)\n",
               settings[i].type, settings[i].deferred < 0 ? 0 : settings[i].deferred, nll, exp(nll),
               100 * (exp(nll - plain) - 1), (long long)tokens);
        fflush(stdout);
        xlstm_free(ids);
        xlstm_model_free(model);
    }
    free(text);
    return 0;
}
