#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes a vocabulary of the World form from a text, and the tokens of both texts of make_corpus.py.

    make_vocabulary.py CORPUS 8192

CORPUS/vocabulary.txt receives one line per token: id, the token as a Python literal, its length in bytes. Ids 1 to 256
are the single bytes, the others byte pairs merged in the order of their frequency; 0 separates documents.
CORPUS/train.tokens and heldout.tokens (uint16) are the texts in them, by the longest match that World tokenizers use.
Needs numpy and PyPI's `tokenizers`.
"""
import os
import sys

import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from vocabulary import tokens_of

WORDS = r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+"


def byte_pairs(path, size):
    """The `size` - 257 tokens of more than one byte that byte pairs of the text's words give."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    with open(path, "rb") as file:
        tokenizer.train_from_iterator(file.read().decode().split("\0"), trainer)
    found = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_of = {chr(byte): byte for byte in plain}
    bytes_of |= {chr(256 + n): byte for n, byte in enumerate(sorted(set(range(256)) - set(plain)))}
    return [bytes(bytes_of[c] for c in token) for token, _ in found if len(token) > 1]


def literal(token):
    """The token as the vocabulary file writes it: a string where it is UTF-8, else bytes."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def main(corpus, size):
    """Writes the three files."""
    tokens = [bytes([byte]) for byte in range(256)] + byte_pairs(os.path.join(corpus, "train.bin"), size)
    ids = {token: n for n, token in enumerate(tokens, 1)}
    with open(os.path.join(corpus, "vocabulary.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"{n} {literal(token)} {len(token)}\n" for token, n in ids.items())
    for source, name in (("train.bin", "train.tokens"), ("heldout.txt", "heldout.tokens")):
        with open(os.path.join(corpus, source), "rb") as file:
            documents = file.read().split(b"\0")
        found = []
        for document in filter(None, documents):
            found += [0, *tokens_of(document, ids)]
        np.array(found, np.uint16).tofile(os.path.join(corpus, name))
        print(f"{name}: {len(found)} tokens, {sum(map(len, documents)) / len(found):.3f} bytes each")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
