#!/bin/sh
# Wrong usage gives status 2 and one clear message; help, version, man page and completions work.
. tests/e2e/common

m="-m $model"
# shellcheck disable=SC2086 # $m is two words
{
    refuses 2 'did you mean generate?' genrate
    refuses 2 'unknown command serve' serve
    refuses 2 'unknown command train' train
    refuses 2 'unknown command ' ''
    refuses 2 'did you mean --version?' --versoin
    refuses 2 'the command comes first' -m $model
    refuses 2 'takes one of bash, zsh' --completion fish
    refuses 2 'unexpected argument' --version now

    refuses 2 '--model MODEL is missing' generate -p x
    refuses 2 '--model "": takes a path' generate -m '' -p x
    refuses 2 'needs a value' generate -m
    refuses 2 'needs a value' generate $m -p
    refuses 2 '-p is an option' generate -m -p x
    refuses 2 'no prompt' generate $m
    refuses 2 'give it with --ids' generate $m --load-state state
    refuses 2 'exclude each other' generate $m -p x --ids 1
    refuses 2 'exclude each other' generate $m -p x -f y
    refuses 2 'exclude each other' generate $m --ids 1 --ids-file y
    refuses 2 'exclude each other' generate $m --ids 1 --bos
    refuses 2 'exclude each other' generate $m -p x --bos --no-bos
    refuses 2 'exclude each other' generate $m -p x --json --print-ids
    refuses 2 'exclude each other' generate $m -p x --json --echo
    refuses 2 '--max-tokens "12x"' generate $m -p x -n 12x
    refuses 2 '--max-tokens "-2"' generate $m -p x -n -2
    refuses 2 '--max-tokens "-2"' generate $m -p x -n-2
    refuses 2 '--max-tokens "99999999999999999999"' generate $m -p x -n 99999999999999999999
    refuses 2 '--max-tokens ""' generate $m -p x -n ''
    refuses 2 '--top-p "7": takes a number from 0 to 1' generate $m -p x --top-p 7
    refuses 2 '--top-p "-0.1"' generate $m -p x --top-p -0.1
    refuses 2 '--min-p "2"' generate $m -p x --min-p 2
    refuses 2 '--top-k "-1"' generate $m -p x --top-k -1
    refuses 2 '--top-k "4294967296"' generate $m -p x --top-k 4294967296
    refuses 2 '--temperature "nan"' generate $m -p x --temperature nan
    refuses 2 '--temperature "inf"' generate $m -p x --temperature=inf
    refuses 2 '--temperature "-1"' generate $m -p x --temperature -1
    refuses 2 '--temperature "1e999"' generate $m -p x --temperature 1e999
    refuses 2 '--repetition-penalty "-3"' generate $m -p x --repetition-penalty -3
    refuses 2 '--seed "-1"' generate $m -p x --seed -1
    refuses 2 '--seed "1.5"' generate $m -p x --seed 1.5
    refuses 2 '--threads "100000": takes a whole number from 1 to 4096' generate $m -p x --threads 100000
    refuses 2 '--threads "0"' generate $m -p x -t 0
    refuses 2 '--threads "two"' generate $m -p x -ttwo
    refuses 2 '--batch-tokens "0"' generate $m -p x --batch-tokens 0
    refuses 2 '--device "gpu": takes one of cpu' generate $m -p x --device gpu
    refuses 2 '--profile "quick": takes one of fast' generate $m -p x --profile quick
    refuses 2 '--prefill "fp4": takes one of profile' generate $m -p x --prefill fp4
    refuses 2 '"0,,1": a number is missing' generate $m --ids 0,,1
    refuses 2 '", 1": a number is missing' generate $m --ids ', 1'
    refuses 2 'a number is missing' tokenize $m --decode '1, ,2'
    refuses 2 '"x" is not a whole number' generate $m --ids 1,x
    refuses 2 'out of range' generate $m --ids 1,-5
    refuses 2 'out of range' generate $m --ids 1,2147483648
    refuses 2 'the list is empty' generate $m --ids ''
    refuses 2 '--ids-file "": takes a path' generate $m --ids-file ''
    refuses 2 '--file "": takes a path' generate $m -f ''
    refuses 2 '--stop "": takes a text' generate $m -p x --stop ''
    refuses 2 '--save-state "": takes a path' generate $m -p x --save-state ''
    refuses 2 '--echo "1": takes no value' generate $m -p x --echo=1
    refuses 2 'did you mean --temperature?' generate $m -p x --temprature 1
    refuses 2 'did you mean --temperature?' generate $m -p x -temperature 1
    refuses 2 'unexpected argument "hello"' generate $m hello
    refuses 2 'unknown option --window' generate $m -p x --window 5
    refuses 2 'unknown option --' generate $m -p x --

    refuses 2 'unknown option -p' chat $m -p x
    refuses 2 '--wiring "svg"' info $m --wiring svg
    refuses 2 'exclude each other' info $m --wiring json --json
    refuses 2 'nothing to do' tokenize $m
    refuses 2 'exclude each other' tokenize $m -p x --decode 1
    refuses 2 'not a whole number' tokenize $m --decode '1;2'
    refuses 2 '--output FILE is missing' logits $m -p x
    refuses 2 'no prompt' logits $m -o "$work/l.npy"
    refuses 2 'nothing to read' perplexity $m
    refuses 2 '--window "1"' perplexity $m -f x --window 1
    refuses 2 'exclude each other' perplexity $m --ids-file x --window 5
    refuses 2 '--config FILE is missing' init -o "$work/i"
    refuses 2 '--output FOLDER is missing' init --config $model/config.json
    refuses 2 '--dtype "f64": takes one of f32, bf16, f16' init --config x -o y --dtype f64
    refuses 2 '--shard-size "-1"' init --config x -o y --shard-size -1
    refuses 2 '--batch "0"' bench $m --batch 0
    refuses 2 '--prompt-tokens "64,x"' bench $m --prompt-tokens 64,x
    refuses 2 '--repeat "0"' bench $m --repeat 0
}

# Exactly one message, and where to read on.
run generate -m "$model" -p x --top-p 7
same 'one message' 1 "$(grep -c '^error: ' "$work/err")"
same 'a pointer to the help' 'see: xlstm generate --help' "$(tail -n 1 "$work/err")"

run
same 'no command: status' 2 "$status"
same 'no command: usage' 'Usage: xlstm COMMAND [options]' "$(head -n 1 "$work/err")"

succeeds 'help' --help
for command in generate chat info tokenize logits perplexity init convert kernels bench; do
    grep -q "^  $command " "$work/out" || bad 'help' "does not list $command"
done
for command in generate chat info tokenize logits perplexity init convert kernels bench; do
    succeeds "$command --help" $command --help
    grep -q "^  xlstm $command " "$work/out" || bad "$command --help" 'has no example'
    [ -s "$work/err" ] && bad "$command --help" 'wrote to standard error'
done
succeeds 'version' --version
grep -q -E '^xlstm [0-9]+\.[0-9]+\.[0-9]+ \(commit .*devices: .*cpu' "$work/out" ||
    bad 'version' "$(cat "$work/out")"
succeeds 'man page' --man
head -n 1 "$work/out" | grep -q '^\.TH XLSTM 1' || bad 'man page' 'is no roff'
grep -q 'repetition' "$work/out" || bad 'man page' 'lacks options'
for shell in bash zsh; do
    succeeds "completion for $shell" --completion $shell
    if command -v $shell >/dev/null 2>&1; then
        $shell -n "$work/out" 2>"$work/err" || bad "completion for $shell" "$(cat "$work/err")"
    fi
done
if command -v bash >/dev/null 2>&1; then
    "$XLSTM" --completion bash >"$work/completion"
    offer() { # WORDS…: what is offered for the last one
        bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _xlstm; echo "${COMPREPLY[*]}"' \
            - "$work/completion" "$@"
    }
    same 'bash completes commands' 'generate' "$(offer xlstm gen)"
    same 'bash completes options' '--temperature' "$(offer xlstm generate --temp)"
    same 'bash completes choices' 'fast' "$(offer xlstm generate --profile fa)"
    same 'bash completes --prefill' 'fp8' "$(offer xlstm perplexity --prefill f)"
    same 'bash offers no option of another command' '' "$(offer xlstm info --temp)"
fi
finish
