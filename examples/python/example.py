"""Loads a model, looks at text as tokens, generates, saves and loads a state:  python3 example.py MODEL PROMPT FOLDER"""

import sys

import numpy as np
from rwkv_c import Model

path, prompt, folder = sys.argv[1:]
model = Model(path)
tokens = model.encode(prompt)
print(f"RWKV-{model.architecture}, {len(tokens)} tokens: {tokens.tolist()}")
assert model.decode(tokens).decode() == prompt

state = model.new_state()
logits = model.read(state, tokens)
print(f"most likely next token: {int(np.argmax(logits))}, hidden vector of norm {np.linalg.norm(model.hidden()):.2f}")
state.save(folder + "/talk.state")
again = model.load_state(folder + "/talk.state")
assert np.array_equal(model.read(again, [1, 2, 3]), model.read(state.copy(), [1, 2, 3]))

end = model.generate(model.new_state(), prompt, lambda text: print(text, end="", flush=True), count=40, seed=1)
print(f"\n[{end}]")
