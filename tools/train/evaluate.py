#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Evaluates an RWKV-7 checkpoint in plain numpy, independently of the training code.

    evaluate.py MODEL --text FILE [--bytes N] [--window N]     nats per byte, share of exact zeros of relu2 per layer
    evaluate.py MODEL --sample PROMPT --length N [--temperature T]     writes text (temperature 0: greedy)
    evaluate.py MODEL --text FILE --expected FOLDER            logits of the first 64 bytes or 16 tokens, in float64

Tokens are bytes, or with --vocabulary FILE those of a World vocabulary. A text is evaluated as a recurrence from a
zero state, the state carried to the end (or, with --window, started again every N tokens). Matrices are applied to
blocks of tokens; the recurrence itself is stepped token by token.
"""
import argparse
import json
import math
import os
import struct

import numpy as np

from vocabulary import read_vocabulary, tokens_of

HEAD = 64


def read_checkpoint(path, dtype):
    """A safetensors file of F32 or BF16 tensors -> {name: array of `dtype`}."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        raw = data[slice(*entry["data_offsets"])]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif entry["dtype"] == "F32":
            values = np.frombuffer(raw, "<f4")
        else:
            raise SystemExit(f"{name}: {entry['dtype']} is not supported")
        tensors[name] = values.reshape(entry["shape"]).astype(dtype)
    return tensors


def write_checkpoint(path, tensors):
    """{name: float32 array} -> a safetensors file."""
    header, blobs, at = {}, [], 0
    for name, array in tensors.items():
        blob = np.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def sigmoid(x):
    """The logistic function without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def layer_norm(x, weight, bias, eps=1e-5):
    """x [..,D] normalised over its last axis."""
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight + bias


class Model:
    """The weights, one dictionary per layer, and the count of zeros among the relu2 activations."""

    def __init__(self, tensors):
        self.top = tensors
        self.depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        self.layers = []
        for l in range(self.depth):
            start = f"blocks.{l}."
            own = {name[len(start):]: value for name, value in tensors.items() if name.startswith(start)}
            self.layers.append({name: value.reshape(-1) if value.ndim == 3 else value for name, value in own.items()})
        self.dtype, self.width = tensors["emb.weight"].dtype, tensors["emb.weight"].shape[1]
        self.zeros, self.activations = np.zeros(self.depth), 0

    def fresh(self):
        """A zero state: per layer shift [D], S [H,64 values,64 keys], shift [D]."""
        D = self.width
        return [[np.zeros(D, self.dtype), np.zeros((D // HEAD, HEAD, HEAD), self.dtype), np.zeros(D, self.dtype)]
                for _ in range(self.depth)]

    def forward(self, tokens, state):
        """tokens [T] -> logits [T,V]; `state` becomes the state after them."""
        x, v_first = self.top["emb.weight"][tokens], None
        x = layer_norm(x, self.layers[0]["ln0.weight"], self.layers[0]["ln0.bias"])
        self.activations += len(tokens) * self.layers[0]["ffn.key.weight"].shape[0]
        for l, (p, own) in enumerate(zip(self.layers, state)):
            y, v_first = time_mix(p, layer_norm(x, p["ln1.weight"], p["ln1.bias"]), own, v_first)
            x = x + y
            y, zeros = channel_mix(p, layer_norm(x, p["ln2.weight"], p["ln2.bias"]), own)
            x = x + y
            self.zeros[l] += zeros
        return layer_norm(x, self.top["ln_out.weight"], self.top["ln_out.bias"]) @ self.top["head.weight"].T


def shifted(x, own, index):
    """x [T,D] -> the previous token's x minus x; the last row becomes the shift state."""
    previous = np.concatenate((own[index][None], x[:-1]))
    own[index] = x[-1]
    return previous - x


def time_mix(p, x, own, v_first):
    """x [T,D] -> the mixer's output [T,D] and layer 0's value."""
    T, D = x.shape
    heads = lambda t: t.reshape(T, D // HEAD, HEAD)
    d = shifted(x, own, 0)
    x_r, x_w, x_k, x_v, x_a, x_g = (x + d * p["att.x_" + c] for c in "rwkvag")
    r, k, v = x_r @ p["att.receptance.weight"].T, x_k @ p["att.key.weight"].T, x_v @ p["att.value.weight"].T
    w = np.exp(-math.exp(-0.5) * sigmoid(p["att.w0"] + np.tanh(x_w @ p["att.w1"]) @ p["att.w2"]))
    a = sigmoid(p["att.a0"] + x_a @ p["att.a1"] @ p["att.a2"])
    g = sigmoid(x_g @ p["att.g1"]) @ p["att.g2"]
    kk = heads(k * p["att.k_k"])
    kk = kk / np.maximum(np.sqrt((kk * kk).sum(-1, keepdims=True)), 1e-12)
    k = k * (1 + (a - 1) * p["att.k_a"])
    if v_first is None:
        v_first = v
    else:
        v = v + (v_first - v) * sigmoid(p["att.v0"] + x_v @ p["att.v1"] @ p["att.v2"])
    y = recurrence(own, *map(heads, (r, w, k, v)), kk, heads(a))
    y = y - y.mean(-1, keepdims=True)
    y = y / np.sqrt((y * y).mean(-1, keepdims=True) + 64e-5)
    y = y.reshape(T, D) * p["att.ln_x.weight"] + p["att.ln_x.bias"]
    bonus = (heads(r) * heads(k) * p["att.r_k"]).sum(-1, keepdims=True) * heads(v)
    return ((y + bonus.reshape(T, D)) * g) @ p["att.output.weight"].T, v_first


def recurrence(own, r, w, k, v, kk, a):
    """All [T,H,64]; steps the state S [H,value,key] in `own` and returns y [T,H,64]."""
    S, y, b = own[1], np.empty_like(r), kk * a
    for t in range(len(r)):
        removed = np.matmul(S, kk[t][:, :, None])
        S = S * w[t][:, None, :] - removed * b[t][:, None, :] + v[t][:, :, None] * k[t][:, None, :]
        y[t] = np.matmul(S, r[t][:, :, None])[:, :, 0]
    own[1] = S
    return y


def channel_mix(p, x, own):
    """x [T,D] -> the feed-forward output and the number of exact zeros among its activations."""
    k = (x + shifted(x, own, 2) * p["ffn.x_k"]) @ p["ffn.key.weight"].T
    k = np.maximum(k, 0) ** 2
    return k @ p["ffn.value.weight"].T, (k == 0).sum()


def losses(logits, targets):
    """logits [T,V] and targets [T] -> nats of each target, in float64."""
    logits = logits.astype(np.float64)
    top = logits.max(-1)
    return top + np.log(np.exp(logits - top[:, None]).sum(-1)) - logits[np.arange(len(targets)), targets]


def measure(model, tokens, sizes, window, block=1024):
    """Nats per byte of `tokens`, of which the first of each window is not predicted; `sizes`: bytes of every id."""
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 1, window or len(tokens)):
        piece, state = tokens[start:start + (window or len(tokens))], model.fresh()
        for at in range(0, len(piece) - 1, block):
            inputs, targets = piece[at:at + block], piece[at + 1:at + 1 + block]
            total += losses(model.forward(inputs[:len(targets)], state), targets).sum()
            count += sizes[targets].sum()
    return total / count, count


def sample(model, prompt, length, temperature, seed=1):
    """`length` tokens after `prompt`: the likeliest ones, or drawn at a temperature."""
    random, state, out = np.random.default_rng(seed), model.fresh(), []
    logits = model.forward(prompt, state)[-1]
    for _ in range(length):
        if temperature:
            p = np.exp((logits - logits.max()) / temperature)
            token = int(random.choice(len(p), p=p / p.sum()))
        else:
            token = int(logits.argmax())
        out.append(token)
        logits = model.forward(np.array([token]), state)[-1]
    return out


def write_expected(model, tokens, folder, count):
    """Writes expected.safetensors (`logits` [count,V]) and tokens.json for the first `count` tokens of the text."""
    logits = model.forward(tokens[:count], model.fresh())
    write_checkpoint(os.path.join(folder, "expected.safetensors"), {"logits": logits})
    with open(os.path.join(folder, "tokens.json"), "w", encoding="utf-8") as file:
        json.dump([int(t) for t in tokens[:count]], file)
        file.write("\n")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Evaluates an RWKV-7 checkpoint in numpy.")
    parser.add_argument("model")
    parser.add_argument("--vocabulary")
    parser.add_argument("--text")
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--window", type=int)
    parser.add_argument("--sample")
    parser.add_argument("--length", type=int, default=400)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--expected")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    options = parser.parse_args()
    model = Model(read_checkpoint(options.model, "float64" if options.expected else options.dtype))
    ids = read_vocabulary(options.vocabulary) if options.vocabulary else {bytes([n]): n for n in range(256)}
    texts = {number: token for token, number in ids.items()}
    if options.sample is not None:
        prompt = options.sample.encode().decode("unicode_escape").encode("latin-1")
        written = sample(model, np.array(tokens_of(prompt, ids)), options.length, options.temperature)
        print(options.sample + b"".join(texts.get(token, b"") for token in written).decode(errors="replace"))
        return
    with open(options.text, "rb") as file:
        tokens = np.array(tokens_of(file.read()[:options.bytes], ids))
    if options.expected:
        write_expected(model, tokens, options.expected, 16 if options.vocabulary else 64)
    else:
        sizes = np.array([len(texts.get(n, b"")) for n in range(max(texts) + 1)])
        nats, count = measure(model, tokens, sizes, options.window)
        print(f"{nats:.4f} nats/byte over {count} bytes, {nats / math.log(2):.4f} bits/byte")
        print("exact zeros of relu2 per layer: " + " ".join(f"{z / model.activations:.3f}" for z in model.zeros))


if __name__ == "__main__":
    main()
