# SPDX-License-Identifier: MIT
"""Text that is being written."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ._library import Observe, Progress, Receive, RWKVError, error, library
from ._objects import Sampler, State

if TYPE_CHECKING:
    from ._model import Model

FinishReason = Literal["length", "end", "stop", "cancelled"]
FINISH: list[FinishReason] = ["length", "end", "stop", "cancelled"]


class _Writer:
    """The library's side of a generation. It calls back; here it does so from a thread of its own, which waits while
    nobody asks for the next piece."""

    def __init__(self, vocabulary: int) -> None:
        self.logits = np.empty(vocabulary, np.float32)
        self.wanted, self.ready = threading.Semaphore(0), threading.Semaphore(0)
        self.goes_on = True
        self.piece: str | None = None
        self.held = ""
        self.error: RWKVError | None = None
        self.finish_reason: FinishReason | None = None
        self.tokens: list[int] = []
        self.logprobs: list[float] = []

    def run(self, context: int, state: int, tokens: NDArray[np.uint32], *arguments: object) -> None:
        self.wanted.acquire()
        if self.goes_on:
            # Read here, where `close` can end it, not by the generation.
            read = tokens.size == 0 or library.rwkv_state_eval(
                context, state, tokens.ctypes.data, tokens.size, self.logits.ctypes.data, Progress(self.reads_on), None
            )
            callbacks = Observe(self.observe), Receive(self.receive)
            end = library.rwkv_generate_observed(context, state, *arguments, *callbacks, None) if read else 0
            if end == 0 and not self.goes_on:
                self.finish_reason = "cancelled"
            elif end == 0:
                self.error = error(context)
            else:
                self.finish_reason = FINISH[end - 1]
        self.ready.release()

    def reads_on(self, _done: float, _: object) -> bool:
        return self.goes_on

    def observe(self, token: int, logprob: float, _logits: object, _: object) -> None:
        self.tokens.append(token)
        self.logprobs.append(logprob)

    def receive(self, address: int, length: int, _: object) -> bool:
        text = ctypes.string_at(address, length).decode()
        if self.goes_on:
            self.piece = text
            self.ready.release()
            self.wanted.acquire()
        else:
            # What was held back until `close`, for which nobody waits.
            self.held += text
        return self.goes_on


class Generation(Iterator[str]):
    """Text that is being written, piece by piece; every piece is whole characters.

    The state has read exactly the tokens whose text was handed out. A generation that is left early ends with its last
    reference, or by `close`; `text` then also has what was held back: an unfinished character, as U+FFFD, or what might
    have begun a stop text.
    """

    def __init__(
        self, model: Model, state: State, sampler: Sampler, tokens: NDArray[np.uint32], limit: int, stops: list[bytes]
    ) -> None:
        self._held = (model, state, sampler)
        self._pieces: list[str] = []
        self._writer = _Writer(model.vocabulary)
        strings = (ctypes.c_char_p * len(stops))(*stops)
        arguments = (model._handle, state._handle, tokens, sampler._handle, None, 0, limit, strings, len(stops))
        self._thread = threading.Thread(target=self._writer.run, args=arguments, daemon=True)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the text ended: at the wanted length, at the end of the document, at a stop text, or by `close`."""
        return self._writer.finish_reason

    @property
    def text(self) -> str:
        """What was handed out so far."""
        return "".join(self._pieces)

    @property
    def tokens(self) -> list[int]:
        """The tokens that were chosen so far; the last ones may have no text yet, or none because a stop text began."""
        return list(self._writer.tokens)

    @property
    def logprobs(self) -> list[float]:
        """The natural logarithms of the probabilities of `tokens`, before penalties and sampling."""
        return list(self._writer.logprobs)

    def __next__(self) -> str:
        writer = self._writer
        try:
            if self._thread.ident is None and writer.goes_on:
                self._thread.start()
            if writer.goes_on and self._thread.is_alive():
                writer.piece = None
                writer.wanted.release()
                writer.ready.acquire()
                if writer.piece is not None:
                    self._pieces.append(writer.piece)
                    return writer.piece
                self._thread.join()
        except BaseException:  # Ctrl-C: the model is free again
            self.close()
            raise
        failure, writer.error = writer.error, None
        if failure:
            raise failure
        raise StopIteration

    def close(self) -> None:
        """Ends the text here, so that the model and the state can be used for something else.

        >>> text = model.generate("The database", max_tokens=100, bias={0: float("-inf")})
        >>> piece = next(text)
        >>> text.close()
        >>> text.finish_reason
        'cancelled'
        """
        self._writer.goes_on = False
        if self._thread.is_alive():
            self._writer.wanted.release()
            self._thread.join()
            self._pieces.append(self._writer.held)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self.close()
