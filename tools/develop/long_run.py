#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Decodes a long text token by token and writes down, all along it, what memory and what time a token takes.

    RWKV_LIBRARY=.build/release/librwkv.so tools/develop/long_run.py MODEL.rwkv OUT.json
        [--tokens 1000000] [--points 200]

One thread and its processor time, so that other work on the machine matters little. Needs numpy.
"""
import argparse
import json
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "python"))
from librwkv import Model  # noqa: E402


def resident_kib():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--points", type=int, default=200)
    arguments = parser.parse_args()

    model = Model(arguments.model, threads=1)
    state = model.new_state()
    step = arguments.tokens // arguments.points
    # Any text does, as long as it does not repeat.
    tokens = np.random.Generator(np.random.Philox(0)).integers(1, model.vocabulary, (arguments.points, step), np.uint32)
    empty_kib = resident_kib()
    points = []
    for number, part in enumerate(tokens):
        start = time.process_time()
        for index in range(step):
            logits = model.read(state, part[index:index + 1])
        seconds = time.process_time() - start
        if not np.isfinite(logits).all():
            sys.exit(f"{arguments.model}: the logits are not finite at {(number + 1) * step}")
        milliseconds = round(1e3 * seconds / step, 6)
        points.append(dict(tokens=(number + 1) * step, rss_kib=resident_kib(), ms_per_token=milliseconds))
    result = dict(
        model=pathlib.Path(arguments.model).name, architecture=model.architecture, empty_rss_kib=empty_kib,
        points=points)
    pathlib.Path(arguments.out).write_text(json.dumps(result) + "\n")


main()
