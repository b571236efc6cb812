#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures how far back small trained models find keys, and draws it.

    passkey.py measure RUNS.jsonl MODEL.rwkv... [--seeds 0 1 2 3] [--longest 1000000] [--records 16]
    passkey.py draw OUT.svg RUNS.jsonl...                   also prints the table; needs matplotlib

Needs the library (RWKV_LIBRARY) and the models that tools/train/passkey.py trains. A text has 16 records among filler
in its first 512 bytes, and then filler alone. At each distance from there all records are asked for, each from a copy
of the state; an answer is right if both of its symbols are. So one reading of a million tokens measures all distances.
"""
import argparse
import json
import os
import pathlib
import time

DISTANCES = [1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000]
SYMBOLS = b"abcdefghijklmnopqrstuvwxyz234567"


def text(random, records, length=512):
    """The first bytes, and the records: name -> value."""
    import numpy as np

    symbols = np.frombuffer(SYMBOLS, np.uint8)
    slots = symbols[random.integers(0, 32, (length // 4, 4))]
    names = random.permutation(symbols)[:records]
    for place, name in zip(random.choice(length // 4, records, replace=False), names):
        slots[place, 0], slots[place, 1] = ord("#"), name
    wanted = {int(slot[1]): (int(slot[2]), int(slot[3])) for slot in slots if slot[0] == ord("#")}
    return slots.reshape(-1), wanted


def answers(model, state, wanted):
    """How many records are found again."""
    right = 0
    for name, value in wanted.items():
        copy = state.copy()
        first = int(model.read(copy, [ord("?"), name]).argmax())
        right += value == (first, int(model.read(copy, [first]).argmax()))
    return right


def measure(path, seed, longest, records):
    """One reading: for each distance how many answers are right, bytes of the state, time of a token."""
    import numpy as np
    from librwkv import Model

    symbols, random = np.frombuffer(SYMBOLS, np.uint8), np.random.default_rng(seed)
    model = Model(path, threads=1)
    state = model.new_state()
    first, wanted = text(random, records)
    model.read(state, first)
    at, points = 0, []
    for distance in [d for d in DISTANCES if d <= longest]:
        spent, began = 0.0, at
        while at < distance:
            part = symbols[random.integers(0, 32, min(4_000, distance - at))]
            clock = time.process_time()
            model.read(state, part)
            spent += time.process_time() - clock
            at += len(part)
        points.append({"distance": distance, "right": answers(model, state, wanted), "asked": len(wanted),
                       "state_bytes": state.nbytes, "ms_per_token": 1000 * spent / (at - began)})
    metadata = model.metadata
    return {"model": pathlib.Path(path).stem, "version": model.architecture, "type": metadata["quantization.type"],
            "cache": int(metadata.get("rwkv.x.max_kv_cache", -1)), "seed": seed, "weights": model.weight_size,
            "points": points}


def series(runs):
    """Runs by model, each distance's points together."""
    found = {}
    for run in runs:
        points = found.setdefault(run["model"], (run, {}))[1]
        for point in run["points"]:
            points.setdefault(point["distance"], []).append(point)
    return found


def label(run):
    """What a line of the table or the plot is called."""
    cache = {-1: "", 0: ", whole cache"}.get(run["cache"], f", {run['cache']:,} tokens cached")
    return f"RWKV-{run['version'].upper()}{cache}, {run['type']}"


def draw(out, paths):
    """The plot, and the table."""
    from theme import save, subplots

    runs = [json.loads(line) for path in paths for line in pathlib.Path(path).read_text().splitlines()]
    figure, axis = subplots(figsize=(8.4, 3.6))
    print("| | | " + " | ".join(f"{d:,}" for d in DISTANCES) + " |\n|---|---|" + "---|" * len(DISTANCES))
    colours = {"7": "#d9822b", "x": "#3a86c8"}
    for run, points in series(runs).values():
        shares = [100 * sum(p["right"] for p in points[d]) / sum(p["asked"] for p in points[d]) for d in points]
        style = ("o" if run["type"] == "fp16" else "s") + ("-" if run["type"] == "fp16" else ":")
        axis.plot(list(points), shares, style, label=label(run), color=colours[run["version"]], markersize=5)
        cells = [f"{share:.0f} %" for share in shares]
        print(f"| {label(run)} | right | " + " | ".join(cells + [""] * (len(DISTANCES) - len(cells))) + " |")
        for name, key, scale in (("state, MB", "state_bytes", 1e-6), ("ms per token", "ms_per_token", 1)):
            cells = [f"{scale * sorted(p[key] for p in points[d])[len(points[d]) // 2]:.3g}" for d in points]
            print(f"| | {name} | " + " | ".join(cells + [""] * (len(DISTANCES) - len(cells))) + " |")
    axis.axvspan(0, 2048, alpha=0.12, color="#888888", linewidth=0)
    axis.set(xscale="log", xlabel="tokens between the keys and the question (grey: lengths of training)",
             ylabel="right answers [%]", ylim=(-3, 103), xlim=(800, 1.25e6))
    axis.set_xticks(DISTANCES, [f"{d // 1000}K" if d < 1_000_000 else "1M" for d in DISTANCES])
    axis.minorticks_off()
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=10)
    save(figure, out)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures how far back keys are found, and draws it.")
    parser.add_argument("action", choices=("measure", "draw"))
    parser.add_argument("out")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(4))
    parser.add_argument("--longest", type=int, default=DISTANCES[-1])
    parser.add_argument("--records", type=int, default=16)
    options = parser.parse_args()
    if options.action == "draw":
        return draw(options.out, options.files)
    with open(options.out, "a", encoding="utf-8") as file:
        for path in options.files:
            for seed in options.seeds:
                run = measure(path, seed, options.longest, options.records)
                file.write(json.dumps(run) + "\n")
                file.flush()
                print(label(run), os.path.basename(path), [point["right"] for point in run["points"]], flush=True)


main()
