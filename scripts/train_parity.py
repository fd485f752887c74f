#!/usr/bin/env python3
"""Trains the official package's two-block xLSTM on the parity task and freezes what it then answers.

The task is formal-language parity with a vocabulary of 3: tokens 1 and 2, and the answer after the
last of them is (sum of (token - 1) mod 2) + 1. A model is asked once, at the last token; 0 is padding.
Lengths in training are 3 to --longest; the frozen sequences are 3 to 256 tokens long (length
extrapolation). Every prefix of a sequence is itself a sequence of the task, so the loss asks at each
position instead of only at the last: the same answers, learned in minutes on a CPU.

    python scripts/train_parity.py --blocks 11 --out tests/golden/parity-xlstm11
    python scripts/train_parity.py --blocks 01 --out tests/golden/parity-xlstm01

`--blocks 11` is xLSTM[1:1] (an mLSTM block, then an sLSTM block), `--blocks 01` is xLSTM[0:1] (two
sLSTM blocks). The folder gets config.yaml, model.safetensors (float32), and
  sequences.npy    uint8 [N, 256], padded with 0 at the end
  lengths.npy      int64 [N]
  targets.npy      int64 [N]
  predictions.npy  int64 [N]: the official model's argmax over the three logits at the last token
  margins.npy      float32 [N]: its best logit less its second best there
Versions: requirements-oracle.txt. The training is not reproducible to the bit on another machine; the frozen
files are what the tests compare with.
"""

import argparse
import os
import time

import numpy as np
import torch
import yaml
from dacite import from_dict
from safetensors.torch import save_file
from xlstm import xLSTMLMModel, xLSTMLMModelConfig


def config_of(blocks, width):
    slstm = {
        "slstm": {"num_heads": 1, "conv1d_kernel_size": 4, "backend": "vanilla", "dtype": "float32",
                  "bias_init": "powerlaw_blockdependent"},
        "feedforward": {"proj_factor": 1.3, "act_fn": "gelu"},
    }
    config = {
        "vocab_size": 3,
        "embedding_dim": width,
        "num_blocks": 2,
        "context_length": 256,
        "slstm_block": slstm,
        "slstm_at": [1] if blocks == "11" else [0, 1],
    }
    if blocks == "11":
        config["mlstm_block"] = {"mlstm": {"num_heads": 1, "conv1d_kernel_size": 4, "qkv_proj_blocksize": 4}}
    return config


def running_parity(tokens):
    return torch.cumsum(tokens - 1, dim=1) % 2 + 1


def rate(step, steps, peak):
    """Linear warm-up for a tenth, then a cosine down to a thousandth."""
    warm = steps // 10
    if step < warm:
        return peak * step / warm
    part = (step - warm) / max(1, steps - warm)
    return peak * (0.001 + 0.999 * 0.5 * (1 + np.cos(np.pi * part)))


def test_set(count, seed):
    """Fixed sequences: lengths 3 to 256, spread evenly, the last of full length."""
    draw = np.random.default_rng(seed)
    lengths = np.linspace(3, 256, count).astype(np.int64)
    sequences = np.zeros((count, 256), dtype=np.uint8)
    targets = np.zeros(count, dtype=np.int64)
    for row, length in enumerate(lengths):
        sequences[row, :length] = draw.integers(1, 3, length)
        targets[row] = np.sum(sequences[row, :length].astype(np.int64) - 1) % 2 + 1
    return sequences, lengths, targets


@torch.no_grad()
def answers(model, sequences, lengths):
    """Padding comes after the asked position, so a causal model does not see it."""
    last = model(torch.from_numpy(sequences.astype(np.int64)))[torch.arange(len(lengths)), torch.from_numpy(lengths) - 1]
    best = torch.sort(last, dim=1, descending=True).values
    return last.argmax(dim=1).numpy(), (best[:, 0] - best[:, 1]).numpy().astype(np.float32)


def train(model, arguments):
    decay, rest = model.get_weight_decay_optim_groups()
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}])
    generator = torch.Generator().manual_seed(arguments.seed)
    check = test_set(64, 1)
    begin = time.monotonic()
    kept, kept_accuracy = None, -1.0
    for step in range(arguments.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, arguments.steps, arguments.rate)
        low = 3 if step < arguments.steps // 2 else arguments.longest // 2
        length = int(torch.randint(low, arguments.longest + 1, (1,), generator=generator))
        tokens = torch.randint(1, 3, (arguments.batch, length), generator=generator)
        logits = model(tokens)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 3), running_parity(tokens).reshape(-1))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        last = step == arguments.steps - 1 or time.monotonic() - begin > 60 * arguments.minutes
        if step % 200 == 199 or last:
            predicted, margins = answers(model, check[0], check[1])
            accuracy = float(np.mean(predicted == check[2]))
            print(f"step {step + 1} length {length} loss {loss.item():.4f} accuracy on 3 to 256 tokens {accuracy:.4f} "
                  f"smallest margin {margins.min():.3f} {time.monotonic() - begin:.0f} s", flush=True)
            if accuracy >= kept_accuracy:
                kept_accuracy = accuracy
                kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
            if last or (accuracy == 1.0 and loss.item() < 0.002 and step > arguments.steps // 4):
                break
    model.load_state_dict(kept)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", choices=["11", "01"], required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--longest", type=int, default=40)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--sequences", type=int, default=300)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    config = config_of(arguments.blocks, arguments.width)
    model = xLSTMLMModel(from_dict(data_class=xLSTMLMModelConfig, data=config))
    model.reset_parameters()
    train(model, arguments)

    sequences, lengths, targets = test_set(arguments.sequences, 2)
    predictions, margins = answers(model, sequences, lengths)
    print(f"frozen: accuracy {np.mean(predictions == targets):.4f} on {len(targets)} sequences, "
          f"smallest margin {margins.min():.4f}")
    os.makedirs(arguments.out, exist_ok=True)
    with open(os.path.join(arguments.out, "config.yaml"), "w") as file:
        yaml.safe_dump(config, file, sort_keys=False)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()},
              os.path.join(arguments.out, "model.safetensors"))
    for name, values in [("sequences", sequences), ("lengths", lengths), ("targets", targets),
                         ("predictions", predictions), ("margins", margins)]:
        np.save(os.path.join(arguments.out, name + ".npy"), values)


if __name__ == "__main__":
    main()
