#!/usr/bin/env python3
"""Writes tests/format/data/written_by_gguf_py.gguf with the `gguf` package: a value of every type, a tensor of every
type that we read, and beside every tensor in blocks the values that the package makes of them, as NAME.values in f32.

    python scripts/make_gguf_fixtures.py      # with scripts/requirements-oracle.txt, in the root of the repository
"""
import gguf
import numpy as np

PATH = "tests/format/data/written_by_gguf_py.gguf"
ROWS, COLUMNS = 3, 64
TYPES = gguf.GGMLQuantizationType
BLOCKS = [TYPES.Q8_0, TYPES.Q5_0, TYPES.Q5_1, TYPES.Q4_0, TYPES.Q4_1, TYPES.IQ4_NL]


def blocks(rng, kind, values):
    if kind != TYPES.IQ4_NL:
        return gguf.quants.quantize(values, kind)
    # The package only reads these: a scale in f16 and 16 random bytes a block.
    count = values.size // 32
    scales = (rng.standard_normal(count) / 100).astype(np.float16).view(np.uint8).reshape(count, 2)
    levels = rng.integers(0, 256, (count, 16), dtype=np.uint8)
    return np.concatenate([scales, levels], axis=1).reshape(values.shape[0], -1)


def main():
    rng = np.random.default_rng(4)
    writer = gguf.GGUFWriter(PATH, "xlstm")
    writer.add_name("fixture")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_uint32("a.u32", 4000000000)
    writer.add_int32("a.i32", -2000000000)
    writer.add_uint64("a.u64", 2**63 - 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_uint64("a.large", 2**64 - 1)
    writer.add_float32("a.f32", 0.15625)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "größer")
    writer.add_array("a.texts", ["Ġthe", "", "ab"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.reals", [0.5, -0.25])
    for name, kind in [("f32", np.float32), ("f64", np.float64), ("f16", np.float16)]:
        writer.add_tensor(f"t.{name}", (np.arange(24) - 7).astype(kind).reshape(2, 3, 4))
    for name, kind in [("i8", np.int8), ("i16", np.int16), ("i32", np.int32), ("i64", np.int64)]:
        writer.add_tensor(f"t.{name}", np.arange(-2, 3, dtype=kind))
    values = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    bf16 = gguf.quants.quantize(values, TYPES.BF16)
    writer.add_tensor("t.bf16", bf16, raw_dtype=TYPES.BF16)
    writer.add_tensor("t.bf16.values", gguf.quants.dequantize(bf16, TYPES.BF16))
    for kind in BLOCKS:
        name = f"t.{kind.name.lower()}"
        stored = blocks(rng, kind, values)
        writer.add_tensor(name, stored, raw_dtype=kind)
        writer.add_tensor(name + ".values", gguf.quants.dequantize(stored, kind).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
