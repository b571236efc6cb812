# SPDX-License-Identifier: MIT
"""Tables in, columns out: what the workers of Ray and Spark share."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from ._model import Model

Task = Literal["generate", "score", "embed"]

COLUMNS: dict[str, list[str]] = {
    "generate": ["generated_text", "finish_reason", "error"],
    "score": ["logprob", "tokens", "error"],
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

    task: generate (adds generated_text, finish_reason), score (logprob, tokens; the perplexity is exp(-logprob /
    tokens)) or embed (embedding); each also adds error, null where there is none. model: a file that all workers see.
    column: the texts. options: for all rows, as `Model.generate_many` takes them.
    """

    def __init__(
        self,
        model: str,
        task: Task = "generate",
        column: str = "text",
        *,
        seed_column: str | None = None,
        threads: int | None = None,
        memory_limit: int | None = None,
        max_rows: int = 16,
        **options: Any,
    ) -> None:
        if task not in COLUMNS:
            raise ValueError(f"there is no task '{task}'; there are {', '.join(COLUMNS)}")
        self.opening = (model, threads, memory_limit)
        self.task, self.column, self.seed_column = task, column, seed_column
        self.max_rows, self.options = max_rows, options

    def add(self, table: Mapping[str, Any]) -> dict[str, list[Any]]:
        """The new columns of a table."""
        texts = list(table[self.column])
        model = _opened(*self.opening)
        if self.task == "generate":
            seeds = self._seeds(table, texts)
            written = list(model.generate_many(texts, seeds=seeds, max_rows=self.max_rows, **self.options))
            columns: list[Sequence[Any]] = [
                [result.text for result in written],
                [result.finish_reason for result in written],
                [result.error for result in written],
            ]
        elif self.task == "score":
            scored = list(model.score_many(texts, max_rows=self.max_rows, **self.options))
            columns = [
                [result.logprob for result in scored],
                [len(result.tokens) for result in scored],
                [result.error for result in scored],
            ]
        else:
            vectors = list(model.embed_many(texts, max_rows=self.max_rows, **self.options))
            columns = [
                [[] if result.vector is None else result.vector.tolist() for result in vectors],
                [result.error for result in vectors],
            ]
        *values, errors = columns
        return dict(
            zip(COLUMNS[self.task], [*map(list, values), [None if error is None else str(error) for error in errors]])
        )

    def _seeds(self, table: Mapping[str, Any], texts: list[Any]) -> list[int]:
        if self.seed_column is not None:
            return list(table[self.seed_column])
        return [zlib.crc32(text.encode(errors="replace") if isinstance(text, str) else b"") for text in texts]
