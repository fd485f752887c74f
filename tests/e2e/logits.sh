#!/bin/sh
# Logits and perplexity as files and numbers, against the reference's and against each other.
. tests/e2e/common

for n in $prompts; do
    for profile in fast exact; do
        if [ $profile = fast ]; then bound=1e-2; else bound=2e-5; fi
        succeeds "logits of prompt $n ($profile)" logits -m $model \
            --ids-file "$golden/p${n}_ids.npy" -o "$work/l.npy" --profile $profile
        npy_values "$work/l.npy" f4 >"$work/got"
        npy_values "$golden/p${n}_logits.npy" f4 >"$work/wanted"
        close_enough "$work/got" "$work/wanted" $bound ||
            bad "logits of prompt $n ($profile)" 'differ from the reference'
    done
done
head -c 200 "$work/l.npy" | grep -q "'descr': '<f4'.*'shape': ([0-9]*, 4096)" ||
    bad 'the header' "$(head -c 128 "$work/l.npy" | tr -d '\000')"
[ -s "$work/out" ] && bad 'standard output' 'is not empty'

succeeds 'the last row alone' logits -m $model --ids-file "$golden/p${prompts##* }_ids.npy" --last \
    -o "$work/last.npy" --profile exact
npy_values "$work/last.npy" f4 >"$work/last"
tail -n 4096 "$work/got" | cmp -s - "$work/last" || bad 'the last row alone' 'differs'
head -c 200 "$work/last.npy" | grep -q "'shape': (1, 4096)" || bad 'the last row alone' 'shape'

# A prompt as text is its ids with BOS in front.
run tokenize -m $model -p 'The capital of France is' --bos
ids=$(cat "$work/out")
same 'ids of the prompt' "$(npy_line "$golden/p0_ids.npy")" "$ids"
run logits -m $model -p 'The capital of France is' -o "$work/text.npy"
run logits -m $model --ids "$ids" -o "$work/ids.npy"
cmp -s "$work/text.npy" "$work/ids.npy" || bad 'text or ids' 'different logits'

# Perplexity: the reference's, and computed from the logits here.
run perplexity -m $model --ids-file "$golden/p_long_ids.npy" --json --profile exact
json_field "$work/out" nll >"$work/nll"
npy_values "$golden/p_long_nll.npy" f8 >"$work/wanted"
if close_enough "$work/nll" "$work/wanted" 1e-5; then ok 'perplexity is the reference'"'"'s'; else
    bad 'perplexity' "$(cat "$work/nll") is not $(cat "$work/wanted")"
fi
same 'predictions' 299 "$(json_field "$work/out" tokens)"
npy_values "$golden/p1_ids.npy" d4 >"$work/ids"
run logits -m $model --ids-file "$golden/p1_ids.npy" -o "$work/l.npy"
npy_values "$work/l.npy" f4 | awk '
    BEGIN { while ((getline id < "'"$work/ids"'") > 0) ids[count++] = id }
    { row = int((NR - 1) / 4096); at = (NR - 1) % 4096; sum += exp($1)
      if (at == ids[row + 1]) logit = $1
      if (at == 4095) { if (row + 1 < count) { nll += log(sum) - logit; n++ } sum = 0 } }
    END { printf "%.9f\n", nll / n }' >"$work/wanted"
run perplexity -m $model --ids-file "$golden/p1_ids.npy" --json
json_field "$work/out" nll >"$work/nll"
if close_enough "$work/nll" "$work/wanted" 1e-5; then ok 'perplexity from the logits'; else
    bad 'perplexity from the logits' "$(cat "$work/nll") is not $(cat "$work/wanted")"
fi

# A text is one stream with BOS in front; --window cuts it.
text='Once upon a time there was a king who had three daughters. The youngest was kind.'
printf %s "$text" >"$work/text"
run tokenize -m $model -f "$work/text"
count=$(wc -w <"$work/out")
run perplexity -m $model -f "$work/text" --json
same 'a text predicts each of its ids' $((count)) "$(json_field "$work/out" tokens)"
run perplexity -m $model -f "$work/text" --no-bos --json
same 'without BOS one less' $((count - 1)) "$(json_field "$work/out" tokens)"
run perplexity -m $model -f "$work/text" --window 5 --json
ids=$((count + 1))
same 'windows' $(((ids + 3) / 5)) "$(json_field "$work/out" windows)"
same 'predictions in windows' $((ids / 5 * 4 + (ids % 5 > 1 ? ids % 5 - 1 : 0))) \
    "$(json_field "$work/out" tokens)"
refuses 1 'nothing to predict' perplexity -m $model -f /dev/null
refuses 1 'shape [T] or [windows, T]' perplexity -m $model --ids-file "$golden/p_long_nll.npy"
finish
