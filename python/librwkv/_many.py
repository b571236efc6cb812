# SPDX-License-Identifier: MIT
"""Many texts at once: every pass over the weights serves as many rows as there are."""

from __future__ import annotations

import ctypes
import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._library import Progress, RWKVError, error, ids, library
from ._objects import Sampler, State, interruptible

if TYPE_CHECKING:
    from ._generation import FinishReason
    from ._model import Model

Message = Mapping[str, str]
"""`{"role": "user", "content": "…"}`"""
Item = str | bytes | Sequence[int] | Sequence[Message] | Mapping[str, Any]
"""A prompt, perhaps as token ids; messages; or one of these with options of its own: `{"prompt": "…", "seed": 5}`."""
Text = str | bytes | Sequence[int]
"""A text, or its token ids."""
ScoreItem = Text | tuple[Text, Text]
"""A text, or a context and what is scored after it."""

PASS = 64
"""Tokens that one pass over the weights takes at most."""
_SHARED = 16
"""Tokens that texts must share at least for their state to be kept."""

Source = TypeVar("Source")


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
    """Natural logarithms of their probabilities, before penalties and sampling."""
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
        """The result itself, or its error as an exception."""
        if self.error is not None:
            raise self.error
        return self

    @property
    def logprob(self) -> float:
        """The sum of `logprobs`."""
        return float(sum(self.logprobs))


class _Ragged:
    """Texts of different lengths as C takes them."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.tokens = np.fromiter(itertools.chain.from_iterable(texts), np.uint32)
        self.lengths = np.array([len(text) for text in texts], np.uintp)


def _handles(states: Sequence[State]) -> Any:
    return (ctypes.c_void_p * len(states))(*[state._handle for state in states])


def _checked(model: Model, good: bool) -> None:
    if not good:
        raise error(model._handle)


def _read(model: Model, states: Sequence[State], texts: Sequence[Sequence[int]]) -> None:
    """Each state reads a text; Ctrl-C ends it."""
    pairs = [(state, text) for state, text in zip(states, texts) if text]
    if not pairs:
        return
    ragged, handles = _Ragged([text for _, text in pairs]), _handles([state for state, _ in pairs])
    arguments = (model._handle, handles, ragged.tokens.ctypes.data, ragged.lengths.ctypes.data, len(pairs), None)
    _checked(model, interruptible(None, lambda report: bool(library.rwkv_eval_texts(*arguments, report, None))))


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that two texts begin with together."""
    length = 0
    for one, other in zip(first, second):
        if one != other:
            break
        length += 1
    return length


class Prefixes:
    """States after beginnings that texts share, the latest few, so that each is read once."""

    def __init__(self, model: Model, capacity: int = 8) -> None:
        self.model, self.capacity = model, capacity
        self.states: OrderedDict[tuple[int, ...], State] = OrderedDict()

    def begin(self, tokens: Sequence[int], others: Iterable[Sequence[int]]) -> tuple[State, int]:
        """A state that has read the beginning of a text, and how many of its tokens; never the last one.

        others: texts that come soon; what this one shares with them is kept.
        """
        known: tuple[int, ...] = ()
        for prefix in self.states:
            if len(known) < len(prefix) < len(tokens) and tuple(tokens[: len(prefix)]) == prefix:
                known = prefix
        if known:
            self.states.move_to_end(known)
        state = self.states[known].copy() if known else self.model.new_state()
        shared = min(max((_common(tokens, other) for other in others), default=0), len(tokens) - 1)
        if shared < len(known) + _SHARED:
            return state, len(known)
        _read(self.model, [state], [tokens[len(known) : shared]])
        self.states[tuple(tokens[:shared])] = state.copy()
        while len(self.states) > self.capacity:
            self.states.popitem(last=False)
        return state, shared


class _Row:
    """A text that is being written."""

    def __init__(self, model: Model, index: int, item: Item, options: dict[str, Any]) -> None:
        self.result = Result(index)
        self.bytes = bytearray()
        self.unread: Sequence[int] = ()
        try:
            self._prepare(model, item, dict(options))
        except (RWKVError, TypeError, ValueError, KeyError, AttributeError) as failure:
            self.result.error = failure

    def _prepare(self, model: Model, item: Item, options: dict[str, Any]) -> None:
        prompt: Any = item
        given: list[str] = []
        if isinstance(item, Mapping):
            own = dict(item)
            given = [key for key in ("prompt", "messages") if key in own]
            if len(given) != 1:
                raise ValueError("a row needs either a prompt or messages")
            prompt = own.pop(given[0])
            options |= own
        conversation = {key: options.pop(key) for key in ("template", "thinking") if key in options}
        stop, template = options.pop("stop", None), None
        if isinstance(prompt, (str, bytes)):
            self.stops = [text for text in model._stops(stop) if text]
            tokens = model.encode(prompt)
        elif not isinstance(prompt, Sequence):
            raise TypeError(f"expected a text, token ids or messages, not {type(prompt).__name__}")
        elif given == ["messages"] or (not given and any(isinstance(part, Mapping) for part in prompt)):
            text, ends = model._conversation(prompt, **conversation)
            tokens = model.encode(text)
            self.stops = [text for text in model._stops(stop or ()) if text] + ends
            template = conversation.get("template") or ""
        else:
            self.stops = [text for text in model._stops(stop) if text]
            tokens = ids(prompt)
        self.limit = int(options.pop("max_tokens"))
        self.wants_logprobs = bool(options.pop("logprobs"))
        self.is_json = bool(options.get("only_json", 0))
        if tokens.size == 0:
            raise ValueError("the prompt is empty")
        if tokens.max() >= model.vocabulary:
            raise ValueError(f"a token id is outside the model's vocabulary 0…{model.vocabulary - 1}")
        self.unread = tokens.tolist()
        self.result.prompt_tokens = len(self.unread)
        self.sampler = Sampler(model, options.pop("bias", None), template=template, **options)

    def begin(self, prefixes: Prefixes, others: Iterable[Sequence[int]]) -> None:
        self.state, read = prefixes.begin(self.unread, others)
        self.unread = self.unread[read:]

    def add(self, token: int, logits: NDArray[np.float32], piece: bytes) -> None:
        """Takes a token that was chosen; `finish_reason` is set when the text ends."""
        result = self.result
        if token == 0:
            result.finish_reason = "end"
            return
        result.tokens.append(token)
        if self.wants_logprobs:
            result.logprobs.append(_logprob(logits, token))
        self.bytes += piece
        self.unread = (token,)
        if self._stop(len(piece)):
            result.finish_reason = "stop"
        elif self.is_json and library.rwkv_sampler_is_finished(self.sampler._handle):
            result.finish_reason = "end"
        elif len(result.tokens) >= self.limit:
            result.finish_reason = "length"

    def _stop(self, new: int) -> bool:
        """Cuts the text at the stop text that ends first, the longest of several."""
        for end in range(len(self.bytes) - new + 1, len(self.bytes) + 1):
            lengths = [len(stop) for stop in self.stops if self.bytes.endswith(stop, 0, end)]
            if lengths:
                del self.bytes[end - max(lengths) :]
                return True
        return False


def _logprob(logits: NDArray[np.float32], token: int) -> float:
    values = logits.astype(np.float64)
    top = values.max()
    return float(values[token] - top - np.log(np.exp(values - top).sum()))


class _Writer:
    """Rows that are being written, a token each per pass; new ones read their prompts in what is left of it."""

    def __init__(self, model: Model, rows: Iterator[_Row], max_rows: int) -> None:
        self.model, self.source, self.max_rows = model, rows, max_rows
        self.waiting: deque[_Row] = deque()
        self.active: list[_Row] = []
        self.prefixes = Prefixes(model)
        self.logits = np.empty((max_rows, model.vocabulary), np.float32)
        self.pieces: dict[int, bytes] = {}

    def admit(self) -> Iterator[Result]:
        """Fills free places; rows that cannot begin are results."""
        while len(self.active) < self.max_rows:
            self.waiting.extend(itertools.islice(self.source, self.max_rows - len(self.waiting)))
            if not self.waiting:
                return
            row = self.waiting.popleft()
            if row.result.error is None and row.limit <= 0:
                row.result.finish_reason = "length"
            if row.result.error or row.result.finish_reason:
                yield row.result
            else:
                row.begin(self.prefixes, [other.unread for other in self.waiting])
                self.active.append(row)

    def step(self) -> Iterator[Result]:
        """One pass; rows that end are results."""
        rows, room, texts = [], PASS, []
        for row in sorted(self.active, key=lambda row: len(row.unread)):
            if room > 0:
                texts.append(row.unread[:room])
                rows.append(row)
                room -= len(texts[-1])
        ragged, handles = _Ragged(texts), _handles([row.state for row in rows])
        good = library.rwkv_eval_texts(
            self.model._handle, handles, ragged.tokens.ctypes.data, ragged.lengths.ctypes.data, len(rows),
            self.logits.ctypes.data, Progress(), None,
        )  # fmt: skip
        _checked(self.model, good)
        for row, text, logits in zip(rows, texts, self.logits):
            row.unread = row.unread[len(text) :]
            if not row.unread:
                self._sample(row, logits)
                if row.result.finish_reason or row.result.error:
                    row.result.text = row.bytes.decode(errors="replace")
                    yield row.result
        self.active = [row for row in self.active if not (row.result.finish_reason or row.result.error)]

    def _sample(self, row: _Row, logits: NDArray[np.float32]) -> None:
        try:
            token = row.sampler.sample(logits)
        except RWKVError as failure:
            row.result.error = failure
            return
        if token not in self.pieces:
            self.pieces[token] = self.model.decode([token])
        row.add(token, logits, self.pieces[token])


def _seeded(items: Iterable[Item], seeds: Iterable[int] | None, options: dict[str, Any]) -> Iterator[tuple[Item, Any]]:
    """Each item with the options of all rows and a seed of its own."""
    own = itertools.count(int(options.get("seed", 0))) if seeds is None else iter(seeds)
    for item in items:
        try:
            yield item, options | {"seed": next(own)}
        except StopIteration:
            raise ValueError("there are fewer seeds than items") from None


def _followed(items: Iterable[Source], progress: bool) -> Iterable[Source]:
    """The items, with tqdm's progress bar where that is wanted and there is one."""
    if progress:
        try:
            from tqdm.auto import tqdm

            followed: Iterable[Source] = tqdm(items)
            return followed
        except ImportError:
            pass
    return items


def generate_many(
    model: Model, items: Iterable[Item], seeds: Iterable[int] | None, max_rows: int, ordered: bool, progress: bool,
    options: dict[str, Any],
) -> Iterator[Result]:  # fmt: skip
    """See `Model.generate_many`."""
    _require_rows(max_rows, PASS)
    numbered = enumerate(_seeded(_followed(items, progress), seeds, options))
    window = _Window(ordered)
    # A row is taken only while results that wait for an earlier one are few.
    rows = (_Row(model, index, item, own) for index, (item, own) in numbered)
    writer = _Writer(model, rows, max_rows)
    while True:
        if len(window.held) < 4 * max_rows:
            for result in writer.admit():
                yield from window.push(result)
        if not writer.active:
            return
        for result in writer.step():
            yield from window.push(result)


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


def _require_rows(max_rows: int, most: int) -> None:
    if not 1 <= max_rows <= most:
        raise ValueError(f"max_rows is {max_rows}, expected 1 to {most}")


def _batches(items: Iterable[Source], size: int) -> Iterator[list[tuple[int, Source]]]:
    source = enumerate(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


class _Scored:
    """A text that is scored after a context."""

    def __init__(self, model: Model, index: int, item: ScoreItem) -> None:
        self.result = Result(index)
        self.context: list[int] = [0]
        try:
            context, text = item if isinstance(item, tuple) else (b"", item)
            self._prepare(model, context, text)
        except (RWKVError, TypeError, ValueError) as failure:
            self.result.error = failure

    def _prepare(self, model: Model, context: Text, text: Text) -> None:
        if isinstance(context, (str, bytes)) and isinstance(text, (str, bytes)):
            before, after = ((part.encode() if isinstance(part, str) else part) for part in (context, text))
            # Token 0 begins a document. A token may reach over the border; then what stands after the context's own
            # tokens is scored.
            self.context = [0, *model.encode(before).tolist()]
            tokens = model.encode(before + after).tolist()[len(self.context) - 1 :]
        else:
            self.context, tokens = ([int(token) for token in part] for part in (context, text))
            self.context = self.context or [0]
        if not tokens:
            raise ValueError("there is no text to score")
        if min(self.context + tokens) < 0 or max(self.context + tokens) >= model.vocabulary:
            raise ValueError(f"a token id is outside the model's vocabulary 0…{model.vocabulary - 1}")
        self.result.tokens = tokens
        self.result.text = model.decode(tokens).decode(errors="replace")

    @property
    def inputs(self) -> list[int]:
        """What is read to score: the last token of the context, and all but the last of the text."""
        return [self.context[-1], *self.result.tokens[:-1]]


def score_many(model: Model, items: Iterable[ScoreItem], max_rows: int, progress: bool) -> Iterator[Result]:
    """See `Model.score_many`."""
    _require_rows(max_rows, 1024)
    prefixes = Prefixes(model)
    for batch in _batches(_followed(items, progress), max_rows):
        rows = [_Scored(model, index, item) for index, item in batch]
        good = sorted((row for row in rows if row.result.error is None), key=lambda row: row.context)
        states, rests = [], []
        for place, row in enumerate(good):
            # Neighbours in this order share most.
            state, read = prefixes.begin(row.context, [other.context for other in good[place + 1 : place + 2]])
            states.append(state)
            rests.append(row.context[read:-1])
        _read(model, states, rests)
        if good:
            _score(model, states, good)
        yield from (row.result for row in rows)


def _score(model: Model, states: Sequence[State], rows: Sequence[_Scored]) -> None:
    inputs, targets = _Ragged([row.inputs for row in rows]), _Ragged([row.result.tokens for row in rows])
    logprobs, best = np.empty(targets.tokens.size, np.float64), np.empty(targets.tokens.size, np.uint32)
    arguments = (
        model._handle, _handles(states), inputs.tokens.ctypes.data, targets.tokens.ctypes.data,
        inputs.lengths.ctypes.data, len(rows), logprobs.ctypes.data, best.ctypes.data,
    )  # fmt: skip
    _checked(model, interruptible(None, lambda report: bool(library.rwkv_score_texts(*arguments, report, None))))
    start = 0
    for row in rows:
        end = start + len(row.result.tokens)
        row.result.logprobs = logprobs[start:end].tolist()
        row.result.is_greedy = bool((best[start:end] == targets.tokens[start:end]).all())
        start = end


def embed_many(model: Model, items: Iterable[str | bytes], max_rows: int, progress: bool) -> Iterator[Result]:
    """See `Model.embed_many`."""
    _require_rows(max_rows, 1024)
    for batch in _batches(_followed(items, progress), max_rows):
        results = [Result(index) for index, _ in batch]
        good = []
        for result, (_, item) in zip(results, batch):
            try:
                result.tokens = model.encode(item).tolist()
                result.text = item if isinstance(item, str) else item.decode(errors="replace")
                good.append(result)
            except (RWKVError, TypeError, AttributeError) as failure:
                result.error = failure
        if good:
            ragged = _Ragged([result.tokens for result in good])
            vectors = np.empty((len(good), model.embedding), np.float32)
            arguments = (
                model._handle, ragged.tokens.ctypes.data, ragged.lengths.ctypes.data, len(good), vectors.ctypes.data,
            )  # fmt: skip
            _checked(model, interruptible(None, partial(_embed, arguments)))
            for result, vector in zip(good, vectors):
                result.vector = vector
        yield from results


def _embed(arguments: tuple[object, ...], report: object) -> bool:
    return bool(library.rwkv_embed_texts(*arguments, report, None))
