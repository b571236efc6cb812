#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains a small RWKV-X and an RWKV-7 of the same size to find keys again that lie far back.

    passkey.py OUT      OUT/passkey-x.safetensors and OUT/passkey-7.safetensors (BF16); some six minutes of a processor

The text is bytes. Filler is random letters and digits. Somewhere in it stand up to 16 records, `#` name value value, of
the same 32 symbols, and later questions, `?` name, whose answer are the two symbols of the value. Texts grow from 64 to
2048 bytes, each time that nearly all answers are right.

Both begin as two blocks of RWKV-7. RWKV-X is then made in its authors' order: a block of attention is put behind them
and trained alone, then everything; RWKV-7 gets a third block. Nothing is learned through a choice, so RWKV-X has two
more losses for what the runtime does: the chunk that holds an answer must have the best score, and records must be
worth more to any token than filler, as the cache drops what the current token attends to least. And in two of three
steps the recurrent state is lost on the way, so that attention alone can know what was before.
"""
import argparse
import os

import numpy as np
import torch
import torch.nn.functional as F

from model import RWKV7, RWKVX, export
from train import MATRICES, Muon

SYMBOLS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", np.uint8)
WIDTH, RANKS, CHUNK, TOP = 64, (8, 8, 8, 16), 32, 4
# Bytes of a step, and the longest texts.
STEP, LONGEST = 2048, 2048


def choices(random, rows, values, count):
    """`count` different ones of the values for each row."""
    return random.permuted(np.tile(values, (rows, 1)), axis=1)[:, :count]


def batch(random, length):
    """Texts [B,length]; rows [B,2Q] whose next byte is an answer; where that answer stands in its record [B,2Q]; where
    all records' values stand [B,2R]."""
    rows, slots = max(STEP // length, 2), length // 4 + 1
    records = min(16, slots // 4)
    questions = min(24, slots // 2 - records // 2)
    text, every = SYMBOLS[random.integers(0, 32, (rows, slots, 4))], np.arange(rows)
    names = choices(random, rows, SYMBOLS, records)
    places = np.sort(choices(random, rows, np.arange(1, slots - 1), records + questions), axis=1)
    # The first place is a record's; questions are about records that stand before them.
    kinds = random.permuted(np.tile(np.arange(records + questions) < records, (rows, 1)), axis=1)
    first = kinds.argmax(1)
    kinds[every, first], kinds[:, 0] = kinds[:, 0], True
    home, known = np.zeros((rows, records), int), np.zeros(rows, int)
    asked, sources, count = np.zeros((rows, questions), int), np.zeros((rows, questions), int), np.zeros(rows, int)
    for at in range(records + questions):
        place, isrecord = places[:, at], kinds[:, at]
        r = every[isrecord]
        text[r, place[r], 0], text[r, place[r], 1] = ord("#"), names[r, known[r]]
        home[r, known[r]] = place[r]
        known[r] += 1
        r = every[~isrecord]
        about = home[r, random.integers(0, known[r])]
        text[r, place[r]] = text[r, about]
        text[r, place[r], 0] = ord("?")
        asked[r, count[r]], sources[r, count[r]] = place[r], about
        count[r] += 1
    shift = random.integers(0, 4)
    both = lambda slot, byte: np.concatenate((4 * slot + byte, 4 * slot + byte + 1), 1) - shift
    tensors = text.reshape(rows, -1)[:, shift:shift + length], both(asked, 1), both(sources, 2), both(home, 2)
    return [torch.from_numpy(tensor.astype(np.int64)) for tensor in tensors]


class Optimiser:
    """Muon for matrices, Adam for the rest."""

    def __init__(self, net):
        named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
        self.muon = Muon([p for name, p in named if name.endswith(MATRICES)])
        self.adam = torch.optim.Adam([p for name, p in named if not name.endswith(MATRICES)], betas=(0.9, 0.98))

    def step(self, net, rate):
        """One step of the given share of the rates."""
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for group in self.adam.param_groups:
            group["lr"] = 3e-3 * rate
        self.adam.step()
        self.muon.step(0.02 * rate, 0.02)
        net.zero_grad(set_to_none=True)


def plain(net, text, rows, sources, records):
    """Logits at the rows; no other loss."""
    logits, _ = net(text, net.fresh(text.shape[0]))
    return logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[-1])), 0


def sparse(net, text, rows, sources, records):
    """Logits at the rows; the loss of choosing chunks and of keeping records."""
    (B, T), R = text.shape, rows.shape[1]
    others = torch.randint(T // 2, T, (B, 8))
    pieces = (1, 2, 4)[torch.randint(3, ())]
    logits, scores, attention = net(text, torch.cat((rows, others), 1), pieces)
    chunk = sources // CHUNK
    far = (rows > CHUNK * TOP) & (chunk < rows // CHUNK)
    choosing = F.cross_entropy(scores[:, :R][far], chunk[far]) if far.any() else 0
    # How far all filler together is above a record, for any token of the second half.
    filler = torch.ones(B, T, dtype=torch.bool).scatter_(1, records, False)[:, None]
    filler = (filler & (torch.arange(T) <= others[..., None]))[:, None]
    attention = attention[:, :, R:]
    level = attention.masked_fill(~filler, -torch.inf).logsumexp(-1, keepdim=True)
    value = attention.gather(3, records[:, None, None].expand(-1, attention.shape[1], others.shape[1], -1))
    before = records[:, None, None] < others[:, None, :, None]
    keeping = (F.softplus(level - value) * before).sum() / (before.sum() * attention.shape[1])
    return logits[:, :R], choosing + 0.1 * keeping


def train(name, net, evaluate, steps, random, length, longest=LONGEST):
    """Trains on texts that grow; the rates fall to zero in the last third of the steps. Returns the length reached."""
    optimiser, right = Optimiser(net), 0.8
    for step in range(steps):
        text, rows, sources, records = batch(random, length)
        logits, other = evaluate(net, text, rows, sources, records)
        target = text.gather(1, rows + 1)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        (loss + other).backward()
        optimiser.step(net, min(1, (step + 1) / 50, (1 - step / steps) / 0.3))
        right += ((logits.argmax(-1) == target).float().mean().item() - right) * 0.03
        if step % 50 == 49:
            print(f"{name}  step {step + 1}  length {length}  loss {loss.item():.4f}  right {right:.3f}", flush=True)
        if right > 0.95 and length < longest:
            length, right = 2 * length, 0.8
    return length


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="A small RWKV-X and an RWKV-7 that look for keys.")
    parser.add_argument("out")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    random, base = np.random.default_rng(1), RWKV7(256, WIDTH, 2, RANKS)
    length = train("base", base, plain, 300, random, 64, 256)
    net = RWKVX(256, WIDTH, 2, RANKS, CHUNK, TOP)
    net.load_state_dict(base.state_dict(), strict=False)
    for name, p in net.named_parameters():
        p.requires_grad_(name.startswith("moba."))
    length = train("x, attention", net, sparse, 700, random, length)
    net.requires_grad_(True)
    train("x, all", net, sparse, 600, random, length)
    export(net, os.path.join(options.out, "passkey-x.safetensors"))
    net = RWKV7(256, WIDTH, 3, RANKS)
    net.load_state_dict(base.state_dict(), strict=False)
    train("7", net, plain, 450, random, 256)
    export(net, os.path.join(options.out, "passkey-7.safetensors"))


if __name__ == "__main__":
    main()
