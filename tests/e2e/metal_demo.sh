#!/bin/sh
# The model of models/demo on Metal's test device, through the host code that ships: greedy ids in both profiles, and
# sampled ones, are those of the CPU; the states that it leaves are, too.
. tests/e2e/common
if [ -z "${XLSTM_METAL:-}" ]; then
    echo "this build has no test device"
    exit 77
fi
demo=models/demo/xlstm-17m-q8_0.gguf
cpu=$XLSTM
export XLSTM_METAL_TEST_MODE=fast

on_both() { # NAME ARGUMENT…
    name=$1
    shift
    XLSTM=$cpu
    run generate -m $demo --ignore-eos --print-ids "$@"
    wanted=$(cat "$work/out")
    XLSTM=$XLSTM_METAL
    run generate -m $demo --ignore-eos --print-ids --device metal "$@"
    same "$name: status" 0 "$status"
    same "$name: as many" "$count" "$(wc -w <"$work/out" | tr -d ' ')"
    same "$name" "$wanted" "$(cat "$work/out")"
}
count=8
# Words that many others could follow: ids that a little error changes.
on_both 'greedy, exact' -p 'In the year 1912 the' -n $count --profile exact
count=5
on_both 'greedy, fast' -p 'The capital of France is' -n $count
on_both 'sampled, exact' -p 'Once upon a time' -n $count --profile exact --temperature 0.8 --top-p 0.9 --seed 7
[ -z "${XLSTM_TEST_LARGE:-}" ] || on_both 'the best of some, exact' -p 'Once upon a time' -n $count --profile exact --temperature 1 --top-k 20 --seed 8

# Many tokens at once, in tiles, and then the same ids; a state goes from device to device.
text=$(head -c 120 docs/MODEL.md)
XLSTM=$cpu
run generate -m $demo -p "$text" -n 1 --ignore-eos --print-ids --profile exact --save-state "$work/cpu.state"
same 'a state of the CPU' 0 "$status"
count=3
on_both 'goes on with it' --load-state "$work/cpu.state" --ids "$(cat "$work/out")" -n $count --profile exact
run generate -m $demo --device metal -p "$text" -n 1 --ignore-eos --print-ids --save-state "$work/metal.state"
first=$(cat "$work/out")
same 'a state of the device' 0 "$status"
on_both 'goes on with that' --load-state "$work/metal.state" --ids "$first" -n $count --profile exact

# The text.
run generate -m $demo --device metal -p 'The capital of France is' -n 48
same 'the capital of France' ' Paris.' "$(cat "$work/out")"
finish
