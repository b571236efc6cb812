# SPDX-License-Identifier: MIT
"""python -m librwkv batch: every kind of row, and killing it at any time.

batch.py MODEL OTHER_MODEL FOLDER
"""

import base64
import json
import pathlib
import random
import signal
import struct
import subprocess
import sys
import time
from typing import Any

from librwkv import Model

model_path, other_path, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
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
            openai("b", "/v1/completions", prompt=["hello"], max_tokens=6, temperature=0, user="ignored", logprobs=1),
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
        tokens = choice["logprobs"]["content"]
        assert len(tokens) == completion["usage"]["completion_tokens"]
        assert b"".join(bytes(token["bytes"]) for token in tokens).decode(errors="replace") == answer.text
        assert completion["usage"]["prompt_tokens"] == len(model.apply_template(plain))
        (choice,) = rows[7]["response"]["body"]["choices"]
        plain_options = {"temperature": 0, "presence_penalty": 0, "frequency_penalty": 0}
        assert choice["text"] == "".join(model.generate("hello", max_tokens=6, **plain_options))
        assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["text_offset"]) == 6
        vectors = [entry["embedding"] for entry in rows[8]["response"]["body"]["data"]]
        assert vectors == [model.embed(text).tolist() for text in ("hello", "other")]
    assert "/v1/images" in rows[9]["response"]["body"]["error"]["message"] and rows[9]["response"]["status_code"] == 400
    assert "'n' other than 1" in rows[10]["response"]["body"]["error"]["message"]
    assert "temperature is -1" in rows[11]["error"] and "empty" in rows[12]["error"] and "prompt" in rows[13]["error"]
    assert rows[14]["tokens"] == 3 and rows[15]["text"] == "A" and rows[16]["id"] == "\ud800"
    assert all("error" in rows[index] for index in (17, 18, 19, 20, 23))
    assert "temperature is '0.7'" in rows[21]["response"]["body"]["error"]["message"]
    assert len(rows[22]["response"]["body"]["data"]) == 2
    assert "0 rows written" in batch(model_path, source, target)


def schema(**keywords: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": keywords}}


SCHEMA = schema(type="object", properties={"answer": {"enum": [42, "none"]}}, required=["answer"])
PATTERN = schema(type="object", pattern="x")


def openai_fields() -> None:
    """What a field asks for is done, or refused by its name; a field never changes an answer silently."""
    chat, text, vectors = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
    talk = [{"role": "system", "content": "brief"}, {"role": "user", "content": "hello"}]
    newer = [{"role": "developer", "content": "brief"}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    same: dict[str, Any] = {"max_tokens": 12, "seed": 3}
    good = [
        openai("system", chat, messages=talk, **same),
        openai("developer", chat, messages=newer, max_completion_tokens=12, seed=3),
        openai("json", chat, messages=talk, response_format={"type": "json_object"}, max_tokens=200, seed=1),
        openai("schema", chat, messages=talk, response_format=SCHEMA, max_tokens=100, seed=1),
        openai("text", chat, messages=talk, response_format={"type": "text"}, **same),
        openai("neutral", chat, messages=talk, **same, n=1, stream=False, tools=[], tool_choice="none", top_logprobs=0),
        openai("float", vectors, input="hello", encoding_format="float", model="m", user="u"),
        openai("base64", vectors, input=["hello", "b"], encoding_format="base64"),
        openai("ids", vectors, input=[104, 101]),
        openai("ban", text, prompt="hello", max_tokens=20, logit_bias={str(id): -100 for id in range(256) if id != 65}),
    ]
    bad = {
        "tools": openai("0", chat, messages=talk, tools=[{"type": "function"}]),
        "top_logprobs": openai("1", chat, messages=talk, logprobs=True, top_logprobs=3),
        "stream": openai("2", chat, messages=talk, stream=True),
        "json_yaml": openai("3", chat, messages=talk, response_format={"type": "json_yaml"}),
        "'pattern'": openai("20", chat, messages=talk, response_format=PATTERN),
        "best_of": openai("4", text, prompt="x", best_of=2),
        "echo": openai("5", text, prompt="x", echo=True),
        "suffix": openai("6", text, prompt="x", suffix="y"),
        "reasoning_effort": openai("7", chat, messages=talk, reasoning_effort="high"),
        "foo": openai("8", text, prompt="x", foo="not ignored"),
        "dimensions": openai("9", vectors, input="x", dimensions=3),
        "encoding_format": openai("10", vectors, input="x", encoding_format="hex"),
        "input": openai("11", vectors, input=[]),
        "tool_calls": openai("12", chat, messages=[{"role": "assistant", "tool_calls": [{"id": "1"}]}]),
        "only have text": openai("13", chat, messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        "messages": openai("14", chat),
        "GET": openai("15", chat, messages=talk) | {"method": "GET"},
        "body": {"custom_id": "16", "url": chat, "body": "x"},
        "critic": openai("17", chat, messages=[{"role": "critic", "content": "x"}]),
        "prompt": openai("18", text, prompt=["a", "b"]),
        "logprobs": openai("19", text, prompt="x", logprobs=5),
    }
    own = {"foo": {"score": "x", "foo": 1}, "max_tokens": {"embed": "x", "max_tokens": 3}, "heat": {"prompt": "x", "heat": 1}}
    write([*good, *bad.values(), *own.values()])
    batch(model_path, source, target)
    rows = lines(target)
    for name, row in zip(bad, rows[len(good) :]):
        assert row["response"]["status_code"] == 400, (name, row)
        assert name in row["response"]["body"]["error"]["message"], (name, row)
    assert all(name in row["error"] for name, row in zip(own, rows[-len(own) :])), rows[-len(own) :]
    bodies = [row["response"]["body"] for row in rows[: len(good)]]
    assert all("error" not in body for body in bodies), bodies
    assert rows[0]["id"].startswith("batch_req_") and len({row["id"] for row in rows[:-3]}) == len(good) + len(bad)
    first, *others = [bodies[index]["choices"] for index in (0, 1, 4, 5)]
    assert all(choices == first for choices in others), (first, others)
    content = bodies[2]["choices"][0]["message"]["content"]
    assert content[0] == "{" and (bodies[2]["choices"][0]["finish_reason"] == "length" or json.loads(content) is not None)
    assert json.loads(bodies[3]["choices"][0]["message"]["content"])["answer"] in (42, "none")
    with Model(model_path) as model:
        expected = model.embed("hello")
        assert bodies[6]["data"][0]["embedding"] == expected.tolist()
        packed = base64.b64decode(bodies[7]["data"][0]["embedding"])
        assert struct.unpack(f"<{model.embedding}f", packed) == tuple(expected.tolist()) and len(bodies[7]["data"]) == 2
        (vector,) = bodies[8]["data"]
        assert vector["embedding"] == model.embed("he").tolist()
    assert bodies[9]["choices"][0]["text"] == "A" * 20


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
        # Every other time by Ctrl-C, once it has begun to write.
        process.send_signal(signal.SIGINT if kills % 2 else signal.SIGKILL)
        status = process.wait()
        # Where Python begins or ends, Ctrl-C is a signal that ends it, which shells call 130 too.
        assert status in (0, -signal.SIGKILL, 130, -signal.SIGINT), status
        kills += status != 0
        # As if the last line had not reached the disk.
        if kills % 3 == 1 and target.stat().st_size > 20:
            with target.open("r+b") as file:
                file.truncate(target.stat().st_size - randomness.randrange(20))
    batch(model_path, source, target)
    assert target.read_bytes() == expected and kills > 3, kills


def refusing() -> None:
    rows: list[Any] = [{"prompt": "x" * (1 + index), "max_tokens": 1} for index in range(3)]
    write([*rows, openai("a", "/v1/embeddings", input="x")])
    batch(model_path, source, target)
    data, written = source.read_bytes(), target.read_bytes().splitlines(keepends=True)
    for done in range(1, 5):  # of the same length, changed in any row that is done
        target.write_bytes(b"".join(written[:done]))
        for changed in range(done):
            lines = data.splitlines(keepends=True)
            lines[changed] = lines[changed].replace(b'"x', b'"y')
            source.write_bytes(b"".join(lines))
            assert "another input" in batch(model_path, source, target, status=1), (done, changed)
        source.write_bytes(data)
        if done < 4:  # what is not done may change, and empty lines and ends of lines
            source.write_bytes(b"\n" + data.replace(b"\n", b"\r\n") + b'{"embed": "x"}')
            assert f"{5 - done} rows written" in batch(model_path, source, target)
            source.write_bytes(data)
    for other in ('{"index": 7}\n', '{"index": 0}\n' * 4, "no json\n", "[]\n"):
        target.write_text(other)
        assert "another input" in batch(model_path, source, target, status=1), other
    target.write_bytes(b"".join(written[:2]))
    assert "another model" in batch(other_path, source, target, status=1)
    assert target.read_bytes() == b"".join(written[:2])
    assert "is the input" in batch(model_path, source, source, status=1)
    assert "is no file" in batch(model_path, source, "/dev/full", status=1)
    for empty in ("", "\n\r\n"):
        source.write_text(empty)
        target.unlink(missing_ok=True)
        assert "0 rows written" in batch(model_path, source, target) and target.read_bytes() == b""
    assert "No such file" in batch("/nonexistent", source, target, status=1)
    assert "No such file" in batch(model_path, "/nonexistent", target, status=1)
    for wrong in (["unknown"], ["batch"], ["batch", model_path, "in", "out", "--threads", "two"]):
        assert subprocess.run([sys.executable, "-m", "librwkv", *wrong], capture_output=True).returncode == 64, wrong


kinds()
openai_fields()
killing()
refusing()
