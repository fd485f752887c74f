#!/usr/bin/env python3
"""Writes tests/kernels/data/mlstm/<case>/: inputs of the mLSTM kernels, and what the official package mlstm_kernels
makes of them in float64 with its native torch kernels.

    pip install -r scripts/requirements-oracle.txt
    python3 scripts/make_kernel_fixtures.py

A case is a folder that `xlstm kernels run --in` takes: the inputs as float32 (the values are float32 numbers, the
computation is in float64). In folders of it lie the outputs, float64:

    <form>/            h, and c, n, m where there are states
    <form>/exact/      gradients by torch's autograd
    <form>/upstream/   gradients by the package's own backward
    recurrent/all/     the states at all chunk borders, for chunks of CHUNK tokens

<form> is parallel, parallel_stable, or recurrent (token by token; upstream gradients by the chunkwise kernel, which
computes the same). The loss whose gradients these are is the sum of <output, d output> over all outputs.
"""
import os
import sys
import types

import numpy as np
import torch

try:
    import triton  # noqa: F401  (the package imports it, nothing here runs it)
except ImportError:
    for name in ("triton", "triton.language"):
        sys.modules[name] = types.ModuleType(name)

from mlstm_kernels.torch.chunkwise.native import mlstm_chunkwise__native_custbw
from mlstm_kernels.torch.chunkwise.native.fw import mlstm_chunkwise_fw
from mlstm_kernels.torch.parallel import registry as parallel
from mlstm_kernels.torch.recurrent.native_sequence import mlstm_recurrent_sequence__native_fw

FOLDER = "tests/kernels/data/mlstm"
CHUNK = 11
INPUTS = ["q", "k", "v", "i", "f"]
STATES = ["c0", "n0", "m0"]


def save(folder, **arrays):
    os.makedirs(f"{FOLDER}/{folder}", exist_ok=True)
    for name, x in arrays.items():
        np.save(f"{FOLDER}/{folder}/{name}.npy", np.ascontiguousarray(x.detach().numpy()))


def draw(B, NH, S, DHQK, DHHV, i_offset, f_offset, spread=1.0, states=False):
    """float32 numbers as float64; gradients of the outputs are drawn too."""
    def normal(*shape, offset=0.0, spread=1.0):
        return (offset + spread * torch.randn(*shape)).double()

    x = {"q": normal(B, NH, S, DHQK), "k": normal(B, NH, S, DHQK), "v": normal(B, NH, S, DHHV),
         "i": normal(B, NH, S, offset=i_offset, spread=spread), "f": normal(B, NH, S, offset=f_offset, spread=spread),
         "dh": normal(B, NH, S, DHHV)}
    if states:
        x.update(c0=normal(B, NH, DHQK, DHHV), n0=normal(B, NH, DHQK), m0=normal(B, NH, 1),
                 dc=normal(B, NH, DHQK, DHHV), dn=normal(B, NH, DHQK), dm=normal(B, NH, 1))
    return x


def differentiate(function, x, states):
    """h, last states or None, and the gradients of the loss, by whatever backward `function` has."""
    names = INPUTS + (STATES if states else [])
    leaf = {name: x[name].clone().requires_grad_() for name in names}
    h, last = function(**leaf)
    loss = (h * x["dh"]).sum()
    if states:
        loss = loss + sum((y * x["d" + name]).sum() for name, y in zip("cnm", last))
    gradients = torch.autograd.grad(loss, [leaf[name] for name in names])
    return h, last, {"d" + name: g for name, g in zip(names, gradients)}


def parallel_kernel(name, **options):
    return lambda **x: (parallel[name](**x, **options), None)


def with_states(kernel, **options):
    """A kernel that takes states, as a function of all inputs by our names."""
    def run(q, k, v, i, f, c0=None, n0=None, m0=None):
        return kernel(q, k, v, i, f, c_initial=c0, n_initial=n0, m_initial=m0, return_last_states=True, **options)
    return run


sequence = with_states(mlstm_recurrent_sequence__native_fw, dtype_state=torch.float64)


def save_form(case, form, exact, upstream, x, states):
    h, last, gradients = differentiate(exact, x, states)
    save(f"{case}/{form}", h=h, **(dict(zip("cnm", last)) if last else {}))
    save(f"{case}/{form}/exact", **gradients)
    save(f"{case}/{form}/upstream", **differentiate(upstream, x, states)[2])


def exponential(case, states=False, forms=("parallel", "parallel_stable"), **sizes):
    x = draw(states=states, **sizes)
    save(case, **{name: value.float() for name, value in x.items()})
    chunk = min(CHUNK, sizes["S"])
    save_form(case, "recurrent", sequence, with_states(mlstm_chunkwise__native_custbw, chunk_size=chunk), x, states)
    for form in () if states else forms:
        name = "native_stablef" if form == "parallel_stable" else "native"
        save_form(case, form, parallel_kernel(name + "_autograd"), parallel_kernel(name + "_custbw"), x, False)
    if states:
        c, n, m = mlstm_chunkwise_fw(x["q"], x["k"], x["v"], x["i"], x["f"], x["c0"], x["n0"], x["m0"],
                                     return_all_states=True, chunk_size=chunk)[4]
        save(f"{case}/recurrent/all", all_c=c, all_n=n, all_m=m)


def sigmoid(case, normalize, **sizes):
    """The package has the sigmoid input gate in the parallel form only."""
    x = draw(**sizes)
    save(case, **{name: value.float() for name, value in x.items()})
    save_form(case, "parallel_stable", parallel_kernel("native_siging_autograd", normalize=normalize),
              parallel_kernel("native_siging_custbw", normalize=normalize), x, False)


def long(case, **sizes):
    """h alone, of enough tokens for sums of f32 to go wrong in."""
    x = draw(**sizes)
    save(case, **{name: x[name].float() for name in INPUTS})
    inputs = {name: x[name] for name in INPUTS}
    save(f"{case}/recurrent", h=sequence(**inputs)[0])
    for form, name in ("parallel", "native_autograd"), ("parallel_stable", "native_stablef_autograd"):
        save(f"{case}/{form}", h=parallel[name](**inputs))


torch.manual_seed(20240521)
small = {"B": 2, "NH": 2, "S": 33, "DHQK": 6, "DHHV": 9}
exponential("plain", **small, i_offset=0, f_offset=0)
exponential("large_gates", **small, i_offset=0, f_offset=-1, spread=6.0)
exponential("states", **small, i_offset=-1, f_offset=3, states=True)
exponential("step", B=3, NH=2, S=1, DHQK=6, DHHV=9, i_offset=0, f_offset=1, states=True)
sigmoid("sigmoid", True, **small, i_offset=0, f_offset=3)
sigmoid("sigmoid_plain", False, **small, i_offset=0, f_offset=0)
long("long", B=1, NH=2, S=512, DHQK=8, DHHV=8, i_offset=-2, f_offset=4)
