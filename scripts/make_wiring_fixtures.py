#!/usr/bin/env python3
"""Fixtures of tests/model/test_wiring.c: wirings that differ from the sequential model, and their logits in float64.

Each graph is written as JSON and, independently of the C code, computed by walking its nodes: the value of a node is a function of
the sum of polarity * input. Needs numpy. Run from the repository root.
"""
import json
import os
import struct

import numpy as np

MODEL = "models/reference-17m"
OUT = "tests/model/data"


def load_weights():
    weights = {}
    for name in sorted(os.listdir(MODEL)):
        if not name.endswith(".safetensors"):
            continue
        blob = open(os.path.join(MODEL, name), "rb").read()
        n = struct.unpack("<Q", blob[:8])[0]
        for key, info in json.loads(blob[8 : 8 + n]).items():
            if key != "__metadata__":
                a, b = info["data_offsets"]
                raw = np.frombuffer(blob[8 + n + a : 8 + n + b], "<u2").astype(np.uint32) << 16
                weights[key] = raw.view(np.float32).reshape(info["shape"]).astype(np.float64)
    return weights


W = load_weights()
CONFIG = json.load(open(os.path.join(MODEL, "config.json")))
HEADS, EPS, CAP = CONFIG["num_heads"], CONFIG["norm_eps"], CONFIG["gate_soft_cap"]


def rms(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cap(x, c):
    return c * np.tanh(x / c)


def mlstm(x, prefix):
    y = rms(x, W[prefix + ".norm_mlstm.weight"])
    p = prefix + ".mlstm_layer."
    T = len(x)
    q, k, v = ((y @ W[p + s + ".weight"].T).reshape(T, HEADS, -1) for s in "qkv")
    i = cap(y @ W[p + "igate_preact.weight"].T + W[p + "igate_preact.bias"], CAP)
    f = cap(y @ W[p + "fgate_preact.weight"].T + W[p + "fgate_preact.bias"], CAP)
    log_f = -np.logaddexp(0, -f)
    C = np.zeros((HEADS, q.shape[2], v.shape[2]))
    n = np.zeros((HEADS, q.shape[2]))
    m = np.zeros(HEADS)
    h = np.empty_like(v)
    for t in range(T):
        m_new = np.maximum(log_f[t] + m, i[t])
        F, I = np.exp(log_f[t] + m - m_new), np.exp(i[t] - m_new)
        C = F[:, None, None] * C + I[:, None, None] * k[t][:, :, None] * v[t][:, None, :]
        n = F[:, None] * n + I[:, None] * k[t]
        m = m_new
        qs = q[t] / np.sqrt(q.shape[2])
        den = np.maximum(np.abs((qs * n).sum(-1)), np.exp(-m)) + CONFIG["eps"]
        h[t] = np.einsum("hk,hkv->hv", qs, C) / den[:, None]
    u = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + EPS)
    u = u.reshape(T, -1) * W[p + "multihead_norm.weight"]
    return (sigmoid(y @ W[p + "ogate_preact.weight"].T) * u) @ W[p + "out_proj.weight"].T


def ffn(x, prefix):
    z = rms(x, W[prefix + ".norm_ffn.weight"])
    g = z @ W[prefix + ".ffn.proj_up_gate.weight"].T
    return (g * sigmoid(g) * (z @ W[prefix + ".ffn.proj_up.weight"].T)) @ W[prefix + ".ffn.proj_down.weight"].T


def run(nodes, ids):
    values = {}
    for node in nodes:  # listed so that inputs come first
        x = sum(i["polarity"] * values[i["from"]] for i in node["inputs"])
        kind, w = node["kind"], node.get("weights")
        if kind == "embedding":
            x = W[w + ".weight"][ids]
        elif kind == "mlstm":
            x = mlstm(x, w)
        elif kind == "ffn":
            x = ffn(x, w)
        elif kind == "norm":
            x = rms(x, W[w + ".weight"])
        elif kind == "head":
            return cap(x @ W[w + ".weight"].T, CONFIG["output_logit_soft_cap"])
        values[node["name"]] = x


def edge(name, polarity=1):
    return {"from": name, "polarity": polarity}


def sequential(blocks, mlstm_sign=lambda b: 1):
    """blocks: which weights, in order."""
    nodes = [{"name": "embedding", "kind": "embedding", "weights": "backbone.embeddings", "inputs": []}]
    stream = "embedding"
    for at, b in enumerate(blocks):
        w = f"backbone.blocks.{b}"
        for kind, sign in (("mlstm", mlstm_sign(b)), ("ffn", 1)):
            name = f"blocks.{at}.{kind}"
            nodes.append({"name": name, "kind": kind, "weights": w, "inputs": [edge(stream)]})
            nodes.append({"name": name + "_sum", "kind": "sum", "inputs": [edge(stream), edge(name, sign)]})
            stream = name + "_sum"
    nodes.append({"name": "out_norm", "kind": "norm", "weights": "backbone.out_norm", "inputs": [edge(stream)]})
    nodes.append({"name": "head", "kind": "head", "weights": "lm_head", "inputs": [edge("out_norm")]})
    return nodes


def parallel():
    """Blocks 0 and 1 side by side, a shortcut over two blocks, a subtracted stream, several inputs to one branch, a block twice."""
    return [
        {"name": "head", "kind": "head", "weights": "lm_head", "inputs": [edge("normed"), edge("late", -1)]},
        {"name": "e", "kind": "embedding", "weights": "backbone.embeddings", "inputs": []},
        {"name": "a", "kind": "mlstm", "weights": "backbone.blocks.0", "inputs": [edge("e")]},
        {"name": "b", "kind": "ffn", "weights": "backbone.blocks.1", "inputs": [edge("e", -1)]},
        {"name": "ab", "kind": "sum", "inputs": [edge("b", -1), edge("e"), edge("a")]},
        {"name": "c", "kind": "mlstm", "weights": "backbone.blocks.2", "inputs": [edge("ab"), edge("e", -1)]},
        {"name": "d", "kind": "sum", "inputs": [edge("c"), edge("ab")]},
        {"name": "twice", "kind": "mlstm", "weights": "backbone.blocks.2", "inputs": [edge("d")]},
        {"name": "g", "kind": "sum", "inputs": [edge("d"), edge("twice", -1)]},
        {"name": "many", "kind": "sum", "inputs": [edge(n, s) for n, s in zip("e a b c d g e a b d e".split(), [1, 1, -1, 1, 1, 1, -1, 1, 1, -1, 1])]},
        {"name": "normed", "kind": "norm", "weights": "backbone.out_norm", "inputs": [edge("many")]},
        {"name": "late", "kind": "ffn", "weights": "backbone.blocks.7", "inputs": [edge("normed")]},
    ]


def ordered(nodes):
    done, out = set(), []
    while len(out) < len(nodes):
        for node in nodes:
            if node["name"] not in done and all(i["from"] in done for i in node["inputs"]):
                done.add(node["name"])
                out.append(node)
    return out


GRAPHS = {
    "sequential": sequential(range(8)),
    "removed": sequential([0, 1, 2, 4, 5, 6, 7]),
    "swapped": sequential([0, 1, 5, 3, 4, 2, 6, 7]),
    "negative": sequential(range(8), lambda b: -1 if b == 3 else 1),
    "all_three": sequential([0, 2, 1, 3, 5, 6, 7], lambda b: -1 if b == 5 else 1),
    "parallel": parallel(),
}

if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    ids = np.load("tests/golden/reference-17m/p1_ids.npy")
    for name, nodes in GRAPHS.items():
        with open(f"{OUT}/wiring_{name}.json", "w") as f:
            json.dump({"nodes": nodes}, f, indent=None, separators=(",", ":"))
            f.write("\n")
        logits = run(ordered(nodes), ids)[-1:].astype(np.float32)
        np.save(f"{OUT}/wiring_{name}.npy", logits)
        print(name, logits[0, :4])
