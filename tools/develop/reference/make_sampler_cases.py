#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes Tests/Fixtures/sampler-cases.json: what the sampler of the `rwkv` Python package would draw from, and what
min-p and biases make of it, which the package does not have.

An independent statement of that algorithm in numpy, up to the draw itself. The vocabulary is the 256 bytes.
usage: make_sampler_cases.py > Tests/Fixtures/sampler-cases.json
"""
import json

import numpy as np

VOCABULARY = 256


def occurrences(history, decay):
    counts = {}
    for token in history:
        for other in counts:
            counts[other] *= decay
        counts[token] = counts.get(token, 0) + (0 if chr(token) in " \t0123456789" else 1)
    return counts


def distribution(logits, options, history, dtype):
    logits = logits.astype(np.float32).copy()
    for token, bias in options["logitBias"]:
        logits[token] += np.float32(bias)
    for token, count in occurrences(history, options["penaltyDecay"]).items():
        logits[token] -= np.float32(options["presencePenalty"] + count * options["frequencyPenalty"])
    logits = logits.astype(dtype)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    descending = np.argsort(-probs, kind="stable")
    temperature, top_p, top_k = options["temperature"], options["topP"], options["topK"]
    unlikely = probs < options["minP"] * probs.max()
    if temperature == 0:  # the reference may draw among equals; we take the first
        return np.eye(1, len(probs), descending[0])[0]
    if top_p < 1:
        cutoff = probs[descending][np.argmax(np.cumsum(probs[descending]) >= top_p)]
        probs[probs < cutoff] = 0
    if 0 < top_k < len(probs):
        probs[descending[top_k:]] = 0
    probs[unlikely] = 0
    probs = probs ** (1 / temperature)
    return probs / probs.sum()


def case(name, logits, history=(), **changed):
    options = dict(temperature=1, topP=1, topK=0, minP=0, logitBias=[])
    options |= dict(presencePenalty=0, frequencyPenalty=0, penaltyDecay=1)
    options |= changed
    probs = distribution(logits, options, history, np.float64)
    # The package computes in single precision: a case on the edge of a cut would prove nothing.
    assert ((distribution(logits, options, history, np.float32) > 0) == (probs > 0)).all(), name
    kept = [[int(i), float(f"{probs[i]:.12g}")] for i in np.flatnonzero(probs)]
    return dict(name=name, logits=logits.tolist(), history=[int(token) for token in history], expected=kept, **options)


def main():
    random = np.random.default_rng(7)
    peaked, flat = (np.round(random.normal(0, scale, VOCABULARY) * 64) / 64 for scale in (3, 0.5))
    tied = np.repeat([4.0, 3.0, -1.0], [3, 5, VOCABULARY - 8])[random.permutation(VOCABULARY)]
    banned = np.where(np.arange(VOCABULARY) % 2 == 0, -np.inf, peaked)
    text = list(b"a 12 12 12\tbanana, banana ") * 3
    penalties = dict(presencePenalty=0.5, frequencyPenalty=0.25, penaltyDecay=0.99)
    cases = [
        case("softmax alone", peaked),
        case("top-p", peaked, topP=0.85),
        case("top-p of a flat distribution", flat, topP=0.5),
        case("top-p 0 keeps the maximum", peaked, topP=0),
        case("top-p 0 keeps all equal maxima", tied, topP=0),
        case("top-p keeps all tokens equal to the last one needed", tied, topP=0.4),
        case("top-k", peaked, topK=5),
        case("top-k cuts what top-p left", flat, topP=0.3, topK=10),
        case("top-p cuts what top-k would leave", peaked, topP=0.3, topK=200),
        case("low temperature", peaked, topP=0.9, temperature=0.3),
        case("high temperature brings nothing back", peaked, topP=0.6, temperature=5),
        case("high temperature alone", flat, temperature=3),
        case("temperature 0", peaked, temperature=0, topP=0.5),
        case("penalties", peaked, text, **penalties),
        case("penalties, top-p and temperature", peaked, text, topP=0.9, temperature=0.7, **penalties),
        case("presence alone, also of spaces and digits", flat, text, presencePenalty=2),
        case("frequency without decay", flat, text, frequencyPenalty=0.1),
        case("counts that fade", flat, text, frequencyPenalty=1, penaltyDecay=0.5),
        case("penalties under temperature 0", peaked, [peaked.argmax()], temperature=0, presencePenalty=20),
    ]
    cases += [
        case("min-p", peaked, minP=0.05),
        case("min-p of a flat distribution keeps equals", tied, minP=0.3, temperature=2),
        case("min-p, top-p and top-k", flat, minP=0.4, topP=0.9, topK=60),
        case("logit bias", peaked, logitBias=[[int(peaked.argmax()), -4.5], [3, 7.25]], topP=0.8),
        case("logit bias and penalties", peaked, text, logitBias=[[97, 9]], **penalties),
    ]
    # JSON has no infinity: "null" logits are -inf.
    cases.append(case("banned tokens", banned, topP=0.9))
    for item in cases:
        item["logits"] = [None if x == -np.inf else x for x in item["logits"]]
    print("[" + ",\n".join(json.dumps(item, separators=(",", ":")) for item in cases) + "]")


main()
