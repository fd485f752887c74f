#!/bin/bash
# Ctrl-C: generate finishes its line and its state, files are whole or absent, chat stops the answer only.
. tests/e2e/common

wait_until() { # CONDITION…: at most 20 s
    for _ in $(seq 200); do
        "$@" && return 0
        sleep 0.1
    done
    return 1
}
has_text() {
    [ -s "$1" ]
}
# Each child starts without the output of the one before: text in it means that the program runs. A signal that came
# sooner would meet this shell on its way to the program.

rm -f "$work/out"
"$XLSTM" generate -m $model -p Once -n -1 --ignore-eos --save-state "$work/state" \
    >"$work/out" 2>"$work/err" </dev/null &
child=$!
wait_until has_text "$work/out" || bad 'generate' 'writes nothing'
kill -INT $child
wait $child
status=$?
same 'generate: status' 130 $status
same 'generate: the line is finished' '' "$(tail -c 1 "$work/out" | tr -d '\n')"
grep -q 'end: cancelled' "$work/err" || bad 'generate: statistics' "$(show)"
last=$(sed -n 's/.*--ids //p' "$work/err")
run generate -m $model --load-state "$work/state" --ids "${last:-0}" -n 2 --print-ids
same 'generate: the state is there' 0 "$status"

rm -f "$work/out"
"$XLSTM" generate -m $model -p Once -n -1 --ignore-eos >"$work/out" 2>"$work/err" </dev/null &
child=$!
wait_until has_text "$work/out"
kill -TERM $child
wait $child
same 'SIGTERM: status' 143 $?

# A terminal that goes away: the state is kept.
rm -f "$work/out"
"$XLSTM" generate -m $model -p Once -n -1 --ignore-eos --save-state "$work/hangup" >"$work/out" 2>"$work/err" </dev/null &
child=$!
wait_until has_text "$work/out"
kill -HUP $child
wait $child
same 'SIGHUP: status' 129 $?
run generate -m $model --load-state "$work/hangup" --ids 5 -n 1 --print-ids
same 'SIGHUP: the state is there' 0 "$status"

# Under nohup it goes on.
rm -f "$work/out"
nohup "$XLSTM" generate -m $model -p Once -n -1 --ignore-eos >"$work/out" 2>"$work/err" </dev/null &
child=$!
wait_until has_text "$work/out"
kill -HUP $child
sleep 0.3
kill -0 $child || bad 'nohup' 'SIGHUP ends it'
kill -TERM $child
wait $child
same 'nohup: status' 143 $?

# A checkpoint of a gigabyte is stopped on the way: nothing stays.
sed 's/"vocab_size": *[0-9]*/"vocab_size": 1000000/' $model/config.json >"$work/config.json"
"$XLSTM" init --config "$work/config.json" -o "$work/folder" --dtype f32 >"$work/out" 2>"$work/err" &
child=$!
started() {
    [ -n "$(ls -A "$work/folder" 2>/dev/null)" ]
}
wait_until started || bad 'init' 'does not start'
kill -INT $child
wait $child
status=$?
same 'init: status' 130 $status
[ ! -e "$work/folder" ] || bad 'init: nothing stays' "$(ls -la "$work/folder")"

# Logits of a long prompt.
cat src/cli/*.c >"$work/long"
"$XLSTM" logits -m $model -f "$work/long" --batch-tokens 64 -o "$work/l.npy" >"$work/out" 2>"$work/err" </dev/null &
child=$!
writing() {
    [ -n "$(find "$work" -name '.xlstm*.tmp')" ]
}
wait_until writing || bad 'logits' 'do not start'
kill -INT $child
wait $child
same 'logits: status' 130 $?
same 'logits: nothing stays' '' "$(find "$work" -name '*.npy' -o -name '.xlstm*')"

# Perplexity of the same.
"$XLSTM" perplexity -m $model -f "$work/long" --batch-tokens 64 >"$work/out" 2>"$work/err" </dev/null &
child=$!
sleep 1
kill -INT $child
wait $child
same 'perplexity: status' 130 $?

# Chat goes on after an answer was stopped.
mkfifo "$work/lines"
rm -f "$work/out"
"$XLSTM" chat -m $model -n -1 --ignore-eos <"$work/lines" >"$work/out" 2>"$work/err" &
child=$!
exec 3>"$work/lines"
echo 'Once upon a time' >&3
wait_until has_text "$work/out" || bad 'chat' 'answers nothing'
kill -INT $child
stopped() {
    grep -q '(stopped)' "$work/err"
}
wait_until stopped || bad 'chat' 'the answer does not stop'
kill -0 $child || bad 'chat' 'the program has ended'
echo '/stats' >&3
exec 3>&-
wait $child
same 'chat: status' 0 $?
grep -q '^1 turns' "$work/err" || bad 'chat: goes on' "$(show)"
finish
