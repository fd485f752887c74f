#!/bin/sh
# What info prints: fields, memory, wiring in four styles.
. tests/e2e/common

succeeds 'info' info -m $model
for line in 'embedding_dim  *384' 'num_heads  *6' 'num_blocks  *8' 'vocab_size  *4096' 'ffn_dim  *1024' \
    'parameters  *17348064' 'bf16  *34.7 MB' 'state_per_session  *399.6 kB' 'needed ' 'available ' \
    'end_of_text  *0' '  cpu ' '  reference ' 'profile  *fast'; do
    grep -q "$line" "$work/out" || bad 'info' "lacks $line"
done
succeeds 'info --json' info -m $model --json
same 'json: parameters' 17348064 "$(json_field "$work/out" parameters)"
same 'json: state' 399552 "$(json_field "$work/out" state_per_session)"
for style in unicode ascii dot json; do
    succeeds "wiring as $style" info -m $model --wiring $style
    grep -q 'blocks.7.mlstm' "$work/out" || bad "wiring as $style" 'lacks a block'
done
run info -m $model --wiring ascii
LC_ALL=C grep -q '[^ -~]' "$work/out" && bad 'wiring as ascii' 'has other characters'
run info -m $model --wiring dot
grep -q '^digraph' "$work/out" || bad 'wiring as dot' "$(head -n 1 "$work/out")"

# The wiring that is printed, put into the config, is the same model; with a block removed it is another.
mkdir "$work/m"
cp $model/*.safetensors $model/*.index.json $model/tokenizer.json "$work/m/"
run info -m $model --wiring json
cp "$work/out" "$work/wiring.json"
with_wiring() { # FILE
    sed '$d' $model/config.json | sed '$s/$/,/' >"$work/m/config.json"
    { printf '"wiring": '; cat "$1"; printf '}'; } >>"$work/m/config.json"
}
with_wiring "$work/wiring.json"
run generate -m "$work/m" -p 'The capital of France is' -n 8
same 'from its own wiring' '0  Paris.' "$status $(cat "$work/out")"
finish
