# SPDX-License-Identifier: MIT
"""Objects of the library that belong to a model: states and samplers."""

from __future__ import annotations

import ctypes
import json
import numbers
import operator
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._library import FAILED, Progress, error, ids, library

if TYPE_CHECKING:
    from ._model import Model

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "penalty_decay", "seed")
"""The options of `Sampler` that are numbers and that other programs have as well."""

Self = TypeVar("Self")
Returned = TypeVar("Returned")


class Handle:
    """An object of the library, freed with the Python object."""

    def __init__(self, handle: int | None, kind: str, context: int | None) -> None:
        if not handle:
            raise error(context)
        self._handle: int = handle
        self._free: Callable[[int], None] = getattr(library, f"rwkv_{kind}free")

    def close(self) -> None:
        """Frees it now; using it afterwards is an error. What was made from it stays usable.

        >>> opened = Model("model.rwkv")
        >>> state = opened.new_state()
        >>> opened.close()
        >>> state.nbytes > 0
        True
        """
        if hasattr(self, "_free"):
            self._free(self._handle)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class State(Handle):
    """What a model remembers of the tokens it has read. Made by `Model.new_state` and `Model.load_state`."""

    def __init__(self, model: Model, handle: int | None) -> None:
        super().__init__(handle, "state_", model._handle)
        self._model = model

    def copy(self) -> State:
        """An independent copy: a fork of the conversation.

        >>> state = model.new_state()
        >>> fork = state.copy()
        >>> np.array_equal(model.read(state, [1]), model.read(fork, [1]))
        True
        """
        return State(self._model, library.rwkv_state_clone(self._handle))

    def reset(self) -> None:
        """Forgets everything.

        >>> state = model.new_state()
        >>> first = model.read(state, [1])
        >>> state.reset()
        >>> np.array_equal(model.read(state, [1]), first)
        True
        """
        if not library.rwkv_state_reset(self._handle):
            raise error(None)

    @property
    def nbytes(self) -> int:
        """How many bytes the state takes now. Only states of RWKV-7b and RWKV-X grow."""
        return checked_size(library.rwkv_state_get_size(self._handle), None)

    @property
    def tokens(self) -> NDArray[np.uint32]:
        """The tokens that were saved with the state; none if it was not loaded."""
        tokens = np.empty(checked_size(library.rwkv_state_get_tokens(self._handle, None, 0), None), np.uint32)
        library.rwkv_state_get_tokens(self._handle, tokens.ctypes.data, tokens.size)
        return tokens

    def save(self, path: str | os.PathLike[str], tokens: ArrayLike = ()) -> None:
        """Writes a file that appears complete or not at all, with the tokens that led here if they are given.

        >>> model.new_state().save("empty.state")
        >>> state = model.load_state("empty.state")
        """
        list = ids(tokens)
        if not library.rwkv_state_save(self._handle, os.fsencode(path), list.ctypes.data, list.size):
            raise error(None)

    def to_bytes(self, tokens: ArrayLike = ()) -> bytes:
        """Returns the bytes of the file that `save` writes.

        >>> type(model.new_state().to_bytes())
        <class 'bytes'>
        """
        list = ids(tokens)
        size = checked_size(library.rwkv_state_save_memory(self._handle, list.ctypes.data, list.size, None, 0), None)
        buffer = ctypes.create_string_buffer(size)
        library.rwkv_state_save_memory(self._handle, list.ctypes.data, list.size, buffer, size)
        return buffer.raw


class Sampler(Handle):
    """Chooses tokens from logits.

    Options: temperature (1.0; 0 always takes the most likely token), top_p (0.85), top_k (0: no limit), min_p (0),
    presence_penalty (0), frequency_penalty (0), penalty_decay (0.996), seed (0), only_json (0; 1: one JSON object or
    array and nothing else). What is not given is what the model's file recommends, then what `template` does (a
    template's name or text, "" for the model's own), then the value in brackets. bias: what is added to the logits of
    single tokens; -inf bans. json_schema: a JSON Schema, as a mapping or as text: one JSON text that fits it, an object
    or an array, and nothing else. docs/serving.md says which keywords are known; another is an error that names it.
    """

    def __init__(
        self,
        model: Model,
        bias: dict[int, float] | None = None,
        *,
        template: str | None = None,
        json_schema: Mapping[str, Any] | str | None = None,
        **options: float,
    ) -> None:
        handle = (
            library.rwkv_sampler_new(model._handle, None)
            if template is None
            else library.rwkv_sampler_new_for_template(model._handle, template.encode() or None)
        )
        super().__init__(handle, "sampler_", model._handle)
        for name, value in options.items():
            if not library.rwkv_sampler_set(self._handle, name.encode(), _number(name, value)):
                raise error(None)
        if json_schema is not None:
            schema = json_schema if isinstance(json_schema, str) else json.dumps(dict(json_schema), allow_nan=False)
            if not library.rwkv_sampler_set_json_schema(self._handle, schema.encode()):
                raise error(None)
        for token, value in (bias or {}).items():
            id = int(token) if isinstance(token, str) else operator.index(token)
            if not 0 <= id < model.vocabulary:
                raise ValueError(f"bias: token {id} is outside the model's vocabulary 0…{model.vocabulary - 1}")
            if not library.rwkv_sampler_set_bias(self._handle, id, _number("bias", value)):
                raise error(None)

    def sample(self, logits: ArrayLike) -> int:
        """Chooses a token by its logits [V] and remembers it for the penalties.

        >>> sampler = Sampler(model, temperature=0)
        >>> logits = model.read(model.new_state(), [1])
        >>> sampler.sample(logits) == int(logits.argmax())
        True
        """
        values = np.ascontiguousarray(logits, np.float32)
        token = ctypes.c_uint32()
        if not library.rwkv_sampler_sample(self._handle, values.ctypes.data, values.size, ctypes.byref(token)):
            raise error(None)
        return token.value

    def reset(self) -> None:
        """Forgets the tokens written so far. The random numbers go on.

        >>> sampler = Sampler(model, presence_penalty=0.5, bias={0: float("-inf")})
        >>> token = sampler.sample(model.read(model.new_state(), [1]))
        >>> sampler.reset()
        """
        if not library.rwkv_sampler_reset(self._handle):
            raise error(None)


def is_json(options: Mapping[str, Any]) -> bool:
    """Whether a sampler with these options writes JSON, which may hold what ends other answers."""
    return bool(options.get("only_json")) or options.get("json_schema") is not None


def _number(name: str, value: object) -> float:
    if not isinstance(value, (numbers.Real, np.bool_)):
        raise TypeError(f"{name} is {value!r}, expected a number")
    return float(value)


def checked_size(size: int, context: int | None) -> int:
    if size == FAILED:
        raise error(context)
    return size


def interruptible(progress: Callable[[float], bool | None] | None, call: Callable[[object], Returned]) -> Returned:
    """Runs `call(report)` in a thread and waits for it, so that Ctrl-C is noticed: it cancels at the next report.

    `report` is a C function that calls `progress`. Its exception cannot pass through C: it cancels too, and is raised
    afterwards.
    """
    goes_on = True
    results: list[Returned] = []
    failures: list[BaseException] = []

    def report(done: float, _: object) -> bool:
        try:
            return goes_on and (progress is None or progress(done) is not False)
        except BaseException as failure:
            failures.append(failure)
            return False

    def run() -> None:
        try:
            results.append(call(Progress(report)))
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    try:
        thread.start()
        thread.join()
    except BaseException:
        goes_on = False
        if thread.ident is not None:
            thread.join()
        raise
    if failures:
        raise failures[0]
    return results[0]
