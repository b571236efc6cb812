#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws the plots in docs/images. Needs matplotlib.

usage: plot.py docs [MEASUREMENTS]

Speed and quality beside other engines are drawn from the tables in docs/performance.md and docs/quality.md, so that a
figure stands in one place. MEASUREMENTS/depth.jsonl is what `measure.sh OUT depth MODEL` wrote.
"""
import json
import os
import re
import sys

from theme import save, subplots

OURS, THEIRS, OTHERS = "#3a86c8", "#d9822b", "#7a9a5b"


def table(folder, document, first):
    """The cells of the first table in a document whose header begins with `first`."""
    with open(os.path.join(folder, document)) as file:
        lines = file.read().split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("| " + first))
    rows = []
    for line in lines[start + 2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("**", "") for cell in line.strip("|").split("|")])
    return rows


def speed(folder):
    rows = [row for row in table(folder, "performance.md", "model, two threads") if "INT4" in row[0]]
    figure, axes = subplots()
    engines = [("this runtime", OURS, 1), ("llama.cpp, Q4_K_M", THEIRS, 2), ("rwkv.cpp, Q4_0", OTHERS, 4)]
    for engine, (name, colour, column) in enumerate(engines):
        rates = [float(row[column].split()[0]) if row[column] else 0 for row in rows]
        shares = [100 * rate / float(row[1]) for rate, row in zip(rates, rows)]
        places = [row - 0.27 * engine for row in range(len(rows), 0, -1)]
        axes.barh(places, shares, 0.25, color=colour, label=name)
        for place, share, rate in zip(places, shares, rates):
            axes.text(share + 1, place, f"{rate:g} tokens/s" if rate else "not measured", va="center", fontsize=10)
    axes.set_yticks([row - 0.27 for row in range(len(rows), 0, -1)], [row[0].replace(", INT4", "") for row in rows])
    axes.set_xlim(0, 125)
    axes.set_xlabel("writing speed, this runtime = 100")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    save(figure, os.path.join(folder, "images", "speed.svg"))


def quality(folder):
    """Bits of all tensors together: bytes of the table, over the weights of the model in examples/model."""
    weights = 5_354_752
    figure, axes = subplots()
    series = {"ours": ([], [], []), "calibrated": ([], [], []), "ggml": ([], [], [])}
    for name, size, kl, *_ in table(folder, "quality.md", "weights"):
        if "small" in name:
            continue
        kind = "ggml" if name.startswith("Q") else "calibrated" if "calibrated" in name else "ours"
        names, bits, losses = series[kind]
        names.append(re.sub(" r / l|, calibrated", "", name))
        bits.append(8 * int(size.split(" / ")[0].replace(",", "")) / weights)
        losses.append(float(kl.split(" / ")[0]))
    styles = [("ours", "o-", OURS, "this runtime"), ("calibrated", "s--", OURS, "this runtime, calibrated"),
              ("ggml", "D", THEIRS, "ggml's types, rwkv.cpp's choice of tensors")]
    for kind, style, colour, label in styles:
        names, bits, losses = series[kind]
        axes.semilogy(bits, losses, style, color=colour, label=label)
        for name, x, y in zip(names, bits, losses):
            if kind != "calibrated":
                axes.annotate(name, (x, y), textcoords="offset points", xytext=(8, 4), fontsize=10)
    axes.set_xlim(right=max(max(bits) for _, bits, _ in series.values()) + 0.8)
    axes.set_xlabel("bits per weight, all tensors")
    axes.set_ylabel("KL(exact ‖ type), nats per token")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=10)
    save(figure, os.path.join(folder, "images", "quality.svg"))


def depth(folder, measurements):
    with open(os.path.join(measurements, "depth.jsonl")) as file:
        rows = [json.loads(line) for line in file]
    figure, axes = subplots()
    depths = [int(row["test"].partition("@d")[2] or 0) for row in rows]
    times = [1000 / row["tokens_per_second"] for row in rows]
    axes.plot(range(len(rows)), times, "o-", color=OURS)
    axes.set_xticks(range(len(rows)), [f"{d:,}" for d in depths])
    axes.set_ylim(0, max(times) * 1.2)
    axes.set_xlabel("tokens read before")
    axes.set_ylabel("milliseconds per token")
    axes.set_title(f"Time per token, {os.path.basename(rows[0]['model']).removesuffix('.rwkv')}")
    save(figure, os.path.join(folder, "images", "depth.svg"))


def main():
    folder, *measurements = sys.argv[1:]
    speed(folder)
    quality(folder)
    for folder_of_measurements in measurements:
        depth(folder, folder_of_measurements)


main()
