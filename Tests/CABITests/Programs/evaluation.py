# SPDX-License-Identifier: MIT
"""lm-evaluation-harness on tasks of a folder: the same numbers as a plain loop over logits.

evaluation.py MODEL TEXT FOLDER
"""

import json
import logging
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


def evaluate(model_args: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", "-m", "librwkv", "lm_eval", "--model_args", model_args, "--include_path", str(folder)]
    return subprocess.run([*command, *more], env=os.environ | offline, capture_output=True, text=True)


result = evaluate(
    f"path={model_path},threads=2", "--tasks", ",".join(names), "--output_path", str(folder / "results"), "--log_samples"
)
assert result.returncode == 0, result.stderr[-4000:]
assert "rwkv runs on the CPU" in result.stderr
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

# What people pass beside the path: each has its meaning in every kind of request, or is refused or remarked.
os.environ |= offline
from lm_eval.api.instance import Instance  # noqa: E402
from librwkv.evaluation import RWKV  # noqa: E402


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]


def plain(tokens: list[int], first: int) -> float:
    """The log-probability of the tokens from `first` on, by a plain loop."""
    values = logits(model, tokens[:-1])
    return float(sum(values[place - 1, tokens[place]] for place in range(first, len(tokens))))


def close(found: list[float], expected: list[float]) -> None:
    assert all(math.isclose(*pair, rel_tol=1e-9) for pair in zip(found, expected, strict=True)), (found, expected)


text, context, choice = words[0] + " " + words[1], "the database is", " closed"
model = Model(model_path)
ids, before, after = (model.encode(part).tolist() for part in (text, context, choice))
limit = 7
for options, start in (({}, [0]), ({"add_bos_token": False}, []), ({"batch_size": "32", "device": "cpu"}, [0])):
    made = RWKV(path=model_path, **options)
    scores = made.loglikelihood(requests("loglikelihood", (context, choice), ("", choice)), disable_tqdm=True)
    found = [score for score, _ in scores]
    close(found, [plain([*start, *before, *after], len(start) + len(before)), plain([0, *after], 1)])
    close(made.loglikelihood_rolling(requests("loglikelihood_rolling", (text,), ("",)), disable_tqdm=True), [plain([0, *ids], 1), 0])
    short = RWKV(path=model_path, max_length=limit, **options)
    ((score, _),) = short.loglikelihood(requests("loglikelihood", (context, choice)), disable_tqdm=True)
    whole = [*start, *before, *after][-limit - 1 :]
    close([score], [plain(whole, len(whole) - len(after))])
    # Each token once, none after more than so many tokens, each window but the first whole.
    parts = [plain([0, *ids[:limit]], 1)]
    for begin in range(limit, len(ids), limit):
        end = min(begin + limit, len(ids))
        parts.append(plain(ids[end - limit - 1 : end], limit + 1 - (end - begin)))
    close(short.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)), disable_tqdm=True), [sum(parts)])
    settings = {"until": ["\n"], "max_gen_toks": 3}
    for one, prompt in ((made, [*start, *before]), (short, [*start, *before][3 - limit :])):
        (written,) = one.generate_until(requests("generate_until", (context, settings)), disable_tqdm=True)
        (expected,) = model.generate_many(
            [prompt], temperature=0, presence_penalty=0, frequency_penalty=0, max_tokens=3, stop="\n"
        )
        assert written == expected.text
for wrong, word in (
    ({"dtype": "float32"}, "dtype"), ({"tokenizer": "x"}, "tokenizer"),
    ({"trust_remote_code": True}, "trust_remote_code"), ({"add_bos_token": "no"}, "True or False"), ({"max_length": 0}, "max_length"),
):  # fmt: skip
    try:
        RWKV(path=model_path, **wrong)
    except ValueError as error:
        assert word in str(error), error
    else:
        raise AssertionError(wrong)
remarks: list[str] = []
handler = logging.Handler()
handler.emit = lambda record: remarks.append(record.getMessage())  # type: ignore[method-assign]
logging.getLogger("lm_eval.rwkv").addHandler(handler)
logging.getLogger("lm_eval.rwkv").setLevel(logging.INFO)
made = RWKV(path=model_path, add_bos_token=False, device="cuda:0")
made.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)), disable_tqdm=True)
made.loglikelihood(requests("loglikelihood", (context, choice)), disable_tqdm=True)
made.generate_until(requests("generate_until", (context, {"max_gen_toks": 1, "num_beams": 3})), disable_tqdm=True)
assert len(remarks) == 3, remarks
assert "CPU" in remarks[0] and "no context" in remarks[1] and "num_beams" in remarks[2], remarks
