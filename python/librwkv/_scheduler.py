# SPDX-License-Identifier: MIT
"""The library's scheduler: many requests, one pass over the weights at a time, on threads of its own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._generation import FINISH, FinishReason
from ._library import RWKVError, error, library, text
from ._objects import Handle, Sampler, State, checked_size

if TYPE_CHECKING:
    from ._model import Model

Tokens = NDArray[np.uint32]
Value = TypeVar("Value", bound=np.generic)
_LOGPROBS = 2
"""RWKV_REQUEST_LOGPROBS"""
_POLL = 0.1
"""How long Ctrl-C waits at most [s]: Python notices it between two calls."""


class Outcome(Handle):
    """What came of a request that has ended."""

    def __init__(self, handle: int) -> None:
        super().__init__(handle, "result_", None)
        self.request: int = library.rwkv_result_get_request(handle)
        finish: int = library.rwkv_result_get_finish(handle)
        self.error: RWKVError | None = error(None) if finish == 0 else None
        self.finish_reason: FinishReason | None = FINISH[finish - 1] if finish else None

    @property
    def text(self) -> bytes:
        return text(self._handle, "result_get_text")

    @property
    def tokens(self) -> Tokens:
        return self._array("tokens", np.uint32)

    @property
    def logprobs(self) -> NDArray[np.float64]:
        return self._array("logprobs", np.float64)

    @property
    def vector(self) -> NDArray[np.float32]:
        return self._array("vector", np.float32)

    def state(self, model: Model) -> State:
        """A state that has read what the request read and wrote."""
        return State(model, library.rwkv_result_get_state(self._handle))

    def _array(self, name: str, type: type[Value]) -> NDArray[Value]:
        get = getattr(library, f"rwkv_result_get_{name}")
        values = np.empty(checked_size(get(self._handle, None, 0), None), type)
        get(self._handle, values.ctypes.data, values.size)
        return values


class Scheduler(Handle):
    """Requests are numbers; `next` gives what came of them, as they end."""

    process: int | None = None
    """Which process has begun threads of the library: a fork does not copy them."""

    def __init__(self, model: Model, rows: int) -> None:
        if Scheduler.process not in (None, os.getpid()):
            raise RWKVError(
                "this process was forked from one whose model had threads, which a fork does not copy; "
                "start workers by multiprocessing's 'spawn' or 'forkserver'"
            )
        Scheduler.process = os.getpid()
        handle = library.rwkv_scheduler_new(model._handle, model._threads or 0, rows)
        super().__init__(handle, "scheduler_", model._handle)

    def read(self, tokens: Tokens, state: State | None) -> int:
        """Only reads."""
        return self._generate(tokens, state, None, 0, [], 0)

    def generate(
        self, tokens: Tokens, state: State | None, sampler: Sampler, limit: int, stops: Sequence[bytes], logprobs: bool
    ) -> int:
        return self._generate(tokens, state, sampler._handle, limit, stops, _LOGPROBS if logprobs else 0)

    def score(self, tokens: Tokens, state: State | None, first: int) -> int:
        """How well the tokens from `first` on are predicted."""
        from_state = None if state is None else state._handle
        return _taken(library.rwkv_scheduler_score(self._handle, from_state, tokens.ctypes.data, tokens.size, first))

    def embed(self, tokens: Tokens) -> int:
        return _taken(library.rwkv_scheduler_embed(self._handle, tokens.ctypes.data, tokens.size))

    def _generate(
        self, tokens: Tokens, state: State | None, sampler: int | None, limit: int, stops: Sequence[bytes], flags: int
    ) -> int:
        strings = (ctypes.c_char_p * len(stops))(*stops)
        return _taken(
            library.rwkv_scheduler_generate(
                self._handle, None if state is None else state._handle, sampler, tokens.ctypes.data, tokens.size,
                limit, strings, len(stops), flags,
            )
        )  # fmt: skip

    def next(self) -> Outcome:
        """Waits for a request to end. The interpreter's lock is free meanwhile."""
        result = ctypes.c_void_p()
        while not result.value:
            if not library.rwkv_scheduler_next(self._handle, _POLL, ctypes.byref(result)):
                raise error(None)
        return Outcome(result.value)


def _taken(request: int) -> int:
    if not request:
        raise error(None)
    return request
