#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains an RWKV-7 on the text of make_corpus.py, for a given stretch of wall-clock time.

    train.py CORPUS OUT --minutes 75 [--threads 1] [--batch 16] [--length 256] [--vocabulary 8192]

Its tokens are bytes, or with --vocabulary those of make_vocabulary.py.

Rows of a batch read the corpus as `batch` contiguous streams and carry the recurrent state from window to window (the
gradient stops there); now and then a row starts again from a zero state. The learning rate depends on the clock: short
warm-up, then a linear fall to zero at the end of the time. OUT/last.pt is written every few minutes and is resumed from
when present, with the original end time; OUT/model.safetensors (BF16) is written beside it each time.
"""
import argparse
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

from model import RWKV7, export

MATRICES = ("receptance.weight", "att.key.weight", "att.value.weight", "gate.weight", "output.weight",
            "ffn.key.weight", "ffn.value.weight")
FAST = (".w0", ".time_decay")


def has_matrix_units():
    """Whether products in bfloat16 are the faster ones here; with vector instructions alone float32 is."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return "amx_bf16" in file.read()


HALF = has_matrix_units()


def orthogonalise(g, steps=5):
    """g [n,rows,columns] -> matrices with the same singular vectors and singular values near 1 (Newton-Schulz)."""
    tall = g.shape[1] > g.shape[2]
    x = (g.mT if tall else g).bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(steps):
        s = x @ x.mT
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * (s @ s)) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Orthogonalised momentum for matrices; those of one shape are stepped together."""

    def __init__(self, parameters, momentum=0.95):
        self.parameters, self.momentum = parameters, momentum
        self.buffers = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, rate, decay):
        """One step; `rate` is the size of the update relative to an orthogonal matrix."""
        shapes = {}
        for p, m in zip(self.parameters, self.buffers):
            m.lerp_(p.grad, 1 - self.momentum)
            shapes.setdefault(p.shape, []).append((p, p.grad.lerp(m, self.momentum)))
        for (rows, columns), group in shapes.items():
            updates = orthogonalise(torch.stack([update for _, update in group]))
            for (p, _), update in zip(group, updates):
                p.mul_(1 - rate * decay).add_(update, alpha=-rate * max(1, rows / columns) ** 0.5)


class Streams:
    """`batch` contiguous readers of the training text, each from its own place."""

    def __init__(self, text, batch, length):
        self.text = text
        self.at = np.linspace(0, len(self.text), batch, endpoint=False).astype(np.int64)
        self.length = length

    def restore(self, at):
        """Goes on from the places `at` of a run with as many rows."""
        if len(at) == len(self.at):
            self.at = at

    def window(self):
        """Tokens [B,T+1]: inputs and, shifted by one, targets."""
        index = (self.at[:, None] + np.arange(self.length + 1)) % len(self.text)
        self.at = (self.at + self.length) % len(self.text)
        return torch.from_numpy(self.text[index].astype(np.int64))


def reset_some(state, random, share=1 / 24):
    """Starts a few rows again from a zero state."""
    keep = torch.from_numpy((random.random(state[0][0].shape[0]) >= share).astype(np.float32))
    return [(a * keep[:, None, None], s * keep[:, None, None, None], b * keep[:, None, None]) for a, s, b in state]


def read_text(corpus, name, vocabulary):
    """The tokens of one of the corpus's texts: bytes, or those of a vocabulary of more than 256."""
    if vocabulary > 256:
        return np.fromfile(os.path.join(corpus, name.split(".")[0] + ".tokens"), dtype=np.uint16)
    return np.fromfile(os.path.join(corpus, name), dtype=np.uint8)


@torch.no_grad()
def heldout_loss(net, text, rows=16, length=2048, half=HALF):
    """Nats per token over `rows` stretches of the held-out tokens, each from a zero state."""
    starts = np.linspace(0, len(text) - length - 1, rows).astype(np.int64)
    tokens = torch.from_numpy(text[starts[:, None] + np.arange(length + 1)].astype(np.int64))
    logits, _ = net(tokens[:, :-1], net.fresh(rows), half)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


class Trainer:
    """The model, its optimisers, the reading places and the clock, savable as one file."""

    def __init__(self, options):
        torch.manual_seed(options.seed)
        self.options, self.random = options, np.random.default_rng(options.seed)
        self.net = self.model(options)
        self.losses = torch.compile(self.each_loss)
        named = list(self.net.named_parameters())
        matrices = [p for name, p in named if name.endswith(MATRICES)]
        others = [(name, p) for name, p in named if not name.endswith(MATRICES)]
        self.muon = Muon(matrices)
        fast = [p for name, p in others if name.endswith(FAST)]
        slow = [p for name, p in others if not name.endswith(FAST)]
        self.adam = torch.optim.Adam([{"params": slow, "scale": 1.0}, {"params": fast, "scale": 2.0}],
                                     betas=(0.9, 0.98), eps=1e-12)
        self.streams = self.source(options)
        self.state = self.net.fresh(options.batch)
        self.started, self.steps, self.seen = time.time(), 0, 0

    def model(self, options):
        """The model with its initial values."""
        return RWKV7(V=options.vocabulary, D=options.width, L=options.layers)

    def source(self, options):
        """What batches are read from."""
        return Streams(read_text(options.corpus, "train.bin", options.vocabulary), options.batch, options.length)

    def save(self):
        """Writes OUT/last.pt (everything) and OUT/model.safetensors (the weights)."""
        path = os.path.join(self.options.out, "last.pt")
        torch.save({"net": self.net.state_dict(), "muon": self.muon.buffers, "adam": self.adam.state_dict(),
                    "at": self.streams.at, "started": self.started, "steps": self.steps, "seen": self.seen},
                   path + ".new")
        os.replace(path + ".new", path)
        export(self.net, os.path.join(self.options.out, "model.safetensors"))

    def resume(self):
        """Continues from OUT/last.pt when there is one."""
        path = os.path.join(self.options.out, "last.pt")
        if not os.path.exists(path):
            return
        saved = torch.load(path, weights_only=False)
        self.net.load_state_dict(saved["net"])
        for buffer, value in zip(self.muon.buffers, saved["muon"]):
            buffer.copy_(value)
        self.adam.load_state_dict(saved["adam"])
        self.streams.restore(saved["at"])
        self.started, self.steps, self.seen = saved["started"], saved["steps"], saved["seen"]

    def rate(self):
        """The learning rate relative to its peak: warm-up by steps, then linear in time."""
        left = 1 - (time.time() - self.started) / (60 * self.options.minutes)
        return max(0.0, min(1.0, (self.steps + 1) / 40, left / 0.8))

    def each_loss(self, tokens, state):
        """The losses [B,T] of tokens [B,T+1] after `state`, and the state that follows."""
        logits, state = self.net(tokens[:, :-1], state, half=HALF)
        losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return losses.view(len(tokens), -1), state

    def loss(self):
        """The loss of the next batch and the tokens in it."""
        losses, state = self.losses(self.streams.window(), self.state)
        self.state = reset_some(state, self.random)
        return losses.mean(), losses.numel()

    def heldout(self, rows=16):
        """Nats per byte of what has not been trained on."""
        corpus = self.options.corpus
        text = read_text(corpus, "heldout.txt", self.options.vocabulary)
        size = os.path.getsize(os.path.join(corpus, "heldout.txt"))
        return f"{heldout_loss(self.net, text, rows, min(2048, len(text) // 2)) * len(text) / size:.4f}"

    def step(self):
        """One step; returns the training loss."""
        loss, count = self.loss()
        loss.backward()
        rate = self.rate()
        for group in self.adam.param_groups:
            group["lr"] = self.options.adam * rate * group["scale"]
        self.adam.step()
        self.muon.step(self.options.muon * rate, 0.05)
        self.net.zero_grad(set_to_none=True)
        self.steps += 1
        self.seen += count
        return loss.item()


def parse(parser, **defaults):
    """Adds the options of a run to `parser` and reads the command line."""
    parser.add_argument("out")
    for name, kind, value in (("minutes", float, 75), ("threads", int, 1), ("batch", int, 16), ("length", int, 256),
                              ("layers", int, 6), ("width", int, 256), ("seed", int, 7), ("muon", float, 0.02),
                              ("adam", float, 3e-3)):
        parser.add_argument("--" + name, type=kind, default=defaults.get(name, value))
    return parser.parse_args()


def train(kind, options):
    """Trains until the time is over, reporting and saving on the way; `kind` is Trainer or a class of its kind."""
    torch.set_num_threads(options.threads)
    os.makedirs(options.out, exist_ok=True)
    trainer = kind(options)
    trainer.resume()
    saved, average = time.time(), math.log(256)
    while trainer.rate() > 0:
        loss = trainer.step()
        average += (loss - average) * 0.05
        if trainer.steps % 10 == 0:
            print(f"{(time.time() - trainer.started) / 60:6.1f} min  step {trainer.steps}  {trainer.seen / 1e6:.2f} M"
                  f"  loss {loss:.4f}  average {average:.4f}", flush=True)
        if time.time() - saved > 240:
            trainer.save()
            saved = time.time()
            print(f"held out {trainer.heldout(4)}", flush=True)
    trainer.save()
    print(f"end: {trainer.steps} steps, {trainer.seen} tokens, held out {trainer.heldout()}")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Trains an RWKV-7 on a text.")
    parser.add_argument("corpus")
    parser.add_argument("--vocabulary", type=int, default=256)
    train(Trainer, parse(parser))


if __name__ == "__main__":
    main()
