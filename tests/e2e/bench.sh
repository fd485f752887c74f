#!/bin/sh
# `xlstm bench`: the table's lines, the JSON's fields, and the comparison with an earlier run. Speeds themselves are not
# judged here.
. tests/e2e/common
tiny=tests/golden/neurips-mlstm
small="--prompt-tokens 8,70 --batch 1,3 --tokens 4 --repeat 2"

# shellcheck disable=SC2086 # a list of options
succeeds 'the table' bench -m $tiny $small
for line in 'machine: ' 'model:   ' 'decode x 1' 'decode x 3' 'prefill 8' 'prefill 70'; do
    grep -q "^$line" "$work/out" || bad 'the table' "no line begins with '$line': $(show)"
done
awk '{ if (length($0) > 100) exit 1 }' "$work/out" || bad 'the table' 'is wider than 100 columns'

# The path needs escaping.
odd=$work/$(printf 'a "b" \\c\nd')
cp -R $tiny "$odd"
# shellcheck disable=SC2086
succeeds 'the JSON' bench -m "$odd" $small --json
grep -q -F '/a \"b\" \\c\nd",' "$work/out" || bad 'the JSON: path' "$(show)"
cp "$work/out" "$work/before.json"
for field in read_bytes_per_second update_bytes_per_second fma_flop_per_second amx_bf16_flop_per_second \
    amx_int8_op_per_second weight_bytes_per_token state_bytes_per_token bytes_per_second flop_per_second \
    tokens_per_second percent_of_limit left_out; do
    grep -q "\"$field\": " "$work/out" || bad 'the JSON' "lacks $field"
done
if [ -r /proc/cpuinfo ] && ! grep -q amx_bf16 /proc/cpuinfo; then
    grep -q '"amx_bf16_flop_per_second": null' "$work/out" || bad 'the JSON' 'a peak of tiles where there are none'
fi

# A run is itself what it is compared with: only speeds may differ.
succeeds 'against itself' bench -m $tiny --prompt-tokens 70 --batch 3,2 --tokens 4 --repeat 2 --compare "$work/before.json"
grep -q '^against .*before.json' "$work/out" || bad 'against itself' "$(show)"
grep -q '^  decode x 3 ' "$work/out" && grep -q '^  prefill 70 ' "$work/out" || bad 'against itself' "$(show)"
grep -q -E '^  (decode x [12]|prefill 8) ' "$work/out" && bad 'against itself' 'compares what one run lacks'
grep -q 'not the same' "$work/out" && bad 'against itself' "differs: $(show)"

if [ -z "${XLSTM_TEST_QUICK:-}" ]; then # every run measures the machine first
    sed 's/"tokens_per_second": .*/"tokens_per_second": 0.5,/; s/"parameters": .*/"parameters": 5,/' "$work/before.json" >"$work/other.json"
    succeeds 'against another model' bench -m $tiny --prompt-tokens 8 --batch 1 --tokens 4 --repeat 1 --json --compare "$work/other.json"
    grep -q '"field": "parameters"' "$work/out" || bad 'against another model' "does not say that it is another: $(show)"
    awk '/"ratio": / { n++; gsub(/[^0-9.e+-]/, "", $2); if ($2 + 0 <= 1) wrong = 1 } END { exit wrong || n != 2 }' "$work/out" ||
        bad 'against another model' 'wrong ratios'

    # What an earlier file says of the machine breaks no line.
    sed 's/"\(processor\|profile\)": .*,/"\1": "1\\n\\"2\\"\\\\\\u001b[7m",/' "$work/before.json" >"$work/odd.json"
    succeeds 'values that must be escaped' bench -m $tiny --prompt-tokens 8 --batch 1 --tokens 2 --repeat 1 --compare "$work/odd.json"
    grep -q -F 'not the same machine: processor was "1\n\"2\"\\\u001B[7m", is "' "$work/out" ||
        bad 'values that must be escaped' "$(show)"
fi
# A path that is no UTF-8.
odd=$work/$(printf 'no-\377-utf')
if cp -R $tiny "$odd" 2>/dev/null; then # some file systems refuse such names
    succeeds 'a path that is no UTF-8' info -m "$odd" --json
    grep -q -F "/no-$(printf '\357\277\275')-utf\"," "$work/out" || bad 'a path that is no UTF-8' "$(show)"
fi

echo '{"machine": {}}' >"$work/wrong.json"
echo 'tok/s' >"$work/text.json"
refuses 1 'is not what xlstm bench --json prints' bench -m $tiny --compare "$work/wrong.json"
refuses 1 'not valid JSON' bench -m $tiny --compare "$work/text.json"
refuses 1 'no-such-file' bench -m $tiny --compare "$work/no-such-file"

if [ "$(uname -s)" = Linux ]; then
    succeeds 'pinned' bench -m $tiny --prompt-tokens 8 --batch 1 --tokens 2 --repeat 1 --pin -t 1
    refuses 1 'cannot be pinned' generate -m $model --ids 0 -n 1 --pin -t 4000
else
    refuses 1 'not supported on this system' generate -m $model --ids 0 -n 1 --pin
fi
refuses 1 'no threads to pin' generate -m $model --ids 0 -n 1 --pin --device reference
finish
