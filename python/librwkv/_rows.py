# SPDX-License-Identifier: MIT
"""Rows of a job: what each asks of the scheduler, and what came of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._library import ids
from ._objects import Sampler, State, is_json
from ._scheduler import Outcome, Scheduler, Tokens

if TYPE_CHECKING:
    from ._generation import FinishReason
    from ._model import Model

Taken = TypeVar("Taken")
Message = Mapping[str, str]
"""`{"role": "user", "content": "…"}`"""
Item = str | bytes | Sequence[int] | Sequence[Message] | Mapping[str, Any]
"""A prompt, perhaps as token ids; messages; or one of these with options of its own: `{"prompt": "…", "seed": 5}`."""
Text = str | bytes | Sequence[int]
"""A text, or its token ids."""
ScoreItem = Text | tuple[Text, Text]
"""A text, or a context and what is scored after it."""


class Source(Iterator[Taken]):
    """The rows of a job. Where they end with an error, those before it are worked on first; then `ended` raises it."""

    def __init__(self, rows: Iterable[Taken]) -> None:
        self._rows = iter(rows)
        self._failure: Exception | None = None

    def __next__(self) -> Taken:
        if self._failure is None:
            try:
                return next(self._rows)
            except StopIteration:
                raise
            except Exception as failure:
                self._failure = failure
        raise StopIteration

    def ended(self) -> None:
        if self._failure is not None:
            raise self._failure


@dataclass
class Result:
    """What came of one row."""

    index: int
    """Which row, counted from 0."""
    text: str = ""
    """What was written or scored."""
    tokens: list[int] = field(default_factory=list)
    """The tokens of it."""
    logprobs: list[float] = field(default_factory=list)
    """The natural logarithms of the probabilities of `tokens`, before penalties and sampling."""
    prompt_tokens: int = 0
    """Of a generation: tokens that were read before it."""
    finish_reason: FinishReason | None = None
    """Why a generation ended."""
    error: Exception | None = None
    """What went wrong with this row; the others go on."""
    is_greedy: bool | None = None
    """Of a score: whether each token was the most likely one."""
    vector: NDArray[np.float32] | None = None
    """Of an embedding: D values, of length 1."""

    def raised(self) -> Result:
        """The result itself, or its error as an exception.

        >>> [result.raised().index for result in model.embed_many(["one", "two"])]
        [0, 1]
        """
        if self.error is not None:
            raise self.error
        return self

    @property
    def logprob(self) -> float:
        """The sum of `logprobs`."""
        return float(sum(self.logprobs))


class Row(ABC):
    """A request to be; one that cannot be made has an error in its result."""

    tokens: Tokens = np.empty(0, np.uint32)
    """What is read."""
    shareable = 0
    """How many of them, from the first on, another request may have read."""

    def __init__(self, model: Model, index: int, *arguments: Any) -> None:
        self.result = Result(index)
        try:
            self.prepare(model, *arguments)
        except Exception as failure:  # whatever is wrong with a row, the others go on
            self.result.error = failure

    @abstractmethod
    def prepare(self, model: Model, *arguments: Any) -> None: ...

    @abstractmethod
    def submit(self, scheduler: Scheduler, state: State | None, read: int) -> int:
        """Asks for what is left after a state that has read so many tokens."""

    @abstractmethod
    def take(self, outcome: Outcome) -> None: ...


class Generated(Row):
    """A text that is written after a prompt."""

    def prepare(self, model: Model, item: Item, options: dict[str, Any]) -> None:
        prompt: Any = item
        given: list[str] = []
        if isinstance(item, Mapping):
            own = dict(item)
            given = [key for key in ("prompt", "messages") if key in own]
            if len(given) != 1:
                raise ValueError("a row needs either a prompt or messages")
            prompt = own.pop(given[0])
            options = options | own
        if isinstance(prompt, np.ndarray):
            prompt = prompt.tolist()
        conversation = {key: options.pop(key) for key in ("template", "thinking") if key in options}
        stop, template = options.pop("stop", None), None
        if given == ["messages"] and isinstance(prompt, (str, bytes)):
            raise TypeError("expected a list of messages, not a text")
        if isinstance(prompt, (str, bytes)):
            self.stops = model._stops(stop)
            self.tokens = model.encode(prompt)
        elif not isinstance(prompt, Sequence):
            raise TypeError(f"expected a text, token ids or messages, not {type(prompt).__name__}")
        elif given == ["messages"] or (not given and any(isinstance(part, Mapping) for part in prompt)):
            text, ends = model._conversation(prompt, **conversation)
            self.tokens = model.encode(text)
            self.stops = model._stops(stop or ()) + ([] if is_json(options) else ends)
            template = conversation.get("template") or ""
        else:
            self.stops = model._stops(stop)
            self.tokens = _known(model, prompt)
        if self.tokens.size == 0:
            raise ValueError("the prompt is empty")
        self.limit = max(0, int(options.pop("max_tokens")))
        self.logprobs = bool(options.pop("logprobs"))
        self.shareable = self.tokens.size - 1
        self.result.prompt_tokens = self.tokens.size
        self.sampler = Sampler(model, options.pop("bias", None), template=template, **options)

    def submit(self, scheduler: Scheduler, state: State | None, read: int) -> int:
        return scheduler.generate(self.tokens[read:], state, self.sampler, self.limit, self.stops, self.logprobs)

    def take(self, outcome: Outcome) -> None:
        result = self.result
        result.text = outcome.text.decode(errors="replace")
        result.tokens, result.finish_reason = outcome.tokens.tolist(), outcome.finish_reason
        result.logprobs = outcome.logprobs.tolist()


class Scored(Row):
    """A text that is scored after a context."""

    def prepare(self, model: Model, item: ScoreItem) -> None:
        context, text = item if isinstance(item, tuple) else (b"", item)
        if isinstance(context, (str, bytes)) and isinstance(text, (str, bytes)):
            before, after = ((part.encode() if isinstance(part, str) else part) for part in (context, text))
            # Token 0 begins a document. A token may reach over the border; then what stands after the context's own
            # tokens is scored.
            self.first = 1 + len(model.encode(before))
            self.tokens = np.concatenate([_ZERO, model.encode(before + after)])
        else:
            start = _known(model, context) if len(context) > 0 else _ZERO
            self.first = start.size
            self.tokens = np.concatenate([start, _known(model, text)])
        self.scored = self.tokens[self.first :]
        if self.scored.size == 0:
            raise ValueError("there is no text to score")
        self.shareable = self.first - 1
        self.result.tokens = self.scored.tolist()
        self.result.text = model.decode(self.scored).decode(errors="replace")

    def submit(self, scheduler: Scheduler, state: State | None, read: int) -> int:
        return scheduler.score(self.tokens[read:], state, self.first - read)

    def take(self, outcome: Outcome) -> None:
        self.result.logprobs = outcome.logprobs.tolist()
        self.result.is_greedy = bool((outcome.tokens == self.scored).all())


def _known(model: Model, tokens: Sequence[int] | str | bytes) -> Tokens:
    """Token ids of the model's vocabulary."""
    values = np.asarray(tokens)
    if values.size and values.dtype.kind in "iu" and not 0 <= values.min() <= values.max() < model.vocabulary:
        raise ValueError(f"a token id is outside the model's vocabulary 0…{model.vocabulary - 1}")
    return ids(values)


_ZERO = np.zeros(1, np.uint32)

MOST_ROWS = 64
"""What a model works on at a time at most."""


def each(items: Iterable[Any]) -> Iterable[Any]:
    """Refuses one row where many are expected, which could be taken apart."""
    if isinstance(items, (str, bytes, Mapping)):
        raise TypeError(f"expected an iterable of rows, not one of them: [{type(items).__name__}]")
    return items


def check_rows(max_rows: int) -> None:
    """Refuses what cannot be worked on at a time."""
    if not 1 <= max_rows <= MOST_ROWS:
        raise ValueError(f"max_rows is {max_rows}, expected 1 to {MOST_ROWS}")


class Embedded(Row):
    """A text that becomes a vector."""

    def prepare(self, model: Model, item: Text) -> None:
        self.tokens = model.encode(item) if isinstance(item, (str, bytes)) else _known(model, item)
        self.result.tokens = self.tokens.tolist()
        self.result.text = item if isinstance(item, str) else model.decode(self.tokens).decode(errors="replace")

    def submit(self, scheduler: Scheduler, state: State | None, read: int) -> int:
        return scheduler.embed(self.tokens)

    def take(self, outcome: Outcome) -> None:
        self.result.vector = outcome.vector
