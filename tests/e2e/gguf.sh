#!/bin/sh
# A model in one file, by every command that takes a model; and files that are broken.
. tests/e2e/common

mkdir "$work/one"
file=$work/one/model.gguf
succeeds 'convert' convert -m $model -o "$file" --type bf16
succeeds 'info' info -m "$file" --json
same 'info: format' '"gguf"' "$(json_field "$work/out" format)"
same 'info: file type' '"bf16"' "$(json_field "$work/out" file_type)"
same 'info: bits' 16.0 "$(json_field "$work/out" bits_per_weight)"
same 'info: parameters' 17348064 "$(json_field "$work/out" parameters)"

text='The capital of France is'
run generate -m "$file" -p "$text" -n 8 --profile exact --save-state "$work/state"
same 'generate' '0  Paris.' "$status $(cat "$work/out")"
run generate -m "$work/one" -p "$text" -n 8 --profile exact
same 'generate from its folder' '0  Paris.' "$status $(cat "$work/out")"
grep -q warning "$work/err" && bad 'generate from its folder' "warns: $(show)"

# Weights beside it are passed over, and every command that runs the model says so; not where the file was named.
cp tests/golden/neurips-mlstm/model.safetensors "$work/one/other.safetensors"
for command in 'generate --ids 0 -n 1' "logits --ids 0 -o $work/l.npy" info "convert --type same -o $work/other.gguf"; do
    # shellcheck disable=SC2086 # a list of options
    succeeds "weights beside it: $command" $command -m "$work/one"
    same "weights beside it: $command" "warning: $file is used, and not the .safetensors files beside it" \
        "$(grep safetensors "$work/err")"
done
succeeds 'weights beside it: the file itself' info -m "$file"
grep -q safetensors "$work/err" && bad 'the file itself' "warns: $(show)"
rm "$work/one/other.safetensors"
run tokenize -m "$file" -p "$text" --bos
same 'tokenize' '0 343 467 278 3011 325' "$(sed -n 1p "$work/out" | tr -d '\n')"
run tokenize -m $model -p "$text" --bos
same 'tokenize as in the folder' '0 343 467 278 3011 325' "$(cat "$work/out")"
succeeds 'a state of the file goes on in the folder' generate -m $model -p ' And' -n 2 --profile exact \
    --load-state "$work/state"
for from in "$file" $model; do
    succeeds 'logits' logits -m "$from" -p "$text" --profile exact -o "$work/$(basename "$from").npy"
done
cmp "$work/model.gguf.npy" "$work/$(basename $model).npy" && ok 'logits are equal' || bad 'logits' 'differ'

# What can be wrong with it.
head -c 1000000 "$file" >"$work/cut.gguf"
refuses 1 'cut short' info -m "$work/cut.gguf"
printf 'GGXF' | cat - "$file" >"$work/magic.gguf"
refuses 1 'not a GGUF file' generate -m "$work/magic.gguf" -p a
cp "$file" "$work/one/second.gguf"
refuses 1 'has 2 .gguf files; give the path of one of them' info -m "$work/one"
finish
