"""What Metal's language does not have, though clang takes it."""
from tokens import Refused

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


def check(tokens):
    for i, token in enumerate(tokens):
        if token.kind == "word" and token.text in WORDS:
            raise Refused(token, WORDS[token.text])
        if token.kind == "word" and token.text.startswith("__builtin_"):
            raise Refused(token, "Metal has no __builtin_ functions")
