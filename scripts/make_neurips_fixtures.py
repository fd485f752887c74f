#!/usr/bin/env python3
"""Fixtures of tests/golden/test_neurips.c: tiny xlstm-neurips models and what the official package computes with them.

Every parameter is random and not what it starts as, so that no norm, bias, skip or recurrent weight is without
effect. Weights are rounded to the type they are stored in; then the package computes in float64. A folder of
tests/golden/neurips-* gets config.yaml, model.safetensors, ids.npy (int32 [T]) and logits.npy (float32 [T, vocab]);
neurips-mixed also the states after the last token and the logits of models wired otherwise, neurips-slstm-cuda the
same weights in the layout of the vanilla backend. Run from the repository
root with the versions of requirements-oracle.txt.
"""

import json
import os
import shutil

import numpy as np
import torch
from convert_neurips import write_folder
from dacite import from_dict
from safetensors.torch import save_file
from xlstm import xLSTMLMModel, xLSTMLMModelConfig
from xlstm.blocks.slstm.cell import sLSTMCell_cuda, sLSTMCell_vanilla

OUT = "tests/golden/neurips-"
TOKENS = 70  # more than a chunk of 64
SMALL_SLSTM = {"num_heads": 2, "backend": "vanilla"}


def slstm_model(**slstm):
    feedforward = slstm.pop("feedforward", {})
    return {"slstm_block": {"slstm": {**SMALL_SLSTM, **slstm}, "feedforward": feedforward}}


CONFIGS = {
    "mlstm": {
        "vocab_size": 40, "embedding_dim": 24, "num_blocks": 2, "context_length": 128, "bias": True,
        "mlstm_block": {"mlstm": {"num_heads": 2, "conv1d_kernel_size": 3, "qkv_proj_blocksize": 8}},
    },
    "mlstm-narrow": {  # the width rounded down, no norm at the end
        "vocab_size": 17, "embedding_dim": 20, "num_blocks": 1, "context_length": 128, "add_post_blocks_norm": False,
        "mlstm_block": {"mlstm": {"num_heads": 3, "conv1d_kernel_size": 2, "proj_factor": 1.3, "qkv_proj_blocksize": 2,
                                  "round_proj_up_dim_up": False, "round_proj_up_to_multiple_of": 6}},
        "slstm_at": [],
    },
    "slstm": {
        "vocab_size": 40, "embedding_dim": 24, "num_blocks": 2, "context_length": 128, "tie_weights": True,
        **slstm_model(num_heads=3),
    },
    "slstm-cuda": {
        "vocab_size": 19, "embedding_dim": 20, "num_blocks": 2, "context_length": 128, "slstm_at": "all",
        **slstm_model(num_heads=4, conv1d_kernel_size=0, group_norm_weight=False,
                      feedforward={"act_fn": "swish", "bias": True, "round_proj_up_to_multiple_of": 8}),
    },
    "lstm": {
        "vocab_size": 19, "embedding_dim": 18, "num_blocks": 2, "context_length": 128,
        **slstm_model(num_heads=3, conv1d_kernel_size=2, function="lstm", feedforward=None),
    },
    "mixed": {
        "vocab_size": 40, "embedding_dim": 32, "num_blocks": 4, "context_length": 128, "slstm_at": [1, 3],
        "mlstm_block": {"mlstm": {"num_heads": 4, "conv1d_kernel_size": 4, "qkv_proj_blocksize": 4}},
        **slstm_model(num_heads=2),
    },
}
for activation in ("relu", "relu^2", "sigmoid", "selu"):
    CONFIGS["ffn-" + activation.replace("^", "")] = {
        "vocab_size": 11, "embedding_dim": 8, "num_blocks": 1, "context_length": 128,
        **slstm_model(num_heads=1, feedforward={"act_fn": activation, "round_proj_up_to_multiple_of": 8}),
    }


def randomise(model, stored):
    """Values of a trained model's size, none of them special, rounded to the stored type."""
    for name, value in model.named_parameters():
        fan_in = value.shape[-1]
        if "conv1d" in name:
            spread, middle = 0.5, 0.0
        elif "norm" in name:
            spread, middle = 0.3, 0.0
        elif name.endswith("learnable_skip"):
            spread, middle = 0.3, 0.8
        elif name.endswith(("_bias_", "igate.bias", "fgate.bias")):
            spread, middle = 1.0, 0.5
        elif name.endswith("bias"):
            spread, middle = 0.3, 0.0
        elif "embedding" in name or "lm_head" in name:
            spread, middle = 1.0, 0.0
        else:
            spread, middle = 1.2 / fan_in**0.5, 0.0
        with torch.no_grad():
            value.copy_((middle + spread * torch.randn_like(value)).to(stored))


def as_cuda_stores_it(state, model):
    """The recurrent kernels and biases of sLSTM cells as the cuda backend's parameters hold them."""
    state = dict(state)
    for index, block in enumerate(model.xlstm_block_stack.blocks):
        cell = block.xlstm.slstm_cell
        assert isinstance(cell, sLSTMCell_vanilla)
        cuda = sLSTMCell_cuda(cell.config, skip_backend_init=True)
        prefix = f"xlstm_block_stack.blocks.{index}.xlstm.slstm_cell."
        kernel = cell._recurrent_kernel_int2ext(cell._recurrent_kernel_.detach())
        bias = cell._bias_int2ext(cell._bias_.detach())
        state[prefix + "_recurrent_kernel_"] = cuda._recurrent_kernel_ext2int(kernel.contiguous())
        state[prefix + "_bias_"] = cuda._bias_ext2int(bias.contiguous())
    return state


def save(folder, name, value):
    np.save(os.path.join(folder, name + ".npy"), value)


def float32(tensor):
    return tensor.detach().to(torch.float64).numpy().astype(np.float32)


# ---- States ----


def save_states(folder, model, ids):
    """After the last token, in the form that a state file has: C and n of unscaled keys, the convolution's last
    inputs without the one that has passed, y c n m of an sLSTM by head."""
    state = None
    for token in ids:
        _, state = model.step(torch.tensor([[token]]), state)
    for index, block in enumerate(model.xlstm_block_stack.blocks):
        now = state[f"block_{index}"]
        if "mlstm_state" in now:
            c, n, m = (part[0] for part in now["mlstm_state"])
            scale = c.shape[-1] ** 0.5
            values = {"c": c * scale, "n": n[..., 0] * scale, "m": m[..., 0, 0]}
        else:
            heads = block.xlstm.config.num_heads
            values = dict(zip("ycnm", now["slstm_state"][:, 0].reshape(4, heads, -1)))
        values["conv"] = now["conv_state"][0][0, 1:]
        for kind, value in values.items():
            save(folder, f"state{index}_{kind}", float32(value))


# ---- Wiring ----

BLOCKS = "xlstm_block_stack.blocks."
KIND = ["mlstm", "slstm", "mlstm", "slstm"]


def node(name, kind, weights, *inputs):
    value = {"name": name, "kind": kind, "inputs": [{"from": i.lstrip("-"), "polarity": -1 if i[0] == "-" else 1} for i in inputs]}
    return {**value, "weights": weights} if weights else value


def chain(blocks, negative=()):
    """Blocks one after the other; branches named in `negative` are subtracted."""
    nodes, stream = [node("embedding", "embedding", "token_embedding")], "embedding"
    for at, index in enumerate(blocks):
        for kind in [KIND[index]] + (["ffn"] if KIND[index] == "slstm" else []):
            branch = f"{at}.{kind}"
            sign = "-" if (index, kind) in negative else ""
            nodes.append(node(branch, kind, BLOCKS + str(index), stream))
            nodes.append(node(branch + "_sum", "sum", None, stream, sign + branch))
            stream = branch + "_sum"
    nodes.append(node("norm", "norm", "xlstm_block_stack.post_blocks_norm", stream))
    nodes.append(node("head", "head", "lm_head", "norm"))
    return nodes


GRAPHS = {
    "removed": chain([0, 1, 3]),
    "swapped": chain([3, 2, 1, 0]),
    "negative": chain([0, 1, 2, 3], negative=[(0, "mlstm"), (1, "slstm"), (3, "ffn")]),
    "parallel": [  # branches with uses of their own, so that none of them can write its sum itself
        node("in", "embedding", "token_embedding"),
        node("a", "mlstm", BLOCKS + "0", "in"),
        node("b", "slstm", BLOCKS + "1", "in"),
        node("c", "slstm", BLOCKS + "3", "a", "-b"),
        node("d", "ffn", BLOCKS + "1", "b"),
        node("all", "sum", None, "in", "a", "-b", "c", "-d"),
        node("norm", "norm", "xlstm_block_stack.post_blocks_norm", "all"),
        node("out", "head", "lm_head", "norm"),
    ],
}


def run_graph(model, nodes, ids):
    blocks, values = model.xlstm_block_stack.blocks, {}
    for item in nodes:
        x = sum(i["polarity"] * values[i["from"]] for i in item["inputs"]) if item["inputs"] else None
        block = blocks[int(item["weights"][len(BLOCKS):])] if item.get("weights", "").startswith(BLOCKS) else None
        values[item["name"]] = {
            "embedding": lambda: model.token_embedding(ids),
            "mlstm": lambda: block.xlstm(block.xlstm_norm(x)),
            "slstm": lambda: block.xlstm(block.xlstm_norm(x)),
            "ffn": lambda: block.ffn(block.ffn_norm(x)),
            "sum": lambda: x,
            "norm": lambda: model.xlstm_block_stack.post_blocks_norm(x),
            "head": lambda: model.lm_head(x),
        }[item["kind"]]()
    return values[nodes[-1]["name"]]


def save_graphs(folder, model, ids):
    for name, nodes in GRAPHS.items():
        with open(os.path.join(folder, f"wiring_{name}.json"), "w") as file:
            json.dump({"nodes": nodes}, file)
            file.write("\n")
        save(folder, f"wiring_{name}", float32(run_graph(model, nodes, ids)[0, -1]))


# ---- Folders ----


@torch.no_grad()
def make(name, config, seed):
    torch.manual_seed(seed)
    stored = torch.bfloat16 if name.startswith("ffn-") else torch.float32
    model = xLSTMLMModel(from_dict(data_class=xLSTMLMModelConfig, data=json.loads(json.dumps(config))))
    randomise(model, stored)
    folder = OUT + name
    shutil.rmtree(folder, ignore_errors=True)
    state = model.state_dict()
    if name == "slstm-cuda":  # the same model in either layout
        os.makedirs(folder)
        save_file({key: value.contiguous() for key, value in state.items()}, os.path.join(folder, "vanilla.safetensors"))
        state = as_cuda_stores_it(state, model)
    write_folder(state, config, folder, stored)
    model.double()
    ids = torch.randint(0, config["vocab_size"], (1, TOKENS))
    logits = model(ids)
    step = None
    for at in range(TOKENS):
        one, step = model.step(ids[:, at : at + 1], step)
        assert torch.allclose(one[0, 0], logits[0, at], rtol=1e-4, atol=1e-5), (name, at)
    save(folder, "ids", ids[0].numpy().astype(np.int32))
    save(folder, "logits", float32(logits[0]))
    if name == "mixed":
        save_states(folder, model, ids[0].tolist())
        save_graphs(folder, model, ids)
    print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, "
          f"logits from {logits.min():.2f} to {logits.max():.2f}")


for number, (name, config) in enumerate(CONFIGS.items()):
    make(name, config, 100 + number)
