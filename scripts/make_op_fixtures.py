#!/usr/bin/env python3
"""Writes tests/ops/data/*.npy: inputs and outputs of the ops, computed in float64 by numpy.

The formulas are not those of src/ops/reference: the mLSTM is unrolled into its quadratic form (every output
is one weighted sum over all earlier tokens and the initial state), so that an error in the recurrence
cannot hide in both. Needs numpy; run from the root of the repository:

    python3 scripts/make_op_fixtures.py
"""
import math
import os

import numpy as np

FOLDER = "tests/ops/data"
rng = np.random.default_rng(20240521)


def save(**arrays):
    for name, array in arrays.items():
        np.save(f"{FOLDER}/{name}.npy", np.ascontiguousarray(array, dtype="<f8"))


def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def mlstm_unrolled(q, k, v, i, f, c0, n0, m0, eps):
    """One head. With L_t = sum of log_sigmoid(f) up to t, everything stored at s counts exp(L_t - L_s + i_s) at t,
    and the initial state exp(L_t + m0)."""
    T, d_qk = q.shape
    total = np.cumsum(log_sigmoid(f))
    stored = total[:, None] - total[None, :] + i[None, :]  # [t][s]
    stored[np.triu_indices(T, 1)] = -np.inf
    initial = total + m0
    m = np.maximum(stored.max(1), initial)
    weight, weight0 = np.exp(stored - m[:, None]), np.exp(initial - m)
    q = q / math.sqrt(d_qk)
    numerator = ((q @ k.T) * weight) @ v + weight0[:, None] * (q @ c0)
    denominator = np.abs(((q @ k.T) * weight).sum(1) + weight0 * (q @ n0))
    h = numerator / (np.maximum(denominator, np.exp(-m)) + eps)[:, None]
    c = weight0[-1] * c0 + (k * weight[-1][:, None]).T @ v
    n = weight0[-1] * n0 + (k * weight[-1][:, None]).sum(0)
    return h, c, n, m[-1]


def make_mlstm():
    T, heads, d_qk, d_v, eps = 37, 3, 5, 7, 1e-6
    q, k = rng.normal(0.3, 1, (2, T, heads, d_qk))
    v = rng.normal(0, 1, (T, heads, d_v))
    i, f = rng.normal(-1, 2, (T, heads)), rng.normal(3, 2, (T, heads))
    c0, n0, m0 = rng.normal(0, 1, (heads, d_qk, d_v)), rng.normal(0, 1, (heads, d_qk)), rng.normal(0, 2, heads)
    parts = [mlstm_unrolled(q[:, a], k[:, a], v[:, a], i[:, a], f[:, a], c0[a], n0[a], m0[a], eps)
             for a in range(heads)]
    save(mlstm_q=q, mlstm_k=k, mlstm_v=v, mlstm_i=i, mlstm_f=f, mlstm_c0=c0, mlstm_n0=n0, mlstm_m0=m0,
         mlstm_h=np.stack([p[0] for p in parts], 1), mlstm_c=np.stack([p[1] for p in parts]),
         mlstm_n=np.stack([p[2] for p in parts]), mlstm_m=np.stack([p[3] for p in parts]))


def rms_norm(x, weight, eps):
    return x * weight / np.sqrt((x ** 2).mean(-1, keepdims=True) + eps)


def head_layer_norm(x, heads, weight, bias, eps):
    parts = np.split(x, heads, axis=-1)
    parts = [(p - np.average(p, axis=-1)[:, None]) / np.sqrt(np.var(p, axis=-1) + eps)[:, None] for p in parts]
    return np.concatenate(parts, -1) * weight + bias


def make_projections():
    T, K, F, N, heads = 6, 12, 9, 5, 3
    x = rng.normal(0.5, 2, (T, K))
    weight, bias = rng.normal(1, 0.3, K), rng.normal(0, 0.3, K)
    save(x=x, norm_weight=weight, norm_bias=bias,
         rms=rms_norm(x, weight, 1e-2), layer=head_layer_norm(x, 1, weight, bias, 1e-2),
         heads=head_layer_norm(x, heads, weight, bias, 1e-2))

    gate, up = rng.normal(0, 1, (2, F, K))
    gate_bias, up_bias = rng.normal(0, 1, (2, F))
    y = rms_norm(x, weight, 1e-6)
    z, u = y @ gate.T + gate_bias, y @ up.T + up_bias
    phi = np.vectorize(lambda a: (1 + math.erf(a / math.sqrt(2))) / 2)
    save(gate=gate, up=up, gate_bias=gate_bias, up_bias=up_bias, swiglu=z * sigmoid(z) * u, geglu=z * phi(z) * u)

    w, b, residual = rng.normal(0, 2, (N, K)), rng.normal(0, 1, N), rng.normal(0, 1, (T, N))
    output_gate = rng.normal(0, 3, (T, K))
    save(w=w, b=b, residual=residual, output_gate=output_gate,
         capped=3 * np.tanh((y @ w.T + b) / 3), plain=y @ w.T,
         added=residual - (x @ w.T + b),
         mlstm_out=residual + (sigmoid(output_gate) * head_layer_norm(x, heads, weight, bias, 1e-6)) @ w.T)


os.makedirs(FOLDER, exist_ok=True)
make_mlstm()
make_projections()
