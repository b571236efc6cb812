# SPDX-License-Identifier: MIT
"""python -m librwkv batch: every kind of row, and killing it at any time.

batch.py MODEL FOLDER
"""

import json
import pathlib
import random
import subprocess
import sys
import time
from typing import Any

from librwkv import Model

model_path, folder = sys.argv[1], pathlib.Path(sys.argv[2])
source, target = folder / "in.jsonl", folder / "out.jsonl"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-B", "-m", "librwkv", "batch", *map(str, arguments)]


def batch(*arguments: object, status: int = 0) -> str:
    result = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    return result.stderr


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(rows: list[Any]) -> None:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    source.write_text(text, encoding="utf-8")
    target.unlink(missing_ok=True)


def openai(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def kinds() -> None:
    chat = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    plain = [{"role": "user", "content": "hello"}]
    write(
        [
            {"prompt": "hello wörld", "max_tokens": 12, "id": "first"},
            "",
            {"score": ["hello", " world"]},
            {"embed": "hello"},
            "no json",
            [],
            {"messages": plain, "max_tokens": 8, "seed": 5, "logprobs": True},
            openai("a", "/v1/chat/completions", messages=chat, max_tokens=8, seed=5, logprobs=True, model="other"),
            openai("b", "/v1/completions", prompt=["hello"], max_tokens=6, temperature=0, foo="ignored"),
            openai("c", "/v1/embeddings", input=["hello", "other"]),
            openai("d", "/v1/images", prompt="x"),
            openai("e", "/v1/completions", prompt="x", n=2),
            {"prompt": "x", "temperature": -1},
            {"prompt": ""},
            {"neither": 1},
            {"score": [104, 101, 108]},
            {"prompt": "x", "max_tokens": 1, "temperature": 0, "bias": {"65": 100}},
            '{"prompt": "x", "max_tokens": 1, "id": "\\ud800"}',
            "[" * 100_000,
            '{"prompt": "x", "max_tokens": Infinity}',
            {"prompt": "x", "seed": 10**400},
            {"embed": ["a", "b"]},
            openai("f", "/v1/completions", prompt="x", temperature="0.7"),
            openai("g", "/v1/embeddings", input=[[104, 101], [108]]),
        ]
    )
    with source.open("ab") as file:
        file.write(b'{"prompt": "\xff"}\n')
    report = batch(model_path, source, target, "--max-rows", 3)
    assert "24 rows written, 13 of them errors" in report, report
    rows = lines(target)
    with Model(model_path) as model:
        assert rows[0]["text"] == "".join(model.generate("hello wörld", max_tokens=12, seed=0))
        assert rows[0]["id"] == "first" and [row["index"] for row in rows[:6]] == list(range(6))
        assert rows[1]["logprob"] == model.score(("hello", " world")).logprob and rows[1]["tokens"] == 6
        assert rows[2]["embedding"] == model.embed("hello").tolist()
        assert "error" in rows[3] and "an object" in rows[4]["error"]
        answer = model.chat(plain, max_tokens=8, seed=5)
        assert rows[5]["text"] == "".join(answer) and len(rows[5]["logprobs"]) == rows[5]["tokens"]
        completion = rows[6]["response"]["body"]
        assert rows[6]["custom_id"] == "a" and rows[6]["response"]["status_code"] == 200 and rows[6]["error"] is None
        (choice,) = completion["choices"]
        assert choice["message"]["content"] == answer.text.strip() and completion["model"] == "other"
        assert len(choice["logprobs"]["content"]) == completion["usage"]["completion_tokens"]
        assert completion["usage"]["prompt_tokens"] == len(model.apply_template(plain))
        text = rows[7]["response"]["body"]["choices"][0]["text"]
        assert text == "".join(model.generate("hello", max_tokens=6, temperature=0))
        vectors = [entry["embedding"] for entry in rows[8]["response"]["body"]["data"]]
        assert vectors == [model.embed(text).tolist() for text in ("hello", "other")]
    assert "/v1/images" in rows[9]["response"]["body"]["error"]["message"] and rows[9]["response"]["status_code"] == 400
    assert "n must be 1" in rows[10]["response"]["body"]["error"]["message"]
    assert "temperature is -1" in rows[11]["error"] and "empty" in rows[12]["error"] and "prompt" in rows[13]["error"]
    assert rows[14]["tokens"] == 3 and rows[15]["text"] == "A" and rows[16]["id"] == "\ud800"
    assert all("error" in rows[index] for index in (17, 18, 19, 20, 23))
    assert "temperature is '0.7'" in rows[21]["response"]["body"]["error"]["message"]
    assert len(rows[22]["response"]["body"]["data"]) == 2
    assert "0 rows written" in batch(model_path, source, target)


def killing() -> None:
    """However often it is killed, the rows are those of one run."""
    randomness = random.Random(1)
    mixed: list[Any] = []
    for index in range(400):
        mixed.append({"prompt": "hello" * (1 + index % 5), "max_tokens": 10 + index % 17})
        if index % 40 == 7:
            mixed += [{"score": "hello world"}, "{", {"embed": "x"}]
    write(mixed)
    batch(model_path, source, target)
    expected = target.read_bytes()
    target.unlink()
    kills = 0
    while not target.exists() or len(target.read_bytes()) < len(expected):
        process = subprocess.Popen(command(model_path, source, target), stderr=subprocess.DEVNULL)
        before = target.stat().st_size if target.exists() else 0
        while process.poll() is None and (not target.exists() or target.stat().st_size <= before):
            time.sleep(0.002)
        time.sleep(randomness.random() * 0.05)
        process.kill()
        kills += process.wait() == -9
        # As if the last line had not reached the disk.
        if kills % 2 and target.stat().st_size > 20:
            with target.open("r+b") as file:
                file.truncate(target.stat().st_size - randomness.randrange(20))
    batch(model_path, source, target)
    assert target.read_bytes() == expected and kills > 2, kills


def refusing() -> None:
    write([{"prompt": "x", "max_tokens": 1}] * 3)
    target.write_text('{"index": 7}\n')
    assert "another input" in batch(model_path, source, target, status=1)
    target.write_text('{"index": 0}\n' * 4)
    assert "another input" in batch(model_path, source, target, status=1)
    assert "is the input" in batch(model_path, source, source, status=1)
    assert "No such file" in batch("/nonexistent", source, target, status=1)
    assert "No such file" in batch(model_path, "/nonexistent", target, status=1)
    other = subprocess.run([sys.executable, "-m", "librwkv", "unknown"], capture_output=True)
    assert other.returncode == 64


kinds()
killing()
refusing()
