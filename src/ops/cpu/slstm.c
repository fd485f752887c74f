/* The sLSTM and the LSTM over a batch. A task is a head of a group of sequences, which go through
 * time together, so that the recurrent weights are read once a token for all of them. What a
 * sequence gets does not depend on the others of its group. */
#include "ops/cpu/internal.h"

typedef struct slstm_job {
    const cpu_stream *s;
    const struct ops_slstm *op;
    int64_t size;
    int group; /* sequences of a task */
} slstm_job;

static float *of(const ops_tensor *t, int64_t i, int64_t head) {
    return (float *)ops_data(t) + i * t->stride[0] + head * t->stride[1];
}

/* One token of the sequences `active`, whose y are the rows of `y`. */
static void step(const slstm_job *job, int64_t head, const int *active, int count, int64_t time,
                 float *y, float *mixed) {
    const struct ops_slstm *op = job->op;
    const int32_t *start = ops_data(&op->batch.start), *slot = ops_data(&op->batch.slot);
    int64_t size = job->size;
    job->s->kernels->f32->combine(&(cpu_combine){
        .a = y,
        .a_row = size,
        .a_term = 1,
        .b = of(&op->recurrent, head, 0),
        .b_stride = op->recurrent.stride[1],
        .z = mixed,
        .z_stride = 4 * size,
        .rows = count,
        .terms = size,
        .columns = 4 * size,
    });
    for (int i = 0; i < count; i++) {
        int64_t token = start[active[i]] + time, s = slot[active[i]];
        cpu_cell cell = {.lstm = op->lstm,
                         .y = y + i * size,
                         .c = of(&op->c, s, head),
                         .n = op->lstm ? NULL : of(&op->n, s, head),
                         .m = op->lstm ? NULL : of(&op->m, s, head),
                         .clip = op->clip,
                         .count = size};
        for (int g = 0; g < 4; g++) {
            cell.input[g] = of(&op->input[g], token, head);
            cell.mixed[g] = mixed + (4 * i + g) * size;
            cell.bias[g] = cpu_row(&op->bias, g) + head * size;
        }
        job->s->kernels->f32->cell(&cell);
        memcpy(of(&op->out, token, head), cell.y, (size_t)size * sizeof(float));
    }
}

static void slstm_task(void *context, int64_t task, int worker) {
    const slstm_job *job = context;
    const struct ops_slstm *op = job->op;
    const int32_t *start = ops_data(&op->batch.start), *slot = ops_data(&op->batch.slot);
    int64_t heads = op->y.shape[1], head = task % heads, size = job->size;
    int first = (int)(task / heads) * job->group, left = op->batch.sequences - first;
    int count = left < job->group ? left : job->group, active[CPU_CELL_SEQUENCES];
    size_t row = (size_t)size * sizeof(float);
    float *y = job->s->workers[worker].cell, *mixed = y + CPU_CELL_SEQUENCES * size;
    for (int i = 0; i < count; i++) {
        active[i] = first + i;
        memcpy(y + i * size, of(&op->y, slot[active[i]], head), row);
    }
    for (int64_t time = 0; count > 0; time++) {
        step(job, head, active, count, time, y, mixed);
        int kept = 0;
        for (int i = 0; i < count; i++) {
            int sequence = active[i];
            if (time + 1 == start[sequence + 1] - start[sequence]) {
                memcpy(of(&op->y, slot[sequence], head), y + i * size, row);
            } else {
                memmove(y + kept * size, y + i * size, row);
                active[kept++] = sequence;
            }
        }
        count = kept;
    }
}

void cpu_slstm(ops_stream *stream, const struct ops_slstm *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_slstm(&s->check, op))
        return;
    /* Large groups read the weights less often; but every thread should have some. */
    int64_t heads = op->y.shape[1];
    int64_t share = op->batch.sequences * heads / thread_pool_size(s->pool);
    slstm_job job = {.s = s, .op = op, .size = op->y.shape[2]};
    job.group = share < 1 ? 1 : share > CPU_CELL_SEQUENCES ? CPU_CELL_SEQUENCES : (int)share;
    int64_t groups = (op->batch.sequences + job.group - 1) / job.group;
    thread_pool_run(s->pool, groups * heads, slstm_task, &job);
}
