/* The mLSTM as a case of the table: every shape with every chunk size. The reference takes token by
 * token. */
#include "conformance/cases.h"
#include "conformance/mlstm_problem.h"

static const mlstm_shape shapes[] = {
    {1, {1}, {0}, 1, 1, 1},
    {3, {5, 1, 17}, {0, 5, 130}, 3, 7, 13},
    {7, {1, 1, 1, 1, 1, 1, 1}, {3, 0, 64, 127, 128, 9, 1000}, 4, 32, 64},
    {1, {65}, {0}, 2, 16, 32},
    {2, {130, 63}, {0, 64}, 4, 24, 40},
    {1, {129}, {17}, 1, 64, 128},
    {4, {2, 200, 3, 31}, {63, 100, 0, 31}, 5, 33, 31},
    {2, {16, 257}, {112, 1}, 2, 8, 67},
    {1, {37}, {5}, 1, 150, 9},
    {1, {1}, {9}, 3, 48, 64},
};
static const int chunk_sizes[] = {1, 64, 16, 0, 32, 128};
enum { SHAPES = sizeof shapes / sizeof *shapes, CHUNKS = sizeof chunk_sizes / sizeof *chunk_sizes };
_Static_assert(SHAPES *CHUNKS == MLSTM_VARIANTS, "the table of cases must name all variants");

ops_limits mlstm_case_limits(int variant) {
    return mlstm_limits(&shapes[variant / CHUNKS]);
}

void mlstm_case_run(side *s, int variant) {
    mlstm_problem p = mlstm_problem_make(&shapes[variant / CHUNKS], s->as.activation,
                                         1000 + (uint64_t)(variant / CHUNKS));
    if (variant / CHUNKS % 2) /* one that can be seen in f32 */
        p.eps = 0.1;
    mlstm_place_and_run(s, &p, s->exact ? 1 : chunk_sizes[variant % CHUNKS]);
    mlstm_problem_free(&p);
}
