/* Loading, in the order in which things can go wrong: path, config, device, weight files, wiring,
 * tensors; then the memory to run. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/threads.h"
#include "text/tokenizer.h"

enum {
    DEFAULT_SESSIONS = 4,
    MAX_SESSIONS = 1 << 16,
    DEFAULT_BATCH_TOKENS = 512,
    DEFAULT_DEFERRED = 0,
    MAX_BATCH_TOKENS = 1 << 20,
    MAX_THREADS = 4096
};

/* ---- Options ---- */

/* "cpu", "reference", and "reference:f64" for activations and states in double. */
static xlstm_status choose_device(const char *name, xlstm_model *model) {
    char plain[64];
    const char *colon = strchr(name, ':');
    size_t length = colon ? (size_t)(colon - name) : strlen(name);
    if (length >= sizeof plain || (colon && strcmp(colon, ":f64") != 0))
        return error_set(XLSTM_INVALID_ARGUMENT, "unknown device \"%s\"", name);
    memcpy(plain, name, length);
    plain[length] = 0;
    model->device = ops_device_find(plain);
    if (!model->device)
        return XLSTM_UNSUPPORTED;
    model->activation = colon ? DTYPE_F64 : DTYPE_F32;
    if (colon && !model->device->f64)
        return error_set(XLSTM_UNSUPPORTED, "device %s does not compute in f64", plain);
    return XLSTM_OK;
}

static xlstm_status choose_profile(const char *name, xlstm_model *model) {
    if (strcmp(name, "fast") == 0)
        model->profile = OPS_FAST;
    else if (strcmp(name, "exact") == 0)
        model->profile = OPS_EXACT;
    else if (strcmp(name, "upstream") == 0)
        return error_set(XLSTM_UNSUPPORTED,
                         "profile \"upstream\" is not built yet; use \"fast\" or \"exact\"");
    else
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "unknown profile \"%s\"; use \"fast\" or \"exact\"", name);
    return XLSTM_OK;
}

/* The type of C and n, and the length of the ring. */
static xlstm_status choose_state(const xlstm_model_options *o, xlstm_model *model) {
    const ops_device *device = model->device;
    const char *name = o->state_dtype ? o->state_dtype : dtype_name(model->activation);
    int deferred = o->deferred == 0 ? DEFAULT_DEFERRED : o->deferred < 0 ? 0 : o->deferred;
    dtype type;
    if (!dtype_from_name(name, &type) || !dtype_is_float(type))
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "unknown state type \"%s\"; use \"f32\", \"bf16\" or \"f16\"", name);
    if (!(device->state_types >> type & 1))
        return error_set(XLSTM_UNSUPPORTED, "device %s does not keep states in %s", device->name,
                         name);
    if (o->deferred < -1 || (deferred & (deferred - 1)) != 0 || deferred == 1 ||
        deferred > OPS_MAX_DEFERRED)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "deferred is %d; it must be 0 (the default), -1 (off) or a power of two "
                         "from 2 to %d",
                         o->deferred, OPS_MAX_DEFERRED);
    if (deferred > device->most_deferred)
        return error_set(XLSTM_UNSUPPORTED, "device %s does not defer %d tokens: at most %d",
                         device->name, deferred, device->most_deferred);
    model->state = (state_options){model->activation, type, deferred};
    return XLSTM_OK;
}

static xlstm_status choose_prefill(const char *name, xlstm_model *model) {
    ops_device *device = model->device;
    if (strcmp(name, "profile") == 0)
        return XLSTM_OK;
    if (strcmp(name, "fp8") != 0)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "unknown prefill \"%s\"; use \"profile\" or \"fp8\"", name);
    if (!device->fp8)
        return error_set(XLSTM_UNSUPPORTED,
                         "prefill \"fp8\": the device %s has no products of fp8; cuda has, on an "
                         "H100 or H200",
                         device->name);
    if (model->profile != OPS_FAST)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "prefill \"fp8\" is not for the profile \"exact\"; use \"fast\"");
    model->fp8 = true;
    const xlstm_status status = device->fp8(device);
    return status == XLSTM_OK ? status : error_prefix(status, "prefill \"fp8\"");
}

static int gcd(int a, int b) {
    while (b) {
        int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static xlstm_status read_options(const xlstm_model_options *options, xlstm_model *model) {
    static const xlstm_model_options none = {0};
    const xlstm_model_options *o = options ? options : &none;
    const struct {
        const char *name;
        int value, most;
    } ranges[] = {{"threads", o->threads, MAX_THREADS},
                  {"max_sessions", o->max_sessions, MAX_SESSIONS},
                  {"max_batch_tokens", o->max_batch_tokens, MAX_BATCH_TOKENS}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (ranges[i].value < 0 || ranges[i].value > ranges[i].most)
            return error_set(XLSTM_INVALID_ARGUMENT, "%s is %d; it must be 0 (the default) to %d",
                             ranges[i].name, ranges[i].value, ranges[i].most);
    xlstm_status status = choose_device(o->device ? o->device : "cpu", model);
    if (status == XLSTM_OK)
        status = choose_profile(o->profile ? o->profile : "fast", model);
    if (status == XLSTM_OK)
        status = choose_state(o, model);
    if (status == XLSTM_OK)
        status = choose_prefill(o->prefill ? o->prefill : "profile", model);
    if (status != XLSTM_OK)
        return status;
    if (o->pin && strcmp(model->device->name, "cpu") != 0)
        return error_set(XLSTM_UNSUPPORTED, "pin: the device %s has no threads to pin; cpu has",
                         model->device->name);
    model->pin = o->pin;
    model->threads = o->threads ? o->threads : threads_available();
    model->max_sessions = o->max_sessions ? o->max_sessions : DEFAULT_SESSIONS;
    /* Every chunk length that a device chooses divides the batch, and a batch holds every session's
     * next token. */
    int chunk = model->device->chunk_size > 0 ? model->device->chunk_size : 1;
    model->granule = chunk / gcd(chunk, FORWARD_LOGIT_ROWS) * FORWARD_LOGIT_ROWS;
    int64_t own = model->device->batch_tokens;
    int tokens = o->max_batch_tokens ? o->max_batch_tokens
                 : own > 0           ? (int)own
                                     : DEFAULT_BATCH_TOKENS;
    if (tokens < model->max_sessions)
        tokens = model->max_sessions;
    model->max_batch_tokens = (tokens + model->granule - 1) / model->granule * model->granule;
    return XLSTM_OK;
}

/* ---- Opening ---- */

static xlstm_status find_wiring(xlstm_model *model) {
    const model_config *c = &model->config;
    if (c->wiring)
        return wiring_from_json(c->wiring, model->source.place, &model->graph);
    return wiring_sequential(c, &model->graph);
}

/* A wiring may name weights that do not exist: seen by compiling it once. */
static xlstm_status check_wiring(const xlstm_model *model) {
    program p;
    xlstm_status status = program_compile(&model->graph, &model->config, &p);
    if (status != XLSTM_OK)
        return error_prefix(status, "%s", model->source.place);
    program_free(&p);
    return XLSTM_OK;
}

/* A status that other faults may be added to: something in the files is wrong. */
static bool is_fault(xlstm_status status) {
    return status == XLSTM_FORMAT_ERROR || status == XLSTM_IO_ERROR || status == XLSTM_UNSUPPORTED;
}

/* Config, wiring, files and tensors: what can still be looked at after a fault is, so that a user
 * sees all that is wrong with a checkpoint and not one thing at a time. */
static xlstm_status open_checkpoint(xlstm_model *model) {
    const model_config *c = &model->config;
    error_list faults = {0};
    xlstm_status first = XLSTM_OK;
    xlstm_status status = source_config(&model->source, &model->config);
    if (status != XLSTM_OK && !is_fault(status))
        return status;
    if (status != XLSTM_OK) {
        error_list_add_last(&faults);
        first = status;
    } else if ((status = find_wiring(model)) != XLSTM_OK ||
               (status = check_wiring(model)) != XLSTM_OK) {
        error_list_add_last(&faults);
        first = status;
    }
    status = source_take_tensors(&model->source, &model->files);
    if (status == XLSTM_OK && c->complete) {
        status = weights_bind(c, &model->files, model->device, model->activation, &model->weights);
        if (status == XLSTM_FORMAT_ERROR)
            error_prefix(status, "%s", model->source.place);
    }
    if (status != XLSTM_OK)
        error_list_add_last(&faults);
    return error_list_finish(&faults, first != XLSTM_OK ? first : status);
}

xlstm_status model_open(const char *path, const xlstm_model_options *options, xlstm_model **out) {
    if (!out)
        return error_set(XLSTM_INVALID_ARGUMENT, "no place to put the model");
    *out = NULL;
    if (!path || !*path)
        return error_set(XLSTM_INVALID_ARGUMENT, "no path to a model was given");
    xlstm_model *model = calloc(1, sizeof *model);
    if (!model)
        return error_memory(sizeof *model, "a model");
    pthread_mutex_init(&model->lock, NULL);
    pthread_mutex_init(&model->tokenizer_lock, NULL);
    xlstm_status status = read_options(options, model);
    if (status == XLSTM_OK)
        status = source_open(path, &model->source);
    if (status == XLSTM_OK)
        status = open_checkpoint(model);
    if (status != XLSTM_OK) {
        xlstm_model_free(model);
        return status;
    }
    *out = model;
    return XLSTM_OK;
}

/* ---- Memory ---- */

static forward_limits limits_of(const xlstm_model *model) {
    return (forward_limits){.tokens = model->max_batch_tokens,
                            .sequences = model->max_sessions,
                            .activation = model->activation,
                            .deferred = model->state.deferred};
}

static ops_stream_options stream_options_of(const xlstm_model *model) {
    forward_limits limits = limits_of(model);
    return (ops_stream_options){.threads = model->threads,
                                .pin = model->pin,
                                .profile = model->profile,
                                .fp8 = model->fp8,
                                .limits = forward_ops_limits(&model->config, &limits)};
}

/* Of weights in fp8, at most: a byte each, but for the embedding and the head. */
static int64_t fp8_bytes(const xlstm_model *model) {
    const weights *w = &model->weights;
    const bool tied =
        w->head.buffer == w->embedding.buffer && w->head.offset == w->embedding.offset;
    return model->fp8 ? w->parameters - (tied ? 1 : 2) * ops_tensor_elements(&w->embedding) : 0;
}

void model_get_memory(const xlstm_model *model, model_memory *memory) {
    forward_limits limits = limits_of(model);
    ops_stream_options options = stream_options_of(model);
    state_size state = state_measure(&model->config, &model->graph, &model->state);
    *memory = (model_memory){
        .weights = model->weights.bytes,
        .embedding = model->weights.embedding_bytes,
        .state_per_session = state.bytes,
        .state_slots = model->max_sessions + model->device->ahead,
        .state_read = state.read,
        .state_written = state.written,
        .working = forward_bytes(&model->config, &model->graph, &limits) +
                   model->device->scratch_size(model->device, &options) + fp8_bytes(model),
    };
}

xlstm_status model_prepare(xlstm_model *model) {
    ops_stream_options options = stream_options_of(model);
    forward_limits limits = limits_of(model);
    xlstm_status status = model->device->stream_create(model->device, &options, &model->stream);
    if (status == XLSTM_OK)
        status = state_pool_create(&model->config, &model->graph, model->device, &model->state,
                                   model->max_sessions, &model->pool);
    if (status == XLSTM_OK)
        status = forward_create(&model->config, &model->graph, &model->weights, &model->pool,
                                model->stream, &limits, &model->forward);
    return status;
}

xlstm_status xlstm_model_load(const char *path, const xlstm_model_options *options,
                              xlstm_model **model) {
    xlstm_status status = model_open(path, options, model);
    if (status != XLSTM_OK)
        return status;
    status = model_prepare(*model);
    if (status != XLSTM_OK) {
        xlstm_model_free(*model);
        *model = NULL;
    }
    return status;
}

void xlstm_model_free(xlstm_model *model) {
    if (!model)
        return;
    forward_free(model->forward);
    state_pool_free(&model->pool);
    if (model->stream)
        model->device->stream_free(model->stream);
    weights_free(&model->weights);
    stored_close(&model->files);
    wiring_free(&model->graph);
    config_free(&model->config);
    xlstm_tokenizer_free(model->tokenizer);
    free(model->tokenizer_error);
    free(model->end_warning);
    source_close(&model->source);
    pthread_mutex_destroy(&model->tokenizer_lock);
    pthread_mutex_destroy(&model->lock);
    free(model);
}

/* ---- Facts ---- */

/* Heads and widths; an sLSTM's head has no keys. */
static void info_of_neurips(const model_config *config, xlstm_model_info *info) {
    const neurips_config *c = &config->neurips;
    if (c->mlstm.present) {
        info->num_heads = c->mlstm.num_heads;
        info->head_dim_qk = info->head_dim_v = c->mlstm.inner.width / c->mlstm.num_heads;
    } else {
        info->num_heads = c->slstm.num_heads;
        info->head_dim_v = config->embedding_dim / c->slstm.num_heads;
    }
    info->ffn_dim = c->ffn.present ? c->ffn.hidden.width : 0;
}

void xlstm_model_get_info(const xlstm_model *model, xlstm_model_info *info) {
    const model_config *c = &model->config;
    *info = (xlstm_model_info){
        .architecture = config_family_name(c->family),
        .device = model->device->name,
        .profile = model->profile == OPS_EXACT ? "exact" : "fast",
        .vocab_size = c->vocab_size,
        .embedding_dim = c->embedding_dim,
        .num_blocks = c->num_blocks,
        .bos_id = c->bos_token_id,
        .eos_id = model_end_of_text(model),
        .force_bos = c->force_bos_token_insert,
        .threads = model->threads,
        .max_sessions = model->max_sessions,
        .max_batch_tokens = model->max_batch_tokens,
        .parameters = model->weights.parameters,
        .weight_bytes = model->weights.bytes,
        .state_bytes = state_measure(c, &model->graph, &model->state).bytes,
        .state_dtype = dtype_name(model->state.stored),
        .deferred = model->state.deferred,
        .prefill = model->fp8 ? "fp8" : "profile",
    };
    if (c->family == FAMILY_NEURIPS) {
        info_of_neurips(c, info);
        return;
    }
    info->num_heads = c->large.num_heads;
    info->head_dim_qk = c->large.qk_dim / c->large.num_heads;
    info->head_dim_v = c->large.v_dim / c->large.num_heads;
    info->ffn_dim = c->large.ffn_dim;
}

/* Ids of the tokenizer must be ids of the model; the other way round there may be more. */
static xlstm_status load_tokenizer(xlstm_model *model) {
    xlstm_status status = tokenizer_load_source(&model->source, &model->tokenizer);
    if (status != XLSTM_OK || xlstm_tokenizer_size(model->tokenizer) <= model->config.vocab_size)
        return status;
    status = error_set(
        XLSTM_FORMAT_ERROR, "%s: the tokenizer has ids up to %d, but the config's vocab_size is %d",
        model->source.place, xlstm_tokenizer_size(model->tokenizer) - 1, model->config.vocab_size);
    xlstm_tokenizer_free(model->tokenizer);
    model->tokenizer = NULL;
    return status;
}

const xlstm_tokenizer *xlstm_model_tokenizer(const xlstm_model *constant) {
    xlstm_model *model =
        (xlstm_model *)(uintptr_t)constant; /* the tokenizer is loaded when first asked for */
    pthread_mutex_lock(&model->tokenizer_lock);
    if (!model->tokenizer && !model->tokenizer_error) {
        if (load_tokenizer(model) != XLSTM_OK)
            model->tokenizer_error = strdup(xlstm_last_error());
    } else if (!model->tokenizer) {
        error_set(XLSTM_FORMAT_ERROR, "%s", model->tokenizer_error);
    }
    pthread_mutex_unlock(&model->tokenizer_lock);
    return model->tokenizer;
}

bool model_has_tokenizer(const xlstm_model *model) {
    return source_has_tokenizer(&model->source);
}

/* ---- Fingerprint ---- */

enum { SAMPLE_BYTES = 256 };

/* Elements [first, first + count). What is held in f64 because activations are enters as f32, so
 * that a state goes from device to device. */
static void hash_elements(hash64 *h, const ops_tensor *tensor, const uint8_t *data, size_t first,
                          size_t count) {
    float narrow[SAMPLE_BYTES / sizeof(float)];
    size_t width = dtype_size(tensor->dtype);
    if (tensor->dtype == DTYPE_F64) {
        dtype_convert(DTYPE_F64, data + first * width, DTYPE_F32, narrow, (int64_t)count);
        hash64_update(h, narrow, count * sizeof(float));
    } else {
        hash64_update(h, data + first * width, count * width);
    }
}

/* The beginning, middle and end of a tensor: enough to tell two trained models apart without
 * reading all of it. */
static void hash_tensor(void *context, const char *name, const ops_tensor *tensor,
                        const uint8_t *data) {
    hash64 *h = context;
    dtype type = tensor->dtype == DTYPE_F64 ? DTYPE_F32 : tensor->dtype;
    size_t width = dtype_size(type); /* for "element" read "block" where the type has them */
    size_t count = (size_t)(ops_tensor_elements(tensor) / dtype_block(type));
    size_t part = count * width < SAMPLE_BYTES ? count : SAMPLE_BYTES / width;
    hash64_update(h, name, strlen(name) + 1);
    hash64_update(h, dtype_name(type), strlen(dtype_name(type)) + 1);
    for (int i = 0; i < tensor->rank; i++)
        hash64_update(h, &tensor->shape[i], sizeof tensor->shape[i]);
    hash_elements(h, tensor, data, 0, part);
    hash_elements(h, tensor, data, (count - part) / 2, part);
    hash_elements(h, tensor, data, count - part, part);
}

static void hash_neurips(hash64 *h, const neurips_config *c) {
    const double numbers[] = {
        c->mlstm.present ? c->mlstm.num_heads : 0, c->slstm.present ? c->slstm.num_heads : 0,
        c->slstm.lstm, c->slstm.forward_clipval, c->ffn.present ? (double)c->ffn.activation : -1};
    hash64_update(h, numbers, sizeof numbers);
}

static void hash_large(hash64 *h, const large_config *c) {
    const double numbers[] = {c->num_heads,
                              c->qk_dim,
                              c->v_dim,
                              c->norm_eps,
                              c->eps,
                              c->gate_soft_cap,
                              c->output_logit_soft_cap};
    hash64_update(h, numbers, sizeof numbers);
}

/* What changes the function that a state belongs to, and is not a tensor. */
static void hash_config(hash64 *h, const model_config *c, const wiring *graph) {
    if (c->family == FAMILY_NEURIPS)
        hash_neurips(h, &c->neurips);
    else
        hash_large(h, &c->large);
    for (int i = 0; i < graph->count; i++) {
        const wiring_node *node = &graph->nodes[graph->order[i]];
        int32_t kind = (int32_t)node->kind;
        hash64_update(h, node->name, strlen(node->name) + 1);
        hash64_update(h, &kind, sizeof kind);
        if (node->weights)
            hash64_update(h, node->weights, strlen(node->weights) + 1);
        for (int j = 0; j < node->input_count; j++) {
            const char *source = graph->nodes[node->inputs[j].node].name;
            int32_t polarity = node->inputs[j].polarity;
            hash64_update(h, source, strlen(source) + 1);
            hash64_update(h, &polarity, sizeof polarity);
        }
    }
}

uint64_t model_fingerprint(const xlstm_model *model) {
    hash64 h;
    hash64_init(&h, 0);
    hash_config(&h, &model->config, &model->graph);
    weights_each(&model->weights, hash_tensor, &h);
    return hash64_digest(&h);
}
