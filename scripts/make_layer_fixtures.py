#!/usr/bin/env python3
"""Fixtures of the kernels around the mLSTM, from the official package in float64.

    python scripts/make_layer_fixtures.py [FOLDER]        # tests/kernels/data/layers

Needs scripts/requirements-oracle.txt. Each case is a folder of .npy files named after the arguments of
a kernel (docs/KERNELS.md): inputs, outputs, and gradients of the loss <y, dy> (+ <s, ds>) by autograd.
`expected.txt` there names the kernel's family and its options.
"""

import pathlib
import sys

import numpy as np
import torch
from xlstm.blocks.slstm.src.vanilla import slstm_forward, slstm_pointwise_function_registry
from xlstm.components.conv import CausalConv1d, CausalConv1dConfig
from xlstm.components.feedforward import get_act_fn
from xlstm.components.linear_headwise import LinearHeadwiseExpand, LinearHeadwiseExpandConfig
from xlstm.components.ln import LayerNorm, MultiHeadLayerNorm
from xlstm.xlstm_large.components import RMSNorm, soft_cap

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/kernels/data/layers")
torch.set_default_dtype(torch.float64)
random = torch.Generator().manual_seed(2024)


def draw(*shape, mean=0.0, spread=1.0):
    """Values that are exact in float32, so that a float32 kernel sees the same inputs."""
    values = mean + spread * torch.randn(*shape, generator=random)
    return values.float().double().requires_grad_()


def save(case, family, arrays, **options):
    folder = FOLDER / case
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        values = values.detach().numpy() if isinstance(values, torch.Tensor) else values
        np.save(folder / f"{name}.npy", np.ascontiguousarray(values))
    lines = [family] + [f"{name} {value}" for name, value in options.items()]
    (folder / "expected.txt").write_text("\n".join(lines) + "\n")


def gradients(inputs, loss):
    """{"dx": gradient of the loss to x, ...}"""
    return {f"d{n}": g for n, g in zip(inputs, torch.autograd.grad(loss, list(inputs.values())))}


def cell(case, function, batch, tokens, heads, size, initial, forget_mean):
    states = 4 if function == "slstm" else 2
    width = heads * size
    inputs = {
        "x": draw(batch, tokens, 4, heads, size),
        "r": draw(heads, size, 4 * size, spread=0.7 / size**0.5),
        "b": draw(4, heads, size, spread=0.5),
    }
    with torch.no_grad():
        inputs["x"][:, :, 1] += forget_mean
    if initial:
        inputs["s0"] = draw(states, batch, heads, size)
        with torch.no_grad():
            if states == 4:  # the package starts anew where all n are 0
                inputs["s0"][2] = 1 + inputs["s0"][2].abs()
        inputs["s0"] = inputs["s0"].detach().float().double().requires_grad_()
    inputs["x"] = inputs["x"].detach().float().double().requires_grad_()
    s0 = inputs["s0"] if initial else torch.zeros(states, batch, heads, size)
    every, last, _ = slstm_forward(
        inputs["x"].reshape(batch, tokens, 4 * width).transpose(0, 1),
        s0.reshape(states, batch, width),
        inputs["r"].transpose(1, 2),  # [heads, 4 * size out, size in]
        inputs["b"].reshape(4 * width),
        slstm_pointwise_function_registry[function],
    )
    every = every[:, 1:].transpose(1, 2).reshape(states, batch, tokens, heads, size)
    s = last.reshape(states, batch, heads, size)
    dy, ds = draw(batch, tokens, heads, size), draw(states, batch, heads, size)
    loss = (every[0] * dy).sum() + (s * ds).sum()
    save(case, f"{function}_sequence",
         inputs | {"y": every[0], "s": s, "all_s": every, "dy": dy, "ds": ds}
         | gradients(inputs, loss))


def conv1d(case, batch, tokens, width, taps, initial):
    layer = CausalConv1d(CausalConv1dConfig(feature_dim=width, kernel_size=taps))
    inputs = {"x": draw(batch, tokens, width), "w": layer.conv.weight, "b": layer.conv.bias}
    if initial:
        inputs["s0"] = draw(batch, taps - 1, width)
    y, s = layer(inputs["x"], inputs.get("s0"), return_last_state=True)
    dy, ds = draw(batch, tokens, width), draw(batch, taps - 1, width)
    arrays = inputs | {"y": y, "s": s, "dy": dy, "ds": ds}
    arrays |= gradients(inputs, (y * dy).sum() + (s * ds).sum())
    arrays["w"], arrays["dw"] = layer.conv.weight[:, 0], arrays["dw"][:, 0]
    save(case, "conv1d", arrays)


def headwise(case, rows, heads, inputs_per_head, outputs_per_head):
    layer = LinearHeadwiseExpand(LinearHeadwiseExpandConfig(
        in_features=heads * inputs_per_head, num_heads=heads,
        _out_features=heads * outputs_per_head))
    with torch.no_grad():
        layer.bias.copy_(draw(heads * outputs_per_head))
    inputs = {"x": draw(rows, heads * inputs_per_head), "w": layer.weight, "b": layer.bias}
    y = layer(inputs["x"])
    dy = draw(rows, heads * outputs_per_head)
    arrays = inputs | {"y": y, "dy": dy} | gradients(inputs, (y * dy).sum())
    for name in ("x", "dx", "y", "dy", "b", "db"):
        shape = (rows, heads, -1) if name[-1] != "b" else (heads, -1)
        arrays[name] = arrays[name].reshape(shape)
    save(case, "headwise_linear", arrays)


def norm(case, family, layer, rows, width, groups, residual):
    with torch.no_grad():
        layer.weight.copy_(draw(width, mean=0 if residual else 1, spread=0.3))
    x, dy = draw(rows, width, mean=0.5), draw(rows, width)
    if isinstance(layer, MultiHeadLayerNorm):
        y = layer(x.reshape(1, rows, groups, -1).transpose(1, 2)).transpose(1, 2).reshape(rows, width)
    else:
        y = layer(x)
    arrays = {"x": x, "w": layer.weight + residual, "y": y, "dy": dy}
    arrays |= gradients({"x": x, "w": layer.weight}, (y * dy).sum())
    save(case, family, arrays, eps=layer.eps, groups=groups)


def gate(case, family, function, rows, width, **options):
    x, u, dy = draw(rows, width, spread=3), draw(rows, width), draw(rows, width)
    gated = family != "soft_cap"
    y = function(x) * (u if gated else 1)
    inputs = {"x": x, "u": u} if gated else {"x": x}
    save(case, family, inputs | {"y": y, "dy": dy} | gradients(inputs, (y * dy).sum()), **options)


def cross_entropy(case, rows, vocab):
    logits, dloss = draw(rows, vocab, spread=4), draw(rows)
    target = torch.randint(vocab, (rows,), generator=random)
    target[1] = -1
    loss = torch.nn.functional.cross_entropy(logits, target, ignore_index=-1, reduction="none")
    save(case, "cross_entropy", {"logits": logits, "target": target, "loss": loss, "dloss": dloss}
         | gradients({"logits": logits}, (loss * dloss).sum()), ignore_index=-1)


def main():
    torch.manual_seed(7)
    cell("slstm_fresh", "slstm", 2, 11, 3, 5, False, 0)
    cell("slstm_carried", "slstm", 3, 7, 2, 4, True, 2)
    cell("slstm_one_head", "slstm", 1, 23, 1, 11, True, -1)
    cell("lstm_fresh", "lstm", 2, 9, 2, 5, False, 0)
    cell("lstm_carried", "lstm", 1, 13, 3, 3, True, 1)
    conv1d("conv1d_fresh", 2, 9, 7, 4, False)
    conv1d("conv1d_carried", 2, 3, 5, 6, True)
    headwise("headwise_blocks", 5, 6, 4, 4)
    headwise("headwise_expand", 3, 2, 5, 7)
    norm("layer_norm", "layer_norm", LayerNorm(13), 5, 13, 1, True)
    norm("head_norm", "layer_norm", MultiHeadLayerNorm(24), 4, 24, 3, True)
    norm("rms_norm", "rms_norm", RMSNorm(17, force_float32_reductions=False), 5, 17, 1, False)
    gate("soft_cap", "soft_cap", lambda x: soft_cap(x, 5.0), 4, 9, soft_cap=5.0)
    gate("swiglu", "swiglu", get_act_fn("swish"), 4, 9)
    gate("gelu_gate", "gelu_gate", get_act_fn("gelu"), 4, 9)
    cross_entropy("cross_entropy", 6, 37)


main()
