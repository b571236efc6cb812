# SPDX-License-Identifier: MIT
"""Vectors of embedding models, and how well documents answer a query, by their rerankers."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ._library import error, library
from ._objects import State, interruptible
from ._rows import Embedded, Result, Source, Text, check_rows, each

if TYPE_CHECKING:
    from ._model import Model

EmbeddingTask = Literal["retrieval", "sts", "classification"]
# Documents whose states are in memory together.
_BATCH = 64


@dataclass(frozen=True)
class Ranked:
    """How well a document answers a query."""

    index: int
    """Its place in the list that was given, counted from 0."""
    score: float
    """The higher the better, 0 undecided; 1 / (1 + exp(-score)) is how likely it answers the query."""


def embedded(
    model: Model, items: Iterable[tuple[int, Text]], task: str | None, normalize: bool, max_rows: int
) -> Iterator[Result]:
    """Vectors that are made for a task, or not scaled, of many texts with one pass over the weights."""
    check_rows(max_rows)
    rows = Source(items)
    while batch := list(itertools.islice(rows, max_rows)):
        results = [Embedded(model, index, item) for index, item in batch]
        good = [row for row in results if row.result.error is None]
        if good:
            tokens = np.concatenate([row.tokens for row in good]).astype(np.uint32)
            lengths = np.array([len(row.tokens) for row in good], np.uintp)
            vectors = np.empty((len(good), model.embedding), np.float32)
            arguments = (
                model._handle, task and task.encode(), normalize, tokens.ctypes.data, lengths.ctypes.data, len(good),
                vectors.ctypes.data,
            )  # fmt: skip
            if not interruptible(None, partial(_embed, arguments)):
                raise error(model._handle)
            for row, vector in zip(good, vectors):
                row.result.vector = vector
        yield from (row.result for row in results)
    rows.ended()


def _embed(arguments: tuple[object, ...], report: object) -> bool:
    return bool(library.rwkv_embed_texts_for(*arguments, report, None))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def read_documents(model: Model, documents: Sequence[str | bytes]) -> list[State]:
    """See `Model.read_documents`."""
    each(documents)
    states: list[State] = []
    for start in range(0, len(documents), _BATCH):
        texts = [_bytes(document) for document in documents[start : start + _BATCH]]
        lengths = np.array([len(text) for text in texts], np.uintp)
        handles = (ctypes.c_void_p * len(texts))()
        pointers = (ctypes.c_char_p * len(texts))(*texts)
        if not interruptible(None, partial(_read, (model._handle, pointers, lengths.ctypes.data, len(texts), handles))):
            raise error(model._handle)
        states += [State(model, handle) for handle in handles]
    return states


def _read(arguments: tuple[object, ...], report: object) -> bool:
    return bool(library.rwkv_read_documents(*arguments, report, None))


def rerank(model: Model, reranker: Model, query: str | bytes, documents: Sequence[str | bytes | State]) -> list[Ranked]:
    """See `Model.rerank`."""
    each(documents)
    scores: list[float] = []
    for start in range(0, len(documents), _BATCH):
        part = documents[start : start + _BATCH]
        read = iter(read_documents(model, [item for item in part if not isinstance(item, State)]))
        scores += _scores(model, reranker, _bytes(query), [i if isinstance(i, State) else next(read) for i in part])
    return sorted((Ranked(index, score) for index, score in enumerate(scores)), key=lambda ranked: -ranked.score)


def _scores(model: Model, reranker: Model, query: bytes, states: list[State]) -> list[float]:
    handles = (ctypes.c_void_p * len(states))(*[state._handle for state in states])
    scores: NDArray[np.float32] = np.empty(len(states), np.float32)
    arguments = (model._handle, reranker._handle, query, len(query), handles, len(states), scores.ctypes.data)
    if not interruptible(None, partial(_rerank, arguments)):
        raise error(model._handle)
    return [float(value) for value in scores]


def _rerank(arguments: tuple[object, ...], report: object) -> bool:
    return bool(library.rwkv_rerank(*arguments, report, None))
