/* xlstm info: what a checkpoint is, and what it needs. The model is opened and checked, but its
 * weights are not read and no memory is taken for running it. Without a model: the devices alone. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/info.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "model/model.h"

/* ---- Facts ---- */

static const char *profile_words(const xlstm_model *model) {
    if (strncmp(model->device->name, "reference", 9) == 0)
        return "plain loops in a fixed order";
    return model->profile == OPS_EXACT
               ? "fp32 throughout; bit-equal for any number of threads and any batch"
               : "whatever is fastest within the accuracy bars";
}

static json_t *weight_types(const xlstm_model *model) {
    json_t *types = json_object();
    for (int type = 0; type < DTYPE_COUNT; type++) {
        if (model->weights.dtype_bytes[type] > 0)
            json_object_set_new(types, dtype_name((dtype)type),
                                json_integer(model->weights.dtype_bytes[type]));
    }
    return types;
}

/* Of the checkpoint's file: its format, what most of its weights are said to be, and what a weight
 * takes on average. */
static json_t *file_fields(const xlstm_model *model) {
    const gguf_file *gguf = &model->source.gguf;
    int64_t number = -1;
    const char *name = NULL;
    if (gguf_get_integer(gguf_find(gguf, "general.file_type"), &number))
        name = gguf_file_type_name(number);
    return json_pack("{s:s, s:s?, s:f}", "format", model->source.one_file ? "gguf" : "safetensors",
                     "file_type", name, "bits_per_weight",
                     8 * (double)model->weights.bytes / (double)model->weights.parameters);
}

static json_t *known_id(int32_t id) {
    return id < 0 ? json_null() : json_integer(id);
}

/* 0 stands for "no cap". */
static json_t *soft_cap(double cap) {
    return cap == 0 ? json_null() : json_real(cap);
}

/* What both families have. */
static json_t *common_fields(const xlstm_model *model, const xlstm_model_info *info) {
    const model_config *c = &model->config;
    return json_pack("{s:s, s:s, s:i, s:i, s:i, s:b, s:b, s:o, s:o, s:o, s:b}", "architecture",
                     info->architecture, "spelling", c->spelling, "embedding_dim", c->embedding_dim,
                     "num_blocks", c->num_blocks, "vocab_size", c->vocab_size, "add_out_norm",
                     (int)c->add_out_norm, "tie_word_embeddings", (int)c->tie_word_embeddings,
                     "bos_token_id", known_id(c->bos_token_id), "eos_token_id",
                     known_id(c->eos_token_id), "pad_token_id", known_id(c->pad_token_id),
                     "force_bos_token_insert", (int)c->force_bos_token_insert);
}

static json_t *large_fields(const xlstm_model *model, const xlstm_model_info *info) {
    const large_config *c = &model->config.large;
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:s, s:f, s:f, s:o, s:o, s:f, s:f, s:f,"
                     " s:i, s:i, s:i}",
                     "num_heads", c->num_heads, "qk_dim", c->qk_dim, "v_dim", c->v_dim,
                     "head_dim_qk", info->head_dim_qk, "head_dim_v", info->head_dim_v, "ffn_dim",
                     c->ffn_dim, "use_bias", (int)c->use_bias, "weight_mode",
                     model->weights.fused ? "fused" : "single", "norm_eps", c->norm_eps, "eps",
                     c->eps, "gate_soft_cap", soft_cap(c->gate_soft_cap), "output_logit_soft_cap",
                     soft_cap(c->output_logit_soft_cap), "qk_dim_factor", c->qk_dim_factor,
                     "v_dim_factor", c->v_dim_factor, "ffn_proj_factor", c->ffn_proj_factor,
                     "ffn_round_up_to_multiple_of", c->ffn_round_up_to_multiple_of, "chunk_size",
                     c->chunk_size, "max_inference_chunksize", c->max_inference_chunksize);
}

static json_t *slstm_blocks(const model_config *c) {
    json_t *blocks = json_array();
    for (int i = 0; i < c->num_blocks; i++)
        if (c->neurips.slstm_at[i])
            json_array_append_new(blocks, json_integer(i));
    return blocks;
}

static json_t *neurips_fields(const xlstm_model *model, const xlstm_model_info *info) {
    static const char *const activations[] = {"gelu", "relu", "relu^2", "sigmoid", "swish", "selu"};
    const neurips_config *c = &model->config.neurips;
    json_t *fields =
        json_pack("{s:b, s:o}", "bias", (int)c->bias, "slstm_at", slstm_blocks(&model->config));
    json_t *mlstm = json_pack("{s:i, s:i, s:i, s:i, s:i}", "mlstm_num_heads", c->mlstm.num_heads,
                              "mlstm_inner_dim", c->mlstm.inner.width, "mlstm_head_dim",
                              info->head_dim_v, "mlstm_conv1d_kernel_size",
                              c->mlstm.conv1d_kernel_size, "qkv_proj_blocks", c->mlstm.qkv_heads);
    json_t *slstm = json_pack(
        "{s:s, s:i, s:i, s:i, s:b, s:o}", "slstm_function", c->slstm.lstm ? "lstm" : "slstm",
        "slstm_num_heads", c->slstm.num_heads, "slstm_head_dim",
        c->slstm.present ? model->config.embedding_dim / c->slstm.num_heads : 0,
        "slstm_conv1d_kernel_size", c->slstm.conv1d_kernel_size, "group_norm_weight",
        (int)c->slstm.group_norm_weight, "forward_clipval", soft_cap(c->slstm.forward_clipval));
    json_t *ffn = json_pack("{s:i, s:s, s:b}", "ffn_dim", c->ffn.hidden.width, "ffn_act_fn",
                            activations[c->ffn.activation], "ffn_bias", (int)c->ffn.bias);
    if (c->mlstm.present)
        json_object_update(fields, mlstm);
    if (c->slstm.present)
        json_object_update(fields, slstm);
    if (c->ffn.present)
        json_object_update(fields, ffn);
    json_decref(mlstm);
    json_decref(slstm);
    json_decref(ffn);
    return fields;
}

static json_t *config_fields(const xlstm_model *model) {
    xlstm_model_info info;
    xlstm_model_get_info(model, &info);
    json_t *fields = common_fields(model, &info);
    json_t *family = model->config.family == FAMILY_LARGE ? large_fields(model, &info)
                                                          : neurips_fields(model, &info);
    json_object_update(fields, family);
    json_decref(family);
    return fields;
}

/* Bytes that decoding one token of one sequence must move: weights once, the state read and
 * written. */
static int64_t bytes_per_token(const model_memory *memory) {
    return memory->weights - memory->embedding +
           (int64_t)(memory->state_read + memory->state_written);
}

static json_t *memory_fields(const xlstm_model *model) {
    model_memory memory;
    model_get_memory(model, &memory);
    int64_t needed =
        memory.weights + memory.working + memory.state_slots * memory.state_per_session;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "weights", (json_int_t)memory.weights,
        "of_it_embedding_table", (json_int_t)memory.embedding, "state_per_session",
        (json_int_t)memory.state_per_session, "sessions", (json_int_t)model->max_sessions,
        "working", (json_int_t)memory.working, "needed", (json_int_t)needed, "available",
        (json_int_t)memory_available(), "total", (json_int_t)memory_total(),
        "moved_per_decoded_token", (json_int_t)bytes_per_token(&memory));
}

static json_t *tokenizer_fields(const xlstm_model *model) {
    const xlstm_tokenizer *tokenizer = xlstm_model_tokenizer(model);
    if (!tokenizer)
        return json_null();
    int32_t end = model_end_of_text(model);
    return json_pack("{s:i, s:o}", "size", xlstm_tokenizer_size(tokenizer), "end_of_text",
                     known_id(end));
}

static json_t *collect(const xlstm_model *model, json_t *device_facts) {
    return json_pack(
        "{s:o, s:o, s:o, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:o, s:o, s:o, s:o, s:o}",
        "path", json_text(model->source.path, strlen(model->source.path)), "file",
        file_fields(model), "config", config_fields(model), "device", model->device->name,
        "profile", model->profile == OPS_EXACT ? "exact" : "fast", "prefill",
        model->fp8 ? "fp8" : "profile", "state_type", dtype_name(model->state.stored), "deferred",
        model->state.deferred, "threads", model->threads, "batch_tokens", model->max_batch_tokens,
        "parameters", (json_int_t)model->weights.parameters, "tensors",
        (json_int_t)model->files.count, "weight_types", weight_types(model), "memory",
        memory_fields(model), "tokenizer", tokenizer_fields(model), "devices", info_devices(),
        "device_facts", device_facts);
}

/* ---- Words ---- */

static void print_list(const char *name, const json_t *list, buffer *out) {
    buffer_print(out, "  %-28s%s", name, json_array_size(list) == 0 ? "none" : "");
    for (size_t i = 0; i < json_array_size(list); i++)
        buffer_print(out, "%s%" JSON_INTEGER_FORMAT, i ? ", " : "",
                     json_integer_value(json_array_get(list, i)));
    buffer_print(out, "\n");
}

void info_print_value(const char *name, const json_t *value, buffer *out) {
    if (json_is_boolean(value))
        buffer_print(out, "  %-28s%s\n", name, json_is_true(value) ? "true" : "false");
    else if (json_is_null(value))
        buffer_print(out, "  %-28snone\n", name);
    else if (json_is_string(value))
        buffer_print(out, "  %-28s%s\n", name, json_string_value(value));
    else if (json_is_integer(value))
        buffer_print(out, "  %-28s%" JSON_INTEGER_FORMAT "\n", name, json_integer_value(value));
    else if (json_is_array(value))
        print_list(name, value, out);
    else
        buffer_print(out, "  %-28s%g\n", name, json_number_value(value));
}

void info_print_bytes(const char *name, int64_t bytes, buffer *out) {
    char amount[16];
    buffer_print(out, "  %-28s%s\n", name, format_bytes((double)bytes, amount));
}

static void print_memory(const json_t *memory, buffer *out) {
    const char *name;
    json_t *value;
    buffer_print(out, "\nMemory\n");
    json_object_foreach((json_t *)(uintptr_t)memory, name, value) {
        if (strcmp(name, "sessions") == 0)
            info_print_value(name, value, out);
        else
            info_print_bytes(name, json_integer_value(value), out);
    }
    if (json_integer_value(json_object_get(memory, "available")) > 0 &&
        json_integer_value(json_object_get(memory, "needed")) >
            json_integer_value(json_object_get(memory, "available")))
        buffer_print(out,
                     "  More is needed than is available: weights will be read from disk again "
                     "and again.\n");
}

static xlstm_status print_words(const xlstm_model *model, const json_t *facts, buffer *out) {
    const char *name;
    json_t *value;
    buffer_print(out, "Config (%s)\n", model->source.path);
    json_object_foreach(json_object_get(facts, "config"), name, value) {
        info_print_value(name, value, out);
    }
    buffer_print(out, "\nWeights\n");
    json_object_foreach(json_object_get(facts, "file"), name, value) {
        if (!json_is_null(value))
            info_print_value(name, value, out);
    }
    info_print_value("parameters", json_object_get(facts, "parameters"), out);
    info_print_value("tensors", json_object_get(facts, "tensors"), out);
    json_object_foreach(json_object_get(facts, "weight_types"), name, value) {
        info_print_bytes(name, json_integer_value(value), out);
    }
    print_memory(json_object_get(facts, "memory"), out);
    const json_t *tokenizer = json_object_get(facts, "tokenizer");
    buffer_print(out, "\nTokenizer\n");
    if (json_is_object(tokenizer)) {
        info_print_value("size", json_object_get(tokenizer, "size"), out);
        info_print_value("end_of_text", json_object_get(tokenizer, "end_of_text"), out);
    } else {
        buffer_print(out, "  none: ids can be given with --ids\n");
    }
    buffer_print(out, "\n");
    xlstm_status status = info_print_devices(model->device, model->profile, out);
    buffer_print(out, "\nWith these options\n  %-14s%s\n  %-14s%s: %s\n  %-14s%d\n", "device",
                 model->device->name, "profile", model->profile == OPS_EXACT ? "exact" : "fast",
                 profile_words(model), "threads", model->threads);
    if (model->fp8)
        buffer_print(out, "  %-14s%s\n", "prefill",
                     "fp8: factors in e4m3 where more than 128 tokens are multiplied");
    buffer_print(out, "  %-14s%s", "state", dtype_name(model->state.stored));
    if (model->state.deferred > 0)
        buffer_print(out, ", tokens folded in %d at a time", model->state.deferred);
    buffer_print(out, "\n");
    return status;
}

/* ---- The command ---- */

static xlstm_status print_wiring(const wiring *graph, const char *style) {
    static const struct {
        const char *name;
        enum wiring_style style;
    } styles[] = {{"unicode", WIRING_UNICODE},
                  {"ascii", WIRING_ASCII},
                  {"dot", WIRING_DOT},
                  {"json", WIRING_JSON}};
    buffer text = {0};
    for (size_t i = 0; i < sizeof styles / sizeof *styles; i++) {
        if (strcmp(styles[i].name, style) == 0)
            wiring_print(graph, styles[i].style, &text);
    }
    if (!text.failed && text.size > 0 && text.data[text.size - 1] != '\n')
        buffer_append(&text, "\n", 1);
    return output_buffer(&text);
}

static xlstm_status print_facts(const xlstm_model *model, bool as_json) {
    json_t *device_facts;
    xlstm_status status = info_device_facts(model->device, model->profile, &device_facts);
    if (status != XLSTM_OK)
        return status;
    json_t *facts = collect(model, device_facts);
    if (as_json || !facts)
        return output_json(facts);
    buffer text = {0};
    status = print_words(model, facts, &text);
    json_decref(facts);
    if (status == XLSTM_OK)
        return output_buffer(&text);
    buffer_free(&text);
    return status;
}

int command_info(const options *o) {
    if (!option_given(o, OPTION_MODEL))
        return info_machine(o);
    xlstm_model *model;
    xlstm_model_options wanted = input_model_options(o, 1);
    xlstm_status status = model_open(option_text(o, OPTION_MODEL, ""), &wanted, &model);
    if (status != XLSTM_OK)
        return cli_fail(status);
    input_warn_source(&model->source);
    const char *style = option_text(o, OPTION_WIRING, NULL);
    const char *warning = xlstm_model_warning(model);
    if (warning)
        cli_warn("%s", warning);
    status = style ? print_wiring(&model->graph, style)
                   : print_facts(model, option_given(o, OPTION_JSON));
    int result = status == XLSTM_OK ? 0 : cli_fail(status);
    xlstm_model_free(model);
    return result;
}
