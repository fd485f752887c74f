#!/usr/bin/env python3
"""Converts a PyTorch checkpoint of the official package's xLSTMLMModel into a folder that xlstm loads.

    python scripts/convert_neurips.py model.pt experiment.yaml OUT [--dtype float32|bfloat16|float16]

model.pt (or .pth) is a state dict, or a mapping that holds one under "state_dict", "model" or
"model_state_dict"; it is read with weights_only, so nothing in it is executed. Prefixes that wrappers
put in front of every name ("module.", "_orig_mod.", "model.") are taken off, `causal_mask` buffers and
a tied `lm_head.weight` are left out. experiment.yaml is the model's config, alone or under `model:`;
references such as ${dataset.kwargs.vocab_size} are followed. OUT gets model.safetensors and
config.yaml, and must not hold them already.

    python scripts/convert_neurips.py --self-check build/xlstm

makes a random model with the official package, converts it from a file with wrapped names and from a
config with references, lets the given command compute logits, and compares them with the package's:
it prints the error and fails above 2e-5. Needs torch, safetensors and PyYAML; the check also xlstm.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import torch
import yaml
from safetensors.torch import save_file

WRAPPERS = ("module.", "_orig_mod.", "model.")
HOLDERS = ("state_dict", "model_state_dict", "model")
FAMILY = ("mlstm_block", "slstm_block", "slstm_at")


def state_dict_of(path):
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for holder in HOLDERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(holder), dict):
            loaded = loaded[holder]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise SystemExit(f"{path} holds no state dict: a mapping of names to tensors")
    return loaded


def plain_names(state):
    """Wrappers nest, so their prefixes are taken off until the names begin as the model's do."""
    while not any(name.startswith(("token_embedding.", "xlstm_block_stack.")) for name in state):
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in state)), None)
        if wrapper is None:
            raise SystemExit("the names are not those of xLSTMLMModel: " + ", ".join(list(state)[:3]) + " ...")
        state = {name[len(wrapper):]: value for name, value in state.items()}
    return state


def follow(value, root, depth=0):
    """Values with ${a.b} replaced by what they refer to."""
    if isinstance(value, dict):
        return {key: follow(item, root, depth) for key, item in value.items()}
    if isinstance(value, list):
        return [follow(item, root, depth) for item in value]
    if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
        at = root
        for key in value[2:-1].split("."):
            if not isinstance(at, dict) or key not in at or depth > 16:
                raise SystemExit(f"the config refers to {value}, which is not there")
            at = at[key]
        return follow(at, root, depth + 1)
    return value


def config_of(path):
    with open(path) as file:
        root = yaml.safe_load(file)
    model = root
    if isinstance(root, dict) and not any(key in root for key in FAMILY) and isinstance(root.get("model"), dict):
        model = root["model"]
    if not isinstance(model, dict) or not any(key in model for key in FAMILY):
        raise SystemExit(f"{path} has none of {', '.join(FAMILY)}: it is no config of xLSTMLMModel")
    return follow(model, root)


def write_folder(state, config, out, dtype=None):
    """state: names as the package's state_dict() has them. The config is completed with the vocabulary's size."""
    state = {name: value for name, value in state.items() if not name.endswith("causal_mask")}
    if config.get("tie_weights", False):
        state.pop("lm_head.weight", None)
    config = dict(config)
    config.setdefault("vocab_size", state["token_embedding.weight"].shape[0])
    os.makedirs(out, exist_ok=True)
    for name in ("config.yaml", "config.json", "model.safetensors"):
        if os.path.exists(os.path.join(out, name)):
            raise SystemExit(f"{out} already holds {name}: give a new or an empty folder")
    tensors = {name: value.to(dtype or value.dtype).contiguous().clone() for name, value in state.items()}
    save_file(tensors, os.path.join(out, "model.safetensors"))
    with open(os.path.join(out, "config.yaml"), "w") as file:
        yaml.safe_dump(config, file, sort_keys=False)


def self_check(command):
    import numpy as np
    from dacite import from_dict
    from xlstm import xLSTMLMModel, xLSTMLMModelConfig

    torch.manual_seed(5)
    model_config = {
        "num_blocks": 3,
        "embedding_dim": 32,
        "mlstm_block": {"mlstm": {"num_heads": 2}},
        "slstm_block": {"slstm": {"num_heads": 2, "backend": "vanilla"}},
        "slstm_at": [1],
        "vocab_size": 20,
        "context_length": 64,
        "tie_weights": True,
    }
    model = xLSTMLMModel(from_dict(data_class=xLSTMLMModelConfig, data=model_config))
    model.reset_parameters()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    ids = torch.randint(0, 20, (1, 40))
    with torch.no_grad():
        expected = model.double()(ids)[0].numpy()
    model.float()
    with tempfile.TemporaryDirectory() as folder:
        wrapped = {"module._orig_mod." + name: value for name, value in model.state_dict().items()}
        wrapped["module._orig_mod.xlstm_block_stack.blocks.0.xlstm.mlstm_cell.causal_mask"] = torch.ones(2, 2)
        checkpoint, config = os.path.join(folder, "model.pt"), os.path.join(folder, "experiment.yaml")
        torch.save({"model": wrapped, "step": 7}, checkpoint)
        with open(config, "w") as file:
            yaml.safe_dump({"dataset": {"size": 20}, "model": {**model_config, "vocab_size": "${dataset.size}"}}, file)
        out, logits = os.path.join(folder, "out"), os.path.join(folder, "logits.npy")
        subprocess.run([sys.executable, __file__, checkpoint, config, out], check=True)
        subprocess.run([command, "logits", "-m", out, "--ids", ",".join(map(str, ids[0].tolist())), "-o", logits],
                       check=True)
        error = np.linalg.norm(np.load(logits) - expected) / np.linalg.norm(expected)
    print(f"logits of the converted model: relative error {error:.2e} (at most 2e-5)")
    if not error <= 2e-5:
        raise SystemExit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-check", metavar="COMMAND")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("config", nargs="?")
    parser.add_argument("out", nargs="?")
    arguments = parser.parse_args()
    if arguments.self_check:
        return self_check(arguments.self_check)
    if not arguments.out:
        parser.error("a checkpoint, a config and a folder are needed")
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    write_folder(plain_names(state_dict_of(arguments.checkpoint)), config_of(arguments.config), arguments.out, dtype)


if __name__ == "__main__":
    main()
