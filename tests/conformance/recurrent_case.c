/* The causal convolution, the sLSTM and the LSTM as cases of the table. */
#include "conformance/cases.h"
#include "conformance/recurrent_problem.h"

static const recurrent_shape shapes[] = {
    {1, {1}, 1, 1, 1},
    {3, {5, 1, 17}, 3, 7, 4},
    {2, {31, 3}, 2, 16, 4},
    {11, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 4, 32, 4},
    {19, {1, 2, 3, 1, 2, 9, 1, 13, 1, 4, 1, 2, 1, 3, 1, 2, 1, 1, 1}, 1, 67, 2},
    {1, {131}, 1, 13, 64},
    {2, {7, 70}, 5, 3, 17},
    {1, {3}, 2, 101, 63},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
_Static_assert((int)SHAPES == (int)CONV_VARIANTS && 5 * SHAPES == SLSTM_VARIANTS,
               "the table of cases must name all variants");

ops_limits conv_case_limits(int variant) {
    return recurrent_limits(&shapes[variant]);
}

void conv_case_run(side *s, int variant) {
    static const enum ops_activation activations[] = {OPS_SILU, OPS_IDENTITY, OPS_GELU, OPS_SILU};
    recurrent_problem p = {.shape = &shapes[variant],
                           .seed = s->seed,
                           .empty = variant % 4 == 3,
                           .activation = activations[variant % 4],
                           .bias = variant % 3 != 2};
    recurrent_tensors t = recurrent_place_conv(s, &p);
    recurrent_run(s, &t, &(recurrent_part){.count = p.shape->sequences});
}

ops_limits slstm_case_limits(int variant) {
    return recurrent_limits(&shapes[variant % SHAPES]);
}

void slstm_case_run(side *s, int variant) {
    recurrent_problem p = {.shape = &shapes[variant % SHAPES],
                           .seed = s->seed,
                           .gates = (enum recurrent_gates)(variant / SHAPES),
                           .lstm = variant % 3 == 2,
                           .empty = variant % 4 == 1,
                           .clip = variant % 5 == 3 ? 0.2 : 0};
    recurrent_tensors t = recurrent_place_slstm(s, &p);
    recurrent_run(s, &t, &(recurrent_part){.count = p.shape->sequences});
}
