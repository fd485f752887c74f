#!/usr/bin/env python3
"""The FNV-1a hash (64 bits) of a file, as C writes a number."""
import sys

value = 0xCBF29CE484222325
with open(sys.argv[1], "rb") as file:
    for byte in file.read():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
print(f"0x{value:016x}ull")
