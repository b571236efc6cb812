#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains a byte-level RWKV-7 or 6 on the problems of tasks.py: train.py's loop with another source of batches.

    train_tasks.py OUT --minutes 55 [--version 6] [--threads 1]

A row is problems one after the other, of any size up to the longest, each ended by byte 0; half of the rows begin with
byte 0 too, as texts do that a model writes or is measured on. The loss is that of the answers, and a tenth of that of
the prompts, so that the model can also write problems. The progress line of held-out problems counts answers without
any wrong byte, which is what greedy decoding gives.
"""
import argparse
import random

import numpy as np
import torch

import tasks
from model import RWKV7
from model6 import RWKV6
from train import Trainer, parse, train


PROMPT, ANSWER = 0.1, 1.0


def tokens_of(asked):
    """Tokens of a problem with its end, and what the loss of each counts."""
    prompt, answer = asked["prompt"].encode(), asked["answer"].encode() + b"\0"
    return list(prompt + answer), [PROMPT] * len(prompt) + [ANSWER] * len(answer)


class Problems:
    """Batches of problems that are not held out."""

    def __init__(self, batch, length, seed):
        self.batch, self.length, self.at = batch, length, seed

    def restore(self, at):
        """Goes on after the seed `at`."""
        self.at = at

    def row(self, rng):
        """As many problems as fit."""
        tokens, counts = ([0], [0.0]) if rng.random() < 0.5 else ([], [])
        while True:
            task = rng.choice(list(tasks.TASKS))
            prompt, answer = tasks.problem(task, rng.choice(tasks.TASKS[task][1]), rng)
            more, count = tokens_of({"prompt": prompt, "answer": answer})
            if len(tokens) + len(more) > self.length + 1:
                return tokens, counts
            tokens, counts = tokens + more, counts + count

    def window(self):
        """Tokens [B,T+1], zeros after the end, and what the loss of each of the T targets counts."""
        self.at += 1
        rng = random.Random(self.at)
        tokens, counts = np.zeros((2, self.batch, self.length + 1), np.float32)
        for n in range(self.batch):
            row, count = self.row(rng)
            tokens[n, :len(row)], counts[n, :len(row)] = row, count
        return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(counts[:, 1:])


class TaskTrainer(Trainer):
    """The trainer with problems in place of a text."""

    def model(self, options):
        """The model with its initial values."""
        if options.version == 6:
            return RWKV6(D=options.width, L=options.layers, ranks=(32, 64))
        return RWKV7(D=options.width, L=options.layers, ranks=(16, 16, 16, 32))

    def source(self, options):
        """What batches are read from."""
        return Problems(options.batch, options.length, 1_000_000 * options.seed)

    def loss(self):
        """The loss of the next batch's answers and the tokens in it."""
        tokens, counts = self.streams.window()
        losses, _ = self.losses(tokens, self.net.fresh(len(tokens)))
        return (losses * counts).sum() / (counts == ANSWER).sum(), int((counts > 0).sum())

    @torch.no_grad()
    def heldout(self, count=16):
        """Right answers of `count` held-out problems of each task."""
        right = {}
        for asked in tasks.examination(count):
            tokens = torch.tensor([tokens_of(asked)[0]])
            logits, _ = self.net(tokens[:, :-1], self.net.fresh(1))
            same = (logits.argmax(-1) == tokens[:, 1:])[:, len(asked["prompt"]) - 1:].all().item()
            right[asked["task"]] = right.get(asked["task"], 0) + same
        return ", ".join(f"{task} {number} of {count}" for task, number in right.items())


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Trains a byte-level RWKV-7 or 6 on problems with exact answers.")
    parser.add_argument("--version", type=int, choices=(6, 7), default=7)
    train(TaskTrainer, parse(parser, minutes=55, width=256, layers=3))


if __name__ == "__main__":
    main()
