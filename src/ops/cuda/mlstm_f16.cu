/* The op mlstm token by token, C and n in f16. */
#include "ops/cuda/mlstm_run.h"

void mlstm_run_f16(cuda_stream *s, const struct ops_mlstm *op, const mlstm_arguments &a) {
    run_mlstm<DTYPE_F16>(s, op, a);
}
