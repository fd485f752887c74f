#!/usr/bin/env python3
"""Compares the GGUF files of `xlstm` with the `gguf` package, both ways: the package reads what `xlstm convert` writes
(keys, names, shapes, values), and `xlstm` computes from files of the package. A file in blocks and a file with the values
that the package makes of these blocks, in f32, must give the same logits.

    python scripts/check_gguf.py COMMAND      # with scripts/requirements-oracle.txt, in the root of the repository;
                                              # `make test-oracle` runs it
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import gguf
import numpy as np

MODEL = "models/reference-17m"
IDS = "0,343,467,278,3011,325,17,42,1000,2000,3000,4000"
TYPES = gguf.GGMLQuantizationType
# Names of `--type`, and the most that a matrix may lose, as ||error|| / ||matrix||.
STORED = {"f32": 0, "bf16": 0, "f16": 4e-4, "q8_0": 0.01, "q5_1": 0.05, "q5_0": 0.06, "q4_1": 0.09, "q4_0": 0.11,
          "iq4_nl": 0.1}
SAME = 2e-6  # relative difference of logits that fp32 sums in another order may have

failures = 0


def check(what, good, why=""):
    global failures
    failures += not good
    print(f"{'ok    ' if good else 'FAILED'}  {what}{'' if good else ': ' + str(why)}", flush=True)


def to_f32(raw, kind, shape):
    return gguf.quants.dequantize(raw, TYPES[kind.upper()]).astype(np.float32).reshape(shape)


def read_safetensors(path):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        data = file.read()
    header.pop("__metadata__", None)
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert entry["dtype"] == "BF16", "the model is stored in bf16"
        raw = np.frombuffer(data[begin:end], np.uint8)
        yield name, to_f32(raw, "bf16", entry["shape"])


def read_checkpoint(folder):
    files = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
    return dict(pair for name in files for pair in read_safetensors(os.path.join(folder, name)))


def read_with_package(path):
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: (t.data, t.tensor_type, [int(n) for n in reversed(t.shape)]) for t in reader.tensors}
    return fields, tensors


def write_with_package(path, tensors):
    """tensors: name -> (array of f32, or bytes of blocks; type)"""
    writer = gguf.GGUFWriter(path, "xlstm")
    for key, name in [("xlstm.config.json", "config.json"), ("tokenizer.huggingface.json", "tokenizer.json")]:
        with open(os.path.join(MODEL, name), encoding="utf-8", newline="") as file:
            writer.add_string(key, file.read())
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(command, model, work):
    out = os.path.join(work, "logits.npy")
    subprocess.run([command, "logits", "-m", model, "--ids", IDS, "-o", out, "--profile", "exact"], check=True,
                   stderr=subprocess.DEVNULL)
    return np.load(out)


def difference(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def check_metadata(fields):
    with open(os.path.join(MODEL, "tokenizer.json"), encoding="utf-8", newline="") as file:
        text = file.read()
    with open(os.path.join(MODEL, "config.json"), encoding="utf-8", newline="") as file:
        config = file.read()
    model = json.loads(text)["model"]
    vocabulary = sorted(model["vocab"], key=model["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    expected = {
        "general.architecture": "xlstm", "general.type": "model", "xlstm.family": "xlstm-large",
        "xlstm.block_count": 8, "xlstm.embedding_length": 384, "xlstm.vocab_size": 4096,
        "xlstm.feed_forward_length": 1024, "xlstm.attention.head_count": 6, "xlstm.attention.key_length": 32,
        "xlstm.attention.value_length": 64, "xlstm.gate_soft_cap": 15.0, "xlstm.final_logit_softcapping": 30.0,
        "xlstm.config.json": config, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": vocabulary, "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.padding_token_id": 1, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.huggingface.json": text,
    }
    wrong = [key for key, value in expected.items() if fields.get(key) != value]
    check(f"{len(expected)} keys as the package reads them", not wrong, wrong)
    kinds = fields["tokenizer.ggml.token_type"]
    check("types of tokens", kinds[:2] == [3, 3] and set(kinds[2:]) == {1} and len(kinds) == 4096, kinds[:4])


def check_ours(command, kind, original, work):
    path = os.path.join(work, f"ours-{kind}.gguf")
    subprocess.run([command, "convert", "-m", MODEL, "-o", path, "--type", kind], check=True, stderr=subprocess.DEVNULL)
    fields, tensors = read_with_package(path)
    if kind == "bf16":
        check_metadata(fields)
    file_type = gguf.LlamaFileType(fields["general.file_type"]).name.lower()
    check(f"{kind}: general.file_type", file_type.endswith(kind), file_type)
    shapes = {name: list(value.shape) for name, value in original.items()}
    check(f"{kind}: names and shapes", {name: t[2] for name, t in tensors.items()} == shapes)
    plain, worst, used = {}, 0.0, set()
    for name, (data, stored, shape) in tensors.items():
        values = gguf.quants.dequantize(data, stored).astype(np.float32).reshape(shape)
        plain[name] = (values, None)
        used.add(stored.name.lower())
        norm = np.linalg.norm(original[name])
        worst = max(worst, float(np.linalg.norm(values - original[name]) / norm) if norm > 0 else np.abs(values).max())
    check(f"{kind}: values as the package has them, worst error {worst:.2g} (types {', '.join(sorted(used))})",
          worst <= STORED[kind] and kind in used, f"more than {STORED[kind]}")
    same_logits(command, f"{kind}: logits", path, plain, work)
    os.remove(path)


def same_logits(command, what, path, plain, work):
    other = os.path.join(work, "plain.gguf")
    write_with_package(other, plain)
    got = difference(logits(command, path, work), logits(command, other, work))
    check(f"{what} equal those of the package's values in f32, difference {got:.2g}", got <= SAME, f"more than {SAME}")
    os.remove(other)


def check_theirs(command, kind, original, work):
    path = os.path.join(work, f"theirs-{kind}.gguf")
    number, stored, plain = TYPES[kind.upper()], {}, {}
    for name, values in original.items():
        matrix = values.ndim == 2 and ".igate_" not in name and ".fgate_" not in name
        packed = gguf.quants.quantize(values, number) if matrix else values
        stored[name] = (packed, number if matrix else None)
        plain[name] = (gguf.quants.dequantize(packed, number).astype(np.float32) if matrix else values, None)
    write_with_package(path, stored)
    same_logits(command, f"{kind} written by the package: logits", path, plain, work)
    os.remove(path)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    command, original = os.path.abspath(sys.argv[1]), read_checkpoint(MODEL)
    with tempfile.TemporaryDirectory() as work:
        for kind in STORED:
            check_ours(command, kind, original, work)
        for kind in ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"):  # it cannot quantise to iq4_nl
            check_theirs(command, kind, original, work)
    print(f"{failures} failed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
