#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains a tiny RWKV-7 to track the state of an automaton exactly: eight registers that are written and read.

    automaton.py train OUT [--minutes 25]         OUT/automaton.safetensors (BF16) and OUT/automaton.json
    automaton.py check OUT [--steps 100000]      wrong answers of the rounded weights in float32, step by step in numpy

Tokens 0..<64 write: token 8 i + x puts the value x in register i. Tokens 64..<72 read: after token 64 + i the likeliest
of logits 0..<8 must be the value register i holds. All registers hold 0 at the start of a sequence by being written.

Why registers and not a group: in one step the state is multiplied by diag(w) - kk (kk . a)^T with 0 < w, a < 1. Scaling
the axes makes that matrix symmetric, so its eigenvalues are real; they are at most 1 and above -0.46. Under a token
repeated for ever the state therefore settles, and so does every later layer, while the powers of a group element other
than the unit keep changing. Permutations and counters modulo n can thus be followed for a bounded time only. Registers
need exactly what the recurrence has: replacing one value (a = 1) and keeping the others (w = 1).
"""
import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import evaluate
from model import RWKV7, export

REGISTERS, VALUES, WIDTH, LAYERS, RANKS = 8, 8, 64, 2, (8, 8, 8, 8)
VOCABULARY = REGISTERS * VALUES + REGISTERS


def sequence(random, rows, length, registers):
    """Tokens [rows,length] and answers [rows,length] (-1 where nothing is asked), carrying on from `registers`
    [rows,8], which is updated; -1 there means never written, and such a register is written first."""
    tokens, answers = np.empty((rows, length), np.int64), np.full((rows, length), -1, np.int64)
    every = np.arange(rows)
    for t in range(length):
        unset = registers < 0
        index = np.where(unset.any(1), unset.argmax(1), random.integers(0, REGISTERS, rows))
        value = np.where(unset.any(1), 0, random.integers(0, VALUES, rows))
        write = unset.any(1) | (random.random(rows) < 0.5)
        tokens[:, t] = np.where(write, VALUES * index + value, REGISTERS * VALUES + index)
        answers[:, t] = np.where(write, -1, registers[every, index])
        registers[every[write], index[write]] = value[write]
    return tokens, answers


def train(options):
    """Trains with windows that grow from 32 to 256 tokens. The state is carried on, and one row after the other starts
    anew: in the end each lives for 100,000 tokens, so that a state that drifts is seen and punished."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    random, net, started, steps = np.random.default_rng(1), RWKV7(VOCABULARY, WIDTH, LAYERS, RANKS), time.time(), 0
    adam = torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.9, 0.99))
    while (spent := (time.time() - started) / (60 * options.minutes)) < 1:
        rows, length, life = (32, 32, 32) if spent < 0.2 else (16, 64, 64) if spent < 0.35 else (8, 256, 400)
        if steps == 0 or state[0][0].shape[0] != rows:
            state, registers = net.fresh(rows), np.full((rows, REGISTERS), -1)
        elif steps % (life // rows or 1) == 0:
            row = steps // (life // rows or 1) % rows
            registers[row] = -1
            for part in (part for layer in state for part in layer):
                part[row] = 0
        tokens, answers = sequence(random, rows, length, registers)
        logits, state = net(torch.from_numpy(tokens), state)
        loss = F.cross_entropy(logits[..., :VALUES].reshape(-1, VALUES), torch.from_numpy(answers).reshape(-1),
                               ignore_index=-1)
        for group in adam.param_groups:
            group["lr"] = 2e-3 * min(1, (steps + 1) / 50, (1 - spent) / 0.5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        net.zero_grad(set_to_none=True)
        steps += 1
        if steps % 100 == 0:
            print(f"{spent:5.2f}  step {steps}  length {length}  loss {loss.item():.5f}", flush=True)
    export(net, os.path.join(options.out, "automaton.safetensors"))
    task = {"registers": REGISTERS, "values": VALUES, "vocabulary": VOCABULARY,
            "write": "token = values * register + value", "read": "token = registers * values + register",
            "answer": "largest of the logits 0..<values after a read",
            "start": "write 0 to registers 0, 1, ... 7 in this order, from a zero state"}
    with open(os.path.join(options.out, "automaton.json"), "w", encoding="utf-8") as file:
        file.write(json.dumps(task, indent=2) + "\n")


def check(options):
    """Follows one long sequence in float32 and counts the wrong answers."""
    model = evaluate.Model(evaluate.read_checkpoint(os.path.join(options.out, "automaton.safetensors"), "float32"))
    registers = np.full((1, REGISTERS), -1)
    tokens, answers = sequence(np.random.default_rng(2), 1, options.steps, registers)
    state, wrong, asked, margin = model.fresh(), 0, 0, np.inf
    for at in range(0, options.steps, 1000):
        logits = model.forward(tokens[0, at:at + 1000], state)[:, :VALUES]
        answer = answers[0, at:at + 1000]
        logits, answer = logits[answer >= 0], answer[answer >= 0]
        right = logits[np.arange(len(answer)), answer].copy()
        logits[np.arange(len(answer)), answer] = -np.inf
        wrong, asked = wrong + int((logits.max(1) >= right).sum()), asked + len(answer)
        margin = min(margin, (right - logits.max(1)).min())
    print(f"{wrong} wrong of {asked} reads in {options.steps} steps; smallest margin {margin:.3f}")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="A tiny RWKV-7 that keeps eight registers.")
    parser.add_argument("action", choices=("train", "check"))
    parser.add_argument("out")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args()
    (train if options.action == "train" else check)(options)


if __name__ == "__main__":
    main()
