#!/bin/sh
# Random checkpoints: they load, run without a tokenizer, and their bytes depend on config, type and seed alone.
. tests/e2e/common

cat >"$work/tiny.json" <<'END'
{"architectures": ["xLSTMForCausalLM"], "model_type": "xlstm", "embedding_dim": 64, "num_heads": 2,
 "num_blocks": 3, "vocab_size": 100, "force_bos_token_insert": true, "bos_token_id": 0,
 "eos_token_id": 2, "ffn_proj_factor": 2.5, "a_field_of_ours": [1, 2]}
END
tiny() { # FOLDER ARGUMENT…
    folder=$1
    shift
    succeeds "init $*" init --config "$work/tiny.json" -o "$work/$folder" "$@"
}
logits() { # FOLDER
    run logits -m "$work/$1" --ids 3,1,4,15,92,65,35 -o "$work/$1.npy" --profile exact
    [ "$status" = 0 ] || bad "logits of $1" "$(show)"
}

tiny a --seed 1
[ -s "$work/a/config.json" ] && [ -s "$work/a/model.safetensors" ] || bad 'files' "$(ls "$work/a")"
grep -q a_field_of_ours "$work/a/config.json" || bad 'config.json' 'lost a field'
tiny b --seed 1 -t 3
cmp -s "$work/a/model.safetensors" "$work/b/model.safetensors" || bad 'other threads' 'other bytes'
tiny c --seed 2
cmp -s "$work/a/model.safetensors" "$work/c/model.safetensors" && bad 'another seed' 'the same bytes'

# Layouts and shards hold the same values.
tiny shards --seed 1 --shard-size 60kB
[ -s "$work/shards/model.safetensors.index.json" ] || bad 'shards' 'no index'
[ "$(find "$work/shards" -name 'model-*-of-*.safetensors' | wc -l)" -gt 2 ] || bad 'shards' "$(ls "$work/shards")"
tiny fused --seed 1 --fused
logits a
logits shards
logits fused
cmp -s "$work/a.npy" "$work/shards.npy" || bad 'shards' 'other logits'
cmp -s "$work/a.npy" "$work/fused.npy" || bad 'the fused layout' 'other logits'
run info -m "$work/fused"
grep -q 'weight_mode *fused' "$work/out" || bad 'the fused layout' "$(show)"
for type in f32 f16; do
    tiny $type --seed 1 --dtype $type
    logits $type
    npy_values "$work/$type.npy" f4 >"$work/got"
    npy_values "$work/a.npy" f4 >"$work/wanted"
    close_enough "$work/got" "$work/wanted" 0.03 || bad "$type" 'other values than bf16'
done
npy_values "$work/a.npy" f4 | awk '{ s += $1 ^ 2 } END { exit !(s / NR > 0.01 && s / NR < 10) }' ||
    bad 'logits' 'are not of the size of a fresh model'

# An official config, and one that is made from what was written.
cat >"$work/official.yaml" <<'END'
embedding_dim: 64
num_heads: 2
num_blocks: 2
vocab_size: 100
ffn_proj_factor: 2.5
norm_eps: 1e-06
END
succeeds 'from config.yaml' init --config "$work/official.yaml" -o "$work/yaml"
logits yaml
succeeds 'from its own config.json' init --config "$work/yaml/config.json" -o "$work/again"
cmp -s "$work/yaml/model.safetensors" "$work/again/model.safetensors" || bad 'from its own' 'other bytes'

# A model without a tokenizer does all that needs no text.
succeeds 'info' info -m "$work/a"
grep -q 'none: ids' "$work/out" || bad 'info' 'says nothing of the missing tokenizer'
succeeds 'generate' generate -m "$work/a" --ids 1,2,3 -n 5 --ignore-eos --print-ids
same 'generate: ids' 5 "$(wc -w <"$work/out" | tr -d ' ')"
succeeds 'generate --json' generate -m "$work/a" --ids 1,2,3 -n 5 --json
same 'no text' null "$(json_field "$work/out" text)"
refuses 1 'tokenizer' generate -m "$work/a" -p x -n 5
refuses 1 '--print-ids' generate -m "$work/a" --ids 1 -n 5
refuses 1 'tokenizer' chat -m "$work/a"
refuses 1 'tokenizer' perplexity -m "$work/a" -f README.md
refuses 1 'id 100 at index 1 is not in the vocabulary, which has the ids 0 to 99' logits -m "$work/a" --ids 1,100 -o "$work/x.npy"

# What cannot be made leaves nothing behind.
refuses 1 'already holds a checkpoint' init --config "$work/tiny.json" -o "$work/a"
cmp -s "$work/a/model.safetensors" "$work/b/model.safetensors" || bad 'an existing checkpoint' 'was changed'
refuses 1 'No such file' init --config "$work/absent.json" -o "$work/n"
refuses 1 'No such file' init --config "$work/absent" -o "$work/n"
refuses 1 'No such file' init --config "$work/tiny.json" -o "$work/n/m"
refuses 1 'Not a directory' init --config "$work/tiny.json" -o "$work/tiny.json/m"
sed 's/"vocab_size": *100/"vocab_size": 2000000000/; s/"embedding_dim": *64/"embedding_dim": 1048576/' \
    "$work/tiny.json" >"$work/huge.json"
run init --config "$work/huge.json" -o "$work/n"
[ "$status" = 1 ] || bad 'more than the disk holds' "$(show)"
( # a file may not grow over its limit: writing fails, as on a full disk
    ulimit -f 40
    "$XLSTM" init --config "$work/tiny.json" -o "$work/n" 2>"$work/err"
)
same 'a disk that is full' 1 $?
grep -q 'cannot write' "$work/err" || bad 'a disk that is full' "$(cat "$work/err")"
[ ! -e "$work/n" ] || bad 'nothing stays' "$(ls -la "$work/n")"
mkdir "$work/n"
(
    ulimit -f 40
    "$XLSTM" init --config "$work/tiny.json" -o "$work/n" --shard-size 15kB 2>"$work/err"
)
same 'nothing stays in a folder that was there' '1 ' "$? $(ls -A "$work/n")"
finish
