#!/bin/sh
# Memory does not grow with the length of a text: anonymous memory (RssAnon) at 7B width with 1 block at 8,192 tokens and at
# LONG tokens (100,000 unless set), and with 2 blocks at 8,192; extrapolated to 32 blocks it must stay below 700 MB
# beyond weights and state. Linux only: it reads /proc.
. "$(dirname "$0")/common"
LONG=${LONG:-100000}

# anonymous MODEL TOKENS -> the largest RssAnon in bytes, in $peak
anonymous() {
    ids "$2" "$large/ids-$2.npy"
    "$XLSTM" generate -m "$1" --ids-file "$large/ids-$2.npy" -n 2 --ignore-eos --print-ids > "$large/out" 2> "$large/err" &
    pid=$!
    peak=0
    while kill -0 $pid 2>/dev/null; do
        now=$(awk '/^RssAnon:/ { print $2 * 1024 }' /proc/$pid/status 2>/dev/null || true)
        [ -n "$now" ] && [ "$now" -gt "$peak" ] && peak=$now
        sleep 0.2
    done
    wait $pid || fail "generate on $1 with $2 tokens: $(cat "$large/err")"
    echo "  $2 tokens, $(basename "$1"): RssAnon $((peak / 1000000)) MB; $(tail -1 "$large/out"); $(grep prompt "$large/err" || true)"
}

# The state of one block: 8 heads x (256 x 512 + 256 + 1) floats.
state=$((8 * (256 * 512 + 256 + 1) * 4))
checkpoint 1
anonymous "$model" 8192
one=$peak
anonymous "$model" "$LONG"
long=$peak
checkpoint 2
anonymous "$model" 8192
two=$peak
block=$((two - one - state))
all=$((one - state + 31 * block))
echo "  beyond weights and state: 1 block $(((one - state) / 1000000)) MB, each further block $((block / 1000000)) MB, 32 blocks $((all / 1000000)) MB"
[ $all -lt 700000000 ] || fail "memory: $all bytes beyond weights and state at 32 blocks"
# The same within 4 MB: the prompt's ids themselves are 4 bytes a token.
[ $((long - one)) -lt 4000000 ] || fail "memory grows with the text: $one bytes at 8192 tokens, $long at $LONG"
echo "ok memory"
