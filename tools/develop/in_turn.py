#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Two builds of librwkv.so beside each other: the speed of the second relative to the first.

    in_turn.py OLD.so NEW.so MODEL.rwkv [-t THREADS] [--prompt TOKENS] [--rounds 130] [--starts 6]

Each build runs in a process of its own, and they take turns every ten tokens (or every prompt), so that a machine
whose speed drifts is as slow for one as for the other. How fast memory is depends on where a process happens to get
it: several starts, a line for each, then the median of their medians.
"""
import argparse
import ctypes as C
import statistics
import subprocess
import sys
import time

TOKENS = 10


def work(path, model, threads, prompt):
    """Reads tokens whenever a line arrives, and prints how long it took."""
    library = C.CDLL(path)
    library.rwkv_open.restype = library.rwkv_state_new.restype = C.c_void_p
    library.rwkv_get_logits_len.restype = C.c_size_t
    library.rwkv_state_eval.restype = C.c_bool
    context = C.c_void_p(library.rwkv_open(model.encode(), C.c_uint32(threads), None, None))
    state = C.c_void_p(library.rwkv_state_new(context))
    logits = (C.c_float * library.rwkv_get_logits_len(context))()
    each = max(prompt, 1)
    for _ in sys.stdin:
        start = time.perf_counter()
        for turn in range(1 if prompt else TOKENS):
            tokens = (C.c_uint32 * each)(*[(turn + i) * 37 % 200 + 1 for i in range(each)])
            assert library.rwkv_state_eval(context, state, tokens, C.c_size_t(each), logits, None, None)
        print(time.perf_counter() - start, flush=True)


def compare(arguments):
    command = [sys.executable, __file__, arguments.old, arguments.new, arguments.model, "-t", str(arguments.t),
               "--prompt", str(arguments.prompt), "--worker"]
    builds = [subprocess.Popen(command + [str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
              for n in (0, 1)]

    def measure(build):
        build.stdin.write("\n")
        build.stdin.flush()
        return float(build.stdout.readline())

    for build in builds * 2:
        measure(build)
    ratios, times = [], ([], [])
    for round in range(arguments.rounds):
        for n in (0, 1) if round % 2 == 0 else (1, 0):
            times[n].append(measure(builds[n]))
        ratios.append(times[0][-1] / times[1][-1])
    for build in builds:
        build.communicate()
    count = arguments.prompt or TOKENS
    old, new = (count / statistics.median(t) for t in times)
    print(f"new/old {statistics.median(ratios):.3f}: {old:.1f} -> {new:.1f} tokens/s, {len(ratios)} rounds", flush=True)
    return statistics.median(ratios)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("old")
parser.add_argument("new")
parser.add_argument("model")
parser.add_argument("-t", type=int, default=1, metavar="THREADS")
parser.add_argument("--prompt", type=int, default=0, metavar="TOKENS")
parser.add_argument("--rounds", type=int, default=130)
parser.add_argument("--starts", type=int, default=6)
parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
arguments = parser.parse_args()
if arguments.worker is not None:
    work((arguments.old, arguments.new)[arguments.worker], arguments.model, arguments.t, arguments.prompt)
else:
    medians = [compare(arguments) for _ in range(arguments.starts)]
    print(f"median {statistics.median(medians):.3f} of {len(medians)} starts")
