#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Puts a small part of the corpora that fuzzing made into Tests/Fixtures/fuzz, where the tests replay them.

    collect.py [TARGET ...]        all targets that have a corpus, if none is named

libFuzzer first drops inputs that reach nothing of their own; of the rest, from the smallest to the largest, MOST stay,
as far as they fit into BUDGET bytes a target.
Inputs that are there already (crash-…: those that were findings) stay in any case.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORPORA, FIXTURES = ROOT / ".build/fuzz-corpus", ROOT / "Tests/Fixtures/fuzz"
FUZZ = ROOT / ".build/fuzz/release/rwkv-fuzz"
MOST, BUDGET = 32, 128 << 10


def collect(target):
    goal = FIXTURES / target
    goal.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as merged:
        environment = {**os.environ, "RWKV_FUZZ_TARGET": target, "ASAN_OPTIONS": "detect_leaks=0"}
        subprocess.run([FUZZ, "-merge=1", "-max_len=40000", merged, ROOT / ".build/fuzz-seeds" / target,
                        CORPORA / target], env=environment, check=True, capture_output=True)
        found = sorted(pathlib.Path(merged).iterdir(), key=lambda path: (path.stat().st_size, path.name))
        for old in goal.iterdir():
            if not old.name.startswith("crash-"):
                old.unlink()
        chosen = [found[number * (len(found) - 1) // (MOST - 1)] for number in range(MOST)]
        size, kept = 0, set()
        for path in chosen:
            size += path.stat().st_size
            if path not in kept and size <= BUDGET:
                shutil.copy(path, goal / path.name[:16])
                kept.add(path)
    print(f"{target}: {len(kept)} of {len(found)} inputs")


for name in sys.argv[1:] or sorted(path.name for path in CORPORA.iterdir()):
    collect(name)
