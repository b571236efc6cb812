#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes a synthetic RWKV checkpoint: official names and shapes, random weights of sensible scale.

For benchmarks and memory tests, where only shapes, speed and sparsity matter. The text that such a model writes is
noise, but its activations are sane: decays are spread as in trained models, nothing grows over thousands of tokens,
and the share of zeros after the channel mixing's squared ReLU is the requested one (a trained 1.5B: 0.87).

    make_checkpoint.py OUT.safetensors --model 7-0.1B [--zeros 0.87] [--seed 0]

Needs numpy alone. Streams to disk: memory stays below 200 MB for any size. The same arguments give the same bytes.
"""
import argparse
import json
import math
import statistics
import struct
import zlib

import numpy as np

# name: version, L, D, F, V, and the ranks of the low-rank matrices
MODELS = {
    "7-0.1B": (7, 12, 768, 3072, 65536, dict(w=64, a=64, v=32, g=128)),
    "7-0.4B": (7, 24, 1024, 4096, 65536, dict(w=64, a=64, v=32, g=128)),
    "7-1.5B": (7, 24, 2048, 8192, 65536, dict(w=96, a=96, v=64, g=256)),
    "7a-0.1B": ("7a", 12, 768, 3072, 65536, dict(w=64, a=64, v=32, g=128)),
    "embedding-0.1B": ("embedding", 12, 768, 3072, 65536, dict(w=64, a=64, v=32, g=128)),
    "reranker-0.1B": ("reranker", 12, 768, 3072, 1, dict(w=64, a=64, v=32, g=128)),
    "6-1.6B": (6, 24, 2048, 7168, 65536, dict(maa=32, decay=64)),
    "4-169M": (4, 12, 768, 3072, 50277, {}),
}
HEAD_SIZE = 64
BLOCK = 1 << 20  # values generated at a time


def generator(seed, name):
    return np.random.Generator(np.random.Philox([seed, zlib.crc32(name.encode())]))


# A fill is a function (rng, first value, count) -> float32 array; blocks of one tensor are asked for in order.
def normal(scale, mean=0.0):
    return lambda rng, first, n: rng.standard_normal(n, dtype=np.float32) * np.float32(scale) + np.float32(mean)


def uniform(low, high):
    return lambda rng, first, n: rng.random(n, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def spread(values, noise):
    values = np.asarray(values, dtype=np.float32)
    return lambda rng, first, n: values[first:first + n] + rng.standard_normal(n, dtype=np.float32) * np.float32(noise)


class Model:
    """The list of tensors (name, shape, fill) of one model."""

    def __init__(self, version, layers, width, hidden, vocabulary, ranks, zeros, seed):
        self.D, self.F, self.L = width, hidden, layers
        self.ranks, self.zeros, self.seed = ranks, zeros, seed
        self.tensors = []
        kind, version = (version, 7) if isinstance(version, str) else ("", version)
        self.add("emb.weight", (vocabulary, width), normal(0.5))
        self.norm("blocks.0.ln0", width)
        for layer in range(layers):
            self.norm(f"blocks.{layer}.ln1", width)
            self.norm(f"blocks.{layer}.ln2", width, bias=0.3)
            {4: self.att4, 6: self.att6, 7: self.att7}[version](f"blocks.{layer}.att.", layer)
            self.ffn(f"blocks.{layer}.ffn.", layer, version)
            if kind == "7a":
                self.deep_embed(f"blocks.{layer}.ffn.", vocabulary)
        self.norm("ln_out", width)
        self.heads(kind, vocabulary)

    def heads(self, kind, vocabulary):
        D, scale = self.D, normal(1.0 / math.sqrt(self.D))
        if kind == "embedding":
            for task in ("cls", "sts", "retr"):
                self.add(f"head.{task}_head.fc1.weight", (D, D), scale)
                self.add(f"head.{task}_head.fc2.weight", (D, D), scale)
                self.norm(f"head.{task}_head.norm", D)
        elif kind == "reranker":
            self.add("head.0.weight", (D, D), scale)
            self.add("head.0.bias", (D,), normal(0.1))
            self.add("head.2.weight", (1, D), scale)
        else:
            self.add("head.weight", (vocabulary, D), normal(2.0 / math.sqrt(D)))
        prefix = {"embedding": "rwkv.", "reranker": "reranker."}.get(kind, "")
        own = "head." if kind == "embedding" else None
        self.tensors = [
            (name if own and name.startswith(own) else prefix + name, shape, fill) for name, shape, fill in self.tensors
        ]

    def deep_embed(self, p, vocabulary):
        self.add(p + "s_emb.weight", (vocabulary, 1024), normal(0.03))
        self.add(p + "s_emb_x.weight", (1024, self.D), normal(0.1 / math.sqrt(self.D)))
        self.add(p + "s0", (1, 1, self.F), normal(0.1, 1.0))
        self.add(p + "s1", (self.D, 32), normal(1.0 / math.sqrt(self.D)))
        self.add(p + "s2", (32, self.F), normal(0.3))

    def add(self, name, shape, fill):
        self.tensors.append((name, shape, fill))

    def norm(self, name, n, bias=0.05):
        self.add(name + ".weight", (n,), normal(0.1, 1.0))
        self.add(name + ".bias", (n,), normal(bias))

    def matrices(self, prefix, names, scale=1.0):
        for name in names.split():
            self.add(f"{prefix}{name}.weight", (self.D, self.D), normal(scale / math.sqrt(self.D)))

    def low_rank(self, prefix, letter, rank, scale):
        self.add(f"{prefix}{letter}1", (self.D, rank), normal(1.0 / math.sqrt(self.D)))
        self.add(f"{prefix}{letter}2", (rank, self.D), normal(scale / math.sqrt(rank)))

    def mixes(self, prefix, names):
        for name in names.split():
            self.add(prefix + name, (1, 1, self.D), uniform(0.0, 1.0))

    def att7(self, p, layer):
        D, position = self.D, np.arange(self.D) / (self.D - 1)
        self.mixes(p, "x_r x_w x_k x_v x_a x_g")
        # From channels that forget within a few tokens to channels that remember thousands.
        self.add(p + "w0", (1, 1, D), spread(-7.0 + 6.0 * position ** (0.9 + layer / self.L), 0.5))
        self.add(p + "a0", (1, 1, D), normal(0.5, -0.5))
        for letter, scale in (("w", 0.5), ("a", 0.5)):
            self.low_rank(p, letter, self.ranks[letter], scale)
        if layer > 0:
            self.add(p + "v0", (1, 1, D), normal(0.5, 0.5))
            self.low_rank(p, "v", self.ranks["v"], 0.5)
        self.low_rank(p, "g", self.ranks["g"], 1.5)
        self.add(p + "k_k", (1, 1, D), normal(0.1, 0.85))
        self.add(p + "k_a", (1, 1, D), normal(0.05, 1.0))
        self.add(p + "r_k", (D // HEAD_SIZE, HEAD_SIZE), normal(0.1))
        self.matrices(p, "receptance key value", 0.7)
        self.matrices(p, "output", 0.5)
        self.norm(p + "ln_x", D)

    def att6(self, p, layer):
        D, P, Q = self.D, self.ranks["maa"], self.ranks["decay"]
        position = np.arange(D) / (D - 1)
        self.mixes(p, "time_maa_x time_maa_w time_maa_k time_maa_v time_maa_r time_maa_g")
        self.add(p + "time_maa_w1", (D, 5 * P), normal(0.3 / math.sqrt(D)))
        self.add(p + "time_maa_w2", (5, P, D), normal(0.3 / math.sqrt(P)))
        self.add(p + "time_decay", (1, 1, D), spread(-6.0 + 5.0 * position ** (0.7 + 1.3 * layer / self.L), 0.3))
        self.add(p + "time_decay_w1", (D, Q), normal(0.5 / math.sqrt(D)))
        self.add(p + "time_decay_w2", (Q, D), normal(0.5 / math.sqrt(Q)))
        self.add(p + "time_faaaa", (D // HEAD_SIZE, HEAD_SIZE), normal(0.3, 0.3))
        self.matrices(p, "receptance key value gate", 0.7)
        self.matrices(p, "output", 0.5)
        self.norm(p + "ln_x", D)

    def att4(self, p, layer):
        D, position = self.D, np.arange(self.D) / (self.D - 1)
        self.mixes(p, "time_mix_k time_mix_v time_mix_r")
        self.add(p + "time_decay", (D,), spread(-5.0 + 8.0 * position ** (0.7 + 1.3 * layer / self.L), 0.3))
        self.add(p + "time_first", (D,), normal(0.5, math.log(0.3)))
        self.matrices(p, "receptance key value output", 0.7)

    def ffn(self, p, layer, version):
        """Channel mixing whose key has `zeros` of its outputs below zero.

        Token shift mixes the outputs of ln2 of two tokens with weights that sum to 1, so ln2's bias b passes through
        unchanged: key·x = key·(x − b) + key·b. The rows of key get a component along −b that moves the mean
        of key·x by z standard deviations, z = quantile(zeros) of the normal distribution.
        """
        D, F, scale = self.D, self.F, 1.0 / math.sqrt(self.D)
        mixes = {4: "time_mix_k time_mix_r", 6: "time_maa_k time_maa_r", 7: "x_k"}[version]
        self.mixes(p, mixes)
        bias_name = p.replace("ffn.", "ln2.bias")
        b = normal(0.3)(generator(self.seed, bias_name), 0, D)
        # (1−μ)² + μ² + 2ρμ(1−μ) for uniform μ; ρ: how alike neighbouring tokens are, as measured in these models
        mixed = 2 / 3 + 0.2 / 3
        deviation = scale * math.sqrt(D * mixed * 1.01 + float(b @ b))
        shift = -statistics.NormalDist().inv_cdf(self.zeros) * deviation / float(b @ b) * b

        def key(rng, first, n):
            values = rng.standard_normal(n, dtype=np.float32) * np.float32(scale)
            return (values.reshape(-1, D) + shift.astype(np.float32)).reshape(-1)

        self.add(p + "key.weight", (F, D), key)
        if version != 7:
            self.matrices(p, "receptance")
        self.add(p + "value.weight", (D, F), normal(1.0 / math.sqrt(F)))


def to_bf16(x):
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write(path, model, half):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in model.tensors:
        size = 2 * math.prod(shape)
        header[name] = {"dtype": half, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape, fill in model.tensors:
            rng, total = generator(model.seed, name), math.prod(shape)
            block = max(1, BLOCK // shape[-1]) * shape[-1]  # whole rows
            for first in range(0, total, block):
                values = fill(rng, first, min(block, total - first)).astype(np.float32)
                file.write((to_bf16(values) if half == "BF16" else values.astype("<f2")).tobytes())
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--model", choices=MODELS, default="7-0.1B")
    parser.add_argument("--zeros", type=float, default=0.87, help="share of zeros after the squared ReLU (0.87)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    version, *sizes, ranks = MODELS[options.model]
    model = Model(version, *sizes, ranks, options.zeros, options.seed)
    size = write(options.output, model, "F16" if version == 4 else "BF16")
    print(f"{options.output}: RWKV-{options.model}, {size / 2 / 1e6:.1f} M parameters, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
