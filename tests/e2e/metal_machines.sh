#!/bin/sh
# The Metal host on machines of many kinds, all of them the Linux test device: what info tells, where the kernels come
# from, pages of 16 KB, no GPU; and scripts/metal-check, with stand-ins for what macOS has.
. tests/e2e/common
metal=${BUILD:-build}/metal
[ -x "$metal/xlstm-metallib" ] || { echo 'the test device needs Linux on x86-64, clang 19 and libobjc, and no sanitizer'; exit 77; }
export XLSTM_METAL_TEST_MODE=fast
text_only=$metal/xlstm with_library=$metal/xlstm-metallib

fact() { # WORDS...: a line of what was printed has them
    grep -q -- "$1" "$work/out" || bad "$name" "lacks '$1': $(show)"
}

# ---- What info tells ----
XLSTM=$text_only
succeeds 'info of an M1 with macOS 15' info --device metal
for line in '^  gpu  *Linux test device$' '^  gpu_family  *7$' '^  gpu_chips  *M1$' '^  bfloat_native  *false$' '^  residency_set  *true$' \
    '^  kernels  *compiled at start, math mode safe, functions precise (' '^  many_tokens  *simdgroup_matrix'; do
    fact "$line"
done
export XLSTM_METAL_TEST_FAMILY=9 XLSTM_METAL_TEST_MACOS=14 XLSTM_METAL_TEST_BUFFER=20000000
succeeds 'info of an M3 with macOS 14' info -m $model --device metal --profile exact --json
unset XLSTM_METAL_TEST_FAMILY XLSTM_METAL_TEST_MACOS XLSTM_METAL_TEST_BUFFER
same 'json: family' 9 "$(json_field "$work/out" gpu_family)"
same 'json: bfloat' true "$(json_field "$work/out" bfloat_native)"
same 'json: residency' false "$(json_field "$work/out" residency_set)"
same 'json: largest buffer' 20000000 "$(json_field "$work/out" largest_buffer)"
same 'json: many tokens' '"matrix-vector, as for one token"' "$(json_field "$work/out" many_tokens)"
grep -q '"kernels": "compiled at start, fast math off (' "$work/out" || bad 'json: kernels' "$(show)"
succeeds 'info of all devices' info
fact '^  metal  *Linux test device, GPU family Apple 7'
if grep -q '^Device ' "$work/out"; then bad 'info of all devices' 'tells facts of a device that was not asked for'; fi
refuses 2 '-m/--model MODEL is missing' info --wiring ascii

# ---- Machines that will not do ----
export XLSTM_METAL_TEST_DEVICE=none
refuses 1 'this machine has no GPU that Metal can use' info --device metal
refuses 1 'this machine has no GPU that Metal can use' info --device metal --json
refuses 1 'this machine has no GPU that Metal can use' generate -m $model -p x --device metal
succeeds 'another device where there is no GPU' info -m $model
fact '^  metal  *no GPU: this machine has no GPU'
unset XLSTM_METAL_TEST_DEVICE
export XLSTM_METAL_TEST_FAMILY=5
refuses 1 'M1 or later is needed' info --device metal
unset XLSTM_METAL_TEST_FAMILY
export XLSTM_METAL_TEST_FAIL=library
refuses 1 "the kernels do not compile for the GPU \"Linux test device\": program_source:1:1: error: unknown type name 'injected'" \
    info --device metal
unset XLSTM_METAL_TEST_FAIL

# A model with an op that the device lacks.
if XLSTM_TEST_DEVICES=metal "$metal/tests/model/test_faults" >"$work/out" 2>&1; then ok 'ops that are missing'; else bad 'ops that are missing' "$(tail "$work/out")"; fi

# ---- Where the kernels come from ----
# A model of one block, which is quick to run.
sed -e 's/"embedding_dim": *[0-9]*/"embedding_dim": 128/' -e 's/"num_heads": *[0-9]*/"num_heads": 2/' \
    -e 's/"num_blocks": *[0-9]*/"num_blocks": 1/' $model/config.json >"$work/config.json"
"$XLSTM" init --config "$work/config.json" -o "$work/small" --seed 5 2>"$work/err" || bad 'a small model' "$(cat "$work/err")"
cp $model/tokenizer.json "$work/small/"
ids() { # DEVICE: the first ids of a text
    "$XLSTM" generate -m "$work/small" --ids 0,12 -n 3 --ignore-eos --print-ids --device "$1" 2>"$work/err" || cat "$work/err"
}
expected=$(ids cpu)
XLSTM=$with_library
succeeds 'a metallib' info --device metal
fact '^  kernels  *the build.s metallib (metal -std=metal3.1 .* -fmetal-math-mode=safe -fmetal-math-fp32-functions=precise)$'
same 'ids of a metallib' "$expected" "$(ids metal)"
export XLSTM_METAL_LIBRARY=source
succeeds 'the text, where it is asked for' info --device metal
fact '^  kernels  *compiled at start, math mode safe, functions precise (as XLSTM_METAL_LIBRARY asks)$'
unset XLSTM_METAL_LIBRARY
export XLSTM_METAL_TEST_FAIL=library
succeeds 'the text, where the metallib does not load' info --device metal
fact '^  kernels  *compiled at start, .* (the build.s metallib does not load: Invalid library file)$'
same 'ids of the text instead' "$expected" "$(ids metal)"
unset XLSTM_METAL_TEST_FAIL

# The build's step, with every kind of Xcode.
kernel=$work/kernel.metal
echo 'kernel void x(device float *y [[buffer(0)]]) { y[0] = 1; }' >"$kernel"
made() { # KIND: makes it, prints the note
    XLSTM_METAL_TEST_XCRUN=$1 XCRUN=tests/metal_device/xcrun scripts/make-metallib "$kernel" "$work/library" 2>"$work/err"
    cat "$work/library.note"
}
same 'metallib of a new Xcode' 'metal -std=metal3.1 -mmacosx-version-min=14.0 -O2 -fmetal-math-mode=safe -fmetal-math-fp32-functions=precise' "$(made new)"
same 'metallib of an older one' 'metal -std=metal3.1 -mmacosx-version-min=14.0 -O2 -fno-fast-math' "$(made old)"
[ -s "$work/library" ] || bad 'metallib of an older one' 'is empty'
same 'no Xcode' 'none: tests/metal_device/xcrun finds no metal, which comes with Xcode' "$(made none)"
[ ! -s "$work/library" ] || bad 'no Xcode' 'made something'
grep -q 'kernels are compiled when a program starts' "$work/err" || bad 'no Xcode' 'says nothing'
made broken >"$work/out"
grep -q "^none: metal does not compile the kernels: .*unknown type name 'injected'" "$work/out" || bad 'a compiler that fails' "$(cat "$work/out")"
same 'no xcrun' 'none: /no/xcrun is not here' "$(XCRUN=/no/xcrun scripts/make-metallib "$kernel" "$work/library" 2>/dev/null; cat "$work/library.note")"

# ---- Pages of 16 KB: a mapped file and weights of the model's own are used in place ----
XLSTM=$text_only
in_place() { # PAGE: ids, with every buffer on standard error
    XLSTM_METAL_TEST_PAGE=$1 XLSTM_METAL_TEST_TRACE=1 "$XLSTM" generate -m "$work/small" --ids 0,12 -n 3 --ignore-eos --print-ids --device metal \
        2>"$work/trace"
}
buffers() { # WORD: how many buffers of the trace are, or (-v) are not, in place
    # shellcheck disable=SC2086
    grep '^buffer of ' "$work/trace" | grep -c $1 'in place'
}
same 'ids with the pages of this machine' "$expected" "$(in_place 4096)"
small="$(buffers '') $(buffers -v)"
same 'ids with pages of 16 KB' "$expected" "$(in_place 16384)"
same 'buffers in place, and not, with pages of 16 KB' "$small" "$(buffers '') $(buffers -v)"
[ "$(buffers '')" -ge 2 ] || bad 'buffers in place' "$small"
wrong=$(sed -n 's/^buffer of \([0-9]*\) bytes in place$/\1/p' "$work/trace" | awk '$1 % 16384 != 0')
same 'buffers in place are whole pages' '' "$wrong"

# ---- metal-check ----
check() { scripts/metal-check >"$work/out" 2>"$work/err"; }
status=0
check || status=$?
same 'metal-check on Linux' 1 "$status"
grep -q 'metal-check needs a Mac with Apple silicon and macOS 14 or later; this is Linux' "$work/err" || bad 'metal-check on Linux' "$(show)"

# A Mac: its commands, and a build whose tests only say how they ended.
mkdir -p "$work/bin" "$work/mac/tests/conformance" "$work/mac/tests/golden" "$work/mac/tests/engine"
command_of() { # NAME TEXT
    printf '#!/bin/sh\n%s\n' "$2" >"$work/bin/$1" && chmod +x "$work/bin/$1"
}
command_of uname '[ "${1:-}" = -m ] && echo arm64 || echo Darwin'
command_of sw_vers 'echo 15.1'
command_of sysctl '[ "$2" = hw.memsize ] && echo 38654705664 || echo "Apple M3 Max"'
command_of system_profiler 'echo "      Total Number of Cores: 40"'
cp tests/metal_device/xcrun tests/metal_device/hash.py "$work/bin/"
for test in conformance/test_conformance golden/test_golden golden/test_neurips engine/test_ahead; do
    printf '#!/bin/sh\necho 1..1\necho "ok 1 - %s on $XLSTM_TEST_DEVICES"\n' "$test" >"$work/mac/tests/$test"
    chmod +x "$work/mac/tests/$test"
done
mac() { # VARIABLE=value...: metal-check there
    status=0
    env PATH="$work/bin:$PATH" BUILD="$work/mac" XLSTM="$with_library" MODEL="$work/small" METAL_CHECK_SIZE=quick "$@" scripts/metal-check \
        >"$work/out" 2>"$work/err" || status=$?
    report=$work/mac/metal-check/report.md
}
count=$(printf '%s\n' src/ops/metal/*.metal | grep -c .)
mac X=
same 'metal-check on a Mac: status' 0 "$status"
same 'metal-check on a Mac: sum' "$((count + 13)) passed, 0 failed" "$(tail -n 1 "$work/out")"
[ "$status" = 0 ] || cat "$work/out" "$report"
for line in '^| chip | Apple M3 Max, 40 GPU cores, 400 GB/s' '^| memory | 36 GiB |' '^| macOS | 15.1 |' '^| compiler | Apple metal version 0' \
    '^| greedy ids as on the CPU | ok |' '^| metallib and text give the same bits | ok |' '^| conformance/test_conformance, text compiled at start | ok |' \
    '^| small | [0-9.]* | [0-9.]* | 0 % | [0-9]* |' '^      gpu  *Linux test device'; do
    grep -q "$line" "$report" || bad 'metal-check on a Mac' "the report lacks '$line'"
done
export METAL_CHECK_GPU=optional XLSTM_METAL_TEST_FAMILY=5
mac X=
same 'a virtual Mac: status, sum' "0 $((count + 1)) passed, 0 failed" "$status $(tail -n 1 "$work/out")"
grep -q '^| everything on the GPU | not run | the GPU "Linux test device" is not of Apple silicon' "$report" || bad 'a virtual Mac' "$(cat "$report")"
unset METAL_CHECK_GPU
mac X=
same 'a Mac without a GPU: status, sum' "1 $((count + 1)) passed, 1 failed" "$status $(tail -n 1 "$work/out")"
unset XLSTM_METAL_TEST_FAMILY
printf '#!/bin/sh\necho 1..1\necho "not ok 1 - mlstm"\nexit 1\n' >"$work/mac/tests/golden/test_golden"
mac XLSTM_METAL_TEST_XCRUN=broken XLSTM="$text_only"
same 'a Mac on which things fail: status, sum' "1 7 passed, $((count + 2)) failed" "$status $(tail -n 1 "$work/out")"
grep -q '^| golden/test_golden | FAILED | not ok 1 - mlstm |' "$report" || bad 'a failing test' "$(cat "$report")"
grep -q "^    src/ops/metal/norm.metal:1:1: error: unknown type name 'injected'" "$report" || bad 'a failing compiler' "$(cat "$report")"
command_of sw_vers 'echo 13.6'
mac X=
same 'macOS 13' "1 metal-check needs macOS 14 or later; this is macOS 13.6." "$status $(cat "$work/err")"
finish
