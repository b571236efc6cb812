# SPDX-License-Identifier: MIT
"""ggml's block formats, emulated: weights after quantization by ggml's own C code, as float32.

Any build of llama.cpp has the code (libggml-base.so); PyPI's `gguf` dequantizes. Two choices of tensors:

    rwkv.cpp   every matrix but embedding, head and low-rank ones, which stay F16
    llama.cpp  embedding too; head Q6_K (Q8_0 with Q8_0); w1 w2 F32, other low-rank matrices F16
"""
import ctypes
import json

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize


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

    def round_trip(self, values, kind, importance=None):
        """(values after quantization, bytes); importance: of each column, as llama-imatrix measures it."""
        columns = values.shape[-1]
        if kind in (T.Q4_K, T.Q5_K, T.Q6_K) and columns % 256:
            columns = 256
        values = np.ascontiguousarray(values, np.float32)
        rows = values.size // columns
        if importance is not None:
            assert columns == values.shape[-1], "joined rows have no columns of their own"
            importance = np.ascontiguousarray(importance, np.float32)
        weights = None if importance is None else importance.ctypes.data
        size = self.library.ggml_row_size(kind, columns)
        out = np.zeros(rows * size, np.uint8)
        self.library.ggml_quantize_chunk(kind, values.ctypes.data, out.ctypes.data, 0, rows, columns, weights)
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


def ggml_model(tensors, kind, choice, quantizer, importance=None):
    """(tensors after quantization, bytes); importance: of the columns of the matrices, by name."""
    result, total = {}, 0
    for name, values in tensors.items():
        chosen = kind_of(name, values, kind, choice)
        if chosen is None:
            result[name], size = values, 4 * values.size
        elif chosen == T.F16:
            result[name], size = values.astype(np.float16).astype(np.float32), 2 * values.size
        else:
            result[name], size = quantizer.round_trip(values, chosen, (importance or {}).get(name))
        total += size
    return result, total
