#!/bin/sh
# A checkpoint with the shapes of xLSTM-7B (random weights, bf16, 13.7 GB): info with a cold cache in less than a second, generation from a
# 256-token prompt, and the speed bars of docs/SPEED.md for bf16, Q8_0 and Q4_0 weights, against limits measured in the same run.
. "$(dirname "$0")/common"
checkpoint 32

sync
for file in "$model"/*; do # drops the file's pages from the cache
    dd if="$file" iflag=nocache count=0 2>/dev/null
done
start=$(date +%s%N)
"$XLSTM" info -m "$model" > "$large/info"
seconds=$(($(date +%s%N) - start))
echo "  info with a cold cache: $((seconds / 1000000)) ms"
[ $seconds -lt 1000000000 ] || fail "info took $((seconds / 1000000)) ms"

ids 256 "$large/ids-256.npy"
"$XLSTM" generate -m "$model" --ids-file "$large/ids-256.npy" -n 8 --ignore-eos --print-ids > "$large/out" 2> "$large/err" || fail "generate: $(cat "$large/err")"
[ "$(wc -w < "$large/out")" -eq 8 ] || fail "generate printed $(cat "$large/out")"
sed 's/^/  /' "$large/err"

# Speed against the bars of docs/SPEED.md, each with the limit of the same seconds; quantised files where the disk has room.
"$XLSTM" bench -m "$model" --batch 1,16 --prompt-tokens 512,4096 --tokens 8 --repeat 3 --json > "$large/bf16.json" 2> "$large/err" ||
    fail "bench: $(cat "$large/err")"
runs="bf16=$large/bf16.json"
if grep -q avx512f /proc/cpuinfo 2>/dev/null; then
    XLSTM_CPU_ISA=avx512 "$XLSTM" bench -m "$model" --batch 1 --prompt-tokens 512 --tokens 1 --repeat 2 --json > "$large/avx512.json" 2> "$large/err" ||
        fail "bench with XLSTM_CPU_ISA=avx512: $(cat "$large/err")"
    runs="$runs avx512=$large/avx512.json"
fi
for type in q8_0:9 q4_0:6; do
    gigabytes=${type#*:}
    type=${type%:*}
    file=$large/7b-$type.gguf
    free=$(df -Pk "$large" | awk 'NR == 2 { print int($4 / 1e6) }')
    if [ ! -f "$file" ] && [ "$free" -lt "$gigabytes" ]; then
        echo "  $type: left out, $free GB are free in $large and the file takes up to $gigabytes GB"
        continue
    fi
    [ -f "$file" ] || "$XLSTM" convert -m "$model" -o "$file" --type "$type" 2> "$large/err" || fail "convert to $type: $(cat "$large/err")"
    "$XLSTM" bench -m "$file" --batch 1 --prompt-tokens 512 --tokens 8 --repeat 3 --json > "$large/$type.json" 2> "$large/err" ||
        fail "bench of $type: $(cat "$large/err")"
    runs="$runs $type=$large/$type.json"
    [ -n "${XLSTM_LARGE:-}" ] || rm -f "$file"
done
# shellcheck disable=SC2086 # a list of words
python3 "$(dirname "$0")/bars.py" $runs || fail "a bar is missed"
echo "ok seven_b"
