#!/usr/bin/env python3
"""Writes what tests/text compares with: strings and their ids by the Hugging Face `tokenizers` package.

    pip install -r scripts/requirements.txt
    python3 scripts/make_tokenizer_fixtures.py                  # writes tests/text/data/*.bin
    python3 scripts/make_tokenizer_fixtures.py --library build/libxlstm.so --count 100000
                                                                # compares many more strings directly

Both are deterministic for a seed. The files are read by tests/text/fixture.c; integers are LEB128
(7 bits a byte, low ones first), a string is its length and its bytes.

tokenizer.bin: the strings; words and separators; the number of words and the length of a text made
of them (see make_text); then the tokenizers: name, path (empty: the JSON follows), flags for
xlstm_encode, n (every n-th string is encoded), the ids of those strings, and for the text the number
of ids and a checksum of every 256 of them.

unicode.bin: runs of code points of one class; the code points that NFC changes, and to what; pairs of
strings, the second of which is the NFC of the first.
"""

import argparse
import copy
import ctypes
import json
import os
import random
import sys

import tokenizers
import unicodedata2
from tokenizers import Tokenizer, normalizers, pre_tokenizers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DATA = "tests/text/data"
NEOX = DATA + "/gpt-neox-20b/tokenizer.json"
SMALL = "models/reference-17m/tokenizer.json"
PLAIN_TEXT = 1
BLOCK = 256
SPACES = ("\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
          "\u2028\u2029\u202f\u205f\u3000")
ALMOST_SPACES = "\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff"
ADDED = ["<|endoftext|>", "<|padding|>"]
NUMBERS = ("0 7 42 3.14159 1,000,000 1e-06 0x1F ½ ¾ ⅷ Ⅻ ² ³ ₂ ① ⑳ 一二三 〇 ٠١٢٣٤ ०१२३ ๐๑๒ 𝟘𝟙𝟚 "
           "１２３ ௧௨௩ ߁߂ 𐒠𐒡 1st 2nd 10% $5.00 №7 12:34:56 2024-02-29 +49-30-123 192.168.0.1").split(" ")
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "1️⃣", "❤️‍🔥", "👩🏿‍🚀", "🧑‍🤝‍🧑", "☃︎", "♥️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
CODE = ["def f(x):\n    return x\n", "int main(void) {\n\treturn 0;\n}\n", "for (;;) { i++; }",
        "a = b[c] if d else {'e': 1}", "x ->\n        y\n", "#include <stdio.h>\n", "// comment\n\n\n",
        "<div class=\"a\">&nbsp;</div>", "SELECT * FROM t WHERE a='b';", "$ ls -la | grep '^d'\n",
        "\\begin{equation}\n  x^2 + y^2\n\\end{equation}", "self.__init__(*args, **kwargs)",
        "if x:\n                        deep()\n", "{\"key\": [1, 2.5, null, true]}", "r'\\d+\\s*'",
        "fn main() -> Result<(), Box<dyn Error>> {", "@property", "lambda: None", "0b1010|~0xFF"]
URLS = ["https://example.org/path?query=1&b=two#frag", "http://a.b.co.uk:8080/%20x", "www.x.com",
        "mailto:someone@example.org", "ftp://host/~user/file.tar.gz", "s3://bucket/key", "/usr/lib/x.so.1",
        "C:\\Windows\\System32", "user@host:~/dir", "git@github.com:a/b.git", "://", "https://пример.рф/"]
PROSE = ["The quick brown fox jumps over the lazy dog.", "Once upon a time, there was a king; he had",
         "\"Well,\" said she, \"I don't think they've gone.\"", "It's 5 o'clock—we'll see. They're",
         "Übergrößenträger fährt Straßenbahn.", "Il était une fois l'été à Orléans.", "¿Dónde está el niño?",
         "Съешь же ещё этих мягких французских булок", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
         "いろはにほへと ちりぬるを", "天地玄黃宇宙洪荒", "키스의 고유조건은 입술끼리", "नहीं नजर किसी की बुरी नजर",
         "نص حكيم له سر قاطع", "דג סקרן שט בים", "ฉันกินกระจกได้", "Tiếng Việt có dấu", "ქართული ენა",
         "Հայերեն լեզու", "አማርኛ ቋንቋ", "தமிழ் மொழி", "ភាសាខ្មែរ", "မြန်မာဘာသာ", "ᠮᠣᠩᠭᠣᠯ", "ᏣᎳᎩ", "ᐃᓄᒃᑎᑐᑦ"]


def assigned_pages():
    """The assigned code points of every 256, without surrogates and private use."""
    pages = []
    for start in range(0, 0x110000, 256):
        page = [chr(c) for c in range(start, start + 256)
                if unicodedata2.category(chr(c)) not in ("Cn", "Cs", "Co")]
        if page:
            pages.append(page)
    return pages


class Strings:
    """Random strings of many kinds."""

    def __init__(self, seed, vocabulary):
        self.random = random.Random(seed)
        self.vocabulary = vocabulary
        self.pages = assigned_pages()
        characters = [c for page in self.pages for c in page]
        self.marks = [c for c in characters if unicodedata2.combining(c)]
        self.composed = [c for c in characters
                         if unicodedata2.normalize("NFD", c) != c and not "가" <= c <= "힣"]
        self.jamo = [chr(c) for c in [*range(0x1100, 0x1200), *range(0xA960, 0xA97D),
                                      *range(0xD7B0, 0xD7FC)]]
        self.kinds = [self.page, self.any_character, self.combining, self.hangul, self.spaces,
                      self.control, self.runs, self.contractions, self.numbers, self.emoji,
                      self.added, self.code, self.words, self.prose]

    def pick(self, items, most, least=1):
        return "".join(self.random.choice(items) for _ in range(self.random.randint(least, most)))

    def page(self):
        return self.pick(self.random.choice(self.pages), 12)

    def any_character(self):
        c = self.random.randrange(0x110000 - 0x800)
        return chr(c if c < 0xD800 else c + 0x800) + self.pick("a 1.", 2, 0)

    def combining(self):
        base = self.random.choice(["a", "e", "o", "क", "ا", "か", "α", " ", "1", "가"])
        items = self.random.choices(self.marks, k=4) + self.random.choices(self.composed, k=2)
        items += ["\u0301", "\u0323", "\u0308", "\u031b", "\u0345", "\u05b4", "\u3099", "\u034f"]
        text = base + self.pick(items, 8)
        return unicodedata2.normalize("NFD", text) if self.random.random() < 0.3 else text

    def hangul(self):
        syllables = self.pick([chr(self.random.randrange(0xAC00, 0xD7A4)) for _ in range(4)], 4)
        form = self.random.choice(["NFC", "NFD"])
        return unicodedata2.normalize(form, syllables) + self.pick(self.jamo, 5, 0)

    def spaces(self):
        return self.pick(SPACES + ALMOST_SPACES + "   a.1é", 10)

    def control(self):
        return self.pick([chr(c) for c in range(32)] + ["\0", "\x7f", "\x80", "\x9f", "x", " "], 8)

    def runs(self):
        parts = [" " * self.random.randint(1, 60), "\n" * self.random.randint(1, 4),
                 "\t" * self.random.randint(1, 4), "a", "\r\n", "-" * self.random.randint(1, 20)]
        return self.pick(parts, 5)

    def contractions(self):
        endings = ["s", "t", "re", "ve", "m", "ll", "d", "l", "r", "v", "x", ""]
        ending = self.random.choice(endings)
        ending = ending.upper() if self.random.random() < 0.3 else ending
        return (self.pick(["don", "I", "we", " ", "'", "’", "1", "é"], 2, 0)
                + self.random.choice(["'", "'", "'", "’", " '"]) + ending
                + self.pick(["a", " ", ".", "1", "s"], 2, 0))

    def numbers(self):
        return self.random.choice([" ", "", "x"]).join(self.random.choices(NUMBERS, k=3))

    def emoji(self):
        return self.pick(EMOJI + [" ", "a"], 4)

    def added(self):
        token = self.random.choice(ADDED)
        cut = token[:self.random.randint(1, len(token))]
        return self.pick([token, cut, token[len(cut):], " ", "  ", "<|", "e\u0301", "\n", "x"], 5)

    def code(self):
        return self.pick(CODE + URLS, 2)

    def words(self):
        return self.pick(self.random.choices(self.vocabulary, k=8), 8)

    def prose(self):
        text = self.random.choice(PROSE)
        start = self.random.randrange(len(text))
        return text[start:start + self.random.randint(4, 40)]

    def mixed(self):
        return "".join(self.random.choice(self.kinds)() for _ in range(self.random.randint(2, 4)))


def make_strings(strings):
    """The strings that are committed: some that must be there, and a number of each kind."""
    out = [""] + [" " * n for n in range(1, 61)] + ["x" + " " * n + "y" for n in range(1, 61)]
    out += [" ", "\n", "\0", "a\0b", "'", "''s", "'s't're", "é", "e\u0301", "A\u030a", "\u212b"]
    out += [a + b + "x" for a in SPACES + ALMOST_SPACES for b in ["", " ", a, "\n"]]
    out += PROSE + CODE + URLS + NUMBERS + EMOJI + ADDED
    out += [token[:n] for token in ADDED for n in range(1, len(token))]
    for page in strings.pages:  # every script, and a sample of the large ones
        if page[0] < "\u3400" or page[0] > "\ud7ff" or strings.random.random() < 0.15:
            sample = strings.random.sample(page, min(len(page), 6))
            out += ["".join(sample), strings.random.choice(" a1.") + " ".join(sample[:3])]
    for kind in strings.kinds:
        out += [kind() for _ in range(210)]
    out += [strings.mixed() for _ in range(700)]
    return out


def byte_level_text(tokenizer):
    """The vocabulary as text: entries that are whole characters."""
    decoder = {}
    extra = 0
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            decoder[chr(byte)] = byte
        else:
            decoder[chr(256 + extra)] = byte
            extra += 1
    words = []
    for entry, _ in sorted(tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda e: e[1]):
        try:
            words.append(bytes(decoder[c] for c in entry).decode())
        except (KeyError, UnicodeDecodeError):
            pass
    return words


def make_words(strings):
    words = strings.random.sample(strings.vocabulary, 1500)
    words += [strings.prose() for _ in range(100)] + CODE + URLS + NUMBERS + EMOJI + ADDED
    separators = [" "] * 24 + [""] * 8 + [", ", ". ", "\n", "\n\n", "  ", "    ", "\t", "'s ", " (",
                                          ") ", "\u00a0", "\u3000", "\r\n", "; ", "—", "\u0301", "0"]
    return words, separators


def make_text(words, separators, size):
    """A text of at least `size` bytes; tests/text/fixture.c makes the same. Words early in the list
    come more often, as in real text."""
    state, parts, length = 1, [], 0

    def draw():
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return state >> 32

    while length < size:
        place = draw() * draw() >> 32
        word = words[place * len(words) >> 32]
        separator = separators[draw() * len(separators) >> 32]
        parts += [word, separator]
        length += len(word.encode()) + len(separator.encode())
    return "".join(parts), len(parts) // 2


def small_tokenizers(strings):
    """Small tokenizers with every option that the loader accepts, trained on the strings."""
    from tokenizers import decoders, models, trainers

    base = Tokenizer(models.BPE())
    base.normalizer = normalizers.NFC()
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    base.train_from_iterator(strings, trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    base = json.loads(base.to_str())
    size = len(base["model"]["vocab"])

    def variant(change):
        result = copy.deepcopy(base)
        change(result)
        return result

    def token(number, content, special, normalized):
        return {"id": number, "content": content, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": normalized, "special": special}

    def legacy(t):
        t["model"]["merges"] = [" ".join(pair) for pair in t["model"]["merges"]]
        del t["model"]["type"], t["model"]["ignore_merges"], t["model"]["byte_fallback"]
        del t["pre_tokenizer"]["use_regex"]
        t["model"]["continuing_subword_prefix"] = ""

    def prefix(t):
        t["pre_tokenizer"]["add_prefix_space"] = True
        t["added_tokens"] = [token(size, "<|endoftext|>", True, False), token(size + 1, "  ", False, True)]

    def no_pattern(t):
        t["pre_tokenizer"]["use_regex"] = False

    def no_normalizer(t):
        t["normalizer"] = None
        t["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [t["pre_tokenizer"]]}

    def whole_pieces(t):
        t["model"]["ignore_merges"] = True
        t["model"]["merges"] = t["model"]["merges"][:60]

    def unknown(t):
        keep = set("abcdehinorst ".replace(" ", "Ġ"))
        vocabulary = {"<unk>": 0}
        for entry in t["model"]["vocab"]:
            if set(entry) <= keep:
                vocabulary[entry] = len(vocabulary) + 3  # with a gap
        t["model"].update(vocab=vocabulary, unk_token="<unk>",
                          merges=[m for m in t["model"]["merges"] if set("".join(m)) <= keep])

    def fused(t):
        unknown(t)
        t["model"]["fuse_unk"] = True

    def added(t):
        contents = [("<|endoftext|>", True, False), ("<|end", False, False), ("of", False, False),
                    ("text|>", True, True), ("  ", False, True), ("     ", False, True),
                    ("e\u0301", False, True), ("é|", False, False), ("A\u030a", False, False),
                    ("'s ", False, True), ("\n\n", True, True), ("日本", False, True),
                    ("<|pad", True, True), ("|", True, False), ("\u0323", False, True)]
        t["added_tokens"] = []
        free = size
        for content, special, normalized in contents:  # some are in the vocabulary
            number = t["model"]["vocab"].get(content, free)
            free += number == free
            t["added_tokens"].append(token(number, content, special, normalized))

    changes = [legacy, prefix, no_pattern, no_normalizer, whole_pieces, unknown, fused, added]
    return [(change.__name__, variant(change)) for change in changes]


def all_tokenizers(strings):
    """(name, path or "", JSON text or "", flags, every n-th string)"""
    out = [("neox", NEOX, "", 0, 1), ("neox, plain text", NEOX, "", PLAIN_TEXT, 8),
           ("reference-17m", SMALL, "", 0, 1), ("reference-17m, plain text", SMALL, "", PLAIN_TEXT, 8)]
    for name, value in small_tokenizers(strings):
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        out.append((name, "", text, 0, 8))
        if name == "added":
            out.append((name + ", plain text", "", text, PLAIN_TEXT, 8))
    return out


def load(path, text, flags):
    tokenizer = Tokenizer.from_file(os.path.join(ROOT, path)) if path else Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = flags == PLAIN_TEXT
    return tokenizer


class Writer:
    def __init__(self):
        self.data = bytearray()

    def number(self, value):
        while value >= 128:
            self.data.append(value & 127 | 128)
            value >>= 7
        self.data.append(value)

    def string(self, text):
        encoded = text.encode()
        self.number(len(encoded))
        self.data += encoded

    def strings(self, items):
        self.number(len(items))
        for item in items:
            self.string(item)

    def checksums(self, ids):
        self.number(len(ids))
        for start in range(0, len(ids), BLOCK):
            checksum = 0
            for number in ids[start:start + BLOCK]:
                checksum = (checksum * 0x100000001B3 + number + 1) % 2**64
            self.data += checksum.to_bytes(8, "little")

    def save(self, name):
        with open(os.path.join(ROOT, DATA, name), "wb") as file:
            file.write(self.data)
        print(f"{name}: {len(self.data)} bytes")


def write_tokenizer_fixture(seed):
    strings = Strings(seed, byte_level_text(load(NEOX, "", 0)))
    items = make_strings(strings)
    words, separators = make_words(strings)
    text, count = make_text(words, separators, 1 << 20)
    out = Writer()
    out.strings(items)
    out.strings(words)
    out.strings(separators)
    out.number(count)
    out.number(len(text.encode()))
    tokenizers_used = all_tokenizers(items)
    out.number(len(tokenizers_used))
    for name, path, source, flags, stride in tokenizers_used:
        tokenizer = load(path, source, flags)
        out.string(name)
        out.string(path)
        if not path:
            out.string(source)
        out.number(flags)
        out.number(stride)
        for item in items[::stride]:
            ids = tokenizer.encode(item, add_special_tokens=False).ids
            out.number(len(ids))
            for number in ids:
                out.number(number)
        out.checksums(tokenizer.encode(text, add_special_tokens=False).ids)
    print(f"{len(items)} strings, {len(tokenizers_used)} tokenizers, a text of {len(text.encode())} bytes")
    out.save("tokenizer.bin")


def write_unicode_fixture(seed):
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
    nfc = normalizers.NFC().normalize_str
    runs, changed = [], []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000:
            kind = 0
        else:
            kind = next((kind for kind, companion in ((0, "!"), (1, "a"), (2, "1"))
                         if len(split(companion + chr(c))) == 1), 3)
            if nfc(chr(c)) != chr(c):
                changed.append(chr(c))
        if not runs or runs[-1][0] != kind:
            runs.append([kind, 0])
        runs[-1][1] += 1
    strings = Strings(seed, ["a"])
    sequences = [strings.combining() + strings.hangul() for _ in range(1500)]
    # Long runs of marks are ordered in another way than short ones.
    sequences += ["x" + "".join(strings.random.choices(strings.marks, k=n)) for n in range(1, 120)]
    out = Writer()
    out.number(len(runs))
    for kind, length in runs:
        out.number(kind)
        out.number(length)
    for group in (changed, sequences):
        out.number(len(group))
        for item in group:
            out.string(item)
            out.string(nfc(item))
    out.save("unicode.bin")


class Library:
    """libxlstm through ctypes."""

    def __init__(self, path):
        self.library = ctypes.CDLL(os.path.abspath(path))
        self.library.xlstm_last_error.restype = ctypes.c_char_p

    def check(self, status):
        if status:
            sys.exit(self.library.xlstm_last_error().decode())

    def load(self, path):
        handle = ctypes.c_void_p()
        self.check(self.library.xlstm_tokenizer_load(path.encode(), ctypes.byref(handle)))
        return handle

    def encode(self, handle, text, flags):
        data = text.encode()
        ids, count = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_int64()
        self.check(self.library.xlstm_encode(handle, data, ctypes.c_size_t(len(data)), flags,
                                             ctypes.byref(ids), ctypes.byref(count)))
        result = ids[:count.value]
        self.library.xlstm_free(ids)
        return result


def compare(library_path, count, seed):
    import tempfile

    library = Library(library_path)
    strings = Strings(seed, byte_level_text(load(NEOX, "", 0)))
    differences = 0
    for name, path, source, flags, stride in all_tokenizers(make_strings(strings)):
        theirs = load(path, source, flags)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(source)
            file.flush()
            ours = library.load(os.path.join(ROOT, path) if path else file.name)
        for _ in range(count // stride):
            text = strings.mixed()
            ids = theirs.encode(text, add_special_tokens=False).ids
            if library.encode(ours, text, flags) != ids:
                differences += 1
                if differences <= 10:
                    print(f"{name}: {ascii(text)}\n  theirs {ids}\n  ours   "
                          f"{library.encode(ours, text, flags)}")
        print(f"{name}: {count // stride} strings, {differences} differences so far")
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--library", help="compare this libxlstm directly instead of writing files")
    parser.add_argument("--count", type=int, default=20000, help="how many strings to compare")
    arguments = parser.parse_args()
    print(f"tokenizers {tokenizers.__version__}")
    if arguments.library:
        sys.exit(1 if compare(arguments.library, arguments.count, arguments.seed) else 0)
    write_tokenizer_fixture(arguments.seed)
    write_unicode_fixture(arguments.seed)


if __name__ == "__main__":
    main()
