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
finish
