#!/usr/bin/env python3
"""Writes src/text/unicode_tables.c: what the tokenizer must know about Unicode.

    pip install -r scripts/requirements.txt
    python3 scripts/make_unicode_tables.py           # writes the tables
    python3 scripts/make_unicode_tables.py --probe   # compares them with the `tokenizers` package

Token ids have to equal those of the Hugging Face `tokenizers` package, so the tables follow that
package and not the newest standard. Its parts know different versions of Unicode (found with
--probe, which asks it about every code point):

  * the pattern engine behind pre-tokenisation (\\p{L}, \\p{N}, \\s) knows Unicode 16.0;
  * its NFC knows Unicode 9.0. Characters that came later have, for it, no decomposition and
    combining class 0.

Classes, combining classes and decompositions of assigned characters never change (they are covered
by Unicode's stability policy), so data of version 9.0 is data of version 16.0 without the
characters that came after 9.0. Those of them that matter to NFC are listed in AFTER_9.
"""

import argparse
import os
import sys

import unicodedata2 as unicode

VERSION = "16.0.0"
LAST = 0x110000
SURROGATES = range(0xD800, 0xE000)
OTHER, LETTER, NUMBER, SPACE = range(4)
NEEDS_NFC = 4
BLOCK = 128

# White_Space of PropList.txt; unchanged since Unicode 6.3.
WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028,
               0x2029, 0x202F, 0x205F, 0x3000}

# Characters newer than Unicode 9.0 that have a combining class or a canonical decomposition.
AFTER_9 = """
7FD 897-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1ACE 1DF6-1DFA A82C 105C9 105E4 10D24-10D27
10D69-10D6D 10EAB-10EAC 10EFD-10EFF 10F46-10F50 10F82-10F85 11070 1133B 11383 11385 1138E 11391
113C5 113C7-113C8 113CE-113D0 1145E 11839-1183A 11938 1193D-1193E 11943 119E0 11A34 11A47 11A99
11D42 11D44-11D45 11D97 11F41-11F42 16121-16128 1612F 16D68-16D6A 16FF0-16FF1 1E08F 1E130-1E136
1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF
"""


def after_9():
    points = set()
    for item in AFTER_9.split():
        first, _, last = item.partition("-")
        points.update(range(int(first, 16), int(last or first, 16) + 1))
    return points


def code_points():
    return (c for c in range(LAST) if c not in SURROGATES)


def is_hangul(c):
    return 0xAC00 <= c < 0xAC00 + 11172


def build():
    """Returns (properties, combining, decompositions, compositions)."""
    if unicode.unidata_version != VERSION:
        sys.exit(f"unicodedata2 has Unicode {unicode.unidata_version}; {VERSION} is needed")
    newer = after_9()
    properties, combining = bytearray(LAST), bytearray(LAST)
    decompositions = {}  # c -> (first, second or 0), one step, without Hangul
    for c in code_points():
        category = unicode.category(chr(c))
        if c in WHITE_SPACE:
            properties[c] = SPACE
        elif category[0] == "L":
            properties[c] = LETTER
        elif category[0] == "N":
            properties[c] = NUMBER
        if c in newer:
            continue
        combining[c] = unicode.combining(chr(c))
        mapping = unicode.decomposition(chr(c))
        if mapping and mapping[0] != "<":
            parts = [int(part, 16) for part in mapping.split()]
            assert len(parts) <= 2
            decompositions[c] = (parts[0], parts[1] if len(parts) == 2 else 0)

    # A pair composes unless Unicode excludes it; NFC of what it came from tells.
    compositions = {pair: c for c, pair in decompositions.items()
                    if pair[1] and unicode.normalize("NFC", chr(c)) == chr(c)}
    seconds = {pair[1] for pair in compositions}
    seconds.update(range(0x1161, 0x1176), range(0x11A8, 0x11C3))  # Hangul vowels, final consonants
    composed = set(compositions.values())
    for c in code_points():
        changes = c in decompositions and c not in composed
        if combining[c] or changes or c in seconds:
            properties[c] |= NEEDS_NFC
    # normalize.c cuts text before characters without the mark: these must begin with a character
    # that neither moves nor joins what stands before it.
    for c in composed:
        first = decompositions[c][0]
        while first in decompositions:
            first = decompositions[first][0]
        assert properties[c] & NEEDS_NFC or not properties[first] & NEEDS_NFC, hex(c)
    return properties, combining, decompositions, compositions


def two_levels(values):
    """Cuts values into blocks, keeps each distinct block once: (number of block, blocks)."""
    numbers, index, blocks = {}, [], []
    for start in range(0, len(values), BLOCK):
        block = bytes(values[start:start + BLOCK])
        if block not in numbers:
            numbers[block] = len(blocks)
            blocks.append(block)
        index.append(numbers[block])
    assert len(blocks) <= 65536
    return index, blocks


def c_array(out, declaration, items):
    out.append(f"{declaration} = {{")
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > 100:
            out.append(line)
            line = "   "
        line += " " + item + ","
    out.append(line)
    out.append("};\n")


def render(tables):
    properties, combining, decompositions, compositions = tables
    out = ["/* Unicode data for the tokenizer, generated by scripts/make_unicode_tables.py; do not edit.",
           " *",
           f" * Letters, numbers and white space of Unicode {VERSION}, normalization of Unicode 9.0.0: the",
           " * versions that the pinned `tokenizers` package uses. Data derived from the Unicode Character",
           " * Database, (c) Unicode, Inc., Unicode License v3. */",
           '#include "text/unicode.h"', "", "/* clang-format off */", ""]
    for name, values in (("properties", properties), ("combining", combining)):
        index, blocks = two_levels(values)
        c_array(out, f"const uint16_t unicode_{name}_index[{len(index)}]", map(str, index))
        c_array(out, f"const uint8_t unicode_{name}_blocks[{len(blocks) * BLOCK}]",
                (str(value) for block in blocks for value in block))
    c_array(out, f"const unicode_pair unicode_decompositions[{len(decompositions)}]",
            (f"{{{c}, {a}, {b}}}" for c, (a, b) in sorted(decompositions.items())))
    out.append(f"const size_t unicode_decomposition_count = {len(decompositions)};\n")
    c_array(out, f"const unicode_pair unicode_compositions[{len(compositions)}]",
            (f"{{{c}, {a}, {b}}}" for (a, b), c in sorted(compositions.items())))
    out.append(f"const size_t unicode_composition_count = {len(compositions)};")
    return "\n".join(out) + "\n"


def probe(tables):
    """Asks the tokenizers package about every code point; returns the number of differences."""
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers

    properties, combining, decompositions, compositions = tables
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
    nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    differences = 0

    def differ(what, c, ours, theirs):
        nonlocal differences
        differences += 1
        if differences <= 20:
            print(f"U+{c:04X} {what}: ours {ours}, theirs {theirs}")

    def decompose(c):
        if is_hangul(c):
            s = c - 0xAC00
            tail = s % 28
            return chr(0x1100 + s // 588) + chr(0x1161 + s % 588 // 28) + (
                chr(0x11A7 + tail) if tail else "")
        first, second = decompositions.get(c, (c, 0))
        return (decompose(first) if first != c else chr(c)) + (decompose(second) if second else "")

    def compose(text):
        result = [ord(text[0])]
        for c in map(ord, text[1:]):  # decompositions are short and in order: no mark blocks another
            joined = compositions.get((result[-1], c))
            result[-1:] = [joined] if joined else [result[-1], c]
        return "".join(map(chr, result))

    # One mark of every combining class: where a character stands after reordering tells its class.
    marks = {}
    for c in code_points():
        if combining[c] and c not in decompositions:
            marks.setdefault(combining[c], chr(c))
    for c in code_points():
        text = chr(c)
        classes = [kind for kind, companion in ((LETTER, "a"), (NUMBER, "1"), (OTHER, "!"))
                   if len(split(companion + text)) == 1] or [SPACE]
        if classes != [properties[c] & 3]:
            differ("class", c, properties[c] & 3, classes)
        ours = decompose(c)
        if ours != nfd(text):
            differ("NFD", c, ascii(ours), ascii(nfd(text)))
        ours = text if is_hangul(c) else compose(ours)
        if ours != nfc(text):
            differ("NFC", c, ascii(ours), ascii(nfc(text)))
        if nfd(text) == text:
            for combining_class, mark in marks.items():
                if mark == text:
                    continue
                before = nfd("a" + text + mark) == "a" + mark + text
                after = nfd("a" + mark + text) == "a" + text + mark
                if before != (combining[c] > combining_class) or after != (
                        0 < combining[c] < combining_class):
                    differ("combining class", c, combining[c], f"against {combining_class}")
    for (a, b), c in compositions.items():
        if nfc(chr(a) + chr(b)) != chr(c):
            differ("composition", c, f"{a:X} {b:X}", ascii(nfc(chr(a) + chr(b))))
    # No other pair of these composes. (Where the first decomposes, reordering can bring other pairs
    # together; make_tokenizer_fixtures.py --library compares such sequences.)
    firsts, seconds = {a for a, _ in compositions} - decompositions.keys(), {
        b for _, b in compositions}
    for a in firsts:
        for b in seconds:
            expected = compositions.get((a, b))
            if expected is None and len(nfc(chr(a) + chr(b))) == 1:
                differ("surplus composition", a, f"with {b:X}", ascii(nfc(chr(a) + chr(b))))
    print(f"tokenizers {tokenizers.__version__}: {LAST - len(SURROGATES)} code points, "
          f"{len(compositions)} compositions, {differences} differences")
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--probe", action="store_true",
                        help="compare the tables with the tokenizers package; takes minutes")
    arguments = parser.parse_args()
    tables = build()
    if arguments.probe:
        sys.exit(1 if probe(tables) else 0)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "text",
                        "unicode_tables.c")
    with open(path, "w", encoding="ascii") as file:
        file.write(render(tables))


if __name__ == "__main__":
    main()
