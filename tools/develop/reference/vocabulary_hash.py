#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the FNV-1a 64 of the tokenizer blob (formats/rwkv-v1.md, section 6) of a World vocabulary file.

Python's own literal parser reads the file, so the constant in WorldTokenizerTests.swift checks ours.
usage: vocabulary_hash.py rwkv_vocab_v20230424.txt
"""
import ast
import struct
import sys

tokens = {}
with open(sys.argv[1], encoding="utf-8", newline="\n") as file:
    for line in file:
        token = ast.literal_eval(line[line.index(" "):line.rindex(" ")].strip(" "))
        token = token.encode() if isinstance(token, str) else token
        assert len(token) == int(line[line.rindex(" "):])
        tokens[int(line[:line.index(" ")])] = token

count = max(tokens) + 1
blob = struct.pack("<I", count)
for id in range(count):
    token = tokens.get(id, b"")
    blob += struct.pack("<H", len(token)) + token

hash = 0xCBF29CE484222325
for byte in blob:
    hash = (hash ^ byte) * 0x100000001B3 % 2**64
print(f"{count} tokens, {len(blob)} bytes, 0x{hash:016X}")
