"""The CPU bars (docs/SPEED.md, "CPU bars") of runs of `xlstm bench --json`: one line a bar with value and pass or fail.

    bars.py NAME=FILE…    names: bf16, q8_0, q4_0 (weights of that type), avx512 (bf16 with XLSTM_CPU_ISA=avx512)

Exit status 1 if a bar is missed. What a machine or a run lacks is said and not judged.
"""
import json
import sys

failed = 0


def bar(name, value, least, unit):
    global failed
    ok = value >= least
    failed += not ok
    print("  %-6s %-58s %8.2f %s (at least %g)" % ("pass" if ok else "FAIL", name, value, unit, least))


def absent(name, why):
    print("  absent %-58s %s" % (name, why))


def row(run, part, key, size):
    return next((r for r in run[part] if r[key] == size), None)


def show(name, run):
    m = run["machine"]
    print("  %s: read %.1f GB/s, read-modify-write %.1f GB/s, FMA %.0f GFLOP/s, AMX bf16 %s GFLOP/s" % (
        name, m["read_bytes_per_second"] / 1e9, m["update_bytes_per_second"] / 1e9, m["fma_flop_per_second"] / 1e9,
        "no" if m["amx_bf16_flop_per_second"] is None else "%.0f" % (m["amx_bf16_flop_per_second"] / 1e9)))
    for d in run["decode"]:
        print("    decode x %-4d %8.3f tok/s, %6.2f GB/s, %5.1f %% of the limit" % (
            d["batch"], d["tokens_per_second"], d["bytes_per_second"] / 1e9, d["percent_of_limit"]))
    for p in run["prefill"]:
        print("    prefill %-5d %8.2f tok/s, %6.1f GFLOP/s, %5.1f %% of %s" % (
            p["tokens"], p["tokens_per_second"], p["flop_per_second"] / 1e9, p["percent_of_limit"], p["limit"]))


runs = {}
for argument in sys.argv[1:]:
    name, path = argument.split("=", 1)
    runs[name] = json.load(open(path))
    show(name, runs[name])

for name in ("bf16", "q8_0", "q4_0"):
    title = "decode of one sequence, %s, of the memory's limit" % name
    one = row(runs[name], "decode", "batch", 1) if name in runs else None
    if one:
        bar(title, one["percent_of_limit"], 85, "%")
    else:
        absent(title, "not run")

tiles = runs["bf16"]["machine"]["amx_bf16_flop_per_second"] is not None
short, long = (row(runs["bf16"], "prefill", "tokens", n) for n in (512, 4096))
title = "prefill of 512 tokens, bf16, of the AMX peak"
if not tiles:
    absent(title, "the processor has no AMX")
elif not short:
    absent(title, "not run")
else:
    # Against the FMA peak it would be another number: then the profile did not use the tiles.
    bar(title, short["percent_of_limit"] if short["limit"] == "AMX bf16" else 0, 45, "%")
title = "prefill of 4096 tokens, its share of the limit / that of 512"
if short and long:
    bar(title, long["percent_of_limit"] / short["percent_of_limit"], 0.9, "x")
else:
    absent(title, "not run")

title = "prefill of 512 tokens, XLSTM_CPU_ISA=avx512, of the FMA peak"
if "avx512" in runs:
    bar(title, row(runs["avx512"], "prefill", "tokens", 512)["percent_of_limit"], 65, "%")
else:
    absent(title, "not run: the processor has no AVX-512")

title = "decode of 16 sequences / of one, bf16"
one, many = (row(runs["bf16"], "decode", "batch", n) for n in (1, 16))
if not tiles:
    absent(title, "the processor has no AMX")
elif one and many:
    bar(title, many["tokens_per_second"] / one["tokens_per_second"], 8, "x")
else:
    absent(title, "not run: no memory for 16 states")

print("  %d missed" % failed)
sys.exit(failed > 0)
