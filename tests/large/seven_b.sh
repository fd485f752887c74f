#!/bin/sh
# A checkpoint with the shapes of xLSTM-7B (random weights, bf16, 13.7 GB): info with a cold cache in less than a second, generation from a
# 256-token prompt, and decoding at no less than half of the read bandwidth measured in the same run.
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

"$XLSTM" bench -m "$model" --prompt-tokens 64,512 --tokens 8 --repeat 5 --json > "$large/bench.json"
python3 - "$large/bench.json" <<'EOF' || fail "decoding below half of the read bandwidth"
import json, sys
run = json.load(open(sys.argv[1]))
m = run["machine"]
print("  read %.1f GB/s, read-modify-write %.1f GB/s, FMA %.0f GFLOP/s" % (
    m["read_bytes_per_second"] / 1e9, m["update_bytes_per_second"] / 1e9, m["fma_flop_per_second"] / 1e9))
for p in run["prefill"]:
    print("  prefill %d: %.2f tok/s, %.1f %% of FMA peak" % (p["tokens"], p["tokens_per_second"], p["percent_of_limit"]))
for d in run["decode"]:
    print("  decode x %d: %.3f tok/s, %.2f GB/s, %.1f %% of the limit, %.1f %% of read bandwidth" % (
        d["batch"], d["tokens_per_second"], d["bytes_per_second"] / 1e9, d["percent_of_limit"], d["percent_of_read_bandwidth"]))
sys.exit(run["decode"][0]["percent_of_read_bandwidth"] < 50)
EOF
echo "ok seven_b"
