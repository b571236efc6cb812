#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws what tools/develop/long_run.py wrote, and prints it as a table: long_run.py OUT.svg RUNS... Needs matplotlib.

A file holds one run a line: docs/images/long-run.jsonl is what docs/images/long-run.svg shows.
"""
import json
import pathlib
import statistics
import sys

from theme import save, subplots

MARKS = [10_000, 100_000, 250_000, 500_000, 1_000_000]


def near(points, position, key):
    """The median of a value over the points from 4 % before a position to it."""
    chosen = [point[key] for point in points if 0.96 * position <= point["tokens"] <= position]
    return statistics.median(chosen or [min(points, key=lambda point: abs(point["tokens"] - position))[key]])


def main():
    out, *paths = sys.argv[1:]
    runs = [json.loads(line) for path in paths for line in pathlib.Path(path).read_text().splitlines()]
    figure, axes = subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    print("| RWKV | | " + " | ".join(f"{mark:,}" for mark in MARKS) + " |\n|---|---|" + "---|" * len(MARKS))
    for run in runs:
        points, name = run["points"], f"RWKV-{run['architecture'].upper()}"
        positions = [point["tokens"] / 1e6 for point in points]
        for axis, key, scale in zip(axes, ("rss_kib", "ms_per_token"), (1 / 1024, 1)):
            axis.plot(positions, [point[key] * scale for point in points], label=name, linewidth=1)
        cells = [("MiB", "rss_kib", 1 / 1024, 1), ("ms per token", "ms_per_token", 1, 4)]
        for label, key, scale, digits in cells:
            values = " | ".join(f"{near(points, mark, key) * scale:.{digits}f}" for mark in MARKS)
            print(f"| {name if key == 'rss_kib' else ''} | {label} | {values} |")
    for axis, title in zip(axes, ("resident memory [MiB]", "processor time per token [ms]")):
        axis.set(title=title, xlabel="tokens read [millions]", ylim=(0, None))
    axes[1].set(yscale="log", ylim=(0.01, 1))
    axes[0].legend()
    save(figure, out)


main()
