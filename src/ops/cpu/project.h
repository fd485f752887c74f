/* What the files of the projections share: a job, which is all matrices with the same input, and the
 * end of every output. */
#ifndef OPS_CPU_PROJECT_H
#define OPS_CPU_PROJECT_H

#include "ops/cpu/internal.h"

enum project_ending { END_CAP, END_GATED, END_ADD };

/* One matrix (for gated projections, two of the same shape) and its ending. */
typedef struct project_part {
    enum project_ending ending;
    const ops_tensor *weight, *bias;       /* bias may be absent */
    const ops_tensor *up_weight, *up_bias; /* END_GATED */
    enum ops_activation activation;        /* END_GATED */
    float soft_cap;                        /* END_CAP */
    const ops_tensor *residual;            /* END_ADD; may be absent */
    float sign;                            /* END_ADD */
    const ops_tensor *out;                 /* [T][N] */
    int64_t first_task;
} project_part;

typedef struct project_job {
    const cpu_stream *s;
    cpu_input x;
    const cpu_dot *dot; /* what multiplies x as integers, s->quantised; NULL: nothing */
    int64_t tokens, width, tasks;
    int panel_rows; /* of a task */
    int count;
    project_part parts[OPS_MAX_PROJECTIONS];
} project_job;

/* Rows [row, row + rows) of a bias as floats in `scratch` [rows], or NULL. */
const float *project_bias(const project_job *job, const ops_tensor *bias, int64_t row, int rows,
                          float *scratch);
/* From the sums of a token, z [rows] (of a gated projection z_up too), to the output's values, out [rows],
 * which may be z. */
void project_finish(const project_job *job, const project_part *p, const float *bias,
                    const float *up_bias, int64_t row, int rows, int64_t token, const float *z,
                    const float *z_up, float *out);

/* Many tokens (project_tiles.c): whether a part of this job goes this way, and a job of such parts. */
bool project_is_for_tiles(const project_job *job, const project_part *p);
void project_run_tiles(project_job *job);

#endif
