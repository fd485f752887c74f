#!/bin/sh
# A conversation through a pipe, and on a terminal where `script` can make one.
. tests/e2e/common
XDG_STATE_HOME=$work/state-home
export XDG_STATE_HOME

talk() { # ARGUMENT…; the lines are in $work/lines
    status=0
    "$XLSTM" chat -m $model "$@" >"$work/out" 2>"$work/err" <"$work/lines" || status=$?
}

# The state is kept: two turns are one text, with the last id of the answer between them.
printf 'Once upon a time\nthere was\n' >"$work/lines"
talk -n 4 --profile exact
same 'two turns' 0 "$status"
turns=$(cat "$work/out")
printf 'Once upon a time\n' >"$work/one"
run generate -m $model -f "$work/one" -n 4 --save-state "$work/s" --profile exact
first=$(cat "$work/out")
last=$(sed -n 's/.*--ids //p' "$work/err")
printf 'there was\n' >"$work/two"
run tokenize -m $model -f "$work/two"
run generate -m $model --load-state "$work/s" --ids "$last $(cat "$work/out")" -n 4 --profile exact
same 'are one text' "$first
$(cat "$work/out")" "$turns"

# Commands.
printf '/stats\n\nHello\n/stats\n/save %s\n/rset\n/save\n/reset\n/stats\n/load %s\n/help\n/exit\nnot read\n' \
    "$work/c" "$work/c" >"$work/lines"
talk -n 3 --ignore-eos
same 'commands: status' 0 "$status"
for line in '^0 turns' '^1 turns' 'saved [0-9]* tokens' 'did you mean /reset?' '/save needs the name' \
    'everything is forgotten' 'holds 0 tokens' 'is loaded' '^Ctrl-C stops'; do
    grep -q "$line" "$work/err" || bad 'commands' "no $line: $(show)"
done
printf '/load %s\n/stats\n' "$work/absent" >"$work/lines"
talk
same 'a state that is not there does not end it' 0 "$status"
grep -q '^error: .*absent' "$work/err" || bad 'a state that is not there' "$(show)"
grep -q '^0 turns' "$work/err" || bad 'a state that is not there' 'ends it'

printf '/SAVE x\n/averylongnamethatisnocommand x\n/stats\n' >"$work/lines"
talk
same 'unknown commands: status' 0 "$status"
for line in 'unknown command /SAVE; see' 'unknown command /averylongname' '^0 turns'; do
    grep -q "$line" "$work/err" || bad 'unknown commands' "no $line: $(show)"
done

# /load with a penalty says what it misses.
printf '/load %s\n' "$work/c" >"$work/lines"
talk --repetition-penalty 1.3
grep -q 'the repetition penalty counts only ids' "$work/err" || bad '/load with a penalty' "$(show)"
talk
grep -q 'penalty' "$work/err" && bad '/load without a penalty' "$(show)"

# A line that has no ids, here since GPT-NeoX has no token for this byte, is refused; the conversation goes on.
cat >"$work/config.json" <<'END'
{"architectures": ["xLSTMForCausalLM"], "model_type": "xlstm", "embedding_dim": 64, "num_heads": 1,
 "num_blocks": 1, "vocab_size": 50304}
END
"$XLSTM" init --config "$work/config.json" -o "$work/neox" 2>"$work/err" || bad 'init' "$(cat "$work/err")"
cp tests/text/data/gpt-neox-20b/tokenizer.json "$work/neox/"
printf 'a \377\nb\n/stats\n' >"$work/lines"
status=0
"$XLSTM" chat -m "$work/neox" -n 3 --ignore-eos >"$work/out" 2>"$work/err" <"$work/lines" || status=$?
same 'a line without ids: status' 0 "$status"
grep -q '^error: the text has the byte 0xFF' "$work/err" || bad 'a line without ids' "$(show)"
grep -q '^1 turns' "$work/err" || bad 'a line without ids' "ends it: $(show)"

# /save loses nothing: the last id is taken in before.
printf 'Once upon a time\n/save %s\nthere was\n' "$work/c" >"$work/lines"
talk -n 4 --profile exact
same '/save changes nothing' "$turns" "$(cat "$work/out")"
printf 'there was\n' >"$work/lines"
talk -n 4 --profile exact --load-state "$work/c"
same '--load-state goes on' "$(echo "$turns" | tail -n "$(wc -l <"$work/out" | tr -d ' ')")" "$(cat "$work/out")"

printf 'the capital of France\n' >"$work/lines"
talk -n 9 --prefix 'Hello, ' --suffix ' is'
same 'prefix and suffix' 0 "$status"
[ ! -e "$XDG_STATE_HOME" ] || bad 'history' 'is kept without a terminal'

# On a terminal.
if command -v script >/dev/null 2>&1 && script -q -c true /dev/null >/dev/null 2>&1; then
    { sleep 2; printf 'Hello\177\177lo\r'; sleep 2; printf '/stats\r'; sleep 1; printf '\004'; } |
        TERM=vt100 script -q -e -c "$XLSTM chat -m $model -n 5" /dev/null >"$work/terminal" 2>&1
    same 'terminal: status' 0 $?
    grep -q '1 turns' "$work/terminal" || bad 'terminal' "$(cat "$work/terminal")"
    history=$XDG_STATE_HOME/xlstm/history
    grep -q '^Hello' "$history" || bad 'history' 'is not kept'
    same 'history: for its owner alone' '-rw-------' "$(ls -l "$history" | cut -c 1-10)"
else
    echo 'ok terminal # skipped: no script command'
fi
finish
