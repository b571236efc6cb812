#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Quality per byte of ggml's block formats and of ours, on the same checkpoint and text.

    compare-ggml.py MODEL.safetensors --text TEXT [--calibrate TEXT] --ggml libggml-base.so --bin .build/release

Each of ggml's formats is applied by its own C code (`ggml_quantize_chunk` of any build of llama.cpp, named by --ggml)
and dequantized by the PyPI package `gguf`; the weights that result run, like the original, as FP32 in our runtime, so
that nothing but the weights differs. ggml_types.py has the two choices of tensors.

Rows that are no multiple of 256 columns are joined for the K formats, which llama-quantize would not use there.
The vocabulary is found beside the checkpoint, as rwkv-quantize finds it; 256 tokens are bytes.
Bytes are those of the tensors, vectors 4 bytes a number. Ours are counted as they stand in the file, and the file with
its index; the index of a ggml file is not counted. Needs numpy, safetensors, gguf.
"""
import argparse
import json
import os
import subprocess
import tempfile

from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

from ggml_types import Quantizer, ggml_model, read

TYPES = [T.Q4_0, T.Q4_K, T.Q5_1, T.Q5_K, T.Q6_K, T.Q8_0]


class Ours:
    """rwkv-quantize on this checkpoint."""

    def __init__(self, options, folder):
        self.tool, self.options, self.folder = os.path.join(options.bin, "rwkv-quantize"), options, folder
        beside = os.path.dirname(os.path.abspath(options.model))
        for name in os.listdir(beside):
            if name.endswith((".txt", ".json")) and ("vocab" in name or "tokenizer" in name):
                os.symlink(os.path.join(beside, name), os.path.join(folder, name))
        self.exact = self.convert(options.model, "exact", ["--type", "fp32"])

    def convert(self, source, name, arguments):
        path = os.path.join(self.folder, name + ".rwkv")
        extra = ["--group-norm-eps", str(self.options.group_norm_eps)] if self.options.group_norm_eps else []
        subprocess.run([self.tool, source, path, "--force", "--no-measure", *extra, *arguments], check=True,
                       stderr=subprocess.DEVNULL)
        return path

    def sizes(self, path):
        """(bytes of the tensors, bytes of the file)"""
        result = subprocess.run([self.tool, "show", path, "--json"], check=True, stdout=subprocess.PIPE)
        shown = json.loads(result.stdout)
        return sum(share["stored_bytes"] for share in shown["formats"].values()), shown["file_bytes"]

    def compare(self, path):
        result = subprocess.run([self.tool, "compare", self.exact, path, "--text", self.options.text, "--json"],
                                check=True, stdout=subprocess.PIPE)
        return json.loads(result.stdout)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Quality per byte of ggml's formats and ours.")
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--calibrate")
    parser.add_argument("--ggml", required=True)
    parser.add_argument("--bin", default=".build/release")
    parser.add_argument("--group-norm-eps", type=float)
    options = parser.parse_args()
    tensors, quantizer = read(options.model), Quantizer(options.ggml)
    print("| weights | bytes (file) | KL | top 1 | top 10 | nats |\n|---|---|---|---|---|---|")

    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(options, folder)

        def row(name, size, path):
            found = ours.compare(path)
            print(f"| {name} | {size} | {found['kl']:.7f} | {100 * found['top1']:.2f} % | {100 * found['top10']:.2f} % "
                  f"| {found['model_nats']:.4f} |", flush=True)

        for choice in ("rwkv.cpp", "llama.cpp"):
            for kind in TYPES:
                result, size = ggml_model(tensors, kind, choice, quantizer)
                path = os.path.join(folder, "ggml.safetensors")
                save_file(result, path)
                row(f"{kind.name}, {choice}", size, ours.convert(path, "ggml", ["--type", "fp32"]))
        for kind in ("int4-small", "int4", "int5", "int8"):
            for calibration in [[]] + ([["--calibrate", options.calibrate]] if options.calibrate else []):
                path = ours.convert(options.model, "ours", ["--type", kind, *calibration])
                tensor_bytes, file_bytes = ours.sizes(path)
                row(f"{kind}{', calibrated' if calibration else ''}", f"{tensor_bytes} ({file_bytes})", path)


if __name__ == "__main__":
    main()
