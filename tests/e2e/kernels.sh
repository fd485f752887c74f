#!/bin/sh
# The kernel library through the command: the list, and kernels run on files.
. tests/e2e/common

# A .npy file of f8: the shape, then the bytes of each number as octal escapes.
zero='\000\000\000\000\000\000\000\000'
one='\000\000\000\000\000\000\360\077'
two='\000\000\000\000\000\000\000\100'
half='\000\000\000\000\000\000\340\077'
array() { # FILE SHAPE BYTES…
    file=$1
    header="{'descr': '<f8', 'fortran_order': False, 'shape': ($2), }"
    shift 2
    {
        printf '\223NUMPY\001\000\166\000'
        printf '%-117s\n' "$header"
        for number in "$@"; do printf "$number"; done
    } >"$file"
}
values() {
    npy_values "$1" f8 | tr '\n' ' ' | sed 's/ $//'
}

succeeds 'the list' kernels
for kernel in parallel parallel_stable chunkwise sequence step parallel_sig chunkwise_sig sequence_sig step_sig \
    slstm_sequence slstm_step lstm_sequence conv1d headwise_linear rms_norm layer_norm soft_cap swiglu gelu_gate \
    cross_entropy; do
    for device in cpu reference; do
        grep -q "^$kernel--$device " "$work/out" || bad 'the list' "$kernel--$device is missing"
    done
done
lines=$(wc -l <"$work/out")
succeeds 'the list as JSON' kernels --json
same 'kernels in the JSON' "$lines" "$(grep -c '"family":' "$work/out")"

# One token: m = max(log sigmoid(0), 0) = 0, C = k v, n = k, h = q C / max(|q n|, 1).
mkdir "$work/in"
array "$work/in/q.npy" '1, 1, 1, 1' "$two"
array "$work/in/k.npy" '1, 1, 1, 1' "$two"
array "$work/in/v.npy" '1, 1, 1, 2' "$one" "$half"
array "$work/in/i.npy" '1, 1, 1' "$zero"
array "$work/in/f.npy" '1, 1, 1' "$zero"
array "$work/in/dh.npy" '1, 1, 1, 2' "$one" "$one"
for device in cpu reference; do
    for form in step sequence chunkwise parallel; do
        succeeds "$form--$device" kernels run "$form--$device" --in "$work/in" --out "$work/$form" --eps 0
        same "h of $form--$device" '1 0.5' "$(values "$work/$form/h.npy")"
    done
    same 'C' '2 1' "$(values "$work/step/c.npy")"
    same 'n' '2' "$(values "$work/step/n.npy")"
    same 'm' '0' "$(values "$work/step/m.npy")"
    [ ! -e "$work/parallel/c.npy" ] || bad 'parallel' 'has states'
    [ ! -e "$work/step/dq.npy" ] || bad 'step' 'has gradients without --backward'
    # h = q k v / (q k): no gradient of q and k in the exact form; upstream holds the denominator (4): k (v dh) / 4.
    succeeds "exact backward ($device)" kernels run "sequence--$device" --in "$work/in" --out "$work/exact" --eps 0 \
        --backward exact
    same 'exact dq' '0' "$(values "$work/exact/dq.npy")"
    same 'dv' '1 1' "$(values "$work/exact/dv.npy")"
    same 'h beside gradients' '1 0.5' "$(values "$work/exact/h.npy")"
    succeeds "upstream backward ($device)" kernels run "sequence--$device" --in "$work/in" --out "$work/upstream" \
        --eps 0 --backward upstream
    same 'upstream dq' '0.75' "$(values "$work/upstream/dq.npy")"
    [ ! -e "$work/exact/dc0.npy" ] || bad 'exact' 'has gradients of states that were not given'
    # From a state: C = F C0 + k v with F = sigmoid(0) e^(m0 - m) = 1/2, m = 0.
    array "$work/in/c0.npy" '1, 1, 1, 2' "$two" "$two"
    array "$work/in/n0.npy" '1, 1, 1' "$one"
    array "$work/in/m0.npy" '1, 1, 1' "$zero"
    succeeds "from a state ($device)" kernels run "step--$device" --in "$work/in" --out "$work/state" --eps 0 \
        --backward exact
    same 'C from a state' '3 2' "$(values "$work/state/c.npy")"
    [ -s "$work/state/dm0.npy" ] || bad 'exact' 'no gradient of a state that was given'
    rm "$work/in/c0.npy" "$work/in/n0.npy" "$work/in/m0.npy" "$work/exact/h.npy"
done
succeeds 'chunk states' kernels run chunkwise--cpu --in "$work/in" --out "$work/all" --eps 0 --all-states
same 'all_c' '0 0 2 1' "$(values "$work/all/all_c.npy")"
mkdir "$work/gate"
array "$work/gate/x.npy" '1, 2' "$zero" "$zero"
array "$work/gate/u.npy" '1, 2' "$one" "$two"
array "$work/gate/dy.npy" '1, 2' "$one" "$one"
succeeds 'a gate' kernels run swiglu--cpu --in "$work/gate" --out "$work/gate" --backward exact
same 'its gradient' '0.5 1' "$(values "$work/gate/dx.npy")"

# Wrong usage and wrong files.
refuses 2 'the nearest name is step--' kernels run step--gpu --in "$work/in" --out "$work/x"
refuses 2 'run needs the name' kernels run
refuses 2 'needs --in DIR and --out DIR' kernels run step--cpu --in "$work/in"
refuses 2 'the only one is run' kernels walk
refuses 2 'unexpected argument' kernels run step--cpu more --in "$work/in" --out "$work/x"
refuses 2 'belong to' kernels --in "$work/in"
refuses 1 'q.npy' kernels run step--cpu --in "$work/nowhere" --out "$work/x"
mkdir "$work/cap"
array "$work/cap/x.npy" '1, 2' "$zero" "$zero"
refuses 1 'dy.npy' kernels run soft_cap--cpu --in "$work/cap" --out "$work/x" --backward exact
refuses 1 'has no upstream backward' kernels run swiglu--cpu --in "$work/gate" --out "$work/x" --backward upstream
array "$work/in/k.npy" '1, 1, 1, 2' "$one" "$one"
refuses 1 'k has shape [1, 1, 1, 2], must be [B,NH,S,DHQK] = [1, 1, 1, 1]' kernels run step--cpu --in "$work/in" \
    --out "$work/x"
array "$work/in/k.npy" '1, 1, 1' "$one"
refuses 1 'k.npy: rank 3' kernels run step--cpu --in "$work/in" --out "$work/x"
[ ! -e "$work/x" ] || bad 'a failed run' 'left a folder behind'
finish
