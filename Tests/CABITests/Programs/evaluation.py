# SPDX-License-Identifier: MIT
"""lm-evaluation-harness on tasks of a folder: the same numbers as a plain loop over logits.

evaluation.py MODEL TEXT FOLDER
"""

import json
import math
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
from librwkv import Model

model_path, text_path, folder = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])

TASKS = {
    "choice": """task: rwkv_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "rolling": """task: rwkv_rolling
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rolling.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
""",
    "writing": """task: rwkv_writing
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/writing.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
""",
}


def logits(model: Model, tokens: list[int]) -> np.ndarray[Any, Any]:
    """Of a plain reading, as log-probabilities."""
    values = model.read_each(model.new_state(), tokens).astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    return np.asarray(values - np.log(np.exp(values).sum(axis=1, keepdims=True)))


def likelihood(model: Model, context: str, text: str) -> float:
    before, whole = [0, *model.encode(context).tolist()], [0, *model.encode(context + text).tolist()]
    values = logits(model, whole[:-1])
    return float(sum(values[place - 1, whole[place]] for place in range(len(before), len(whole))))


def save(name: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(TASKS[name].replace("FOLDER", str(folder)))


folder.mkdir(exist_ok=True)
words = text_path.read_text().split()
choices = []
for index in range(20):
    start = 100 + index * 60
    own = [" ".join(words[start + 30 + shift : start + 33 + shift]) for shift in (0, 7, 13, 19)]
    choices.append({"context": " ".join(words[start : start + 30]), "choices": own, "answer": 0})
save("choice", choices)
document = " ".join(words[:300])
save("rolling", [{"text": document}])
save("writing", [{"context": row["context"], "answer": "x"} for row in choices[:8]])

offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
names = [f"rwkv_{name}" for name in TASKS]
result = subprocess.run(
    [
        sys.executable, "-B", "-m", "librwkv", "lm_eval", "--model_args", f"path={model_path},threads=2", "--tasks",
        ",".join(names), "--include_path", str(folder), "--output_path", str(folder / "results"), "--log_samples",
    ],
    env=os.environ | offline, capture_output=True, text=True,
)  # fmt: skip
assert result.returncode == 0, result.stderr[-4000:]
(path,) = (folder / "results").rglob("results_*.json")
measured = json.loads(path.read_text())["results"]

with Model(model_path) as model:
    scores = [[likelihood(model, row["context"], " " + text) for text in row["choices"]] for row in choices]
    right = sum(values.index(max(values)) == 0 for values in scores)
    assert measured["rwkv_choice"]["acc,none"] == right / len(choices), measured
    lengths = [[len(text) for text in row["choices"]] for row in choices]
    normed = [[value / length for value, length in zip(*pair)] for pair in zip(scores, lengths)]
    right = sum(values.index(max(values)) == 0 for values in normed)
    assert measured["rwkv_choice"]["acc_norm,none"] == right / len(choices), measured

    tokens = [0, *model.encode(document).tolist()]
    values = logits(model, tokens[:-1])
    nats = -sum(values[place, token] for place, token in enumerate(tokens[1:])) / len(document.encode())
    assert math.isclose(measured["rwkv_rolling"]["byte_perplexity,none"], math.exp(nats), rel_tol=1e-6), measured

    (samples,) = (folder / "results").rglob("samples_rwkv_writing_*.jsonl")
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        prompt = [0, *model.encode(sample["doc"]["context"]).tolist()]
        expected = model.generate_many(
            [prompt], temperature=0, presence_penalty=0, frequency_penalty=0, max_tokens=12, stop="\n"
        )
        assert sample["resps"] == [[next(iter(expected)).text]], sample
