#!/bin/sh
# Standard output that is closed, full or goes away; standard input that is closed; no terminal.
. tests/e2e/common

# Status 1 and the message, whatever is wrong with standard output.
check() { # NAME, after $status and $work/err are there
    : >"$work/out"
    if crashed; then
        bad "$1" "crashed: $(show)"
    elif [ "$status" != 1 ] || ! grep -q 'cannot write to standard output' "$work/err"; then
        bad "$1" "$(show)"
    else
        ok "$1"
    fi
}

long="generate -m $model -p Once -n 2000 --ignore-eos"
for arguments in --help --version --man '--completion bash' 'generate --help' "info -m $model" \
    "info -m $model --json" "info -m $model --wiring unicode" "tokenize -m $model -p hello" \
    "tokenize -m $model --decode 5,6,7" "generate -m $model -p Once -n 3" \
    "generate -m $model -p Once -n 3 --print-ids" "generate -m $model -p Once -n 3 --json" \
    "perplexity -m $model --ids-file $golden/p1_ids.npy"; do
    status=0
    # shellcheck disable=SC2086 # several words
    "$XLSTM" $arguments >&- 2>"$work/err" </dev/null || status=$?
    check "closed: $arguments"
    [ -w /dev/full ] || continue
    status=0
    # shellcheck disable=SC2086
    "$XLSTM" $arguments >/dev/full 2>"$work/err" </dev/null || status=$?
    check "full: $arguments"
done

# A reader that goes away: the program ends soon, with its message.
# shellcheck disable=SC2086
{ "$XLSTM" $long 2>"$work/err" </dev/null; echo $? >"$work/status"; } | head -c 20 >/dev/null
status=$(cat "$work/status")
check 'a pipe that is closed'
# shellcheck disable=SC2086
{ "$XLSTM" $long --print-ids 2>"$work/err" </dev/null; echo $? >"$work/status"; } | head -c 5 >/dev/null
status=$(cat "$work/status")
check 'a pipe that is closed, ids'

# The work is not lost with the pipe.
# shellcheck disable=SC2086
"$XLSTM" generate -m $model -p Once -n 3 --save-state "$work/state" >&- 2>"$work/err" </dev/null
run generate -m $model --load-state "$work/state" --ids 5 -n 1 --print-ids
same 'the state is saved although the text had nowhere to go' 0 "$status"

# Closed standard streams do not end up inside files.
"$XLSTM" logits -m $model --ids 1,2 -o "$work/l.npy" >&- 2>&- <&-
same 'all streams closed' 0 $?
"$XLSTM" logits -m $model --ids 1,2 -o "$work/k.npy" 2>/dev/null
cmp -s "$work/l.npy" "$work/k.npy" || bad 'all streams closed' 'another file'
status=0
"$XLSTM" generate -m $model -p - <&- >"$work/out" 2>"$work/err" || status=$?
same 'closed standard input' 1 "$status"
grep -q 'cannot read standard input' "$work/err" || bad 'closed standard input' "$(show)"

# Without a terminal there is no progress bar and no colour.
run generate -m $model --ids-file "$golden/p_long_ids.npy" -n 1
if grep -q "$(printf '\033')" "$work/err"; then bad 'no terminal' 'escape sequences'; else ok 'no terminal'; fi
[ -s "$work/err" ] || bad 'statistics' 'are missing'
finish
