#!/usr/bin/env python3
"""Turns preprocessed Metal text into C++ that clang compiles with the look-alike of the standard library.

    clang++ -E ... | generate.py > kernels.cc

It works on tokens. It takes out [[attributes]], turns threadgroup variables into memory that the device hands out and
(float4)x into a conversion, appends for each kernel a function that calls it with its arguments and an entry of the
table of kernels, and refuses what Metal's language does not have and clang would not notice (lints.py).
"""
import re
import sys

import lints
from tokens import Refused, matching, split, text_of, tokenize

POSITIONS = {
    "thread_position_in_grid": False,
    "thread_position_in_threadgroup": False,
    "thread_index_in_threadgroup": True,
    "threadgroup_position_in_grid": False,
    "threads_per_threadgroup": False,
    "dispatch_threads_per_threadgroup": False,
    "threadgroups_per_grid": False,
    "threads_per_grid": False,
    "thread_index_in_simdgroup": True,
    "simdgroup_index_in_threadgroup": True,
    "threads_per_simdgroup": True,
    "simdgroups_per_threadgroup": True,
    "dispatch_simdgroups_per_threadgroup": True,
    "thread_execution_width": True,
}
VECTOR = re.compile(r"^(packed_)?(char|uchar|short|ushort|int|uint|long|ulong|half|bfloat|float|bool)[234]$")


class Kernel:
    """A function of the text that is declared with the keyword kernel, or an instance of one."""

    def __init__(self, name, token, template, parameters, most_threads):
        self.name, self.token, self.template = name, token, template
        self.parameters = parameters  # [(attribute, argument)]
        self.most_threads = most_threads


class Generator:
    def __init__(self, tokens):
        self.tokens = tokens
        self.drop = set()  # indices of tokens that are not written
        self.replace = {}  # index -> text
        self.templates = {}
        self.entries = []  # (host name, function expression, Kernel)
        self.names = {}

    def attribute_at(self, i):
        """[[name(argument)]] at token i: [(name, argument text, token)], index after it; None if there is none."""
        tokens = self.tokens
        if tokens[i].text != "[" or tokens[i + 1].text != "[":
            return None
        end = matching(tokens, i)
        parts = []
        for part in split(tokens[i + 2 : end - 1]):
            name = part[0].text
            argument = text_of(part[2:-1]) if len(part) > 1 else None
            parts.append((name, argument, part[0]))
        return parts, end + 1

    def strip(self, first, last):
        self.drop.update(range(first, last))

    # ---- kernels ----

    def run(self):
        tokens = self.tokens
        i = 0
        host_name = None
        template = None
        most_threads = 0
        start = 0  # of the declaration
        while i < len(tokens):
            text = tokens[i].text
            if text == "template" and tokens[i + 1].text == "<":
                end = matching(tokens, i + 1)
                template = tokens[i + 2 : end]
                i = end + 1
            elif text == "[" and tokens[i + 1].text == "[":
                parts, end = self.attribute_at(i)
                for name, argument, token in parts:
                    if name == "host_name":
                        host_name = argument.strip('"')
                    elif name == "max_total_threads_per_threadgroup":
                        most_threads = argument
                    elif name == "kernel":
                        raise Refused(token, "kernels are declared with the keyword kernel")
                    elif name == "function_constant":
                        raise Refused(token, "function constants: the host sets none")
                    elif name not in ("maybe_unused", "clang::loop_unroll", "unroll"):
                        raise Refused(token, f"unknown attribute {name}")
                self.strip(i, end)
                i = end
            elif text == "kernel":
                i = self.kernel(i, start, template, host_name, most_threads)
                template, host_name, most_threads, start = None, None, 0, i
            elif text in (";", "}"):
                i += 1
                template, host_name, most_threads, start = None, None, 0, i
            elif text == "{" and tokens[start].text == "namespace":
                i += 1
                template, host_name, most_threads, start = None, None, 0, i
            elif text == "{":
                if host_name is not None:
                    raise Refused(tokens[i], "host_name belongs to a kernel")
                i = matching(tokens, i) + 1
                if not (i < len(tokens) and tokens[i].text == ";"):
                    template, host_name, most_threads, start = None, None, 0, i
            else:
                i += 1

    def kernel(self, i, start, template, host_name, most_threads):
        tokens = self.tokens
        where = tokens[i]
        open_paren = i
        while tokens[open_paren].text not in ("(", ";"):
            open_paren += 1
        is_instance = tokens[start].text == "template" and template is None
        if is_instance:
            return self.instance(i, host_name, open_paren, where)
        if tokens[open_paren].text == ";":
            raise Refused(where, "a kernel without parameters")
        name = tokens[open_paren - 1]
        if tokens[i + 1].text != "void":
            raise Refused(where, "kernels return void")
        end = matching(tokens, open_paren)
        parameters = self.parameters(open_paren + 1, end)
        body = end + 1
        if tokens[body].text == ";":
            raise Refused(where, "a kernel is declared and defined at once")
        if tokens[body].text != "{":
            raise Refused(tokens[body], "the body of a kernel was expected")
        last = matching(tokens, body)
        kernel = Kernel(name.text, name, template, parameters, most_threads)
        if name.text in self.templates or any(k.name == name.text for _, _, k in self.entries):
            raise Refused(name, f"a second kernel {name.text}")
        function = name.text
        if template is not None:
            self.templates[name.text] = kernel
            function += "<" + ", ".join(self.template_names(template)) + ">"
            if host_name is not None:
                raise Refused(where, "a template is not a kernel by itself: host_name belongs to its instances")
        else:
            self.enter(host_name or name.text, function, kernel, where)
        self.body(body + 1, last, function)
        return last + 1

    @staticmethod
    def template_names(template):
        names = []
        for part in split(template):
            part = [t for t in part if t.text]
            for k, token in enumerate(part):
                if token.text == "=":
                    part = part[:k]
                    break
            names.append(part[-1].text)
        return names

    def instance(self, i, host_name, end, where):
        """template [[host_name("x")]] kernel void f<float>(...); or kernel decltype(f<float>) f<float>;"""
        tokens = self.tokens
        semicolon = end
        while tokens[semicolon].text != ";":
            semicolon += 1
        # The name that is instantiated: the last "f <" whose f is a template, outside of decltype.
        at = None
        for k in range(i, semicolon):
            if tokens[k].text in self.templates and tokens[k + 1].text == "<":
                at = k
        if at is None:
            raise Refused(where, "an instance of what is no template of a kernel")
        close = matching(tokens, at + 1)
        kernel = self.templates[tokens[at].text]
        if host_name is None:
            raise Refused(where, "an instance of a kernel without host_name")
        function = text_of(tokens[at : close + 1])
        if tokens[close + 1].text == "(":
            parameters = self.parameters(close + 2, matching(tokens, close + 1))
            if parameters != kernel.parameters:
                raise Refused(where, "the attributes of the instance's parameters are not those of the template")
        self.enter(host_name, function, kernel, where)
        return semicolon + 1

    def enter(self, host_name, function, kernel, where):
        if host_name in self.names:
            raise Refused(where, f"a second kernel of the name {host_name}")
        self.names[host_name] = where
        self.entries.append((host_name, function, kernel))

    def parameters(self, first, last):
        tokens = self.tokens
        found = []
        used = {}
        begin = first
        depth = 0
        k = first
        attributes = []
        if first == last:
            raise Refused(tokens[first], "a kernel without parameters")
        while k <= last:
            text = tokens[k].text
            if text == "[" and tokens[k + 1].text == "[":
                parts, end = self.attribute_at(k)
                attributes += parts
                self.strip(k, end)
                k = end
                continue
            if k == last or (text == "," and depth == 0):
                found.append(self.parameter([tokens[n] for n in range(begin, k) if n not in self.drop], attributes, used))
                attributes, begin = [], k + 1
            elif text in "([<":
                depth += 1
            elif text in ")]>":
                depth -= 1
            k += 1
        return found

    def parameter(self, tokens, attributes, used):
        words = [t.text for t in tokens]
        if len(attributes) != 1:
            raise Refused(tokens[0], "a parameter of a kernel has exactly one attribute")
        name, argument, token = attributes[0]
        if name in ("buffer", "threadgroup"):
            if not (argument or "").isdigit() or int(argument) > 30:
                raise Refused(token, f"{name}(i) with i from 0 to 30 was expected")
            if (name, argument) in used:
                raise Refused(token, f"a second {name}({argument})")
            used[name, argument] = True
            if "*" not in words and "&" not in words:
                raise Refused(token, f"what is bound to {name}({argument}) is a pointer or a reference")
            spaces = [w for w in words if w in ("device", "constant", "threadgroup", "thread")]
            wanted = ("device", "constant") if name == "buffer" else ("threadgroup",)
            if len(spaces) != 1 or spaces[0] not in wanted:
                raise Refused(tokens[0], f"[[{name}]] is in {' or '.join(wanted)} memory")
        elif name in POSITIONS:
            if argument is not None:
                raise Refused(token, f"{name} has no argument")
            kinds = [w for w in words if re.fullmatch(r"u(int|short)[23]?", w)]
            if len(kinds) != 1 or "*" in words or "&" in words:
                raise Refused(tokens[0], f"[[{name}]] is ushort or uint, or two or three of them")
            if POSITIONS[name] and kinds[0][-1] in "23":
                raise Refused(tokens[0], f"[[{name}]] is a scalar")
            width = int(kinds[0][-1]) if kinds[0][-1] in "23" else 1
            if name.endswith(("_in_grid", "per_threadgroup", "per_grid")) and not POSITIONS[name]:
                if used.setdefault("width", width) != width:
                    raise Refused(tokens[0], "positions of one kernel have the same number of components")
        else:
            raise Refused(token, f"unknown attribute {name}")
        return name, argument

    # ---- bodies ----

    def body(self, first, last, function):
        """Threadgroup variables of a kernel become memory that the device hands out."""
        tokens = self.tokens
        depth = 0
        begins = True  # of a statement
        k = first
        while k < last:
            text = tokens[k].text
            if begins and text == "threadgroup":
                k = self.variable(k, last, function, depth)
                begins = True
                continue
            if text == "{":
                depth += 1
            elif text == "}":
                depth -= 1
            begins = text in ("{", "}", ";", ":") or (begins and text == "")
            k += 1

    def variable(self, k, last, function, depth):
        tokens = self.tokens
        end = k
        while tokens[end].text != ";":
            end += 1
        statement = tokens[k + 1 : end]
        declarators = split(statement)
        head = declarators[0]
        stop = next((n for n, t in enumerate(head) if t.text in ("[", "=")), len(head))
        # Arrays of template types have [ only after the name.
        if any(t.text in ("*", "&") for t in head[:stop]):
            return end  # a pointer to threadgroup memory
        if any(t.text == "=" for t in statement) or any(t.text == "{" for t in statement):
            raise Refused(tokens[k], "a threadgroup variable has no initialiser")
        if depth:
            raise Refused(tokens[k], "threadgroup variables stand in the outermost block of a kernel")
        kind = text_of(head[: stop - 1])
        out = []
        for n, declarator in enumerate(declarators):
            declarator = head[stop - 1 :] if n == 0 else declarator
            name = declarator[0].text
            out.append(
                f"typedef {kind} {name}__type{text_of(declarator[1:])}; "
                f"static metal_device_variable {name}__entry __attribute__((section(\"metal_variables\"), used)) = "
                f"{{(const void *)&{function}, sizeof({name}__type), alignof({name}__type)}}; "
                f"threadgroup {name}__type &{name} = *(threadgroup {name}__type *)"
                f"metal_device::variable(sizeof({name}__type), alignof({name}__type));"
            )
        self.strip(k, end + 1)
        self.drop.discard(k)
        self.replace[k] = " ".join(out)
        return end + 1

    def casts(self):
        tokens = self.tokens
        for i in range(len(tokens) - 3):
            if tokens[i].text != "(" or not VECTOR.match(tokens[i + 1].text) or tokens[i + 2].text != ")":
                continue
            if i and tokens[i - 1].text in ("sizeof", "alignof", "decltype"):
                continue
            self.replace[i] = f"metal_device::cast<{tokens[i + 1].text}>() ->* "
            self.drop.discard(i)
            self.strip(i + 1, i + 3)

    # ---- output ----

    def write(self, out):
        file, line = None, None
        out.write('#include <metal_stdlib>\n')
        for i, token in enumerate(self.tokens):
            if token.file != file or token.line != line:
                if token.file == file and line is not None and 0 < token.line - line < 5:
                    out.write("\n" * (token.line - line))
                else:
                    out.write(f'\n# {token.line} "{token.file}"\n')
                file, line = token.file, token.line
            if i in self.drop:
                continue
            glued = token.glued and i - 1 not in self.drop and i - 1 not in self.replace
            out.write(("" if glued else " ") + self.replace.get(i, token.text))
        out.write('\n# 1 "generated"\n#ifndef METAL_DEVICE_TYPES\n')
        out.write("#undef kernel\n")
        for n, (host_name, function, kernel) in enumerate(self.entries):
            binders = []
            for attribute, argument in kernel.parameters:
                if attribute in ("buffer", "threadgroup"):
                    binders.append(f"metal_device::{attribute}_argument<{argument}>")
                else:
                    scalar = "true" if POSITIONS[attribute] else "false"
                    binders.append(f"metal_device::position_argument<METAL_DEVICE_{attribute}, {scalar}>")
            signature = f"metal_device::signature<decltype(&{function})>::with<&{function}, {', '.join(binders)}>"
            out.write(
                f"static metal_device_kernel metal_device_kernel_{n} __attribute__((section(\"metal_kernels\"), used"
                f")) = {signature}::describe(\"{host_name}\", \"{kernel.token.file}\", "
                f"{kernel.token.line}, {kernel.most_threads});\n"
            )
        out.write("#endif\n")


def main():
    try:
        tokens = list(tokenize(sys.stdin.read()))
        lints.check(tokens)
        generator = Generator(tokens)
        generator.run()
        generator.casts()
        generator.write(sys.stdout)
    except Refused as refused:
        sys.exit(f"{refused.token.file}:{refused.token.line}: error: {refused.reason}")


main()
