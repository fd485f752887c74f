/* Projections: products with weight matrices, and what is done to each output on the way out.
 *
 * All matrices that share an input are one job of the pool. A task is a panel of rows of one of
 * them (of two, for gated projections) for all tokens, so every weight is read from memory once.
 * In the profile fast, few tokens meet weights in blocks as integers of 8 bits (kernels_dot.c), and
 * many tokens go another way (project_tiles.c), but for matrices of a few rows: those are gates, which
 * are sensitive, and cost nothing. */
#include "ops/cpu/project.h"

enum {
    FEW_TOKENS = 3,
    FEW_TOKENS_BYTES = 256 * 1024, /* weights a task for few tokens: some microseconds of reading */
    LEAST_ROWS = 8,
    TASKS_PER_THREAD = 4
};

/* Whether reading the weights is what takes the time. */
static bool reads_once(const project_job *job) {
    return job->tokens <= FEW_TOKENS || job->dot;
}

static void multiply(const project_job *job, const ops_tensor *weight, int64_t row, int rows,
                     int64_t token, int tokens, float *z, float *scratch) {
    int64_t row_bytes = ops_row_bytes(weight);
    if (job->dot && dtype_block(weight->dtype) > 1) {
        job->dot->multiply(&(cpu_dot_product){
            .type = weight->dtype,
            .weights = (const char *)ops_data(weight) + row * row_bytes,
            .row_bytes = row_bytes,
            .width = job->width,
            .x = job->s->quantised,
            .z = z,
            .z_stride = CPU_PANEL_ROWS,
            .rows = rows,
            .tokens = tokens,
        });
        return;
    }
    job->s->kernels->product(&(cpu_product){
        .type = weight->dtype,
        .weights = (const char *)ops_data(weight) + row * row_bytes,
        .row_bytes = row_bytes,
        .width = job->width,
        .x = job->x.rows + token * job->x.stride,
        .x_stride = job->x.stride,
        .z = z,
        .z_stride = CPU_PANEL_ROWS,
        .rows = rows,
        .tokens = tokens,
        .scratch = scratch,
    });
}

const float *project_bias(const project_job *job, const ops_tensor *bias, int64_t row, int rows,
                          float *scratch) {
    if (!ops_present(bias))
        return NULL;
    const char *first = (const char *)ops_data(bias) + (size_t)row * dtype_size(bias->dtype);
    job->s->kernels->widen(bias->dtype, first, rows, scratch);
    return scratch;
}

void project_finish(const project_job *job, const project_part *p, const float *bias,
                    const float *up_bias, int64_t row, int rows, int64_t token, const float *z,
                    const float *z_up, float *out) {
    const cpu_kernels *kernels = job->s->kernels;
    switch (p->ending) {
    case END_CAP:
        kernels->cap(z, bias, p->soft_cap, rows, out);
        break;
    case END_GATED:
        kernels->f32->gated(p->activation, z, bias, z_up, up_bias, rows, out);
        break;
    case END_ADD:
        kernels->add(ops_present(p->residual) ? cpu_row(p->residual, token) + row : NULL, p->sign,
                     z, bias, rows, out);
    }
}

/* Tasks that follow each other go to different threads. For few tokens these are to read memory far
 * apart, or they meet in the same banks: every thread gets a piece of the rows. */
static int64_t far_apart(const project_job *job, int64_t task) {
    if (!reads_once(job))
        return task;
    int64_t threads = thread_pool_size(job->s->pool), longer = job->tasks % threads;
    int64_t piece = task % threads;
    return piece * (job->tasks / threads) + (piece < longer ? piece : longer) + task / threads;
}

static void project_panel(void *context, int64_t task, int worker) {
    const project_job *job = context;
    task = far_apart(job, task);
    const project_part *p = &job->parts[job->count - 1];
    while (task < p->first_task)
        p--;
    const cpu_worker *w = &job->s->workers[worker];
    int64_t row = (task - p->first_task) * job->panel_rows, left = p->weight->shape[0] - row;
    int rows = left < job->panel_rows ? (int)left : job->panel_rows;
    const float *bias = project_bias(job, p->bias, row, rows, w->bias), *up_bias = NULL;
    if (p->ending == END_GATED)
        up_bias = project_bias(job, p->up_bias, row, rows, w->bias_up);
    /* Blocks of nearly equal size, so that none is left with a few tokens. */
    int64_t blocks = (job->tokens + CPU_PANEL_TOKENS - 1) / CPU_PANEL_TOKENS;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t token = job->tokens * b / blocks;
        int tokens = (int)(job->tokens * (b + 1) / blocks - token);
        multiply(job, p->weight, row, rows, token, tokens, w->z, w->product);
        if (p->ending == END_GATED)
            multiply(job, p->up_weight, row, rows, token, tokens, w->z_up, w->product);
        for (int t = 0; t < tokens; t++)
            project_finish(job, p, bias, up_bias, row, rows, token + t, w->z + t * CPU_PANEL_ROWS,
                           w->z_up + t * CPU_PANEL_ROWS, cpu_row(p->out, token + t) + row);
    }
}

static int64_t count_panels(const project_job *job, int panel_rows) {
    int64_t count = 0;
    for (int i = 0; i < job->count; i++)
        count += (job->parts[i].weight->shape[0] + panel_rows - 1) / panel_rows;
    return count;
}

/* Large panels reuse activations better; but every thread should get several, and reading for a few
 * tokens should end at the same time everywhere. */
static int choose_panel_rows(const project_job *job) {
    int rows = CPU_PANEL_ROWS;
    int64_t bytes = 0, all_rows = 0;
    for (int i = 0; i < job->count; i++) {
        const ops_tensor *weight = job->parts[i].weight;
        bytes += weight->shape[0] * dtype_bytes(weight->dtype, job->width);
        all_rows += weight->shape[0];
    }
    if (reads_once(job))
        while (rows > LEAST_ROWS && bytes > FEW_TOKENS_BYTES / rows * all_rows)
            rows /= 2;
    while (rows > LEAST_ROWS &&
           count_panels(job, rows) < (int64_t)TASKS_PER_THREAD * thread_pool_size(job->s->pool))
        rows /= 2;
    return rows;
}

static void quantise_token(void *context, int64_t token, int worker) {
    (void)worker;
    const project_job *job = context;
    job->dot->quantise(job->x.rows + token * job->x.stride, job->width, (int)token,
                       job->s->quantised);
}

static void run_panels(project_job *job) {
    if (job->dot)
        thread_pool_run(job->s->pool, job->tokens, quantise_token, job);
    job->panel_rows = choose_panel_rows(job);
    int64_t tasks = 0;
    for (int i = 0; i < job->count; i++) {
        job->parts[i].first_task = tasks;
        tasks += (job->parts[i].weight->shape[0] + job->panel_rows - 1) / job->panel_rows;
    }
    job->tasks = tasks;
    thread_pool_run(job->s->pool, tasks, project_panel, job);
}

/* What multiplies weights in blocks by few tokens; NULL where that is not the way. */
static const cpu_dot *choose_dot(const project_job *job) {
    const cpu_kernels *kernels = job->s->kernels;
    if (job->s->base.options.profile != OPS_FAST)
        return NULL;
    if (job->tokens <= kernels->dot->most_tokens)
        return kernels->dot;
    return kernels->dot_tiles && job->tokens <= kernels->dot_tiles->most_tokens ? kernels->dot_tiles
                                                                                : NULL;
}

/* The job in two, for panels and for tiles; integers are multiplied in panels. */
static void run_job(const project_job *job) {
    project_job panels = *job, tiles = *job;
    panels.count = tiles.count = 0;
    const cpu_dot *dot = choose_dot(job);
    for (int i = 0; i < job->count; i++) {
        const bool blocks = dot && dtype_block(job->parts[i].weight->dtype) > 1;
        project_job *taker =
            !blocks && project_is_for_tiles(job, &job->parts[i]) ? &tiles : &panels;
        taker->parts[taker->count++] = job->parts[i];
        if (blocks)
            panels.dot = dot;
    }
    if (panels.count > 0)
        run_panels(&panels);
    if (tiles.count > 0)
        project_run_tiles(&tiles);
}

static bool check_matrix(cpu_stream *s, const char *op, const ops_tensor *weight,
                         const ops_tensor *bias, int64_t tokens, int64_t rows, int64_t width,
                         const ops_tensor *out) {
    return ops_expect2(&s->check, op, "a weight", weight, OPS_MATRICES, rows, width) &&
           ops_expect_optional(&s->check, op, "a bias", bias, weight->shape[0]) &&
           ops_expect2(&s->check, op, "out", out, OPS_F32, tokens, weight->shape[0]);
}

void cpu_norm_project(ops_stream *stream, const struct ops_norm_project *op) {
    cpu_stream *s = (cpu_stream *)stream;
    const char *name = "norm_project";
    if (ops_failed(&s->check) || !ops_expect2(&s->check, name, "x", &op->x, OPS_F32, -1, -1))
        return;
    int64_t tokens = op->x.shape[0], width = op->x.shape[1];
    if (!ops_expect_limits(&s->check, name, tokens, width) ||
        !ops_expect_norm(&s->check, name, &op->norm, width))
        return;
    if (op->count < 1 || op->count > OPS_MAX_PROJECTIONS) {
        ops_fail(&s->check, XLSTM_INVALID_ARGUMENT, "%s: %d projections, 1 to %d are possible",
                 name, op->count, OPS_MAX_PROJECTIONS);
        return;
    }
    project_job job = {.s = s, .tokens = tokens, .width = width, .count = op->count};
    for (int i = 0; i < op->count; i++) {
        const ops_projection *p = &op->projection[i];
        if (!check_matrix(s, name, &p->weight, &p->bias, tokens, -1, width, &p->out))
            return;
        job.parts[i] = (project_part){.ending = END_CAP,
                                      .weight = &p->weight,
                                      .bias = &p->bias,
                                      .soft_cap = (float)p->soft_cap,
                                      .out = &p->out};
    }
    job.x = cpu_normalized(s, &op->x, width, &op->norm);
    run_job(&job);
}

void cpu_norm_project_gated(ops_stream *stream, const struct ops_norm_project_gated *op) {
    cpu_stream *s = (cpu_stream *)stream;
    const char *name = "norm_project_gated";
    if (ops_failed(&s->check) || !ops_expect2(&s->check, name, "x", &op->x, OPS_F32, -1, -1))
        return;
    int64_t tokens = op->x.shape[0], width = op->x.shape[1];
    if (!ops_expect_limits(&s->check, name, tokens, width) ||
        !ops_expect_norm(&s->check, name, &op->norm, width) ||
        !ops_expect_activation(&s->check, name, op->activation) ||
        !check_matrix(s, name, &op->gate_weight, &op->gate_bias, tokens, -1, width, &op->out) ||
        !check_matrix(s, name, &op->up_weight, &op->up_bias, tokens, op->gate_weight.shape[0],
                      width, &op->out))
        return;
    project_job job = {.s = s, .tokens = tokens, .width = width, .count = 1};
    job.parts[0] = (project_part){.ending = END_GATED,
                                  .weight = &op->gate_weight,
                                  .bias = &op->gate_bias,
                                  .up_weight = &op->up_weight,
                                  .up_bias = &op->up_bias,
                                  .activation = op->activation,
                                  .out = &op->out};
    job.x = cpu_normalized(s, &op->x, width, &op->norm);
    run_job(&job);
}

/* The common end of project_add and mlstm_output. */
static bool prepare_add(cpu_stream *s, const char *name, project_job *job, const ops_tensor *weight,
                        const ops_tensor *bias, const ops_tensor *residual, int sign,
                        const ops_tensor *out) {
    if (!ops_expect_limits(&s->check, name, job->tokens, job->width) ||
        !check_matrix(s, name, weight, bias, job->tokens, -1, job->width, out) ||
        (ops_present(residual) && !ops_expect2(&s->check, name, "the residual", residual, OPS_F32,
                                               job->tokens, weight->shape[0])))
        return false;
    job->s = s;
    job->count = 1;
    job->parts[0] = (project_part){.ending = END_ADD,
                                   .weight = weight,
                                   .bias = bias,
                                   .residual = residual,
                                   .sign = (float)sign,
                                   .out = out};
    return true;
}

void cpu_project_add(ops_stream *stream, const struct ops_project_add *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (ops_failed(&s->check) ||
        !ops_expect2(&s->check, "project_add", "x", &op->x, OPS_F32, -1, -1))
        return;
    project_job job = {.tokens = op->x.shape[0], .width = op->x.shape[1]};
    if (!prepare_add(s, "project_add", &job, &op->weight, &op->bias, &op->residual, op->sign,
                     &op->out))
        return;
    job.x = cpu_normalized(s, &op->x, job.width, &(ops_norm){.kind = OPS_NORM_NONE});
    run_job(&job);
}

void cpu_mlstm_output(ops_stream *stream, const struct ops_mlstm_output *op) {
    cpu_stream *s = (cpu_stream *)stream;
    const char *name = "mlstm_output";
    if (ops_failed(&s->check) || !ops_expect_mlstm_output(&s->check, op))
        return;
    project_job job = {.tokens = op->h.shape[0], .width = op->h.shape[1] * op->h.shape[2]};
    if (!ops_expect_norm(&s->check, name, &op->norm, job.width) ||
        !prepare_add(s, name, &job, &op->weight, &op->bias, &op->residual, op->sign, &op->out))
        return;
    job.x = cpu_gated(s, op, job.width);
    run_job(&job);
}
