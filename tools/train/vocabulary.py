# SPDX-License-Identifier: MIT
"""World vocabularies: one line per token, with its id, the token as a Python literal, its length in bytes."""
import ast


def read_vocabulary(path):
    """{token: id} of a vocabulary file."""
    ids = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            number, rest = line.split(" ", 1)
            token = ast.literal_eval(rest.rsplit(" ", 1)[0])
            ids[token.encode() if isinstance(token, str) else token] = int(number)
    return ids


def tokens_of(text, ids):
    """The ids of a text: the longest token that fits, again and again."""
    lengths, found, at = {}, [], 0
    for token in sorted(ids, key=len, reverse=True):
        own = lengths.setdefault(token[:2], [])
        if len(token) not in own:
            own.append(len(token))
    while at < len(text):
        for length in lengths.get(text[at:at + 2], ()):
            chosen = ids.get(text[at:at + length])
            if chosen is not None:
                break
        else:
            length = 1
            chosen = ids[text[at:at + 1]]
        found.append(chosen)
        at += length
    return found
