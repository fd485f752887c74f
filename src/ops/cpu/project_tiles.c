/* Projections of many tokens in the profile fast: products in tiles (cpu_tiles).
 *
 * Activations are packed once. Then a task takes some rows of a matrix for all tokens, in groups of
 * at most CPU_PASS_TOKENS: for every slice of columns it lays out its weights anew in panels, which stay
 * in the nearest caches while the packed activations of the slice, which lie in the next, pass by. A
 * task of many rows reads these less often; for few tokens a task of few rows keeps the order in
 * which weights come from memory. */
#include "ops/cpu/project.h"

enum {
    LEAST_ROWS = 32, /* of a matrix */
    FEW_TOKENS = 64,
    TASKS_PER_THREAD = 4
};

typedef struct tile_job {
    project_job *of;
    const cpu_tiles *tiles;
    int64_t blocks; /* of tokens */
} tile_job;

bool project_is_for_tiles(const project_job *job, const project_part *p) {
    const cpu_stream *s = job->s;
    return s->base.options.profile == OPS_FAST && job->tokens >= s->kernels->tiles->least_tokens &&
           p->weight->shape[0] >= LEAST_ROWS;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- Packing ---- */

/* Slices follow each other; within one, blocks of tokens. */
static void *packed_block(const tile_job *job, int64_t slice, int64_t block) {
    return (char *)job->of->s->packed +
           (size_t)(slice * job->blocks + block) * job->tiles->block_bytes;
}

static void pack_task(void *context, int64_t block, int worker) {
    (void)worker;
    const tile_job *job = context;
    const project_job *of = job->of;
    const int64_t token = block * job->tiles->tokens;
    const int tokens = (int)least(job->tiles->tokens, of->tokens - token);
    const int64_t depth = job->tiles->depth;
    for (int64_t from = 0, slice = 0; from < of->width; from += depth, slice++)
        job->tiles->pack(of->x.rows + token * of->x.stride + from, of->x.stride, tokens,
                         least(depth, of->width - from), packed_block(job, slice, block));
}

/* ---- Products ---- */

/* Rows of a part, and a group of blocks of tokens. */
typedef struct pass {
    const project_part *part;
    int64_t row, rows, panels;
    int64_t first_block, blocks;
    int worker;
} pass;

static float *sums_of(const tile_job *job, const pass *p, float *sums, int64_t panel,
                      int64_t block) {
    return sums + (panel * p->blocks + block) * job->tiles->rows * job->tiles->tokens;
}

/* Columns from `from` on of the panel's rows. */
static cpu_tile_weights weights_of(const tile_job *job, const pass *p, const ops_tensor *weight,
                                   int64_t panel, int64_t from) {
    const int64_t row = p->row + panel * job->tiles->rows, row_bytes = ops_row_bytes(weight);
    return (cpu_tile_weights){
        .type = weight->dtype,
        .rows = (const char *)ops_data(weight) + row * row_bytes,
        .row_bytes = row_bytes,
        .count_rows = (int)least(job->tiles->rows, p->row + p->rows - row),
        .from = from,
        .count = least(job->tiles->depth, job->of->width - from),
    };
}

/* Rows 2 i and 2 i + 1 of the weights, which begin at `rows`. */
static cpu_tile_ahead rows_ahead(const cpu_tile_weights *w, const char *rows, int64_t step,
                                 int64_t i) {
    const int64_t first = least(2 * i, w->count_rows - 1),
                  second = least(2 * i + 1, w->count_rows - 1);
    return (cpu_tile_ahead){rows + first * w->row_bytes, rows + second * w->row_bytes, step};
}

/* One panel, one slice of columns, all tokens of the pass. `next` is what this thread lays out then: with
 * many tokens it is asked for while these are multiplied, else while this is laid out; NULL: nothing. */
static void multiply_panel(const tile_job *job, const pass *p, cpu_tile_weights w, int64_t panel,
                           const cpu_tile_weights *next, float *sums) {
    const cpu_tiles *tiles = job->tiles;
    void *target = job->of->s->workers[p->worker].panel;
    const bool while_multiplying = next && 2 * p->blocks >= tiles->rows;
    const char *next_rows = next ? next->rows + dtype_bytes(w.type, next->from) : NULL;
    const int64_t step = dtype_bytes(w.type, CPU_TILE_UNIT), slice = w.from / tiles->depth;
    if (next && !while_multiplying)
        w.ahead = next_rows - (w.rows + dtype_bytes(w.type, w.from));
    tiles->convert(&w, target);
    for (int64_t b = 0; b < p->blocks; b++) {
        const int64_t block = p->first_block + b;
        const void *x = packed_block(job, slice, block);
        const cpu_tile_ahead ahead =
            while_multiplying ? rows_ahead(next, next_rows, step, b) : (cpu_tile_ahead){x, x, 0};
        tiles->multiply(target, x,
                        (int)least(tiles->tokens, job->of->tokens - block * tiles->tokens), w.count,
                        w.from > 0, &ahead, sums_of(job, p, sums, panel, b));
    }
}

/* Slice by slice all panels; for few tokens panel by panel all slices. */
static void multiply_pass(const tile_job *job, const pass *p, const ops_tensor *weight,
                          float *sums) {
    const int64_t depth = job->tiles->depth, slices = (job->of->width + depth - 1) / depth;
    const bool few = job->of->tokens <= FEW_TOKENS;
    const int64_t inner = few ? slices : p->panels, count = slices * p->panels;
    for (int64_t i = 0; i < count; i++) {
        const int64_t panel = few ? i / inner : i % inner, slice = few ? i % inner : i / inner;
        const int64_t then = i + 1 < count ? i + 1 : i;
        const cpu_tile_weights next = weights_of(job, p, weight, few ? then / inner : then % inner,
                                                 (few ? then % inner : then / inner) * depth);
        multiply_panel(job, p, weights_of(job, p, weight, panel, slice * depth), panel,
                       then > i ? &next : NULL, sums);
    }
}

static void spread_block(const tile_job *job, const pass *p, float *sums, int64_t block, int tokens,
                         float *z) {
    for (int64_t panel = 0; panel < p->panels; panel++)
        job->tiles->spread(sums_of(job, p, sums, panel, block), tokens,
                           z + panel * job->tiles->rows, CPU_TASK_ROWS);
}

static void finish_pass(const tile_job *job, const pass *p) {
    const project_job *of = job->of;
    const cpu_worker *w = &of->s->workers[p->worker];
    const int rows = (int)p->rows;
    const bool gated = p->part->ending == END_GATED;
    /* The outputs of many tokens are more than the caches keep: reading them first would only cost. */
    const bool past_caches = of->tokens > FEW_TOKENS;
    const float *bias = project_bias(of, p->part->bias, p->row, rows, w->tile_bias),
                *up_bias = NULL;
    if (gated)
        up_bias = project_bias(of, p->part->up_bias, p->row, rows, w->tile_bias_up);
    for (int64_t b = 0; b < p->blocks; b++) {
        int64_t token = (p->first_block + b) * job->tiles->tokens;
        int tokens = (int)least(job->tiles->tokens, of->tokens - token);
        spread_block(job, p, w->sums, b, tokens, w->tile_z);
        if (gated)
            spread_block(job, p, w->sums_up, b, tokens, w->tile_z_up);
        for (int t = 0; t < tokens; t++) {
            float *z = w->tile_z + t * CPU_TASK_ROWS,
                  *out = cpu_row(p->part->out, token + t) + p->row;
            project_finish(of, p->part, bias, up_bias, p->row, rows, token + t, z,
                           w->tile_z_up + t * CPU_TASK_ROWS, past_caches ? z : out);
            if (past_caches)
                job->tiles->put(z, rows, out);
        }
    }
}

static void rows_task(void *context, int64_t task, int worker) {
    const tile_job *job = context;
    const project_job *of = job->of;
    const project_part *part = &of->parts[of->count - 1];
    while (task < part->first_task)
        part--;
    pass p = {.part = part, .row = (task - part->first_task) * of->panel_rows, .worker = worker};
    p.rows = least(of->panel_rows, part->weight->shape[0] - p.row);
    p.panels = (p.rows + job->tiles->rows - 1) / job->tiles->rows;
    const int64_t most = CPU_PASS_TOKENS / job->tiles->tokens;
    const int64_t passes = (job->blocks + most - 1) / most;
    job->tiles->begin();
    for (int64_t i = 0; i < passes; i++) {
        p.first_block = job->blocks * i / passes;
        p.blocks = job->blocks * (i + 1) / passes - p.first_block;
        multiply_pass(job, &p, part->weight, of->s->workers[worker].sums);
        if (part->ending == END_GATED)
            multiply_pass(job, &p, part->up_weight, of->s->workers[worker].sums_up);
        finish_pass(job, &p);
    }
    job->tiles->end();
}

/* Returns how many tasks of `rows` rows there are, and numbers them. */
static int64_t count_tasks(project_job *job, int rows) {
    int64_t tasks = 0;
    for (int i = 0; i < job->count; i++) {
        job->parts[i].first_task = tasks;
        tasks += (job->parts[i].weight->shape[0] + rows - 1) / rows;
    }
    return tasks;
}

void project_run_tiles(project_job *of) {
    tile_job job = {.of = of, .tiles = of->s->kernels->tiles};
    job.blocks = (of->tokens + job.tiles->tokens - 1) / job.tiles->tokens;
    thread_pool_run(of->s->pool, job.blocks, pack_task, &job);
    of->panel_rows = CPU_TASK_ROWS;
    while (of->panel_rows > CPU_TILE_ROWS &&
           count_tasks(of, of->panel_rows) < TASKS_PER_THREAD * thread_pool_size(of->s->pool))
        of->panel_rows /= 2;
    thread_pool_run(of->s->pool, count_tasks(of, of->panel_rows), rows_task, &job);
}
