#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes Sources/RWKVTokenizer/CanonicalDecompositions.swift from Python's Unicode database.

Swift's standard library has combining classes and composition exclusions, but no decompositions.
usage: make_canonical_tables.py > Sources/RWKVTokenizer/CanonicalDecompositions.swift
"""
import textwrap
import unicodedata

HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic


def numbers(rows):
    text = " ".join("0x%X," % number for row in rows for number in row)
    return textwrap.fill(text, 110, initial_indent="    ", subsequent_indent="    ")


def main():
    rows = []
    for code in range(0x110000):
        mapping = unicodedata.decomposition(chr(code))
        if mapping and not mapping.startswith("<") and code not in HANGUL:
            rows.append([code] + [int(part, 16) for part in mapping.split()])
    pairs, singles = ([row for row in rows if len(row) == length] for length in (3, 2))
    print(f"""\
// Made by tools/develop/reference/make_canonical_tables.py from Unicode {unicodedata.unidata_version}; do not edit.

/// Canonical decompositions, one step, without Hangul syllables.
enum CanonicalDecompositions {{
  /// {len(pairs)} times: scalar, first, second.
  static let pairs: [UInt32] = [
{numbers(pairs)}
  ]

  /// {len(singles)} times: scalar, the scalar it stands for.
  static let singles: [UInt32] = [
{numbers(singles)}
  ]
}}""")


main()
