#!/bin/sh
# The device cuda. A build without it, and a machine without a GPU, say so; on a GPU the model of models/demo gives the
# ids of the CPU in both profiles, and its states go on there.
. tests/e2e/common
demo=models/demo/xlstm-17m-q8_0.gguf

case $("$XLSTM" --version) in
*cuda*) ;;
*)
    refuses 1 'built without CUDA: run make cuda' generate -m $model -p x --device cuda
    refuses 1 'built without CUDA: run make cuda' info --device cuda
    refuses 1 'built without CUDA: run make cuda' kernels run slstm_sequence--cuda --in "$work" --out "$work/x"
    finish
    ;;
esac
run info --device cuda
if [ "$status" != 0 ]; then
    refuses 1 'no CUDA device' info --device cuda
    refuses 1 'no CUDA device' generate -m $model -p x --device cuda
    refuses 1 'no CUDA device' bench -m $model --device cuda
    refuses 1 'no CUDA device' perplexity -m $model -f README.md --device cuda
    [ "$failures" = 0 ] || finish
    echo "skipped: no CUDA device"
    exit 77
fi

on_both() { # NAME ARGUMENT…
    name=$1
    shift
    run generate -m $demo --ignore-eos --print-ids "$@"
    wanted=$(cat "$work/out")
    run generate -m $demo --ignore-eos --print-ids --device cuda "$@"
    same "$name: status" 0 "$status"
    same "$name: as many" "$count" "$(wc -w <"$work/out" | tr -d ' ')"
    same "$name" "$wanted" "$(cat "$work/out")"
}
count=${COUNT:-48} # ids of a text
on_both 'greedy, exact' -p 'In the year 1912 the' -n $count --profile exact
on_both 'greedy, fast' -p 'The capital of France is' -n $count
on_both 'sampled, exact' -p 'Once upon a time' -n $count --profile exact --temperature 0.8 --top-p 0.9 --seed 7
on_both 'the best of some, exact' -p 'Once upon a time' -n $count --profile exact --temperature 1 --top-k 20 --seed 8
on_both 'penalties, exact' -p 'Once upon a time' -n $count --profile exact --repetition-penalty 1.3
on_both 'deferred, exact' -p 'Once upon a time' -n $count --profile exact --deferred 16

# A state goes from device to device.
text=$(head -c $((count * 15)) docs/MODEL.md)
run generate -m $demo -p "$text" -n 1 --ignore-eos --print-ids --profile exact --save-state "$work/cpu.state"
same 'a state of the CPU' 0 "$status"
count=$((count / 2))
on_both 'goes on with it' --load-state "$work/cpu.state" --ids "$(cat "$work/out")" -n $count --profile exact
run generate -m $demo --device cuda -p "$text" -n 1 --ignore-eos --print-ids --profile exact --save-state "$work/cuda.state"
first=$(cat "$work/out")
same 'a state of the GPU' 0 "$status"
on_both 'goes on with that' --load-state "$work/cuda.state" --ids "$first" -n $count --profile exact

# The text.
run generate -m $demo --device cuda -p 'The capital of France is' -n 48
same 'the capital of France' ' Paris.' "$(cat "$work/out")"
finish
