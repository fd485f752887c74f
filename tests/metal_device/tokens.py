"""Tokens of preprocessed Metal text, each with its file and line."""
import re

PATTERN = re.compile(
    r"""(?P<marker>^[ \t]*\#[ \t]*(?:line[ \t]+)?(?P<line>\d+)[ \t]+"(?P<file>[^"]*)"[^\n]*$)
      | (?P<pragma>^[ \t]*\#[^\n]*$)
      | (?P<space>[ \t\r\f\v]+|\\\n)
      | (?P<end>\n)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<number>\.?\d(?:[eEpP][+-]|[\w.])*)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<sign>->\*|<<=|>>=|\.\.\.|::|->|\+\+|--|<<|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\#\#|[][{}()<>;:,.?~!%^&*+=|/\#@$-])
      | (?P<other>.)""",
    re.MULTILINE | re.VERBOSE,
)


class Refused(Exception):
    def __init__(self, token, reason):
        super().__init__(reason)
        self.token, self.reason = token, reason


class Token:
    __slots__ = ("text", "kind", "file", "line", "glued")

    def __init__(self, text, kind, file, line, glued=False):
        self.text, self.kind, self.file, self.line = text, kind, file, line
        self.glued = glued  # to the token before, without white space

    def __repr__(self):
        return f"{self.file}:{self.line}:{self.text!r}"


def tokenize(text):
    file, line, glued = "?", 1, False
    for match in PATTERN.finditer(text):
        kind = match.lastgroup
        was_glued, glued = glued, kind not in ("space", "end", "pragma", "marker", "file")
        if match.group("marker") is not None:
            file, line = match.group("file"), int(match.group("line")) - 1
            glued = False
        elif kind == "end":
            line += 1
        elif kind == "pragma":
            # A pragma is a line of its own.
            token = Token("\n" + match.group().strip() + "\n", "pragma", file, line)
            yield token
        elif kind == "space":
            line += match.group().count("\n")
        elif kind == "other":
            raise Refused(Token(match.group(), kind, file, line), f"{match.group()!r} is no token")
        else:
            yield Token(match.group(), kind, file, line, was_glued)


def text_of(tokens):
    return "".join(("" if t.glued else " ") + t.text for t in tokens).strip()


CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


def matching(tokens, i):
    """The index of what closes the bracket at i. Between < and > parentheses count, not comparisons."""
    opening, closing = tokens[i].text, CLOSING[tokens[i].text]
    depth = 0
    k = i
    while k < len(tokens):
        text = tokens[k].text
        if text == opening:
            depth += 1
        elif text == closing:
            depth -= 1
            if depth == 0:
                return k
        elif opening == "<" and text == "(":
            k = matching(tokens, k)
        k += 1
    raise Refused(tokens[i], f"{opening} without {closing}")


def split(tokens):
    """Parts between commas that are in no bracket."""
    parts, part, depth = [], [], 0
    for token in tokens:
        if token.text in ("(", "[", "{", "<"):
            depth += 1
        elif token.text in (")", "]", "}", ">"):
            depth -= 1
        if token.text == "," and depth == 0:
            parts.append(part)
            part = []
        else:
            part.append(token)
    parts.append(part)
    return parts
