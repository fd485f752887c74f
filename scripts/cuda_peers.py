#!/usr/bin/env python3
"""Our kernels on the GPU beside those of the official packages: time and errors, on the same arrays in one process.

    python3 scripts/cuda_peers.py [--runs 20] [--only mlstm|slstm] [--no-errors]
    python3 scripts/cuda_peers.py --self-test

`make cuda-bench` runs it where PyTorch with CUDA and mlstm_kernels are installed. The sLSTM needs the package flashrnn,
which compiles its kernels when they are first called (nvcc, ninja; minutes).

Times are medians of --runs runs behind a warm-up, the two taking turns, by events of the GPU; it is kept busy while the
host enqueues a call, so that the time Python takes is nobody's. Forward + backward is one call of ours, and for a peer
its function and torch.autograd.grad. Peers make their outputs' memory themselves; PyTorch keeps it from run to run.

Errors are the worst of the heads of one sequence, |x - reference| / |reference| with norms over the head, against float64
arithmetic on the same bf16 inputs (here, by the formulas of docs/KERNELS.md). The mLSTM's backward is `upstream` in all
three: the denominator is held constant.

--self-test needs no GPU and no peer: the formulas here against our kernels on the CPU, at small shapes.
XLSTM_LIBRARY names another library than build/libxlstm.so.
"""
import argparse
import gc
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import logsigmoid

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("XLSTM_LIBRARY", str(ROOT / "build/libxlstm.so"))
sys.path.insert(0, str(ROOT / "tests/oracle"))
import xlstm_kernels as ours  # noqa: E402

WARM = 3
EPS = 1e-6
TOKENS = 65536
LENGTHS = (2048, 8192, 65536)
HEADS = ((8, 256, 512), (16, 128, 256))  # heads, d_qk, d_v
MLSTM = (("chunkwise", "chunkwise--triton_xl_chunk"), ("chunkwise_sig", "chunkwise--triton_xl_chunk_siging"))
PEER_CHUNK = 128  # their default, the faster of those that they publish
CELLS = ((12, 64), (4, 128), (1, 512))  # heads, units
CELL_BATCH, CELL_TOKENS = 16, 1024


# ---- The formulas ----

def mlstm(q, k, v, i, f, sigmoid, chunk=256):
    """h [B, NH, S, DHHV] by chunks (docs/KERNELS.md); stabilisers and denominators are constants to autograd."""
    scale = q.shape[3] ** -0.5
    i = logsigmoid(i) if sigmoid else i
    c = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
    n = q.new_zeros(*q.shape[:2], q.shape[3], 1)
    m = q.new_zeros(*q.shape[:2], 1)
    parts = []
    for at in range(0, q.shape[2], chunk):
        q1, k1, v1, i1, f1 = (x[:, :, at:at + chunk] for x in (q, k, v, i, f))
        b = logsigmoid(f1).cumsum(-1)
        gates = b[..., :, None] - b[..., None, :] + i1[..., None, :]
        gates = gates.masked_fill(torch.ones_like(gates, dtype=torch.bool).triu(1), -torch.inf)
        most = torch.zeros_like(b) if sigmoid else torch.maximum(b + m, gates.amax(-1)).detach()
        scores = scale * (q1 @ k1.transpose(-1, -2)) * torch.exp(gates - most[..., None])
        before = scale * q1 * torch.exp(b + m - most)[..., None]
        product = scores.sum(-1) + (before @ n)[..., 0]
        denominator = torch.maximum(product.abs(), torch.exp(-most)) + EPS
        parts.append((scores @ v1 + before @ c) / denominator.detach()[..., None])
        last = b[..., -1:]
        behind = last - b + i1
        m1 = m if sigmoid else torch.maximum(last + m, behind.amax(-1, keepdim=True)).detach()
        keys = (k1 * torch.exp(behind - m1)[..., None]).transpose(-1, -2)
        kept = torch.exp(last + m - m1)[..., None]
        c, n, m = kept * c + keys @ v1, kept * n + keys.sum(-1, keepdim=True), m1
    return torch.cat(parts, 2)


def slstm(x, r, b):
    """y [B, S, NH, DH]. FlashRNN's floor of n, 1, is never below it."""
    c = n = y = x.new_zeros(x.shape[0], *x.shape[3:])
    m = torch.zeros_like(c)
    steps = []
    for t in range(x.shape[1]):
        recurrent = torch.einsum("bhi,hio->bho", y, r).unflatten(-1, (4, -1)).transpose(1, 2)
        i, f, z, o = (x[:, t] + recurrent + b).unbind(1)
        forget = m + logsigmoid(f)
        m = i if t == 0 else torch.maximum(i, forget)
        input_gate, forget_gate = torch.exp(i - m), torch.exp(forget - m)
        c, n = forget_gate * c + input_gate * torch.tanh(z), forget_gate * n + input_gate
        y = torch.sigmoid(o) * c / n
        steps.append(y)
    return torch.stack(steps, 1)


def reference(function, inputs, incoming, outputs):
    """The output and gradients in float64, as `outputs` names them."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    made = function(*exact)
    gradients = torch.autograd.grad(made, exact, incoming.double())
    return dict(zip(outputs, (made.detach(), *gradients)))


# ---- Errors and times ----

def head_norms(x, axis):
    return torch.linalg.vector_norm(x.movedim(axis, 0).flatten(1), dim=1)


def errors(got, exact, axes):
    """Of each array, the worst of its heads, which lie along axes[name]."""
    found = {}
    for name, right in exact.items():
        difference = head_norms(got[name].double() - right, axes[name])
        found[name] = (difference / head_norms(right, axes[name])).max().item()
    return found


def milliseconds(call, device):
    if device == "cpu":
        begin = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - begin)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(8_000_000)  # clocks, some 4 ms: what follows is enqueued meanwhile
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def medians(calls, runs, device):
    """Of each call; they take turns."""
    taken = [[] for _ in calls]
    for run in range(-WARM, runs):
        for call, list_of_call in zip(calls, taken):
            now = milliseconds(call, device)
            if run >= 0:
                list_of_call.append(now)
    return [statistics.median(x) for x in taken]


# ---- The cases: each has the inputs, our call and the peer's ----

class Case:
    """`forward` and `both` are pairs of functions, ours and the peer's, that leave what they make in
    self.made[0] and self.made[1]; `exact` is what they should be, of one sequence (`first`)."""

    def __init__(self, name, inputs, incoming, formula, outputs, axes, batched):
        self.name, self.inputs, self.incoming, self.formula = name, inputs, incoming, formula
        self.outputs, self.axes, self.batched = outputs, axes, batched
        self.made = [{}, {}]

    def peer(self, function):
        """Forward, and forward with backward, of a function of the inputs."""
        leaves = [x.detach().requires_grad_() for x in self.inputs]

        def forward():
            with torch.no_grad():
                self.made[1] = {self.outputs[0]: function(*self.inputs)}

        def both():
            made = function(*leaves)
            gradients = torch.autograd.grad(made, leaves, self.incoming)
            self.made[1] = dict(zip(self.outputs, (made.detach(), *gradients)))

        return forward, both

    def first(self, name, x):
        return x[:1] if name in self.batched else x

    def exact(self):
        """Of the first sequence, but where a gradient is a sum over all of them."""
        whole = len(self.batched) < len(self.outputs)
        inputs = self.inputs if whole else [x[:1] for x in self.inputs]
        made = reference(self.formula, inputs, self.incoming if whole else self.incoming[:1], self.outputs)
        return {name: self.first(name, x) for name, x in made.items()}

    def errors(self, exact):
        return [errors({name: self.first(name, made[name]) for name in exact}, exact, self.axes)
                for made in self.made]


def mlstm_case(family, device, heads, d_qk, d_v, batch, tokens, dtype):
    shapes = [(batch, heads, tokens, d) for d in (d_qk, d_qk, d_v)] + 2 * [(batch, heads, tokens)]
    inputs = [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]
    incoming = torch.randn_like(inputs[2])
    outputs = "h dq dk dv di df".split()
    sigmoid = family.endswith("_sig")
    case = Case(f"{family:13} {heads:2} x {d_qk}/{d_v}  B {batch:2} S {tokens:5}", inputs, incoming,
                lambda *x: mlstm(*x, sigmoid), outputs, dict.fromkeys(outputs, 1), outputs)
    made = {"h": torch.empty_like(inputs[2])} | {"d" + x: torch.empty_like(t) for x, t in zip("qkvif", inputs)}
    given = dict(zip("qkvif", inputs)) | {"h": made["h"]}
    case.made[0] = made
    name = f"{family}--{device}"
    case.ours = (ours.prepare(name, given, eps=EPS),
                 ours.prepare(name, given | made | {"dh": incoming}, "upstream", eps=EPS))
    return case


def slstm_case(device, heads, units, batch, tokens, dtype):
    """Inputs are those of FlashRNN: x [B, S, 4, NH, DH], r [4, NH, DH out, DH in], b [4, NH, DH]; ours has
    r [NH, DH in, 4 DH out] and b and the gradients of weights in f32 or better."""
    x = torch.randn(batch, tokens, 4, heads, units, device=device).to(dtype)
    r = (torch.randn(4, heads, units, units, device=device) * units ** -0.5).to(dtype)
    b = (torch.randn(4, heads, units, device=device) * 0.5).to(dtype)
    incoming = torch.randn(batch, tokens, heads, units, device=device).to(dtype)
    outputs = "y dx dr db".split()

    def turned(r):
        return r.permute(1, 3, 0, 2).flatten(2)

    case = Case(f"sLSTM         {heads:2} x {units}  B {batch:2} S {tokens:5}", [x, r, b], incoming,
                lambda x, r, b: slstm(x, turned(r), b), outputs, {"y": 2, "dx": 3, "dr": 1, "db": 1}, ["y", "dx"])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    given = {"x": x, "r": turned(r).contiguous(), "b": b.to(wide), "y": torch.empty_like(incoming)}
    made = {"dx": torch.empty_like(x), "dr": torch.empty_like(given["r"], dtype=wide),
            "db": torch.empty_like(given["b"])}
    case.made[0] = {"y": given["y"], "dx": made["dx"], "db": made["db"],
                    "dr": made["dr"].unflatten(2, (4, -1)).permute(2, 0, 3, 1)}
    name = f"slstm_sequence--{device}"
    case.ours = (ours.prepare(name, given), ours.prepare(name, given | made | {"dy": incoming}, "exact"))
    return case


# ---- The table ----

def print_errors(label, found):
    print(f"    errors, {label:6} " + "  ".join(f"{name} {value:.1e}" for name, value in found.items()))


def measure(case, theirs, options, device="cuda"):
    for label, our_call, their_call in zip(("forward", "forward + backward"), case.ours, theirs):
        our_ms, their_ms = medians((our_call, their_call), options.runs, device)
        print(f"{case.name}  {label:18}  ours {our_ms:8.3f} ms  theirs {their_ms:8.3f} ms  "
              f"theirs / ours {their_ms / our_ms:5.2f}", flush=True)
    if options.errors:
        for label, found in zip(("ours", "theirs"), case.errors(case.exact())):
            print_errors(label, found)


def attempt(what, function):
    """A case that memory or a package does not allow leaves the others alone."""
    try:
        function()
    except Exception as error:  # whatever a peer raises
        lines = str(error).strip().splitlines()
        print(f"{what}: {type(error).__name__}: {lines[0] if lines else ''}", flush=True)
        return False
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def compare_mlstm(options):
    from mlstm_kernels.torch import get_mlstm_kernel

    def one(family, peer, heads, tokens):
        case = mlstm_case(family, "cuda", *heads, TOKENS // tokens, tokens, torch.bfloat16)
        kernel = get_mlstm_kernel(peer)
        measure(case, case.peer(lambda *x: kernel(*x, eps=EPS, chunk_size=PEER_CHUNK,
                                                  autocast_kernel_dtype=torch.bfloat16)), options)

    good = True
    for heads in HEADS:
        for family, peer in MLSTM:
            for tokens in LENGTHS:
                good &= attempt(f"{family}, {heads}, S {tokens}", lambda: one(family, peer, heads, tokens))
    return good


def compare_slstm(options):
    try:
        from flashrnn import flashrnn
    except ImportError:
        print("sLSTM: flashrnn is not installed (pip install flashrnn==1.0.8)")
        return True

    def one(heads, units):
        case = slstm_case("cuda", heads, units, CELL_BATCH, CELL_TOKENS, torch.bfloat16)
        measure(case, case.peer(lambda x, r, b: flashrnn(x, r, b, function="slstm", backend="cuda_fused",
                                                         dtype="bfloat16")[0][0]), options)

    good = True
    for heads, units in CELLS:
        good &= attempt(f"sLSTM, {heads} x {units}", lambda: one(heads, units))
    return good


def print_versions():
    from importlib.metadata import PackageNotFoundError, version

    def version_of(name):
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    names = ("torch", "triton", "mlstm_kernels", "flashrnn")
    print("peers: " + ", ".join(f"{name} {version_of(name)}" for name in names))
    print(f"on {torch.cuda.get_device_name()}; bf16")


# ---- Without a GPU ----

def self_test(options):
    """Our kernels on the CPU in f64 are these formulas to rounding, and in bf16 to that of bf16. The formula
    itself stands in for the peer."""
    failures = 0

    def case_of(what, case, most):
        nonlocal failures
        print(f"{what}, {case.inputs[0].dtype}")
        measure(case, case.peer(case.formula), options, "cpu")
        worst = max(max(found.values()) for found in case.errors(case.exact())[:1])
        if not worst < most:
            failures += 1
            print(f"FAIL: an error of {worst:.1e}; below {most:.0e} expected")

    for dtype, most in ((torch.float64, 1e-10), (torch.bfloat16, 3e-2)):
        for family, _ in MLSTM:
            case_of(family, mlstm_case(family, "cpu", 2, 16, 32, 2, 600, dtype), most)
        case_of("slstm", slstm_case("cpu", 2, 8, 3, 40, dtype), most)
    print(f"{failures} failed" if failures else "all as expected")
    return failures == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", choices=("mlstm", "slstm"))
    parser.add_argument("--no-errors", dest="errors", action="store_false")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs {options.runs}: 1 or more")
    torch.manual_seed(0)
    if options.self_test:
        return 0 if self_test(options) else 1
    if not torch.cuda.is_available():
        print("PyTorch has no CUDA device here", file=sys.stderr)
        return 1
    print_versions()
    good = True
    with torch.cuda.stream(torch.cuda.Stream()):
        if options.only != "slstm":
            good &= compare_mlstm(options)
        if options.only != "mlstm":
            good &= compare_slstm(options)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
