#!/bin/sh
# Models of the NeurIPS architecture go through the same commands as the others.
. tests/e2e/common

tiny=tests/golden/neurips-mixed
succeeds 'info' info -m $tiny
for line in 'architecture *xlstm-neurips' 'slstm_at *1, 3' 'mlstm_head_dim *16' 'parameters *41712'; do
    grep -q "$line" "$work/out" || bad 'info' "no $line: $(show)"
done
succeeds 'info --json' info -m tests/golden/neurips-lstm --json
grep -q '"slstm_function": "lstm"' "$work/out" || bad 'info --json' "$(show)"
succeeds 'info --wiring' info -m $tiny --wiring ascii
grep -q 'blocks.3.slstm --(+)--> blocks.3.slstm_sum' "$work/out" || bad 'info --wiring' "$(show)"
succeeds 'bench' bench -m $tiny --json --repeat 1
grep -q '"flop_per_token"' "$work/out" || bad 'bench' "$(show)"

# Generation: in one go, and through a state file.
run generate -m $tiny --ids 0,12,5 -n 12 --ignore-eos --print-ids --profile exact
whole=$(cat "$work/out")
run generate -m $tiny --ids 0,12,5 -n 5 --ignore-eos --print-ids --profile exact --save-state "$work/s"
first=$(cat "$work/out")
last=$(sed -n 's/.*--ids //p' "$work/err")
run generate -m $tiny --load-state "$work/s" --ids "$last" -n 7 --ignore-eos --print-ids --profile exact
same 'generation through a state file' "$whole" "$first $(cat "$work/out")"
refuses 1 'belongs to another model' generate -m tests/golden/neurips-mlstm --load-state "$work/s" --ids 1 -n 1
refuses 1 'text needs a tokenizer' generate -m $tiny -p text -n 1
refuses 1 'chat needs a tokenizer' chat -m $tiny

succeeds 'perplexity' perplexity -m $tiny --ids-file $tiny/ids.npy --json
grep -q '"tokens": 69' "$work/out" || bad 'perplexity' "$(show)"

# A random model of the shape that an experiment's file describes, with a tokenizer beside it.
cat >"$work/experiment.yaml" <<'END'
model:
  embedding_dim: 32
  num_blocks: 3
  mlstm_block: {}
  slstm_block:
    slstm: {backend: vanilla}
  slstm_at: [1]
  vocab_size: ${dataset.vocab_size}
dataset: {vocab_size: 4096}
END
succeeds 'init' init --config "$work/experiment.yaml" -o "$work/random" --dtype f32 --seed 3
cp $model/tokenizer.json "$work/random/"
succeeds 'generate from text' generate -m "$work/random" -p 'Once upon a time' -n 4
printf 'Hello\n/exit\n' >"$work/lines"
"$XLSTM" chat -m "$work/random" -n 3 --ignore-eos >"$work/out" 2>"$work/err" <"$work/lines" || bad 'chat' "$(show)"
refuses 1 'no fused layout' init --config "$work/experiment.yaml" -o "$work/fused" --fused

finish
