# SPDX-License-Identifier: MIT
"""A file of rows in, a file of rows out:  python -m librwkv batch MODEL IN.jsonl OUT.jsonl

Every line of IN is one of

    {"prompt": "The database", "max_tokens": 50, "seed": 1}            what generate_many takes
    {"messages": [{"role": "user", "content": "Hello"}]}
    {"score": "a text"}          {"score": ["a context", " a text"]}   what score_many takes
    {"embed": "a text"}
    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {…}}    OpenAI's batch files:
                                         also /v1/completions and /v1/embeddings

and every line of OUT belongs to the line of IN with the same number, empty ones not counted. Run again after it was
stopped, however it was stopped, it goes on after the last whole line of OUT. Row k, counted from 0, has the seed k
unless it says another. The digest in a line of OUT ("digest", or OpenAI's "id") stands for the model and all of IN up
to that line: what was begun with another model or other rows is not gone on with.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, TextIO

from ._library import RWKVError
from ._model import Model
from ._openai import PREFIX, answer, failure, request
from ._rows import Result


@dataclass
class Row:
    """A line of IN."""

    index: int
    digest: str
    """Of the model and the rows up to this one."""
    kind: str = "error"
    items: list[Any] = field(default_factory=list)
    """What the model is asked, of which only embeddings have several."""
    error: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    is_openai: bool = False


def read(lines: Iterable[bytes], identity: str) -> Iterator[tuple[bytes, str]]:
    """The lines that are not empty, each with a digest of the model's identity and of all lines up to it."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8)
    for line in map(bytes.strip, lines):
        if line:
            digest.update(line + b"\n")
            yield line, digest.hexdigest()


def parse(index: int, line: bytes, digest: str, model: Model) -> Row:
    """What a line asks for; what it does wrong is its error."""
    row = Row(index, digest)
    try:
        source = json.loads(line)
        if not isinstance(source, dict):
            raise ValueError("expected an object")
        row.source = source
        row.is_openai = "body" in source and ("custom_id" in source or "url" in source)
        if row.is_openai:
            row.kind, row.items = request(source, model)
        elif "score" in source:
            item = source["score"]
            is_pair = isinstance(item, list) and not all(isinstance(part, int) for part in item)
            row.kind, row.items = "score", [tuple(item) if is_pair else item]
        elif "embed" in source:
            row.kind, row.items = "embed", [source["embed"]]
        else:
            options = {key: value for key, value in source.items() if key != "id"}
            row.kind, row.items = "generate", [options]
        if row.kind in source and (others := source.keys() - {row.kind, "id"}):
            raise ValueError(f"'{min(others)}' has no meaning beside '{row.kind}'")
        if row.kind == "generate":
            row.items = [{"seed": index, "logprobs": False} | row.items[0]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as problem:
        row.kind, row.error = "error", f"{problem} is missing" if isinstance(problem, KeyError) else str(problem)
    return row


def written(row: Row, results: list[Result], model: Model) -> dict[str, Any]:
    """The line of OUT."""
    error = row.error or next((str(result.error) for result in results if result.error), "")
    if row.is_openai:
        custom_id = row.source.get("custom_id")
        return failure(custom_id, row.digest, error) if error else answer(row.source, row.digest, results, model)
    line: dict[str, Any] = {"index": row.index, "digest": row.digest}
    if "id" in row.source:
        line["id"] = row.source["id"]
    if error:
        return line | {"error": error}
    (result,) = results
    if row.kind == "generate":
        line |= {"text": result.text, "finish_reason": result.finish_reason, "tokens": len(result.tokens)}
        return line | ({"logprobs": result.logprobs} if result.logprobs else {})
    if row.kind == "score":
        return line | {"logprob": result.logprob, "tokens": len(result.tokens), "is_greedy": result.is_greedy}
    return line | {"embedding": [] if result.vector is None else result.vector.tolist()}


def _json(line: dict[str, Any]) -> str:
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as IN's escapes may have it
        return json.dumps(line)
    return text


def process(model: Model, rows: Iterator[Row], max_rows: int) -> Iterator[tuple[Row, list[Result]]]:
    """Neighbours of a kind go through the model together."""
    many: dict[str, Callable[[Iterator[Any]], Iterator[Result]]] = {
        "generate": lambda items: model.generate_many(items, max_rows=max_rows),
        "score": lambda items: model.score_many(items, max_rows=max_rows),
        "embed": lambda items: model.embed_many(items, max_rows=max_rows),
    }
    for kind, group in itertools.groupby(rows, key=lambda row: row.kind):
        if kind == "error":
            yield from ((row, []) for row in group)
            continue
        # Rows are taken ahead of their results; they wait here.
        asked: deque[Row] = deque()
        results = many[kind](_items(group, asked))
        for first in results:
            row = asked.popleft()
            yield row, [first, *itertools.islice(results, len(row.items) - 1)]


def _items(rows: Iterator[Row], asked: deque[Row]) -> Iterator[Any]:
    for row in rows:
        asked.append(row)
        yield from row.items


def _done(output: TextIO) -> tuple[int, str]:
    """How many whole lines OUT has, and the digest in the last. Cuts off a line that was not written to its end."""
    data = os.open(output.name, os.O_RDONLY)
    count, end, last, position = 0, 0, b"", 0
    with os.fdopen(data, "rb") as lines:
        for line in lines:
            position += len(line)
            if line.endswith(b"\n"):
                count, end, last = count + 1, position, line
    os.ftruncate(output.fileno(), end)
    return count, _digest(last)


def _digest(line: bytes) -> str:
    """The one in a line of OUT; none if something else wrote it."""
    try:
        values = json.loads(line)
        return str(values["digest"] if "digest" in values else values["id"].removeprefix(PREFIX))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""


def _skip(rows: Iterator[tuple[int, tuple[bytes, str]]], count: int, last: str, output: str) -> None:
    """Passes over the rows that are in OUT, which must be of this IN and this model."""
    if count == 0:
        return
    row = next(itertools.islice(rows, count - 1, None), None)
    if row is None or row[1][1] != last:
        raise RWKVError(
            f"{output}: holds rows that another model wrote, or of another input; give another name, or remove it"
        )


def run(model: Model, source: str, target: str, max_rows: int, report: Callable[[int, int], None]) -> tuple[int, int]:
    """Writes what is missing in `target`; the numbers of rows written now and of errors among them."""
    with open(source, "rb") as lines, open(target, "a", encoding="utf-8") as output:
        if os.path.samefile(source, target):
            raise RWKVError(f"{target}: is the input")
        if not os.path.isfile(target):
            raise RWKVError(f"{target}: is no file whose lines could be counted, to go on after them")
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RWKVError(f"{target}: another process is writing it") from None
        count, last = _done(output)
        numbered = enumerate(read(lines, model.identity))
        _skip(numbered, count, last, target)
        rows = (parse(index, line, digest, model) for index, (line, digest) in numbered)
        done = errors = 0
        for row, results in process(model, rows, max_rows):
            line = written(row, results, model)
            output.write(_json(line) + "\n")
            output.flush()
            done += 1
            errors += bool(row.error or any(result.error for result in results))
            report(count + done, errors)
        os.fsync(output.fileno())
        return done, errors


class Parser(argparse.ArgumentParser):
    """Ends with the status that wrong usage has in all programs here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(64, f"{self.prog}: {message}\n")


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m librwkv batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("source", metavar="IN.jsonl")
    parser.add_argument("target", metavar="OUT.jsonl")
    parser.add_argument("--threads", type=int, help="by default all processors")
    parser.add_argument("--memory-limit", type=int, metavar="BYTES")
    parser.add_argument("--max-rows", type=int, default=16, help="texts at a time, 64 at most (16)")
    given = parser.parse_args(arguments)
    is_terminal = sys.stderr.isatty()

    def report(rows: int, errors: int) -> None:
        if is_terminal:
            print(f"\r{rows} rows, {errors} errors", end="", file=sys.stderr, flush=True)

    try:
        with Model(given.model, threads=given.threads, memory_limit=given.memory_limit) as model:
            done, errors = run(model, given.source, given.target, given.max_rows, report)
    except (RWKVError, OSError, ValueError) as problem:
        print(f"librwkv batch: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlibrwkv batch: stopped; run it again to go on", file=sys.stderr)
        return 130
    print(f"{chr(13) if is_terminal else ''}{done} rows written, {errors} of them errors", file=sys.stderr)
    return 0
