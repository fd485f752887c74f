#!/bin/sh
# Conversion: every type, from and to every kind of file; round trips to the byte; what is refused; and nothing left
# behind.
. tests/e2e/common

convert() { # OUTPUT ARGUMENT…
    output=$1
    shift
    succeeds "convert $*" convert -o "$output" "$@"
    [ -s "$work/out" ] && bad "convert $*" 'wrote to standard output'
}
weights() { # FOLDER FOLDER
    cmp -s "$1/model.safetensors" "$2/model.safetensors" || bad "$1 and $2" 'differ'
}
printf '' >"$work/empty.txt"

# Quickly, of a small model with the real one's tokenizer. Calibration, which takes longest, of the real one in
# `make test-large` alone.
cat >"$work/small.json" <<'END'
{"model_type": "xlstm", "embedding_dim": 64, "num_heads": 2, "num_blocks": 2, "vocab_size": 4096}
END
succeeds 'a small model' init --config "$work/small.json" -o "$work/small" --dtype bf16
cp $model/tokenizer.json "$work/small"
subject=$model
[ -z "${XLSTM_TEST_QUICK:-}" ] || subject=$work/small
calibrated=$work/small
head -c 2000 docs/MODEL.md >"$work/text.txt"
if [ -n "${XLSTM_TEST_LARGE:-}" ]; then
    calibrated=$model
    head -c 20000 docs/MODEL.md >"$work/text.txt"
fi
# How much farther types may be from each other: weights that mean nothing are rounded worst.
times_of() { # MODEL
    if [ "$1" = "$model" ]; then echo 1; else echo 3; fi
}
times=$(times_of "$subject")

# The real model: bf16 to GGUF and back, by way of f32 too, is the same folder. (Its own shards become one file.)
convert "$work/same" -m "$subject" --type same
convert "$work/bf16.gguf" -m "$subject" --type bf16
convert "$work/f32.gguf" -m "$work/bf16.gguf" --type f32
convert "$work/back" -m "$work/f32.gguf" --type bf16
weights "$work/same" "$work/back"
for file in config.json tokenizer.json; do
    cmp -s "$subject/$file" "$work/back/$file" || bad 'round trip' "another $file"
done
run logits -m "$subject" -p 'The capital of France is' --profile exact -o "$work/wanted.npy"
run logits -m "$work/back" -p 'The capital of France is' --profile exact -o "$work/got.npy"
cmp -s "$work/wanted.npy" "$work/got.npy" || bad 'round trip' 'other logits'
npy_values "$work/wanted.npy" f4 >"$work/wanted"

# Every quantised type runs, and is close; the bytes do not depend on the threads.
types='q8_0 q4_0'
[ -n "${XLSTM_TEST_QUICK:-}" ] || types='q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl'
for type in $types; do
    convert "$work/$type.gguf" -m "$work/bf16.gguf" --type $type
    run logits -m "$work/$type.gguf" -p 'The capital of France is' --profile exact -o "$work/got.npy"
    npy_values "$work/got.npy" f4 >"$work/got"
    case $type in q8*) percent=1 ;; q5*) percent=8 ;; *) percent=15 ;; esac
    close_enough "$work/got" "$work/wanted" $((percent * times))e-2 || bad $type 'is far from bf16'
done
mkdir "$work/one" # a file's name is in it
convert "$work/one/q8_0.gguf" -m "$work/bf16.gguf" --type q8_0 -t 1
cmp -s "$work/one/q8_0.gguf" "$work/q8_0.gguf" || bad 'one thread' 'other bytes'
convert "$work/decoded" -m "$work/q8_0.gguf" --type f32
convert "$work/again.gguf" -m "$work/q8_0.gguf" --type q8_0
convert "$work/decoded-again" -m "$work/again.gguf" --type f32
weights "$work/decoded-again" "$work/decoded"
convert "$work/CAPITALS.GGUF" -m "$work/bf16.gguf" --type q8_0
[ -f "$work/CAPITALS.GGUF" ] || bad 'CAPITALS.GGUF' 'is no file'
succeeds 'a name in capitals' info -m "$work/CAPITALS.GGUF"
rm -f "$work/CAPITALS.GGUF"
convert "$work/ends.gguf" -m "$subject" --type q8_0 --embedding-type f16 --head-type q5_1
grep -q 'f16' "$work/err" && grep -q 'q5_1' "$work/err" || bad 'types of the ends' "$(show)"
convert "$work/twice.gguf" -m "$work/q8_0.gguf" --type q4_0
grep -q 'quantised before' "$work/err" || bad 'rounded twice' 'without a warning'

# Calibration.
convert "$work/plain.gguf" -m "$calibrated" --type q4_0
convert "$work/calibrated.gguf" -m "$calibrated" --type q4_0 --calibrate "$work/text.txt"
cmp -s "$work/calibrated.gguf" "$work/plain.gguf" && bad 'calibration' 'changed nothing'
for file in calibrated plain; do
    run logits -m "$work/$file.gguf" -p 'The capital of France is' --profile exact -o "$work/got.npy"
    npy_values "$work/got.npy" f4 >"$work/$file"
done
close_enough "$work/calibrated" "$work/plain" $((30 * $(times_of "$calibrated")))e-2 || bad 'calibrated' 'is far from what it is without'

# The head alone in blocks is rounded with its help, too.
convert "$work/head.gguf" -m "$calibrated" --type bf16 --head-type q4_0
convert "$work/calibrated-head.gguf" -m "$calibrated" --type bf16 --head-type q4_0 --calibrate "$work/text.txt"
cmp -s "$work/calibrated-head.gguf" "$work/head.gguf" && bad 'calibration of the head' 'changed nothing'

# Other layouts: NeurIPS, official and fused ones, with rows that are no whole blocks.
for tiny in tests/golden/neurips-*/ ; do
    [ -f "$tiny/model.safetensors" ] || continue
    convert "$work/tiny.gguf" -m "$tiny" --type same --force
    convert "$work/tiny-$(basename "$tiny")" -m "$work/tiny.gguf" --type same
    run logits -m "$tiny" --ids 1,2,3 -o "$work/a.npy" --profile exact
    run logits -m "$work/tiny-$(basename "$tiny")" --ids 1,2,3 -o "$work/b.npy" --profile exact
    cmp -s "$work/a.npy" "$work/b.npy" || bad "$tiny" 'other logits'
    convert "$work/tiny.gguf" -m "$tiny" --type q8_0 --force
    succeeds "$tiny in q8_0" logits -m "$work/tiny.gguf" --ids 1,2,3 -o "$work/b.npy"
done
cat >"$work/odd.json" <<'END'
{"model_type": "xlstm", "embedding_dim": 48, "num_heads": 3, "num_blocks": 1, "vocab_size": 64,
 "ffn_round_up_to_multiple_of": 32}
END
succeeds 'a model with odd rows' init --config "$work/odd.json" -o "$work/odd" --fused
convert "$work/odd.gguf" -m "$work/odd" --type q4_0
grep -q 'not a multiple of 32' "$work/err" || bad 'odd rows' "not said: $(show)"
succeeds 'odd rows run' logits -m "$work/odd.gguf" --ids 1,2,3 -o "$work/b.npy"

# What is refused.
mkdir "$work/folder.gguf"
before=$(ls -A "$work")
refuses 2 'takes one of' convert -m $model -o "$work/x.gguf" --type q3_k
refuses 2 '--calibrate is for quantised types' convert -m $model -o "$work/x.gguf" --type bf16 --calibrate README.md
refuses 2 'same keeps every tensor' convert -m $model -o "$work/x.gguf" --type same --head-type f32
refuses 2 '--calibrate is for quantised types' convert -m $model -o "$work/x.gguf" --type bf16 --calibrate README.md
refuses 2 'same keeps every tensor' convert -m $model -o "$work/x.gguf" --type same --calibrate README.md
refuses 2 '--type' convert -m $model -o "$work/x.gguf"
refuses 1 'safetensors files have no q8_0' convert -m $model -o "$work/x" --type q8_0
refuses 1 'is what is being converted' convert -m $model -o $model --type bf16
refuses 1 'is what is being converted' convert -m "$work/q8_0.gguf" -o "$work/q8_0.gguf" --type f32 --force
# What is cheap to see is refused before a text is read.
refuses 1 'say --force' convert -m $model -o "$work/q8_0.gguf" --type q4_0 --calibrate "$work/absent"
refuses 1 'is what is being converted' convert -m "$work/q8_0.gguf" -o "$work/q8_0.gguf" --type q4_0 --force \
    --calibrate "$work/absent"
refuses 1 'is a folder' convert -m $model -o "$work/folder.gguf" --type q4_0 --calibrate "$work/absent"
refuses 1 'cannot write' convert -m $model -o "$work/absent/x.gguf" --type q4_0 --calibrate "$work/absent"
refuses 1 'safetensors files have no' convert -m $model -o "$work/x" --type q4_0 --calibrate "$work/absent"
refuses 1 'say --force' convert -m $model -o "$work/q8_0.gguf" --type f32
refuses 1 'already holds a checkpoint' convert -m $model -o "$work/back" --type f32
refuses 1 'is a folder' convert -m $model -o "$work/folder.gguf" --type f32 --force
refuses 1 'no such file' convert -m "$work/absent" -o "$work/x.gguf" --type f32
refuses 1 'cannot' convert -m $model -o "$work/absent/x.gguf" --type f32
refuses 1 'no text' convert -m $model -o "$work/x.gguf" --type q4_0 --calibrate "$work/empty.txt"
refuses 1 'cannot open' convert -m $model -o "$work/x.gguf" --type q4_0 --calibrate "$work/absent"
same 'nothing is left of what failed' "$before" "$(ls -A "$work")"

# Stopped in the middle: status 130, and neither the file nor a temporary one.
mkdir "$work/stop"
"$XLSTM" convert -m $model -o "$work/stop/x.gguf" --type iq4_nl -t 1 2>"$work/err" &
pid=$!
sleep 0.3
kill -INT $pid
wait $pid
status=$?
same 'stopped: status' 130 $status
same 'stopped: nothing is left' '' "$(ls -A "$work/stop")"
# A full disk.
if [ -w /dev/full ]; then
    ln -s /dev/full "$work/full.gguf"
    refuses 1 'No space left' convert -m $model -o "$work/full.gguf" --type bf16 --force
    rm "$work/full.gguf"
fi
finish
