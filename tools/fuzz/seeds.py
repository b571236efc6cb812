#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes seeds for the fuzzing targets: the golden models cut down to a few kilobytes, in every container.

    seeds.py FOLDER        makes FOLDER/TARGET/… for each target that reads a foreign format

Tests/Fixtures/fuzz/models are some of FOLDER/safetensors, and FOLDER/models: versions whose tables make them too large.
Files of our own formats (.rwkv, states) are made from these by the harness. Needs numpy alone.
"""
import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/develop/versions"))
import containers  # noqa: E402

WIDTH, RANK = 8, 4


def shrink(name, value, width):
    """Every axis cut to `width`, those of ranks to RANK; the model stays whole."""
    part = containers.leaf(name)
    if ".qkv." in name or ".ffn.s" in name:  # of 7a and 7b, whose tables have sizes of their own
        return value[tuple(slice(None if size in (32, 256, 1024) else width) for size in value.shape)].copy()
    if part == "time_maa_w1":
        return value[:width, :5 * RANK].copy()
    if part == "time_maa_w2":
        return value[:, :RANK, :width].copy()
    if part in ("time_decay_w1", "w1", "a1", "v1", "g1"):
        return value[:width, :RANK].copy()
    if part in ("time_decay_w2", "w2", "a2", "v2", "g2"):
        return value[:RANK, :width].copy()
    if part in ("r_k", "time_faaaa", "time_decay", "time_first") and value.ndim == 2 and value.shape[1] > 1:
        return value[:1, :width].copy()  # one head
    return value[tuple(slice(width) if size > 6 else slice(None) for size in value.shape)].copy()


def small(case, layers=1, width=WIDTH):
    model = containers.read_model(ROOT / "Tests/Fixtures/goldens" / case)
    keep = {name: value for name, value in model.items()
            if not name.startswith("blocks.") or int(name.split(".")[1]) < layers}
    return {name: shrink(name, value, width) for name, value in keep.items()}


def main(folder):
    def write(target, name, data):
        path = folder / target
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)

    cases = {"4": "v4-hf", "50": "v50-std", "51": "v51-std", "52": "v52-hf", "6": "v6-hf", "7": "v7-f32-small",
             "x": "x-one"}
    for label, case in cases.items():
        model = small(case, layers=2 if label in ("7", "x") else 1, width=16 if label == "6" else WIDTH)  # panels
        width = containers.width(model)
        kind = ["F32", "F16", "BF16"][len(label + case) % 3]
        own = containers.published(model)
        write("safetensors", label, containers.safetensors(own, kind))
        write("pth", label, containers.pth(own, kind))
        if label != "x":
            theirs = containers.to_huggingface(model)
            write("safetensors", label + "-hf", containers.safetensors(theirs, kind))
            write("rwkvcpp", label, containers.rwkv_cpp(model))
            write("config", label, containers.config(model))
        if label in "67":
            write("gguf", label, containers.gguf(model, "F16"))
        if label in "67x":
            state = np.arange(width * width, dtype="<f4").reshape(1, width, width) / 64
            states = {f"blocks.{layer}.att.time_state": state for layer in range(containers.layers(model))}
            write("tuned", label, containers.safetensors(states))
            write("tuned", label + "-pth", containers.pth(states))
    model = small("v7b-odd")
    write("models", "7b", containers.safetensors(model, "F16"))
    write("models", "7a", containers.safetensors({n: v for n, v in model.items() if ".qkv." not in n}, "F16"))
    shards = {"emb.weight": "a.safetensors", "head.weight": "b.safetensors"}
    index = {"metadata": {"total_size": 8}, "weight_map": shards}
    write("index", "two", json.dumps(index).encode())
    for target in ("rwkvcpp", "gguf"):
        write_quantized(target, write)
    write_tokenizers(write)
    write_answers(write)


def write_quantized(target, write):
    """One block of each of ggml's types."""
    make = {"rwkvcpp": containers.rwkv_cpp, "gguf": containers.gguf}[target]
    types = {"rwkvcpp": ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"], "gguf": ["Q8_0", "Q5_1"]}[target]
    model = small("v7-f32-small")
    for name, value in model.items():  # wide enough for a block
        if name.endswith("ffn.value.weight"):
            model[name] = np.tile(value, (1, 4))
        if name.endswith("ffn.key.weight"):
            model[name] = np.tile(value, (4, 1))
    for kind in types:
        write(target, kind, make(model, kind))


def write_answers(write):
    """What a server says to a request for bytes 10-49 of a file, for 0-39 of one of 40, and for a small file."""
    data = bytes(range(32, 72))

    def head(status, **headers):
        lines = [f"HTTP/1.1 {status} x", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        return "".join(line + "\r\n" for line in [*lines, ""]).encode()

    def chunked(body, size, trailer=b""):
        pieces = [body[start:start + size] for start in range(0, len(body), size)]
        return b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"

    def part(first, last, total, body, **headers):
        return head(206, Content_Range=f"bytes {first}-{last}/{total}", ETag='"a"', **headers) + body

    def write_all(name, *answers):
        write("http", name, b"\0".join(answers))

    cut = {"Transfer_Encoding": "chunked"}
    small = head(200, **cut) + chunked(b"hello", 2)
    write_all("parts", part(10, 49, 100, data), part(0, 39, 40, data), head(200, Content_Length=5) + b"hello")
    for size in (1, 7, 40):
        write_all(f"chunked-{size}", part(10, 49, 100, chunked(data, size), **cut),
                  part(0, 39, 40, chunked(data, size), **cut), small)
    trailer = b"Content-Range: bytes 0-39/40\r\nETag: \"b\"\r\nHTTP/1.1 200 x\r\n"
    write_all("chunked-trailer", part(10, 49, 100, chunked(data, 9, trailer), **cut),
              part(0, 39, 40, chunked(data, 9), **cut))
    write_all("chunked-ended-early", part(10, 49, 100, chunked(data, 9)[:20], **cut), part(15, 49, 100, data[5:]),
              part(0, 39, 40, data), small)
    wrong = [b"zzz\r\n", b"-1\r\nx\r\n", b"ffffffffffffffff\r\nx", b"7fffffffffffffff\r\nx\r\n0\r\n\r\n"]
    write_all("chunked-wrongly", *(part(10, 49, 100, body, **cut) for body in wrong), part(10, 49, 100, data))
    write_all("chunked-too-long", part(10, 49, 100, chunked(data * 3, 50), **cut), small)
    write_all("overlapping", part(10, 29, 100, data[:20]), part(20, 49, 100, data[10:]))
    write_all("overlapping-chunks", part(10, 29, 100, chunked(data[:20], 6), **cut),
              part(29, 49, 100, chunked(data[19:], 6), **cut))
    write_all("elsewhere", head(302, Location="https://cdn.example/a?b=c", X_Linked_Size=100), part(10, 49, 100, data))
    write_all("busy", head(429, Retry_After=9), head(429, RateLimit='"api";r=0;t=55'), head(503),
              part(10, 49, 100, data))
    listing = {"sha": "0123456789abcdef", "siblings": [{"rfilename": "a/model.pth", "size": 5, "lfs": {
        "sha256": "0" * 64, "size": 5, "pointerSize": 134}}, {"rfilename": "config.json", "size": 2}]}
    write("http", "listing", json.dumps(listing).encode())
    write("http", "place", b"hf:owner/r/folder/model.pth@refs/pr/1")


def write_tokenizers(write):
    lines = [f"{byte + 1} b'\\x{byte:02x}' 1" for byte in range(256)]
    lines += ["257 'ab' 2", "258 '\\n\\n' 2", '259 "\'é" 3', "260 b'\\xe4\\xbd' 2", "261 '\\u4f60' 3", "262 'abc' 3"]
    write("vocabulary", "bytes", ("\n".join(lines) + "\n").encode())
    alphabet = [chr(code) for code in range(256, 256 + 68)] + [
        chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    vocabulary.update({"ab": 256, "abc": 257, "Ġa": 258})
    tokenizer = {
        "added_tokens": [{"id": 259, "content": "<|endoftext|>", "special": True, "normalized": False},
                         {"id": 260, "content": "  ", "special": False, "normalized": True}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocabulary,
                  "merges": ["a b", "ab c", ["Ġ", "a"]]},
    }
    write("tokenizer-json", "neox", json.dumps(tokenizer).encode())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
