#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures reranking with kept states and without: prints the table of docs/states-and-chats.md.

    rerank.py EMBEDDER.rwkv RERANKER.rwkv [--run rwkv-run] [--documents 1000] [--tokens 200] [--queries 3] [--again 100]

Documents are random words that are one token each. Every query is a run of the program, which opens both models and,
with kept states, reads their file: what is measured is what a script sees. Both ways must give the same scores, bit for
bit.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import time

WORDS = "the of and to in is was for that on with as by at from his it an were are which this be had not".split()
QUERIES = ["who was it for", "what is this", "which of the two had it", "where were they from"]


def timed(*command):
    """Seconds and output of a program."""
    started = time.monotonic()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return time.monotonic() - started, output


def scores(lines, below):
    """The scores of the first documents, by their number."""
    found = [json.loads(line) for line in lines.splitlines()]
    return {line["index"]: line["score"] for line in found if line["index"] < below}


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures reranking.")
    parser.add_argument("embedder")
    parser.add_argument("reranker")
    parser.add_argument("--run", default=".build/release/rwkv-run")
    for name, value in (("documents", 1000), ("tokens", 200), ("queries", 3), ("again", 100)):
        parser.add_argument("--" + name, type=int, default=value)
    options = parser.parse_args()
    chance, models = random.Random(1), (options.embedder, options.reranker)
    documents = [" ".join(chance.choices(WORDS, k=options.tokens)) + "\n" for _ in range(options.documents)]
    with tempfile.TemporaryDirectory() as folder:
        path = lambda name: os.path.join(folder, name)
        for name, some in (("all", documents), ("again", documents[:options.again])):
            with open(path(name), "w", encoding="utf-8") as file:
                file.writelines(some)
        making, _ = timed(options.run, "embed", options.embedder, "-f", path("all"), "--lines", "--out", path("v.npy"),
                          "--keep-states", path("states"))
        kept = [timed(options.run, "rerank", *models, "-q", query, "--states", path("states"))
                for query in QUERIES[:options.queries]]
        again, lines = timed(options.run, "rerank", *models, "-q", QUERIES[0], "-f", path("again"))
        assert scores(kept[0][1], options.again) == scores(lines, options.again), "the scores differ"
        size = os.path.getsize(path("states")) / options.documents
    seconds = statistics.median(second for second, _ in kept)
    print(f"| {options.documents} documents of {options.tokens} tokens | |\n|---|---|")
    print(f"| vectors and kept states, once | {making:.1f} s, {1000 * making / options.documents:.0f} ms each |")
    print(f"| a query over kept states | {seconds:.2f} s, {options.documents / seconds:.0f} documents a second |")
    print(f"| a query over {options.again} of them, read again | {again:.1f} s, {options.again / again:.1f} a second |")
    print(f"| kept states of a document | {size / 1e6:.2f} MB |")


if __name__ == "__main__":
    main()
