#!/usr/bin/env python3
"""Compiles a file of planted mistakes once for each, and once without any.

    refuse.py FILE PREPROCESS-COMMAND GENERATE-COMMAND COMPILE-COMMAND

Prints a line for each: "ok N MESSAGE" where the message is the one that the file expects, else "missed N WHAT CAME".
"""
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

source, preprocess, generate, compile_ = sys.argv[1], *map(shlex.split, sys.argv[2:5])


def run(command, text=None):
    return subprocess.run(command, input=text, capture_output=True, text=True)


def messages(bug):
    """What the tools say of the text with this mistake; empty if all accept it."""
    step = run(preprocess + [f"-DBUG={bug}", source])
    for command in (generate, compile_):
        if step.returncode != 0:
            break
        step = run(command, step.stdout)
    return "" if step.returncode == 0 else step.stderr or "failed without a message"


def verdict(bug, expected):
    said = messages(bug)
    first = next((line for line in said.split("\n") if "error" in line), said.split("\n")[0])
    if bug == 0:
        return f"missed 0 {first}" if said else "ok 0 accepted"
    fine = re.search(expected, said) is not None
    return f"{'ok' if fine else 'missed'} {bug} {first or 'accepted'}"


def main():
    with open(source, encoding="utf-8") as file:
        bugs = re.findall(r"^#(?:el)?if BUG [!=]= (\d+) // (.*)$", file.read(), re.MULTILINE)
    cases = [(0, "")] + [(int(number), expected) for number, expected in bugs]
    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(lambda case: verdict(*case), cases):
            print(line)


main()
