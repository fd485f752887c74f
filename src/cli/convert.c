/* xlstm convert: the same model in other types and files. */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "engine/session.h"
#include "model/convert.h"

/* Ids of the calibration text, as perplexity reads a text: one stream, BOS in front. */
static xlstm_status read_text(const xlstm_model *model, const char *path, int32_t **ids,
                              int64_t *count) {
    enum { MOST_BYTES = 1 << 30 };
    buffer text = {0};
    xlstm_model_info info;
    xlstm_model_get_info(model, &info);
    if (!xlstm_model_tokenizer(model))
        return error_prefix(XLSTM_UNSUPPORTED, "--calibrate needs a tokenizer");
    xlstm_status status = file_read(path, MOST_BYTES, &text);
    if (status == XLSTM_OK)
        status = xlstm_encode_prompt(model, text.data, text.size,
                                     info.bos_id >= 0 ? XLSTM_BOS_ALWAYS : XLSTM_BOS_NEVER, false,
                                     ids, count);
    buffer_free(&text);
    if (status == XLSTM_OK && *count < 2)
        status = error_set(XLSTM_INVALID_ARGUMENT, "%s: no text to calibrate with", path);
    return status;
}

static xlstm_status calibrate(xlstm_model *model, const char *path, calibration **found) {
    int32_t *ids = NULL;
    int64_t count = 0;
    xlstm_status status = read_text(model, path, &ids, &count);
    if (status == XLSTM_OK) {
        progress bar;
        progress_begin(&bar, "calibrating", "tok");
        status =
            calibration_run(model, ids, count, CALIBRATION_MEMORY, progress_update, &bar, found);
        progress_end(&bar);
    }
    if (status == XLSTM_OK)
        cli_note("calibrated with %" PRId64 " tokens of %s", count, path);
    xlstm_free(ids);
    return status;
}

static xlstm_status load(const options *o, bool to_run, xlstm_model **model) {
    xlstm_model_options wanted = {.threads = (int)option_integer(o, OPTION_THREADS, 0),
                                  .device = "cpu",
                                  .profile = "exact",
                                  .max_sessions = 1};
    const char *path = option_text(o, OPTION_MODEL, "");
    xlstm_status status =
        to_run ? xlstm_model_load(path, &wanted, model) : model_open(path, &wanted, model);
    if (status == XLSTM_OK)
        input_warn_source(&(*model)->source);
    return status;
}

static void describe(const convert_result *r, const char *output) {
    char size[16];
    cli_note("%s: %s of weights, %.2f bits each", output, format_bytes((double)r->bytes, size),
             8 * (double)r->bytes / (double)r->weights);
    for (int type = 0; type < DTYPE_COUNT; type++)
        if (r->type_count[type] > 0)
            cli_note("  %4" PRId64 " tensors %s", r->type_count[type], dtype_name((dtype)type));
    if (r->narrow > 0)
        cli_warn("%d matrices stay unquantised: their rows are not a multiple of 32, as of %s",
                 r->narrow, r->narrow_example);
    if (r->requantised > 0)
        cli_warn("%d matrices were quantised before, and are rounded a second time: converting "
                 "the unquantised model loses less",
                 r->requantised);
}

static dtype type_option(const options *o, enum option_id id) {
    dtype type = DTYPE_COUNT;
    const char *name = option_text(o, id, NULL);
    if (name)
        dtype_from_name(name, &type); /* the table allows names of types only */
    return type;
}

/* What makes no sense together; 0 if all does. */
static int check_usage(const options *o, const convert_options *wanted, const char *text) {
    bool same = wanted->same;
    bool ends = option_given(o, OPTION_EMBEDDING_TYPE) || option_given(o, OPTION_HEAD_TYPE);
    if (same && (ends || text))
        return cli_fail_usage("convert",
                              "--type same keeps every tensor as it is: %s has no "
                              "meaning with it",
                              text ? "--calibrate" : "a type of embedding or head");
    bool head = wanted->head != DTYPE_COUNT && dtype_block(wanted->head) > 1;
    if (text && dtype_block(wanted->type) == 1 && !head)
        return cli_fail_usage("convert",
                              "--calibrate is for quantised types: with --type %s nothing would be "
                              "rounded with its help",
                              dtype_name(wanted->type));
    return 0;
}

int command_convert(const options *o) {
    const char *type = option_text(o, OPTION_CONVERT_TYPE, "");
    const char *text = option_text(o, OPTION_CALIBRATE, NULL);
    const char *output = option_text(o, OPTION_CONVERT_OUTPUT, "");
    progress bar;
    convert_options wanted = {.same = strcmp(type, "same") == 0,
                              .type = type_option(o, OPTION_CONVERT_TYPE),
                              .embedding = type_option(o, OPTION_EMBEDDING_TYPE),
                              .head = type_option(o, OPTION_HEAD_TYPE),
                              .threads = (int)option_integer(o, OPTION_THREADS, 0),
                              .replace = option_given(o, OPTION_FORCE),
                              .progress = progress_update,
                              .context = &bar};
    if (check_usage(o, &wanted, text) != 0)
        return EXIT_WRONG_USAGE;
    xlstm_model *model = NULL;
    calibration *found = NULL;
    convert_result result;
    xlstm_status status = load(o, text != NULL, &model);
    interrupt_catch(false);
    if (status == XLSTM_OK && text)
        status = convert_check(model, output, &wanted);
    if (status == XLSTM_OK && text)
        status = calibrate(model, text, &found);
    if (status == XLSTM_OK) {
        wanted.calibration = found;
        progress_begin(&bar, "converting", "B");
        status = convert_model(model, output, &wanted, &result);
        progress_end(&bar);
    }
    if (status == XLSTM_OK)
        describe(&result, output);
    int exit_status = status == XLSTM_OK ? 0 : cli_fail(status);
    calibration_free(found);
    xlstm_model_free(model);
    return exit_status;
}
