/* xlstm logits: the logits of every position, streamed into a .npy file. */
#include <stdlib.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "format/npy.h"

typedef struct logits_file {
    npy_writer writer;
    progress progress;
    int64_t vocab, done, total;
} logits_file;

static bool take_rows(void *context, int64_t first, int64_t rows, const float *logits) {
    logits_file *f = context;
    (void)first;
    npy_writer_write(&f->writer, logits, sizeof(float) * (size_t)(rows * f->vocab));
    f->done += rows;
    return f->writer.file.status == XLSTM_OK && progress_update(&f->progress, f->done, f->total);
}

static xlstm_status eval_last(xlstm_session *session, const int32_t *ids, logits_file *f) {
    size_t size = sizeof(float) * (size_t)f->vocab;
    float *row = malloc(size);
    if (!row)
        return error_memory(size, "logits");
    xlstm_status status = xlstm_eval(session, ids, f->total, row, progress_update, &f->progress);
    if (status == XLSTM_OK)
        npy_writer_write(&f->writer, row, size);
    free(row);
    return status;
}

static xlstm_status write_logits(const options *o, const xlstm_model *model, xlstm_session *session,
                                 const int32_t *ids, int64_t count) {
    xlstm_model_info info;
    xlstm_model_get_info(model, &info);
    bool last = option_given(o, OPTION_LAST);
    logits_file f = {.vocab = info.vocab_size, .total = count};
    int64_t shape[2] = {last ? 1 : count, info.vocab_size};
    interrupt_catch(false);
    xlstm_status status =
        npy_writer_open(option_text(o, OPTION_OUTPUT_NPY, ""), DTYPE_F32, 2, shape, &f.writer);
    if (status != XLSTM_OK)
        return status;
    progress_begin(&f.progress, "computing logits", "tok");
    status =
        last ? eval_last(session, ids, &f) : xlstm_eval_all(session, ids, count, take_rows, &f);
    progress_end(&f.progress);
    /* A sink that could not write stops the evaluation; why, commit tells. */
    if (status == XLSTM_OK || (status == XLSTM_CANCELLED && f.writer.file.status != XLSTM_OK))
        return npy_writer_commit(&f.writer);
    npy_writer_cancel(&f.writer);
    return status;
}

int command_logits(const options *o) {
    if (!option_given(o, OPTION_PROMPT) && !option_given(o, OPTION_FILE) &&
        !option_given(o, OPTION_IDS) && !option_given(o, OPTION_IDS_FILE))
        return cli_fail_usage("logits", "no prompt: give -p TEXT, -f FILE, --ids or --ids-file");
    input_prompt prompt;
    xlstm_model *model = NULL;
    xlstm_session *session = NULL;
    int32_t *ids = NULL;
    int64_t count;
    bool continues = option_given(o, OPTION_LOAD_STATE);
    xlstm_status status = input_prompt_read(o, &prompt);
    if (status == XLSTM_OK)
        status = input_load_model(o, 1, &model);
    if (status == XLSTM_OK)
        status = xlstm_session_create(model, &session);
    if (status == XLSTM_OK && continues)
        status = xlstm_session_load(session, option_text(o, OPTION_LOAD_STATE, ""));
    if (status == XLSTM_OK)
        status = input_prompt_ids(o, &prompt, model, continues, &ids, &count);
    if (status == XLSTM_OK)
        status = write_logits(o, model, session, ids, count);
    int result = status == XLSTM_OK ? 0 : cli_fail(status);
    xlstm_free(ids);
    xlstm_session_free(session);
    xlstm_model_free(model);
    input_prompt_free(&prompt);
    return result;
}
