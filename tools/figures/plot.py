#!/usr/bin/env python3
"""Draws the plots in docs/images from what measure.sh measured. Needs matplotlib.

usage: plot.py MEASUREMENTS docs/images
"""
import json
import os
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

matplotlib.rcParams.update({
    "svg.hashsalt": "rwkv", "svg.fonttype": "none", "font.size": 11, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "figure.figsize": (6.4, 3.8),
})
COLOUR = "#2f6f9f"


def lines(folder, name):
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [json.loads(line) for line in file]


def save(figure, folder, name):
    figure.tight_layout()
    # No date, so that the same measurements give the same file.
    figure.savefig(os.path.join(folder, name), metadata={"Date": None})
    print(os.path.join(folder, name))


def label(axes, x, y, text):
    axes.annotate(text, (x, y), textcoords="offset points", xytext=(7, 5))


def quality(rows, folder):
    figure, axes = plt.subplots()
    rows = [row for row in rows if row[1]["kl"] > 0]  # fp16 loses nothing here
    bits = [shown["memory_bits_per_weight"] for shown, _ in rows]
    kl = [compared["kl"] for _, compared in rows]
    axes.semilogy(bits, kl, "o-", color=COLOUR)
    for (shown, _), x, y in zip(rows, bits, kl):
        label(axes, x, y, shown["metadata"]["quantization.type"])
    axes.set_xlim(right=max(bits) + 0.7)
    axes.set_ylim(top=max(kl) * 1.6)
    axes.set_xlabel("bits per weight in memory, all tensors")
    axes.set_ylabel("KL(exact ‖ type), nats per token")
    axes.set_title("Trained model of 5.4 M parameters, held-out text")
    save(figure, folder, "quality.svg")


def speed(rows, folder):
    figure, axes = plt.subplots()
    megabytes = [row["weight_bytes_per_token"] / 1e6 for row in rows]
    rates = [row["tokens_per_second"] for row in rows]
    axes.errorbar(
        megabytes, rates, [[rate - row["min"] for rate, row in zip(rates, rows)],
                           [row["max"] - rate for rate, row in zip(rates, rows)]], fmt="o", color=COLOUR, capsize=3)
    for row, x, y in zip(rows, megabytes, rates):
        label(axes, x, y, os.path.basename(row["model"]).removesuffix(".rwkv"))
    limits = [row["limit_tokens_per_second"] for row in rows]
    axes.plot(megabytes, limits, "_", color="grey", markersize=14)
    label(axes, megabytes[-1], limits[-1], "what the memory's bandwidth allows")
    axes.set_ylim(0, max(limits) * 1.12)
    axes.set_xlim(right=max(megabytes) * 1.35)
    axes.set_xlabel("weights read per token, MB")
    axes.set_ylabel("tokens per second")
    axes.set_title(f"Writing, {rows[0]['threads']} threads")
    save(figure, folder, "speed.svg")


def depth(rows, folder):
    figure, axes = plt.subplots()
    depths = [int(row["test"].partition("@d")[2] or 0) for row in rows]
    times = [1000 / row["tokens_per_second"] for row in rows]
    axes.plot(range(len(rows)), times, "o-", color=COLOUR)
    axes.set_xticks(range(len(rows)), [f"{d:,}" for d in depths])
    axes.set_ylim(0, max(times) * 1.2)
    axes.set_xlabel("tokens read before")
    axes.set_ylabel("milliseconds per token")
    axes.set_title(f"Time per token, {os.path.basename(rows[0]['model']).removesuffix('.rwkv')}")
    save(figure, folder, "depth.svg")


def main():
    measurements, folder = sys.argv[1:]
    for name, draw in [("quality", quality), ("speed", speed), ("depth", depth)]:
        rows = lines(measurements, name + ".jsonl")
        if rows:
            draw(rows, folder)


main()
