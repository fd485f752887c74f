#!/bin/sh
# Work that cannot be done gives status 1 and an error that says what, where and why.
. tests/e2e/common

copy() { # NAME: a copy of the model to break
    rm -rf "${work:?}/$1"
    mkdir "$work/$1"
    cp $model/config.json $model/*.safetensors $model/*.index.json $model/tokenizer.json "$work/$1/"
    chmod -R u+w "$work/$1"
    broken=$work/$1
}
field() { # NAME VALUE: changes a field of the broken model's config
    sed -i.bak 's/"'"$1"'": *[^,]*/"'"$1"'": '"$2"'/' "$broken/config.json" && rm "$broken/config.json.bak"
}

# ---- Paths, devices, ids ----
refuses 1 'no such file or folder' info -m "$work/absent"
refuses 1 'config.json' info -m src
case $("$XLSTM" --version) in
*metal*)
    # A build for Macs; the GPU may be there or not.
    run info --device metal
    [ "$status" = 0 ] || refuses 1 'GPU' generate -m $model -p x --device metal
    ;;
*)
    refuses 1 'Metal is in builds made on macOS 14 or later' generate -m $model -p x --device metal
    refuses 1 'no device "metal" in this build; it has: cpu, reference' info --device metal
    ;;
esac
refuses 1 'upstream' generate -m $model -p x --profile upstream
refuses 1 'prefill "fp8": the device cpu has no products of fp8; cuda has, on an H100 or H200' \
    perplexity -m $model -f README.md --prefill fp8
refuses 1 'the device reference has no products of fp8' info -m $model --device reference --prefill fp8
refuses 1 'id 4096 at index 2 is not in the vocabulary' generate -m $model --ids 1,2,4096 --print-ids
refuses 1 '--stop-id: id 999999 at index 1 is not in the vocabulary, which has the ids 0 to 4095' \
    generate -m $model -p x --stop-id 7,999999
refuses 1 '--stop-id: id 999999' chat -m $model --stop-id 999999
refuses 1 'a stop string is not UTF-8' generate -m $model -p x --stop "$(printf '\201')"
refuses 1 'No such file' generate -m $model -f "$work/absent"
refuses 1 'No such file' generate -m $model --ids-file "$work/absent"
refuses 1 'README' generate -m $model --ids-file README.md
refuses 1 'ids must be integers' generate -m $model --ids-file "$golden/p0_logits.npy"
{
    printf '\223NUMPY\001\000v\000'
    printf '%-117s\n' "{'descr': '|i1', 'fortran_order': False, 'shape': (2, 3), }"
    printf '\001\002\003\004\005\006'
} >"$work/rows.npy"
refuses 1 'holds 2 rows of ids' generate -m $model --ids-file "$work/rows.npy"
run perplexity -m $model --ids-file "$work/rows.npy" --json
same 'two rows are two windows' '2 4' \
    "$(json_field "$work/out" windows) $(json_field "$work/out" tokens)"
refuses 1 'directory' generate -m $model -f src

# ---- Broken checkpoints ----
copy m
printf '{"embedding_dim": 64,' >"$broken/config.json"
refuses 1 'config.json' info -m "$broken"
copy m
field num_heads 7
refuses 1 'num_heads' info -m "$broken"
copy m
field embedding_dim -5
refuses 1 'embedding_dim' info -m "$broken"
copy m
sed -i.bak 's/"model_type": *"xlstm"/"model_type": "llama"/; s/xLSTMForCausalLM/LlamaForCausalLM/' "$broken/config.json"
refuses 1 'llama' info -m "$broken"
copy m
rm "$broken/model-00002-of-00004.safetensors"
refuses 1 'model-00002-of-00004.safetensors' info -m "$broken"
copy m
head -c 1000000 $model/model-00001-of-00004.safetensors >"$broken/model-00001-of-00004.safetensors"
refuses 1 'model-00001-of-00004.safetensors' info -m "$broken"
copy m
head -c 5 $model/model-00001-of-00004.safetensors >"$broken/model-00001-of-00004.safetensors"
refuses 1 'model-00001-of-00004.safetensors' info -m "$broken"
copy m
printf '\377\377\377\377\377\377\377\177' | dd of="$broken/model-00003-of-00004.safetensors" conv=notrunc 2>/dev/null
refuses 1 'model-00003-of-00004.safetensors' info -m "$broken"
copy m
field num_blocks 9
refuses 1 'backbone.blocks.8.' info -m "$broken"
copy m
field num_blocks 7
refuses 1 'backbone.blocks.7.' info -m "$broken"
copy m
field vocab_size 5000
refuses 1 '[5000, 384]' info -m "$broken"

# Three faults, three lines.
"$XLSTM" init --config $model/config.json -o "$work/three" 2>/dev/null
sed 's/blocks\.0\.mlstm_layer\.q\.weight/blocks.0.mlstm_layer.Q.weight/;s/blocks\.1\.norm_ffn\.weight/blocks.1.norm_fff.weight/' \
    "$work/three/model.safetensors" >"$work/three/changed"
mv "$work/three/changed" "$work/three/model.safetensors"
run info -m "$work/three"
same 'faults of names: status' 1 "$status"
same 'a missing and a surplus tensor each' 4 "$(grep -c '^error: ' "$work/err")"

# ---- Tokenizers ----
copy m
printf '{"model": {"type": "BPE", ' >"$broken/tokenizer.json"
refuses 1 'tokenizer.json' generate -m "$broken" -p x
# Nobody knows which ids it would have: none is chosen. Logits need none.
refuses 1 'tokenizer.json' generate -m "$broken" --ids 1 -n 2 --print-ids
succeeds 'logits of ids need no tokenizer' logits -m "$broken" --ids 1 -o "$work/l.npy"
awk 'BEGIN { for (i = 0; i < 200000; i++) printf "["; }' >"$broken/tokenizer.json"
refuses 1 'tokenizer.json' tokenize -m "$broken" -p x
awk 'BEGIN { for (i = 0; i < 200000; i++) printf "{\"a\":"; }' >"$broken/config.json"
refuses 1 'config.json' info -m "$broken"

# ---- States ----
"$XLSTM" generate -m $model -p 'Once upon' -n 2 --save-state "$work/state" >/dev/null 2>&1
head -c 1000 "$work/state" >"$work/cut"
refuses 1 "$work/cut" generate -m $model --load-state "$work/cut" --ids 1
head -c 10 "$work/state" >"$work/cut"
refuses 1 "$work/cut" generate -m $model --load-state "$work/cut" --ids 1
: >"$work/cut"
refuses 1 "$work/cut" generate -m $model --load-state "$work/cut" --ids 1
cp "$work/state" "$work/changed"
printf x | dd of="$work/changed" bs=1 seek=100000 conv=notrunc 2>/dev/null
refuses 1 "$work/changed" generate -m $model --load-state "$work/changed" --ids 1
refuses 1 "$work/absent" generate -m $model --load-state "$work/absent" --ids 1
"$XLSTM" init --config $model/config.json -o "$work/other" --seed 3 2>/dev/null
refuses 1 "$work/state" generate -m "$work/other" --load-state "$work/state" --ids 1 --print-ids

# ---- A disk that is full ----
(
    ulimit -f 20
    "$XLSTM" generate -m $model -p x -n 2 --save-state "$work/full" >/dev/null 2>"$work/err"
)
same 'a full disk while saving' 1 $?
grep -q "$work/full" "$work/err" || bad 'a full disk while saving' "$(cat "$work/err")"
(
    ulimit -f 20
    "$XLSTM" logits -m $model -p 'one two three four' -o "$work/full.npy" 2>"$work/err"
)
same 'a full disk while writing logits' 1 $?
same 'no partial file stays' '' "$(find "$work" -name '.xlstm*' -o -name 'full*')"
if [ -w /dev/full ]; then
    run generate -m $model -p x -n 2 --save-state /dev/full
    same '/dev/full: status' 1 "$status"
    [ -c /dev/full ] || bad '/dev/full' 'was replaced'
fi
refuses 1 "$work/no/l.npy" logits -m $model -p x -o "$work/no/l.npy"
refuses 1 'folder' logits -m $model -p x -o "$work"
if [ "$(id -u)" != 0 ]; then
    copy m
    chmod 000 "$broken/config.json"
    refuses 1 'Permission denied' info -m "$broken"
fi
finish
