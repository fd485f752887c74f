/* The sampler: what to ask of the sample op, and which ids were part of the text. */
#include <math.h>
#include <stdlib.h>

#include "base/random.h"
#include "engine/session.h"

struct xlstm_sampler {
    xlstm_model *model;
    xlstm_sampling options;
    int32_t limit;     /* ids from here on are never chosen */
    bool *seen;        /* [vocab] */
    int32_t *seen_ids; /* [vocab], the distinct ones */
    int32_t seen_count;
};

static xlstm_status check_options(const xlstm_sampling *o) {
    const struct {
        const char *name;
        float value, least, most;
        const char *right;
    } table[] = {
        {"temperature", o->temperature, -INFINITY, 1e6f, "0 (greedy) to 1000000"},
        {"top_p", o->top_p, 0, 1, "0 to 1 (0 and 1: off)"},
        {"min_p", o->min_p, 0, 1, "0 (off) to 1"},
        {"repetition_penalty", o->repetition_penalty, 0, 1e6f,
         "1 (off) or more; below 1 favours repetition"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (!(table[i].value >= table[i].least && table[i].value <= table[i].most))
            return error_set(XLSTM_INVALID_ARGUMENT, "%s is %g; it must be %s", table[i].name,
                             (double)table[i].value, table[i].right);
    if (o->top_k < 0)
        return error_set(XLSTM_INVALID_ARGUMENT, "top_k is %d; it must be 0 (off) or more",
                         o->top_k);
    return XLSTM_OK;
}

xlstm_status xlstm_sampler_create(const xlstm_model *model, const xlstm_sampling *sampling,
                                  xlstm_sampler **out) {
    static const xlstm_sampling greedy = {0};
    if (!out)
        return error_set(XLSTM_INVALID_ARGUMENT, "no place to put the sampler");
    *out = NULL;
    if (!model || !model->forward)
        return error_set(XLSTM_INVALID_ARGUMENT, "a sampler needs a loaded model");
    const xlstm_sampling *options = sampling ? sampling : &greedy;
    xlstm_status status = check_options(options);
    if (status != XLSTM_OK)
        return status;
    size_t vocab = (size_t)model->config.vocab_size;
    xlstm_sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler) {
        sampler->seen = calloc(vocab, sizeof *sampler->seen);
        sampler->seen_ids = malloc(vocab * sizeof *sampler->seen_ids);
    }
    if (!sampler || !sampler->seen || !sampler->seen_ids) {
        xlstm_sampler_free(sampler);
        return error_memory(vocab * sizeof(int32_t), "a sampler");
    }
    sampler->model = (xlstm_model *)(uintptr_t)model; /* its stream is used under its lock */
    sampler->options = *options;
    /* Without a tokenizer every id is possible; with a broken one nobody knows which are. */
    const xlstm_tokenizer *tokenizer = xlstm_model_tokenizer(model);
    if (!tokenizer && model_has_tokenizer(model)) {
        xlstm_sampler_free(sampler);
        return XLSTM_FORMAT_ERROR;
    }
    int32_t known = tokenizer ? xlstm_tokenizer_size(tokenizer) : model->config.vocab_size;
    sampler->limit = known < model->config.vocab_size ? known : model->config.vocab_size;
    *out = sampler;
    return XLSTM_OK;
}

void xlstm_sampler_free(xlstm_sampler *sampler) {
    if (!sampler)
        return;
    free(sampler->seen);
    free(sampler->seen_ids);
    free(sampler);
}

void xlstm_sampler_accept(xlstm_sampler *sampler, int32_t id) {
    if (id < 0 || id >= sampler->model->config.vocab_size || sampler->seen[id])
        return;
    sampler->seen[id] = true;
    sampler->seen_ids[sampler->seen_count++] = id;
}

struct ops_sample_row sampler_row(const xlstm_sampler *sampler, int64_t position,
                                  const int32_t **penalised) {
    const xlstm_sampling *o = &sampler->options;
    bool penalise = o->repetition_penalty > 0 && o->repetition_penalty != 1;
    *penalised = sampler->seen_ids;
    return (struct ops_sample_row){
        .limit = sampler->limit,
        .top_k = o->top_k,
        .temperature = o->temperature > 0 ? o->temperature : 0,
        .top_p = o->top_p > 0 ? o->top_p : 1,
        .min_p = o->min_p,
        .penalty = penalise ? o->repetition_penalty : 1,
        .uniform = random_uniform(o->seed, 0, (uint64_t)position),
        .penalised_count = penalise ? sampler->seen_count : 0,
    };
}

xlstm_status xlstm_sample(xlstm_sampler *sampler, const float *logits, int64_t position,
                          int32_t *id) {
    const int32_t *penalised;
    xlstm_model *model = sampler->model;
    struct ops_sample_row row = sampler_row(sampler, position, &penalised);
    engine_lock(model);
    xlstm_status status = forward_sample_from(model->forward, logits, &row, penalised, id);
    engine_unlock(model);
    return status;
}
