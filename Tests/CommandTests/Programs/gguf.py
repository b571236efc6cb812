# SPDX-License-Identifier: MIT
"""Writes a golden RWKV-7 model as llama.cpp's converter does: gguf.py MODEL.safetensors OUT.gguf"""

import json
import re
import struct
import sys

source, target = sys.argv[1:]
with open(source, "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    data = file.read()
header.pop("__metadata__", None)
tensors = {}
for name, entry in header.items():
    assert entry["dtype"] == "F32"
    first, last = entry["data_offsets"]
    tensors[name] = ([size for size in entry["shape"] if size != 1], data[first:last])
width = tensors["ln_out.weight"][0][0]
layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))


def transposed(shape, values):
    rows, columns = shape
    cells = struct.unpack(f"<{rows * columns}f", values)
    return [columns, rows], struct.pack(f"<{len(cells)}f", *(cells[r * columns + c] for c in range(columns) for r in range(rows)))


for layer in range(layers):
    att = f"blocks.{layer}.att."
    mixed = [tensors.pop(att + "x_" + letter)[1] for letter in "rwkvag"]
    tensors[att + "lerp_fused"] = ([6, 1, 1, width], b"".join(mixed))
for index in range(3):
    tensors[f"blocks.0.att.v{index}"] = tensors[f"blocks.0.att.a{index}"]

renamed = {}
for name, (shape, values) in tensors.items():
    if re.search(r"\.[wavg][12]$", name):
        shape, values = transposed(shape, values)
    if name.endswith("r_k"):
        shape = [width]
    for old, new in (
        ("emb.", "token_embd."), ("ln_out.", "output_norm."), ("blocks.0.ln0.", "token_embd_norm."), ("blocks.", "blk."),
        ("ln1.", "attn_norm."), ("ln2.", "attn_norm_2."), ("att.ln_x.", "time_mix_ln."), ("ffn.x_k", "channel_mix_lerp_k"),
        ("att.", "time_mix_"), ("ffn.", "channel_mix_"), ("head.", "output."),
    ):
        name = name.replace(old, new)
    renamed[name if name.endswith((".weight", ".bias")) else name + ".weight"] = (shape, values)


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def padded(value):
    return value + bytes(-len(value) % 32)


metadata = [text("general.architecture") + struct.pack("<I", 8) + text("rwkv7")]
for key, value in (("embedding_length", width), ("block_count", layers), ("wkv.head_size", 64)):
    metadata.append(text("rwkv7." + key) + struct.pack("<II", 4, value))
head = b"GGUF" + struct.pack("<IQQ", 3, len(renamed), len(metadata)) + b"".join(metadata)
body = b""
for name, (shape, values) in renamed.items():
    head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in reversed(shape))
    head += struct.pack("<IQ", 0, len(body))
    body += padded(values)
with open(target, "wb") as file:
    file.write(padded(head) + body)
