/* RMSNorm and LayerNorm of the kernel library: a task is a block of rows. How many rows that are
 * depends on their number alone, so that dw and db, which are summed by block, do not depend on the
 * threads. */
#include "ops/cpu/kernel_array.h"

#include <stdlib.h>

enum { MOST_BLOCKS = 64, LEAST_ROWS = 16 };

typedef struct norm_job {
    const kernel_call *call;
    const cpu_library *library;
    bool centred;
    int64_t rows, width, block_rows;
    void *dw, *db; /* [blocks][width]; NULL: not wanted */
} norm_job;

static void norm_task(void *context, int64_t task, int worker) {
    (void)worker;
    const norm_job *job = context;
    const kernel_call *call = job->call;
    int64_t first = task * job->block_rows, end = first + job->block_rows;
    for (int64_t r = first; r < end && r < job->rows; r++)
        job->library->norm_row(&(cpu_norm_row){
            .centred = job->centred,
            .width = job->width,
            .groups = call->options.groups,
            .eps = call->options.eps,
            .x = cpu_element(call, AFFINE_X, r, 0, 0, 0),
            .w = cpu_element(call, AFFINE_W, 0, 0, 0, 0),
            .b = cpu_element(call, AFFINE_B, 0, 0, 0, 0),
            .dy = cpu_element(call, AFFINE_DY, r, 0, 0, 0),
            .y = cpu_element(call, AFFINE_Y, r, 0, 0, 0),
            .dx = cpu_element(call, AFFINE_DX, r, 0, 0, 0),
            .dw = cpu_shift(call, job->dw, task * job->width),
            .db = cpu_shift(call, job->db, task * job->width),
        });
}

/* out = the sum of the rows of the blocks. */
static void add_blocks(const norm_job *job, const void *blocks, int64_t count, int argument) {
    if (blocks)
        job->library->combine(&(cpu_combine){
            .a = cpu_one(job->call),
            .b = blocks,
            .b_stride = job->width,
            .z = job->call->array[argument].data,
            .rows = 1,
            .terms = count,
            .columns = job->width,
        });
}

static xlstm_status run(const kernel_call *call, bool centred) {
    const int64_t *shape = call->array[AFFINE_X].shape;
    norm_job job = {.call = call,
                    .library = cpu_library_of(call),
                    .centred = centred,
                    .rows = shape[0],
                    .width = shape[1]};
    if (!job.library)
        return XLSTM_UNSUPPORTED;
    job.block_rows = (job.rows + MOST_BLOCKS - 1) / MOST_BLOCKS;
    if (job.block_rows < LEAST_ROWS)
        job.block_rows = LEAST_ROWS;
    int64_t blocks = (job.rows + job.block_rows - 1) / job.block_rows;
    bool wants_dw = kernel_has(call, AFFINE_DW), wants_db = kernel_has(call, AFFINE_DB);
    job.dw = wants_dw ? cpu_scratch(call, blocks, job.width) : NULL;
    job.db = wants_db ? cpu_scratch(call, blocks, job.width) : NULL;
    thread_pool *pool = NULL;
    xlstm_status status = XLSTM_OUT_OF_MEMORY;
    if ((job.dw || !wants_dw) && (job.db || !wants_db))
        status = cpu_pool_take(call->options.threads, &pool);
    if (status == XLSTM_OK) {
        thread_pool_run(pool, blocks, norm_task, &job);
        cpu_pool_give_back(pool);
        add_blocks(&job, job.dw, blocks, AFFINE_DW);
        add_blocks(&job, job.db, blocks, AFFINE_DB);
    }
    free(job.dw);
    free(job.db);
    return status;
}

xlstm_status cpu_kernel_rms_norm(const kernel_call *call) {
    return run(call, false);
}

xlstm_status cpu_kernel_layer_norm(const kernel_call *call) {
    return run(call, true);
}
