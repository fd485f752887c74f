/* The op mlstm token by token, C and n in bf16. */
#include "ops/cuda/mlstm_run.h"

void mlstm_run_bf16(cuda_stream *s, const struct ops_mlstm *op, const mlstm_arguments &a) {
    run_mlstm<DTYPE_BF16>(s, op, a);
}
