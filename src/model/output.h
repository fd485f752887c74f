/* Where a checkpoint is written to. */
#ifndef MODEL_OUTPUT_H
#define MODEL_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "xlstm.h"

/* Creates the folder, or checks that an existing one holds no checkpoint. */
xlstm_status output_prepare_folder(const char *folder, bool *created);
/* Fails if the file system of `folder` is known to have less than `bytes` free. */
xlstm_status output_check_space(const char *folder, int64_t bytes);

#endif
