#!/bin/sh
# Text to ids and back, byte for byte.
. tests/e2e/common

round_trip() { # NAME FILE
    "$XLSTM" tokenize -m $model -f "$2" >"$work/ids" 2>"$work/err" </dev/null
    "$XLSTM" tokenize -m $model --decode - <"$work/ids" >"$work/back" 2>>"$work/err"
    if cmp -s "$2" "$work/back"; then ok "$1"; else bad "$1" "$(cat "$work/err")"; fi
}

printf 'The capital of France is Paris.\n' >"$work/a"
round_trip 'a sentence' "$work/a"
printf 'caf\303\251 \346\227\245\346\234\254 \360\237\230\200 \t  two  spaces\r\n\n\n' >"$work/a"
round_trip 'several scripts' "$work/a"
printf 'not \377\376 UTF-8 \303( \000 zero' >"$work/a"
round_trip 'any bytes' "$work/a"
: >"$work/a"
round_trip 'nothing' "$work/a"
round_trip 'a source file' src/cli/options.c

run tokenize -m $model -p 'The capital of France is'
same 'ids' "$(npy_line "$golden/p0_ids.npy" | cut -d ' ' -f 2-)" "$(cat "$work/out")"
run tokenize -m $model/tokenizer.json -p 'The capital of France is'
same 'a tokenizer alone' "$(npy_line "$golden/p0_ids.npy" | cut -d ' ' -f 2-)" "$(cat "$work/out")"
same '-p -' "$(npy_line "$golden/p0_ids.npy" | cut -d ' ' -f 2-)" \
    "$(printf 'The capital of France is' | "$XLSTM" tokenize -m $model -p -)"
run tokenize -m $model -p '<|endoftext|>a'
special=$(cat "$work/out")
run tokenize -m $model -p '<|endoftext|>a' --plain
plain=$(cat "$work/out")
same 'special strings are one id' 0 "${special%% *}"
[ "$(echo "$plain" | wc -w)" -gt 3 ] || bad '--plain' "$plain"
run tokenize -m $model --decode "$plain"
same '--plain is the same text' '<|endoftext|>a' "$(cat "$work/out")"
run tokenize -m $model -p '<|endoftext|>a' --bos
same '--bos is not doubled' "$special" "$(cat "$work/out")"
run tokenize -m $model -p 'a b' --json
same '--json' 2 "$(json_field "$work/out" count)"
run tokenize -m $model --decode ''
same 'no ids are no text' '0 ' "$status $(cat "$work/out")"
printf '1 2 x' | "$XLSTM" tokenize -m $model --decode - >"$work/out" 2>"$work/err"
same 'wrong ids on standard input' 1 $?
grep -q 'standard input: "x"' "$work/err" || bad 'wrong ids on standard input' "$(cat "$work/err")"
refuses 1 'id 4096 at index 1 is not in the tokenizer, which has ids from 0 to 4095' \
    tokenize -m $model --decode 5,4096
refuses 1 'No such file' tokenize -m $model -f "$work/absent"
refuses 1 'tokenizer.json' tokenize -m src -p x
finish
