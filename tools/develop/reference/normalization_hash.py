#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the FNV-1a 64 of the NFC of scalars, alone and between others, for BPETokenizerTests.swift.

The ranges hold everything that decomposes and is not arithmetic; of Hangul, the first 1,024 syllables.
"""
import unicodedata

hash = 0xCBF29CE484222325
RANGES = (0, 0x3400), (0xA600, 0xB000), (0xF900, 0x12000), (0x1D000, 0x1E000), (0x2F800, 0x2FA20)
for code in (code for first, end in RANGES for code in range(first, end)):
    scalar = chr(code)
    for text in (scalar, "a" + scalar + "\u0323\u0301", "\u1100\u1161" + scalar + "e\u0301\u0327"):
        if unicodedata.category(scalar) == "Cn":
            continue  # newer versions of Unicode may give it a combining class
        for byte in unicodedata.normalize("NFC", text).encode() + b"\n":
            hash = (hash ^ byte) * 0x100000001B3 % 2**64
print(f"0x{hash:016X}")
