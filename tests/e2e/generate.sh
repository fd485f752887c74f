#!/bin/sh
# From a prompt to text with the model of the tree: the reference's ids, sampling, stops, states.
. tests/e2e/common

greedy() { # of prompt N
    npy_line "$golden/p$1_greedy.npy"
}
prompt=$(npy_line "$golden/p0_ids.npy" | tr ' ' ',')

# ---- The reference's ids ----
for n in $prompts; do
    for profile in fast exact; do
        run generate -m $model --ids-file "$golden/p${n}_ids.npy" -n 48 --ignore-eos --print-ids \
            --profile $profile
        # Equal up to the first step where the reference itself is undecided.
        if [ $profile = fast ]; then margin=0.1; else margin=1e-3; fi
        steps=$(npy_values "$golden/p${n}_margin.npy" f4 |
            awk -v margin=$margin '$1 < margin + 0 { print NR - 1; exit }')
        steps=${steps:-48}
        [ "$steps" = 0 ] && continue
        same "prompt $n is continued like the reference ($profile, $steps steps)" \
            "$(greedy $n | cut -d ' ' -f "1-$steps")" "$(cut -d ' ' -f "1-$steps" "$work/out")"
    done
done
run generate -m $model --ids "$prompt" -n 48 --ignore-eos --print-ids
same '--ids is --ids-file' "$(greedy 0)" "$(cat "$work/out")"
same 'one line' 1 "$(wc -l <"$work/out" | tr -d ' ')"

# ---- Text ----
run generate -m $model -p 'The capital of France is' -n 48
same 'the capital of France' ' Paris.' "$(cat "$work/out")"
grep -q 'prompt: 6 tokens' "$work/err" || bad 'statistics' "$(show)"
grep -q 'end: end_of_text' "$work/err" || bad 'the end of text ends it' "$(show)"
run generate -m $model -p 'The capital of France is' -n 48 --echo
same '--echo' 'The capital of France is Paris.' "$(cat "$work/out")"
printf 'The capital of France is' >"$work/prompt"
run generate -m $model -f "$work/prompt" -n 48
same '-f' ' Paris.' "$(cat "$work/out")"
for option in -p -f; do
    same "$option - reads standard input" ' Paris.' \
        "$("$XLSTM" generate -m $model $option - -n 48 <"$work/prompt" 2>/dev/null)"
done
run generate -m $model -p 'The capital of France is' -n 48 --ignore-eos --stop 'is.' --stop '. '
same 'nothing after a stop string' 0 "$(grep -c -F '. ' "$work/out")"
run generate -m $model -p 'The capital of France is' -n 48 --stop ari
same 'a stop string is not printed' ' P' "$(cat "$work/out")"
run generate -m $model -p 'The capital of France is' -n 48 --stop-id 15 --print-ids
same 'a stop id is not printed' '3412' "$(cat "$work/out")"
grep -q 'end: stop' "$work/err" || bad 'a stop id ends it' "$(show)"
run generate -m $model -p '' -n 4 --print-ids
empty=$(cat "$work/out")
run generate -m $model --ids 0 -n 4 --print-ids
same 'an empty prompt starts from BOS' "$(cat "$work/out")" "$empty"
run generate -m $model -p 'The capital of France is' -n 0
same '-n 0 makes nothing' '0 ' "$status $(cat "$work/out")"
run generate -m $model -p 'The capital of France is' --json
same '--json: text' '" Paris."' "$(json_field "$work/out" text)"
same '--json: stop' '"end_of_text"' "$(json_field "$work/out" stop)"
same '--json: last id' '0' "$(json_field "$work/out" last_id)"
for n in 3 7; do
    run generate -m $model -p 'Once upon a time' -n $n --ignore-eos --print-ids
    same "-n $n makes $n ids" $n "$(wc -w <"$work/out" | tr -d ' ')"
done

# ---- Sampling ----
sample() {
    run generate -m $model -p 'Once upon a time' -n 24 --ignore-eos --print-ids "$@"
    cat "$work/out"
}
first=$(sample --temperature 1 --seed 7 --profile exact -t 1)
same 'the same seed, other threads' "$first" "$(sample --temperature 1 --seed 7 --profile exact -t 3)"
[ "$first" != "$(sample --temperature 1 --seed 8 --profile exact -t 1)" ] || bad 'another seed' 'the same text'
same 'top-k 1 is greedy' "$(sample)" "$(sample --temperature 1 --top-k 1 --seed 5)"
same 'a tiny top-p is greedy' "$(sample)" "$(sample --temperature 1 --top-p 0.0001 --seed 5)"
same 'min-p 1 is greedy' "$(sample)" "$(sample --temperature 1 --min-p 1 --seed 5)"
[ "$(sample)" != "$(sample --repetition-penalty 5)" ] || bad 'repetition penalty' 'the same text'

# ---- States ----
# a + b tokens at once, and a, save, load, b.
run generate -m $model --ids "$prompt" -n 30 --ignore-eos --print-ids --profile exact
whole=$(cat "$work/out")
run generate -m $model --ids "$prompt" -n 13 --ignore-eos --print-ids --profile exact \
    --save-state "$work/state"
first=$(cat "$work/out")
last=${first##* }
grep -q -- "--load-state $work/state --ids $last" "$work/err" || bad 'how to go on is said' "$(show)"
run generate -m $model --load-state "$work/state" --ids "$last" -n 17 --ignore-eos --print-ids \
    --profile exact
same 'a state goes on where it was saved' "$whole" "$first $(cat "$work/out")"
run generate -m $model -p 'The capital of' -n 0 --save-state "$work/prepared"
run generate -m $model --load-state "$work/prepared" -p ' France is' -n 48
same 'text goes on from a state without BOS' ' Paris.' "$(cat "$work/out")"
run generate -m $model -p 'The capital of' -n 1 --save-state "$work/it's a state"
quoted=$(sed -n 's/.*--load-state \(.*\) --ids .*/\1/p' "$work/err")
same 'a path is said as a word of the shell' "$work/it's a state" "$(eval "printf %s $quoted")"

# The penalty cannot know the text before a state: that is said, and only where it matters.
warning='the repetition penalty counts only ids from here on'
for penalty in 1 1.3; do
    run generate -m $model --load-state "$work/state" --ids 5 -n 1 --repetition-penalty $penalty
    same "a state with penalty $penalty: warnings" "$([ $penalty = 1 ] && echo 0 || echo 1)" \
        "$(grep -c "$warning" "$work/err")"
done

# ---- Always UTF-8 ----
# Sampled hot, ids bring bytes that are no characters; they are shown as U+FFFD.
replaced=0
for seed in 1 2 3; do
    run generate -m $model -p '日本語 😀' -n 40 --temperature 3 --seed $seed --ignore-eos \
        --profile exact
    iconv -f UTF-8 -t UTF-8 "$work/out" >/dev/null 2>&1 || bad 'UTF-8' "$(od -c "$work/out" | head)"
    grep -q '�' "$work/out" && replaced=1
done
same 'what is no character is replaced' 1 $replaced
run tokenize -m $model -p '日'
run generate -m $model --ids "$(cut -d ' ' -f 1 "$work/out")" -n 1 --echo
iconv -f UTF-8 -t UTF-8 "$work/out" >/dev/null 2>&1 || bad '--echo of half a character' "$(od -c "$work/out")"
same 'no temporary file stays' '' "$(find "$work" -name '.xlstm*')"
finish
