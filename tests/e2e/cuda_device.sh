#!/bin/sh
# The same as cuda.sh on the CUDA test device, which needs no GPU; and what the command says where there is none.
. tests/e2e/common

XLSTM=${BUILD:-build}/cuda_device/xlstm
[ -x "$XLSTM" ] || {
    echo 'the CUDA test device needs Linux on x86-64, clang 19, no sanitizer, and a build without CUDA'
    exit 77
}
export XLSTM
XLSTM_CUDA_TEST_DEVICE=none sh tests/e2e/cuda.sh >"$work/none"
same 'without a GPU it is skipped' 77 $?
same 'and says why' 'skipped: no CUDA device' "$(tail -n 1 "$work/none")"
COUNT=${XLSTM_TEST_LARGE:+48}
[ -n "$COUNT" ] || COUNT=6
export COUNT
sh tests/e2e/cuda.sh >"$work/cuda" 2>&1
status=$?
cat "$work/cuda"
same 'on the test device' 0 $status

# In the profile fast the mLSTM of a prompt goes in chunks.
make_wide
XLSTM_CUDA_TEST_TRACE=1
export XLSTM_CUDA_TEST_TRACE
run generate -m "$work/wide" --ids "$prompt" -n 1 --ignore-eos --print-ids --device cuda
same 'a prompt in chunks, a sweep a block' 2 "$(grep -c chunkwise_sweep "$work/err")"
run generate -m "$work/wide" --ids 5,6,7,8,9 -n 1 --ignore-eos --print-ids --device cuda
same 'a short one token by token' 0 "$(grep -c chunkwise "$work/err")"
unset XLSTM_CUDA_TEST_TRACE

# What fp8 needs: a capability, and memory beside that of everything else.
XLSTM_CUDA_TEST_CAPABILITY=8.0
export XLSTM_CUDA_TEST_CAPABILITY
refuses 1 'prefill "fp8": CUDA test device has compute capability 8.0; 9.0 (H100, H200) is needed' \
    generate -m $model -p x -n 1 --device cuda --prefill fp8
unset XLSTM_CUDA_TEST_CAPABILITY
run info -m $model --device cuda --batch-tokens 256 --json
needed=$(sed -n 's/.*"needed": *\([0-9]*\).*/\1/p' "$work/out")
XLSTM_CUDA_TEST_MEMORY=$((needed + 4000000))
export XLSTM_CUDA_TEST_MEMORY
refuses 1 '64 matrices in fp8: out of memory of the GPU: 14282752 bytes' \
    generate -m $model -p x -n 1 --device cuda --prefill fp8 --batch-tokens 256
unset XLSTM_CUDA_TEST_MEMORY

# Times of kernels: a table at the end, and the same text.
launches() { # of the kernel NAME in the table
    awk -v name="$1" '/%$/ && index($0, name " ") == 1 {print $(NF - 3)}' "$work/err"
}
run generate -m $model -p 'The capital of France' -n 3 --ignore-eos --print-ids --device cuda
ids=$(cat "$work/out")
same 'times: not unless they are asked for' '' "$(launches 'all kernels')"
XLSTM_CUDA_TIMES=1
export XLSTM_CUDA_TIMES
run generate -m $model -p 'The capital of France' -n 3 --ignore-eos --print-ids --device cuda
unset XLSTM_CUDA_TIMES
same 'times: the ids' "$ids" "$(cat "$work/out")"
same 'times: three tokens are two chains or more' yes "$([ "$(($(launches chain)))" -ge 2 ] && echo yes)"
same 'times: all are the sum' "$(launches 'all kernels')" \
    "$(awk '/%$/ && !/^all kernels/ {sum += $(NF - 3)} END {print sum}' "$work/err")"
same 'times: shares are of all' yes "$(awk '/%$/ && !/^all kernels/ {sum += $NF}
    END {print(sum > 99 && sum < 101 ? "yes" : sum)}' "$work/err")"
finish
