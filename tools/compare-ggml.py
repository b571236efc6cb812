#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Quality per byte of ggml's block formats and of ours, on the same checkpoint and text.

    compare-ggml.py MODEL.safetensors --text TEXT [--calibrate TEXT] --ggml libggml-base.so --bin .build/release

Each of ggml's formats is applied by its own C code (`ggml_quantize_chunk` of any build of llama.cpp, named by --ggml) and
dequantized by the PyPI package `gguf`; the weights that result run, like the original, as FP32 in our runtime, so that
nothing but the weights differs. Two choices of tensors:

    rwkv.cpp   every matrix but embedding, head and low-rank ones, which stay F16
    llama.cpp  embedding too; head Q6_K (Q8_0 with Q8_0); w1 w2 F32, other low-rank matrices F16

Rows that are no multiple of 256 columns are joined for the K formats, which llama-quantize would not use there.
Bytes are those of the tensors, vectors 4 bytes a number; of ours as they stand in the file, and the file with its index. The
index of a ggml file is not counted. Needs numpy, safetensors, gguf.
"""
import argparse
import ctypes
import json
import os
import subprocess
import tempfile

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize
from safetensors.numpy import save_file

TYPES = [T.Q4_0, T.Q4_K, T.Q5_1, T.Q5_K, T.Q6_K, T.Q8_0]


def read(path):
    """Tensors of a safetensors file as float32: numpy has no BF16."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data, tensors = file.read(), {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        raw = data[slice(*entry["data_offsets"])]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {"F32": np.float32, "F16": np.float16}[entry["dtype"]]).astype(np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


class Quantizer:
    """ggml's own quantizers."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.ggml_row_size.restype = ctypes.c_size_t
        self.library.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.library.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
            ctypes.c_void_p]

    def round_trip(self, values, kind):
        """(values after quantization, bytes)"""
        columns = 256 if kind in (T.Q4_K, T.Q5_K, T.Q6_K) else values.shape[-1]
        values = np.ascontiguousarray(values, np.float32)
        rows = values.size // columns
        size = self.library.ggml_row_size(kind, columns)
        out = np.zeros(rows * size, np.uint8)
        self.library.ggml_quantize_chunk(kind, values.ctypes.data, out.ctypes.data, 0, rows, columns, None)
        return dequantize(out.reshape(rows, size), kind).reshape(values.shape).astype(np.float32), rows * size


def kind_of(name, values, kind, choice):
    """The ggml type of a tensor, or None for F32."""
    low_rank = name.split(".")[-1] in (
        "w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2", "time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2")
    if sum(n > 1 for n in values.shape) < 2 or not (low_rank or name.endswith(".weight")):
        return None
    if choice == "rwkv.cpp":
        return T.F16 if low_rank or name in ("emb.weight", "head.weight") else kind
    if low_rank:
        return None if name.split(".")[-1] in ("w1", "w2", "time_decay_w1", "time_decay_w2") else T.F16
    if name == "head.weight":
        return T.Q8_0 if kind == T.Q8_0 else T.Q6_K
    return kind


def ggml_model(tensors, kind, choice, quantizer):
    """(tensors after quantization, bytes)"""
    result, total = {}, 0
    for name, values in tensors.items():
        chosen = kind_of(name, values, kind, choice)
        if chosen is None:
            result[name], size = values, 4 * values.size
        elif chosen == T.F16:
            result[name], size = values.astype(np.float16).astype(np.float32), 2 * values.size
        else:
            result[name], size = quantizer.round_trip(values, chosen)
        total += size
    return result, total


class Ours:
    """rwkv-quantize on this checkpoint."""

    def __init__(self, options, folder):
        self.tool, self.options, self.folder = os.path.join(options.bin, "rwkv-quantize"), options, folder
        self.exact = self.convert(options.model, "exact", ["--type", "fp32"])

    def convert(self, source, name, arguments):
        path = os.path.join(self.folder, name + ".rwkv")
        extra = ["--group-norm-eps", str(self.options.group_norm_eps)] if self.options.group_norm_eps else []
        subprocess.run([self.tool, source, path, "--force", "--no-measure", "--tokenizer", "bytes", *extra, *arguments],
                       check=True, stderr=subprocess.DEVNULL)
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
