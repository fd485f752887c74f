/* Tokens that are enqueued before the host has seen the id of the one before.
 *
 * Token t takes its id from id[t % 2] and leaves the next in the other; with two under way at most, what the
 * host writes (positions) and reads (ids) is never what the device still needs. */
#include "model/forward_internal.h"

void forward_ahead_begin(forward *f, int slot, int32_t id, const int32_t *ends, int end_count) {
    const int32_t first = slot, start[2] = {0, 1};
    forward_send(f, &f->ahead.slot, &first, sizeof first);
    forward_send(f, &f->ahead.start, start, sizeof start);
    forward_send(f, &f->ahead.id[0], &id, sizeof id);
    if (end_count > 0)
        forward_send(f, &f->ahead.ends, ends, (size_t)end_count * sizeof *ends);
    f->ahead.end_count = end_count;
    f->ahead.begun = f->ahead.seen = 0;
}

void forward_ahead_next(forward *f, int64_t position, const struct ops_sample_row *options,
                        const int32_t *penalised) {
    int turn = f->ahead.begun++ % 2;
    const ops_tensor *chosen = &f->ahead.id[!turn];
    forward_send(f, &f->ahead.position[turn], &position, sizeof position);
    forward_penalise(f, options, penalised);
    f->batch = (ops_batch){.sequences = 1,
                           .tokens = 1,
                           .longest = 1,
                           .slot = f->ahead.slot,
                           .start = f->ahead.start,
                           .position = f->ahead.position[turn]};
    f->batch_ids = f->ahead.id[turn];
    for (int i = 0; i < f->program.count; i++)
        forward_step(f, &f->program.steps[i]);
    ops_tensor x = forward_rows(f, &f->values[f->program.head_input]);
    ops_tensor logits = ops_tensor_rows(&f->logits, 0, 1);
    forward_head(f, &x, &logits);
    forward_choose(f, &logits, options, chosen);
    if (f->ahead.end_count > 0)
        f->device->ops.retire(
            f->stream,
            &(struct ops_retire){.ids = *chosen,
                                 .ends = ops_tensor_rows(&f->ahead.ends, 0, f->ahead.end_count),
                                 .spare = f->pool->spare,
                                 .slot = f->ahead.slot});
}

xlstm_status forward_ahead_see(forward *f, int32_t *id) {
    const ops_tensor *chosen = &f->ahead.id[!(f->ahead.seen++ % 2)];
    return f->device->read(f->stream, chosen->buffer, chosen->offset, id, sizeof *id);
}

void forward_ahead_drop(forward *f) {
    (void)f->device->wait(f->stream);
    f->ahead.seen = f->ahead.begun;
}
