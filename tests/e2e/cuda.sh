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
# Up to a tie: both devices take activations as integers of eight bits then, which moves logits by 0.02, and the first two of the
# 11th id are 0.007 apart.
all=$count
[ "$count" -lt 10 ] || count=10
on_both 'greedy, fast' -p 'The capital of France is' -n $count
count=$all
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

# A prompt through heads that the chunkwise kernels take.
make_wide
run generate -m "$work/wide" --ids "$prompt" -n 4 --ignore-eos --print-ids --profile exact
wanted=$(cat "$work/out")
run generate -m "$work/wide" --ids "$prompt" -n 4 --ignore-eos --print-ids --device cuda
same 'a prompt in chunks: status' 0 "$status"
same 'a prompt in chunks' "$wanted" "$(cat "$work/out")"

# Rows so wide that they are summed in pieces.
cat >"$work/rows.json" <<'C'
{"architectures": ["xLSTMForCausalLM"], "model_type": "xlstm", "embedding_dim": 2304, "num_heads": 4, "num_blocks": 1,
 "vocab_size": 512, "ffn_proj_factor": 2.0, "bos_token_id": 0, "eos_token_id": 0}
C
run init --config "$work/rows.json" -o "$work/rows" --dtype bf16 --seed 3
same 'a model of wide rows' 0 "$status"
run generate -m "$work/rows" --ids '5 77 300' -n 4 --ignore-eos --print-ids --profile exact
wanted=$(cat "$work/out")
run generate -m "$work/rows" --ids '5 77 300' -n 4 --ignore-eos --print-ids --device cuda
same 'rows in pieces' "$wanted" "$(cat "$work/out")"
rm -r "$work/rows"

# Speeds beside the limits of the GPU; the test device has so little memory then that limits are measured soon.
run info -m "$work/wide" --device cuda --json
XLSTM_CUDA_TEST_MEMORY=$(($(sed -n 's/.*"needed": *\([0-9]*\).*/\1/p' "$work/out") + 3000000))
export XLSTM_CUDA_TEST_MEMORY
succeeds 'speeds' bench -m "$work/wide" --device cuda --prompt-tokens 20 --batch 1,2 --tokens 2 --repeat 1
unset XLSTM_CUDA_TEST_MEMORY
for line in 'decode x 1 ' 'decode x 2 ' 'prefill 20 '; do
    grep "^$line" "$work/out" | grep -q '[0-9] *%' || bad 'speeds' "no share of a limit in '$line': $(show)"
done
same 'speeds: no limit is left out' '' "$(grep 'was not measured' "$work/err")"

# Prompts in fp8: a GPU has it or says what it lacks; perplexity stays near, and is not that of the profile.
nll_of() { # ARGUMENT…
    run perplexity -m $demo -f "$work/text" --json "$@"
    sed -n 's/.*"nll": *\([0-9.]*\).*/\1/p' "$work/out"
}
head -c 1200 bench/text/evaluation.txt >"$work/text"
run info -m $demo --device cuda --prefill fp8
if [ "$status" = 0 ]; then
    exact=$(nll_of --profile exact) fast=$(nll_of --device cuda) fp8=$(nll_of --device cuda --prefill fp8)
    same 'fp8: within 2 % of the perplexity' yes "$(echo "$exact $fp8" |
        awk '{print($1 > 0 && exp($2 - $1) < 1.02 && exp($1 - $2) < 1.02 ? "yes" : $0)}')"
    same 'fp8: rounds more than the profile' yes "$(echo "$exact $fast $fp8" |
        awk '{print(($3 - $1) ^ 2 > 4 * ($2 - $1) ^ 2 ? "yes" : $0)}')"
    refuses 1 'not for the profile "exact"' perplexity -m $demo -f "$work/text" --device cuda --prefill fp8 --profile exact
else
    refuses 1 '9.0 (H100, H200) is needed' perplexity -m $demo -f "$work/text" --device cuda --prefill fp8
fi

# The text.
run generate -m $demo --device cuda -p 'The capital of France is' -n 48
same 'the capital of France' ' Paris.' "$(cat "$work/out")"
# A prompt of 32 tokens, so that in the profile fast what lies between the ops of a layer is bf16.
capitals='The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is Rome.'
for profile in fast exact; do
    run generate -m $demo --device cuda -p "$capitals The capital of France is" -n 12 --profile $profile
    same "capitals, $profile" ' Paris.' "$(cat "$work/out")"
done
finish
