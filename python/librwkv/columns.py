# SPDX-License-Identifier: MIT
"""Tables in, columns out: what the workers of Ray and Spark share, and one process can use by itself."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from ._model import Model
from ._rows import Result

Task = Literal["generate", "score", "embed"]

COLUMNS: dict[str, list[str]] = {
    "generate": ["generated_text", "finish_reason", "error"],
    "score": ["logprob", "tokens", "perplexity", "error"],
    "embed": ["embedding", "error"],
}
"""What each task adds to a table."""


@lru_cache(maxsize=1)
def _opened(path: str, threads: int | None, memory_limit: int | None) -> Model:
    """The model of this process, which is opened once."""
    return Model(path, threads=threads, memory_limit=memory_limit)


class Columns:
    """Adds to a table what a model makes of one of its columns.

    A row's result depends on nothing but the row: its seed is that of `seed_column`, or made of its text. So it does
    not matter which worker gets it, with which other rows, or how often.

    task: generate (adds generated_text, finish_reason), score (logprob, tokens, and perplexity, which is exp(-logprob /
    tokens)) or embed (embedding); each also adds error, null where there is none. model: a file that all workers see.
    column: the name of the column with the texts. prompt: for generate, the prompt of a row, in which `{text}` stands
    for the row's text. options: for all rows, as `Model.generate_many` takes them.
    """

    def __init__(
        self,
        model: str,
        task: Task = "generate",
        column: str = "text",
        *,
        prompt: str = "{text}",
        seed_column: str | None = None,
        threads: int | None = None,
        memory_limit: int | None = None,
        max_rows: int = 16,
        **options: Any,
    ) -> None:
        if task not in COLUMNS:
            raise ValueError(f"there is no task '{task}'; there are {', '.join(COLUMNS)}")
        if "{text}" not in prompt:
            raise ValueError("the prompt has no '{text}', which stands for a row's text")
        self.opening = (model, threads, memory_limit)
        self.task, self.column, self.prompt, self.seed_column = task, column, prompt, seed_column
        self.max_rows, self.options = max_rows, options

    def add(self, table: Mapping[str, Any]) -> dict[str, list[Any]]:
        """The new columns of a table, of Python's values.

        >>> from librwkv.columns import Columns
        >>> added = Columns("model.rwkv", "score").add({"text": ["one", "two"]})
        >>> list(added), added["error"]
        (['logprob', 'tokens', 'perplexity', 'error'], [None, None])
        """
        self.check(table)
        texts, model = list(table[self.column]), _opened(*self.opening)
        if self.task == "generate":
            prompts = [self.prompt.replace("{text}", text) if isinstance(text, str) else text for text in texts]
            seeds = [_seed(text) for text in texts] if self.seed_column is None else list(table[self.seed_column])
            options = {"logprobs": False} | self.options
            results = list(model.generate_many(prompts, seeds=seeds, max_rows=self.max_rows, **options))
            columns: dict[str, list[Any]] = {
                "generated_text": [result.text for result in results],
                "finish_reason": [result.finish_reason for result in results],
            }
        elif self.task == "score":
            results = list(model.score_many(texts, max_rows=self.max_rows, **self.options))
            columns = {
                "logprob": [None if result.error else result.logprob for result in results],
                "tokens": [len(result.tokens) for result in results],
                "perplexity": [None if result.error else _perplexity(result) for result in results],
            }
        else:
            results = list(model.embed_many(texts, max_rows=self.max_rows, **self.options))
            columns = {"embedding": [[] if result.vector is None else result.vector.tolist() for result in results]}
        return columns | {"error": [None if result.error is None else str(result.error) for result in results]}

    def check(self, names: Mapping[str, Any] | list[str]) -> None:
        """Refuses a table that lacks the column, or has one of those that are added."""
        for name in (self.column, self.seed_column):
            if name is not None and name not in names:
                raise ValueError(f"the table has no column '{name}'; it has {', '.join(names)}")
        for name in COLUMNS[self.task]:
            if name in names:
                raise ValueError(f"the table has a column '{name}', which is one of those that are added: rename it")


def _perplexity(result: Result) -> float:
    try:
        return math.exp(-result.logprob / len(result.tokens))
    except OverflowError:
        return math.inf


def _seed(text: Any) -> int:
    return zlib.crc32(text if isinstance(text, bytes) else str(text).encode(errors="replace"))
