#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What quantization costs in whole answers: the problems of tasks.py, solved in every type, as two Markdown tables.

    answers.py MODEL.safetensors --other TEXT [--ggml libggml-base.so] [--count 50] [--bin DIR] [--raw FILE]

Each type answers held-out problems by greedy decoding; an answer is right if every byte is, and the end. Greedy
decoding writes the right answer exactly if each of its bytes is the likeliest after those before it, so all right
answers are read first, and only what is not found so is written. A fifth of the problems is also answered by
sampling at temperature 1 with five seeds, the same for every type; the error is that of the seeds' means. "likely" is
what an infinity of seeds would give over all problems: the mean probability of the right answers; "to fp16" is the
mean of the differences, problem by problem, which tells types apart best. "longer" are a fifth as many problems longer
than any in training. "lost / won": right with fp16 and wrong here, and the other way. Other errors are standard errors
of binomial shares. "differ" is the share of answers that part from those of fp16, "at byte" the median of where; "cut"
counts those that did not end, "loops" those of them that repeat themselves, each greedy, longer and sampled.

Calibration: on 16,384 bytes of other problems ("own"), on TEXT ("other"), on what the model writes ("auto"). ggml's
types are emulated in FP32 (../develop/ggml_types.py, rwkv.cpp's choice of tensors); the importance of columns is
measured on the "own" text. KL and state drift are those of `rwkv-quantize compare` on held-out problems as one text.
--raw keeps the answers, and a run that was interrupted goes on behind them. --read leaves out whatever has to be
written. Needs numpy, safetensors and librwkv (python/); with --ggml also gguf and torch.
"""
import argparse
import json
import math
import operator
import os
import statistics
import subprocess
import sys
import tempfile

import librwkv

import tasks

SEEDS = range(5)
MORE = 32  # bytes that an answer may be too long before it is cut


def variants(options, folder, done):
    """Name, source and arguments of every conversion; of ggml's without those in `done`."""
    own = os.path.join(folder, "own.txt")
    with open(own, "wb") as file:
        file.write(tasks.text(80, 5).encode())
    yield "fp16", options.model, ["--type", "fp16"]
    for kind in ("int4", "int5", "int8", "int4-small"):
        yield kind, options.model, ["--type", kind]
        for name, source in (("own", own), ("other", options.other), ("auto", "auto")):
            yield f"{kind}, {name}", options.model, ["--type", kind, "--calibrate", source]
        if options.ggml and kind == "int4":
            yield from ggml(options, folder, own, done)


def ggml(options, folder, own, done):
    """The same for ggml's types: checkpoints of what is left of the weights."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "develop"))
    from safetensors.numpy import save_file

    from ggml_types import Quantizer, T, ggml_model, read
    from importance import importance
    tensors, quantizer = read(options.model), Quantizer(options.ggml)
    with open(own, "rb") as file:
        weights = importance(options.model, file.read(16_384))
    for name, kind, chosen in (("Q4_0", T.Q4_0, None), ("Q4_K", T.Q4_K, None), ("Q4_K, imatrix", T.Q4_K, weights),
                               ("Q5_K", T.Q5_K, None)):
        if name not in done:
            path = os.path.join(folder, "ggml.safetensors")
            save_file(ggml_model(tensors, kind, "rwkv.cpp", quantizer, chosen)[0], path)
            yield name, path, ["--type", "fp32"]


def write(model, problems, **options):
    """The answers that the model writes: bytes, and whether it ended them itself."""
    rows = [{"prompt": asked["prompt"], "max_tokens": len(asked["answer"]) + MORE} for asked in problems]
    for result in model.generate_many(rows, max_rows=64, **options):
        result.raised()
        yield {"answer": bytes(result.tokens).rstrip(b"\0").decode("latin-1"), "ended": result.finish_reason == "end"}


def answer(model, problems, only_read):
    """The greedy answers to problems, and the probability of each right one; if only read, None for wrong ones."""
    pairs = [(list(asked["prompt"].encode()), [*asked["answer"].encode(), 0]) for asked in problems]
    read = [result.raised() for result in model.score_many(pairs, max_rows=64)]
    wrong = [asked for asked, result in zip(problems, read) if not result.is_greedy]
    written = iter([{"answer": None, "ended": True}] * len(wrong)) if only_read else write(model, wrong, temperature=0)
    for asked, result in zip(problems, read):
        given = {"answer": asked["answer"], "ended": True} if result.is_greedy else next(written)
        yield given | {"likely": math.exp(result.logprob)}


def loops(answer):
    """Whether what was cut repeats itself: its last 16 bytes stand in it before."""
    return not answer["ended"] and answer["answer"][-16:] in answer["answer"][:-1]


def parting(answer, exact):
    """Bytes before two answers part; None if they never do."""
    pairs = zip(answer["answer"] + "\0", exact["answer"] + "\0")
    return next((n for n, (one, other) in enumerate(pairs) if one != other), None)


class Examination:
    """The problems, and what each type made of them."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.problems = list(tasks.examination(options.count))
        self.longer = list(tasks.examination(max(1, options.count // 5), longer=True))
        self.sampled = tasks.random.Random(1).sample(self.problems, max(1, len(self.problems) // 5))
        self.tool = os.path.join(options.bin, "rwkv-quantize")
        self.text = os.path.join(folder, "heldout.txt")
        with open(self.text, "wb") as file:
            file.write(tasks.text(30, 6, held=True).encode())
        self.exact = None

    def convert(self, source, arguments, name="model"):
        """The path of the converted model."""
        path = os.path.join(self.folder, name + ".rwkv")
        subprocess.run([self.tool, source, path, "--force", "--no-measure", "--tokenizer", "bytes", *arguments],
                       check=True, stderr=subprocess.DEVNULL)
        return path

    def compare(self, path):
        """What `rwkv-quantize compare` says."""
        exact = os.path.join(self.folder, "exact.rwkv")
        if not os.path.exists(exact):
            self.convert(self.options.model, ["--type", "fp32"], "exact")
        found = subprocess.run([self.tool, "compare", exact, path, "--text", self.text, "--json"], check=True,
                               stdout=subprocess.PIPE)
        return json.loads(found.stdout)

    def run(self, name, source, arguments):
        """All about one type; the first is what the others are compared with."""
        path = self.convert(source, arguments)
        lost = self.compare(path)
        model = librwkv.Model(path, threads=self.options.threads)
        result = {"name": name, "bytes": os.path.getsize(path), "kl": lost["kl"], "drift": lost["state_drift"],
                  "greedy": list(answer(model, self.problems, self.options.read)),
                  "longer": list(answer(model, self.longer, self.options.read)), "sampled": []}
        if not self.options.read:
            for seed in SEEDS:
                result["sampled"] += write(model, self.sampled, temperature=1, top_p=1,
                                           seeds=range(seed * 10_000, 10 ** 9))
        self.exact = self.exact or result
        return result

    def rows(self, result):
        """The rows of both tables."""
        right, exact = (correct(found["greedy"], self.problems) for found in (result, self.exact))
        by_task = [share([good for good, asked in zip(right, self.problems) if asked["task"] == task])
                   for task in tasks.TASKS]
        likely, before = ([100 * given["likely"] for given in found["greedy"]] for found in (result, self.exact))
        lost, won = (sum(one and not other for one, other in zip(*pair)) for pair in ((exact, right), (right, exact)))
        yield [result["name"], f"{result['kl']:.6f}", f"{result['drift']:.3f}", *by_task, share(right, bar=True),
               f"{lost} / {won}", f"{statistics.fmean(likely):.1f}", mean(map(operator.sub, likely, before)),
               share(correct(result["longer"], self.longer))]
        if self.options.read:
            return
        size = len(self.sampled)
        seeds = [100 * statistics.fmean(correct(result["sampled"][at:at + size], self.sampled))
                 for at in range(0, len(result["sampled"]), size)]
        cells = [mean(seeds)]
        for kind in ("greedy", "sampled"):
            parted = [parting(*pair) for pair in zip(result[kind], self.exact[kind])]
            found = [place for place in parted if place is not None]
            cells += [f"{100 * len(found) / len(parted):.1f}", f"{statistics.median(found):.0f}" if found else ""]
        kinds = [result[kind] for kind in ("greedy", "longer", "sampled")]
        yield [result["name"], *cells,
               " / ".join(str(sum(not given["ended"] for given in kind)) for kind in kinds),
               " / ".join(str(sum(loops(given) for given in kind)) for kind in kinds)]


def correct(answers, problems):
    """Which answers are right."""
    return [given["answer"] == asked["answer"] and given["ended"] for given, asked in zip(answers, problems)]


def mean(values):
    """The mean of several numbers with its standard error."""
    values = list(values)
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values) / math.sqrt(len(values)):.1f}"


def share(right, bar=False):
    """Percent, with the standard error of a binomial share."""
    p = sum(right) / len(right)
    return f"{100 * p:.1f}" + (f" ± {100 * math.sqrt(p * (1 - p) / len(right)):.1f}" if bar else "")


TABLES = (["type", "KL", "state drift", *tasks.TASKS, "all", "lost / won", "likely", "to fp16", "longer"],
          ["type", "sampled", "greedy: differ", "at byte", "sampled: differ", "at byte", "cut", "loops"])


def measured(options, done):
    """The results of every type, those in `done` as they are."""
    with tempfile.TemporaryDirectory() as folder:
        examination = Examination(options, folder)
        examination.exact = done.get("fp16")
        for result in done.values():
            yield examination.rows(result)
        for name, source, arguments in variants(options, folder, done):
            if name in done:
                continue
            result = examination.run(name, source, arguments)
            if options.raw:
                with open(options.raw, "a") as file:
                    file.write(json.dumps(result) + "\n")
            yield examination.rows(result)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Right answers of a task model in every type.")
    parser.add_argument("model")
    parser.add_argument("--other", required=True)
    parser.add_argument("--ggml")
    parser.add_argument("--bin", default=".build/release")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--raw")
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    done = {}
    if options.raw and os.path.exists(options.raw):
        with open(options.raw) as file:
            done = {result["name"]: result for result in map(json.loads, file)}
    tables = list(zip(*measured(options, done)))
    for columns, rows in zip(TABLES, tables):
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
        print()


if __name__ == "__main__":
    main()
