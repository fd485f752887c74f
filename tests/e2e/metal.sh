#!/bin/sh
# The command on the Metal test device: what fails there gives status 1, one line of error with the cause, and on
# standard output the beginning of the text at most.
. tests/e2e/common

XLSTM=${BUILD:-build}/metal/xlstm
[ -x "$XLSTM" ] || {
    echo "$XLSTM is not built here"
    exit 77
}
export XLSTM_METAL_TEST_MODE="${XLSTM_METAL_TEST_MODE:-fast}"
config=$work/config.json
echo '{"model_type": "xlstm", "embedding_dim": 48, "num_heads": 3, "num_blocks": 2, "vocab_size": 320,
       "ffn_round_up_to_multiple_of": 16}' >"$config"
run init --config "$config" -o "$work/model" --seed 3
text="generate -m $work/model --ids 1,2,3,4,5 -n 5 --ignore-eos --print-ids --device metal"
# shellcheck disable=SC2086 # words
run $text
right=$(cat "$work/out")
same 'five ids' 5 "$(wc -w <"$work/out" | tr -d ' ')"

fails() { # WORDS: $text fails with them, in one line
    # shellcheck disable=SC2086
    run $text
    name="$XLSTM_METAL_TEST_FAIL$XLSTM_METAL_TEST_DEVICE$XLSTM_METAL_TEST_FAMILY: $1"
    if crashed || [ "$status" != 1 ]; then
        bad "$name" "$(show)"
    elif ! grep -q -F -- "$1" "$work/err" || [ "$(grep -c '^error: ' "$work/err")" != 1 ]; then
        bad "$name" "not that error: $(show)"
    elif [ "$(wc -l <"$work/err" | tr -d ' ')" != 1 ]; then
        bad "$name" "more than a line: $(show)"
    elif [ -s "$work/out" ] && [ -n "$(tail -c 1 "$work/out")" ]; then
        bad "$name" "the text's line is not ended: $(show)"
    else
        case $right in
        "$(cat "$work/out")"*) ok "$name" ;;
        *) bad "$name" "not the beginning of $right: $(show)" ;;
        esac
    fi
}

XLSTM_METAL_TEST_FAIL='' XLSTM_METAL_TEST_DEVICE='' XLSTM_METAL_TEST_FAMILY=''
export XLSTM_METAL_TEST_FAIL XLSTM_METAL_TEST_DEVICE XLSTM_METAL_TEST_FAMILY
XLSTM_METAL_TEST_DEVICE=none
fails 'this machine has no GPU that Metal can use'
XLSTM_METAL_TEST_DEVICE='' XLSTM_METAL_TEST_FAMILY=6
fails 'is not of Apple silicon: M1 or later is needed'
XLSTM_METAL_TEST_FAMILY=''
while read -r fault words; do
    XLSTM_METAL_TEST_FAIL=$fault
    fails "$words"
done <<'LIST'
queue gives no command queue
library the kernels do not compile for the GPU "Linux test device": program_source:1:1: error: unknown type name
pipeline:3 does not take the kernel
buffer:1 the weights: out of memory: the GPU "Linux test device" gives no buffer of
buffer:2 out of memory
commandbuffer:1 takes no commands
encoder:2 takes no commands
commands:1:1 the GPU failed ("Linux test device"): Internal Error (injected)
commands:2:2 the GPU took too long ("Linux test device"): Caused GPU Timeout Error
commands:3:3 a kernel touched memory that is not there ("Linux test device"): Caused GPU Address Fault Error
commands:4:4 the system does not let this process use the GPU
commands:5:8 the GPU is out of memory ("Linux test device"): Insufficient Memory (injected); a smaller max_batch_tokens needs less
commands:2:11 the GPU is lost ("Linux test device"): The GPU was removed
lost:3 the GPU is lost
LIST

# A chat ends with the error, on a line of its own.
sed 's/"vocab_size": 320/"vocab_size": 4096/' "$config" >"$work/large.json"
XLSTM_METAL_TEST_FAIL=''
run init --config "$work/large.json" -o "$work/chat" --seed 3
cp $model/tokenizer.json "$work/chat/"
for number in 1 9; do
    status=0
    echo hello | XLSTM_METAL_TEST_FAIL=commands:$number:2 "$XLSTM" chat -m "$work/chat" -n 20 --device metal \
        >"$work/out" 2>"$work/err" || status=$?
    if [ "$status" = 1 ] && ! crashed && [ "$(grep -c '^error: the GPU took too long' "$work/err")" = 1 ] &&
        [ -z "$(tail -c 1 "$work/out")" ]; then
        ok "chat, command buffer $number"
    else
        bad "chat, command buffer $number" "$(show)"
    fi
done
# shellcheck disable=SC2086
run $text
same 'and then it works' "$right" "$(cat "$work/out")"

finish
