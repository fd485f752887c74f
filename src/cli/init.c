/* xlstm init: a randomly initialised checkpoint. */
#include "model/init.h"

#include <unistd.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/terminal.h"

int command_init(const options *o) {
    progress bar;
    init_options wanted = {.seed = o->values[OPTION_INIT_SEED].unsigned_integer,
                           .threads = (int)option_integer(o, OPTION_THREADS, 0),
                           .shard_bytes = option_integer(o, OPTION_SHARD_SIZE, 0),
                           .fused = option_given(o, OPTION_FUSED),
                           .progress = progress_update,
                           .context = &bar};
    if (!dtype_from_name(option_text(o, OPTION_DTYPE, "bf16"), &wanted.dtype))
        return cli_fail_usage("init", "--dtype: takes one of f32, bf16, f16");
    /* A file that is missing is the first thing to know, whatever its name ends in. */
    const char *path = option_text(o, OPTION_CONFIG, "");
    if (access(path, F_OK) != 0)
        return cli_fail(error_system("open", path));
    model_config config;
    xlstm_status status = config_open(path, &config);
    if (status != XLSTM_OK) {
        config_free(&config);
        return cli_fail(status);
    }
    const char *folder = option_text(o, OPTION_OUTPUT_FOLDER, "");
    interrupt_catch(false);
    progress_begin(&bar, "writing weights", "B");
    status = init_checkpoint(&config, folder, &wanted);
    progress_end(&bar);
    config_free(&config);
    if (status != XLSTM_OK)
        return cli_fail(status);
    cli_note("%s is complete", folder);
    return 0;
}
