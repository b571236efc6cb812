#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Where a type loses: KL of each kind of tensor alone, ours beside ggml's, and of single hidden units.

    where.py MODEL.safetensors --text TEXT --ggml libggml-base.so [--type int4] [--calibrate TEXT] [--beside Q4_K]

"only" rows have one kind of tensor in the type, all else and the activations in FP32. Error is that of the weights,
squared, relative to theirs. "unsure" and "sure" are the means of KL where the entropy of the exact model is
above 0.1 nats and where it is not. Of every ffn.value the units with the largest weights are then made exact, 1, 4, 16
and 64 of them. A text's zero bytes are token 0. Needs numpy, safetensors, gguf, zstandard and librwkv (python/).
"""
import argparse
import os
import subprocess
import sys
import tempfile

import librwkv
import numpy as np
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

from ggml_types import Quantizer, ggml_model, read

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "formats"))
import read_model  # noqa: E402

KINDS = ["att.receptance", "att.key", "att.value", "att.gate", "att.output", "ffn.receptance", "ffn.key", "ffn.value",
         "emb", "head"]


class Models:
    """Weights as models, and what each of them loses."""

    def __init__(self, options, folder):
        self.options, self.folder, self.exact = options, folder, read(options.model)
        with open(options.text, "rb") as file:
            self.text = file.read()
        self.log_p = None
        self.log_p = self.read(self.convert(options.model, "--type", "fp32"))
        self.p = np.exp(self.log_p)
        self.is_unsure = -(self.p * self.log_p).sum(-1) > 0.1

    def convert(self, source, *arguments):
        path = os.path.join(self.folder, "model.rwkv")
        subprocess.run([os.path.join(self.options.bin, "rwkv-quantize"), source, path, "--force", "--no-measure",
                        "--store", "--tokenizer", self.options.tokenizer, *arguments],
                       check=True, stderr=subprocess.DEVNULL)
        return path

    def read(self, path):
        """Log-probabilities [T,V] after each token of the text but the last."""
        model, tokens = librwkv.Model(path), [0]
        for part in self.text.split(b"\0"):
            tokens += [*model.encode(part), 0]
        logits = model.read_each(model.new_state(), tokens[:-2]).astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def row(self, name, path, error=""):
        """Prints what the file loses."""
        kl = (self.p * (self.log_p - self.read(path))).sum(-1)
        cells = [name, error, *(f"{part.mean():.6f}" for part in (kl, kl[self.is_unsure], kl[~self.is_unsure]))]
        print(f"| {' | '.join(cells)} |", flush=True)

    def row_of(self, name, weights, changed=()):
        """The same for weights; their error is that of the tensors `changed`."""
        path, error = os.path.join(self.folder, "weights.safetensors"), ""
        save_file({key: weights.get(key, values) for key, values in self.exact.items()}, path)
        if changed:
            lost = sum(((weights[key] - self.exact[key]) ** 2).sum() for key in changed)
            error = f"{lost / sum((self.exact[key] ** 2).sum() for key in changed):.4f}"
        self.row(name, self.convert(path, "--type", "fp32"), error)

    def dequantized(self, path):
        """The weights of a file in the checkpoint's shapes."""
        model, found = read_model.Model(path), {}
        for name, exact in self.exact.items():
            if name.endswith(".weight") and exact.ndim == 2:
                tensor = model.tensors[name]
                values = model.read(tensor)
                found[name] = np.ascontiguousarray(values if values.shape == exact.shape else values.T, np.float32)
        return found


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="KL of each kind of tensor alone, and of single hidden units.")
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--ggml", required=True)
    parser.add_argument("--type", default="int4")
    parser.add_argument("--beside", default="Q4_K")
    parser.add_argument("--calibrate")
    parser.add_argument("--tokenizer", default="bytes")
    parser.add_argument("--bin", default=".build/release")
    options = parser.parse_args()
    calibration = ["--calibrate", options.calibrate] if options.calibrate else []
    print("| | error | KL | unsure | sure |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        models = Models(options, folder)
        theirs = ggml_model(models.exact, T[options.beside], "rwkv.cpp", Quantizer(options.ggml))[0]
        path = models.convert(options.model, "--type", options.type, *calibration)
        models.row(options.type, path)
        ours = models.dequantized(path)
        models.row_of(options.beside, theirs)
        for kind in KINDS:
            names = [name for name in ours if name.endswith(kind + ".weight")]
            for name, weights in ((options.type, ours), (options.beside, theirs)) if names else ():
                models.row_of(f"only {kind}, {name}", {key: weights[key] for key in names}, names)
        for name in [name for name in ours if name.endswith("ffn.value.weight")]:
            largest = np.argsort(-(models.exact[name] ** 2).sum(0))
            for count in (0, 1, 4, 16, 64):
                weights = ours[name].copy()
                weights[:, largest[:count]] = models.exact[name][:, largest[:count]]
                models.row_of(f"only {name}, {count} units exact", {name: weights})


if __name__ == "__main__":
    main()
