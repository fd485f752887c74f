"""What Metal's language does not have, though clang takes it."""
import re

from tokens import Refused, matching, split

WORDS = {
    "double": "Metal has no double",
    "goto": "Metal has no goto",
    "new": "Metal has no new",
    "delete": "Metal has no delete",
    "virtual": "Metal has no virtual functions",
    "throw": "Metal has no exceptions",
    "try": "Metal has no exceptions",
    "catch": "Metal has no exceptions",
    "dynamic_cast": "Metal has no run-time types",
    "typeid": "Metal has no run-time types",
    "thread_local": "Metal has no thread_local",
    "asm": "Metal has no asm",
    "__asm__": "Metal has no asm",
    "std": "Metal has no std::",
    "printf": "Metal has no printf",
    "malloc": "Metal has no malloc",
    "free": "Metal has no free",
    "__attribute__": "attributes are written [[...]]",
    "metal_device": "a name of the test device",
}
SPACES = ("device", "constant", "threadgroup", "thread")
QUALIFIERS = SPACES + ("const", "volatile", "typename", "static", "inline", "constexpr")
SCALARS = "void bool char uchar short ushort int uint long ulong half bfloat float size_t".split()
BUILT_IN = set(SCALARS) | {f"{p}{t}{n}" for p in ("", "packed_") for t in SCALARS[1:-1] for n in (2, 3, 4)}
BUILT_IN |= {"int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "uint32_t", "int64_t", "uint64_t", "vec", "unsigned"}
BUILT_IN |= {"atomic", "atomic_int", "atomic_uint", "atomic_float", "simdgroup_matrix", "simdgroup_float8x8", "simdgroup_half8x8"}
REAL = re.compile(r"^(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?$")


def check(tokens):
    types = set(BUILT_IN)
    for i, token in enumerate(tokens):
        if token.kind == "number" and REAL.match(token.text):
            raise Refused(token, f"{token.text} is a double: {token.text}f was meant")
        if token.kind != "word":
            continue
        if token.text in WORDS:
            raise Refused(token, WORDS[token.text])
        if token.text.startswith("__builtin_"):
            raise Refused(token, "Metal has no __builtin_ functions")
        following = tokens[i + 1] if i + 1 < len(tokens) else None
        if token.text in ("struct", "class", "union", "typename", "using") and following and following.kind == "word":
            if tokens[i + 2].text != "::" and following.text not in ("namespace", "metal"):
                types.add(following.text)
        if token.text == "typedef":
            end = i
            while tokens[end].text != ";":
                end = matching(tokens, end) if tokens[end].text == "{" else end
                end += 1
            types.add(tokens[end - 1].text)
    for i in range(len(tokens) - 3):
        pointers(tokens, i, types)
        functions_as_values(tokens, i)
    recursion(tokens)
    bodies(tokens)


def pointers(tokens, i, types):
    """A pointer or reference says in which memory what it points to lies."""
    if tokens[i].kind != "word" or tokens[i].text not in types:
        return
    k = i + 1
    if tokens[k].text == "<":
        k = matching(tokens, k) + 1
    while tokens[k].text == "::" and tokens[k + 1].kind == "word":
        k += 2  # W::stored
    words = []
    while tokens[k].text in QUALIFIERS:
        words.append(tokens[k].text)
        k += 1
    if tokens[k].text not in ("*", "&"):
        return
    back = i - 1
    while back >= 0 and (tokens[back].text in QUALIFIERS or tokens[back].text in ("::", "struct", "unsigned")):
        words.append(tokens[back].text)
        back -= 2 if tokens[back].text == "::" else 1
    if any(word in SPACES for word in words):
        return
    if tokens[i].text in BUILT_IN or declares(tokens, back):
        raise Refused(tokens[k], "a pointer or reference without address space")


def declares(tokens, i):
    """Whether a declaration begins behind token i: the name of a type may be that of a value elsewhere."""
    if i < 0 or tokens[i].text in (";", "{", "}"):
        return True
    depth = 0
    while i > 1 and (depth or tokens[i].text != "("):
        depth += (tokens[i].text in ")]") - (tokens[i].text in "[(")
        if depth < 0 or tokens[i].text in (";", "{", "}", "?", ":", "=", "return"):
            return False
        i -= 1
    before = tokens[i - 2]
    return tokens[i - 1].kind == "word" and (
        (before.kind == "word" and before.text not in ("return", "else")) or before.text in ("*", "&", ">")
    )


def functions_as_values(tokens, i):
    text = [t.text for t in tokens[i : i + 4]]
    if text[0] == "(" and text[1] == "*" and tokens[i + 2].kind == "word" and text[3] == ")":
        if tokens[i + 4].text == "(" and (i == 0 or tokens[i - 1].kind == "word"):
            raise Refused(tokens[i], "Metal has no pointers to functions")
    if text[0] == "[" and text[1] != "[" and i > 0 and tokens[i - 1].text != "[":
        before = tokens[i - 1]
        if before.kind in ("sign", "pragma") and before.text not in (")", "]", ">") or before.text == "return":
            raise Refused(tokens[i], "no lambdas")


def definitions(tokens):
    """Functions that are defined at the outermost level: (name, body's first token, body's last, is a kernel)."""
    i, start = 0, 0
    while i < len(tokens):
        text = tokens[i].text
        if text == "{":
            end = matching(tokens, i)
            head = tokens[start:i]
            words = [t.text for t in head]
            if words and words[0] == "namespace":
                i, start = i + 1, i + 1
                continue
            if ")" in words and "=" not in words:
                at = words.index("(")
                yield head[at - 1].text, i, end, "kernel" in words
                i = start = end + 1
                continue
            i = end + 1
            continue
        i += 1
        if text in (";", "}"):
            declaration(tokens[start : i - 1], tokens[i - 1])
            start = i
        elif text == ":" and tokens[i - 2].text in ("public", "private"):
            start = i


def declaration(tokens, end):
    words = [t.text for t in tokens if t.kind != "pragma"]
    if not words or words[0] in ("typedef", "using", "struct", "class", "enum", "union", "template", "static_assert", "kernel"):
        return
    if "(" in words and "=" not in words[: words.index("(")]:
        return
    if "constant" not in words:
        raise Refused(tokens[0], "variables at program scope are constant")


def recursion(tokens):
    calls, defined = {}, {}
    for name, first, last, _ in definitions(tokens):
        defined[name] = defined.get(name, 0) + 1
        calls[name] = [
            tokens[k]
            for k in range(first, last)
            if tokens[k].kind == "word"
            and tokens[k + 1].text in ("(", "<")
            and tokens[k - 1].text not in (".", "->", "::")
        ]
    for name in calls:
        reached, open_ = set(), [name]
        while open_:
            for token in calls.get(open_.pop(), ()):
                if token.text == name and defined[name] == 1:
                    raise Refused(token, f"Metal has no recursion: {name} comes to itself")
                if token.text not in reached and defined.get(token.text) == 1:
                    reached.add(token.text)
                    open_.append(token.text)


def bodies(tokens):
    for _, first, last, is_kernel in definitions(tokens):
        begins = False
        for k in range(first, last):
            text = tokens[k].text
            if text == "static":
                words = [t.text for t in tokens[k : k + 4]]
                if "constant" not in words:
                    raise Refused(tokens[k], "a static variable of a function is constant")
            if begins and text == "threadgroup" and not is_kernel:
                end = next(n for n in range(k, last) if tokens[n].text in (";", "="))
                head = split(tokens[k:end])[0]
                if not any(t.text in ("*", "&") for t in head):
                    raise Refused(tokens[k], "threadgroup variables belong to kernels")
            begins = text in ("{", "}", ";")
