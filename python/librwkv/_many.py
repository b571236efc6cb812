# SPDX-License-Identifier: MIT
"""Many texts at once: the library's scheduler works on them, and this keeps it busy."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any

import numpy as np

from ._library import RWKVError
from ._objects import State
from ._reranking import embedded
from ._rows import Embedded, Generated, Item, Result, Row, Scored, ScoreItem, Source, Text, check_rows, each
from ._scheduler import Outcome, Scheduler, Tokens

if TYPE_CHECKING:
    from ._model import Model

_SHARED = 16
"""Tokens that texts must share at least for their state to be kept."""
_KEPT = 8
"""States of shared beginnings that are kept: the latest."""


def _common(first: Tokens, second: Tokens) -> int:
    """Tokens that two texts begin with together."""
    length = min(first.size, second.size)
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if different.size else length


class _Work:
    """Rows on their way through the scheduler. What they begin with together is read once."""

    def __init__(self, model: Model, scheduler: Scheduler, rows: Iterator[Row], max_rows: int) -> None:
        self.model, self.scheduler, self.source, self.max_rows = model, scheduler, Source(rows), max_rows
        self.waiting: deque[Row] = deque()
        """Taken, to see what they share with those before them."""
        self.running: dict[int, Row] = {}
        self.reading: dict[int, bytes] = {}
        """Requests that read a shared beginning."""
        self.parked: dict[bytes, list[Row]] = {}
        """Rows that wait for one."""
        self.states: OrderedDict[bytes, State] = OrderedDict()

    def next_row(self) -> Row | None:
        """A row to begin. As many wait in the scheduler as it works on, so that it has the next one at once."""
        if len(self.running) + sum(map(len, self.parked.values())) >= 2 * self.max_rows:
            return None
        self.waiting.extend(itertools.islice(self.source, self.max_rows - len(self.waiting)))
        return self.waiting.popleft() if self.waiting else None

    def begin(self, row: Row) -> Iterator[Result]:
        """Submits a row; if that cannot be, it is a result."""
        if row.result.error is None:
            try:
                self._submit(row)
                return
            except RWKVError as failure:
                row.result.error = failure
        yield row.result

    def _submit(self, row: Row) -> None:
        tokens = row.tokens[: row.shareable]
        data = tokens.tobytes()
        known = max((key for key in (*self.states, *self.parked) if data.startswith(key)), key=len, default=b"")
        if known in self.parked:
            self.parked[known].append(row)
            return
        state = self.states.get(known)
        if state is not None:
            self.states.move_to_end(known)
        read, shared = len(known) // tokens.itemsize, self._shared(tokens, data)
        if shared < read + _SHARED:
            self.running[row.submit(self.scheduler, state, read)] = row
            return
        prefix = tokens[:shared].tobytes()
        self.reading[self.scheduler.read(tokens[read:shared], state)] = prefix
        self.parked[prefix] = [row]

    def _shared(self, tokens: Tokens, data: bytes) -> int:
        """How many tokens a row shares with one that comes soon."""
        start = data[: _SHARED * tokens.itemsize]
        others = (other.tokens[: other.shareable] for other in self.waiting)
        alike = (other for other in others if other[:_SHARED].tobytes() == start)
        return max((_common(tokens, other) for other in alike), default=0)

    def take(self) -> Iterator[Result]:
        """Waits for a request to end."""
        with self.scheduler.next() as outcome:
            row = self.running.pop(outcome.request, None)
            if row is None:
                yield from self._release(outcome)
                return
            row.result.error = outcome.error
            if outcome.error is None:
                row.take(outcome)
        yield row.result

    def _release(self, outcome: Outcome) -> Iterator[Result]:
        """Lets those go on who waited for a beginning."""
        prefix = self.reading.pop(outcome.request)
        rows = self.parked.pop(prefix)
        if outcome.error is None:
            self.states[prefix] = outcome.state(self.model)
            if len(self.states) > _KEPT:
                self.states.popitem(last=False)
        for row in rows:
            row.result.error = outcome.error
            yield from self.begin(row)


class _Window:
    """Puts results into the order of their rows, or not."""

    def __init__(self, ordered: bool) -> None:
        self.ordered, self.next = ordered, 0
        self.held: dict[int, Result] = {}

    def push(self, result: Result) -> Iterator[Result]:
        if not self.ordered:
            yield result
            return
        self.held[result.index] = result
        while self.next in self.held:
            self.next += 1
            yield self.held.pop(self.next - 1)


def _results(model: Model, rows: Iterator[Row], max_rows: int, ordered: bool) -> Iterator[Result]:
    check_rows(max_rows)
    window = _Window(ordered)
    with Scheduler(model, max_rows) as scheduler:
        work = _Work(model, scheduler, rows, max_rows)
        while True:
            # Rows are taken only while results that wait for an earlier one are few.
            while len(window.held) < 4 * max_rows and (row := work.next_row()) is not None:
                for result in work.begin(row):
                    yield from window.push(result)
            if not work.running and not work.reading:
                work.source.ended()
                return
            for result in work.take():
                yield from window.push(result)


def _seeded(items: Iterable[Any], seeds: Iterable[int]) -> Iterator[tuple[Any, int]]:
    """Each item with a seed of its own."""
    own = iter(seeds)
    for item in items:
        try:
            yield item, next(own)
        except StopIteration:
            raise ValueError("there are fewer seeds than items") from None


def _followed(results: Iterator[Result], items: Iterable[Any], progress: bool) -> Iterator[Result]:
    """The results, with tqdm's progress bar where that is wanted and there is one."""
    if progress:
        try:
            from tqdm.auto import tqdm

            return iter(tqdm(results, total=len(items) if isinstance(items, Sized) else None))
        except ImportError:
            pass
    return results


def generate_many(
    model: Model, items: Iterable[Item], seeds: Iterable[int] | None, max_rows: int, ordered: bool, progress: bool,
    options: dict[str, Any],
) -> Iterator[Result]:  # fmt: skip
    """See `Model.generate_many`."""
    own = itertools.count(int(options.get("seed", 0))) if seeds is None else seeds
    numbered = enumerate(_seeded(each(items), own))
    rows = (Generated(model, index, item, options | {"seed": seed}) for index, (item, seed) in numbered)
    return _followed(_results(model, rows, max_rows, ordered), items, progress)


def score_many(
    model: Model, items: Iterable[ScoreItem], seeds: Iterable[int] | None, max_rows: int, ordered: bool, progress: bool
) -> Iterator[Result]:
    """See `Model.score_many`."""
    rows = (Scored(model, index, item) for index, item in _numbered(items, seeds))
    return _followed(_results(model, rows, max_rows, ordered), items, progress)


def embed_many(
    model: Model, items: Iterable[Text], task: str | None, normalize: bool, seeds: Iterable[int] | None, max_rows: int,
    ordered: bool, progress: bool,
) -> Iterator[Result]:  # fmt: skip
    """See `Model.embed_many`."""
    rows = _numbered(items, seeds)
    results = (
        embedded(model, rows, task, normalize, max_rows)
        if task is not None or not normalize
        else _results(model, (Embedded(model, index, item) for index, item in rows), max_rows, ordered)
    )
    return _followed(results, items, progress)


def _numbered(items: Iterable[Any], seeds: Iterable[int] | None) -> Iterator[tuple[int, Any]]:
    """Of what draws nothing: seeds are only counted, as they are where they matter."""
    return enumerate(each(items) if seeds is None else (item for item, _ in _seeded(each(items), seeds)))
