# SPDX-License-Identifier: MIT
"""Loads a model, looks at text as tokens, generates, saves and loads a state:  python3 example.py MODEL PROMPT FOLDER

Needs the package librwkv: a wheel, or PYTHONPATH=python and RWKV_LIBRARY in this repository.
"""

import sys

import numpy as np
from librwkv import Model

path, prompt, folder = sys.argv[1:]
model = Model(path)
tokens = model.encode(prompt)
print(f"{model.name}: RWKV-{model.architecture}, {len(tokens)} tokens: {tokens.tolist()}")

state = model.new_state()
logits = model.read(state, tokens)
print(f"most likely next token: {np.argmax(logits)}, hidden vector of norm {np.linalg.norm(model.hidden()):.2f}")
state.save(folder + "/talk.state")
again = model.load_state(folder + "/talk.state")
assert np.array_equal(model.read(again, [1, 2, 3]), model.read(state.copy(), [1, 2, 3]))

text = model.generate(prompt, max_tokens=40, temperature=0.8, seed=1)
for piece in text:
    print(piece, end="", flush=True)
print(f"\n[{text.finish_reason}]")
