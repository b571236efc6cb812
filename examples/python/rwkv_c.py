"""RWKV language models through librwkv, with NumPy arrays.

    model = Model("model.rwkv")
    state = model.new_state()
    model.generate(state, "The database", print_piece, count=100, seed=1)
    state.save("talk.state")

The library is found as librwkv.so.0 by the loader, or where RWKV_LIBRARY says.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_FAILED = ctypes.c_size_t(-1).value
_FINISH = ["error", "length", "end", "stop", "cancelled"]
_Receive = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class RWKVError(Exception):
    """What the library says went wrong: what, where, and what to do."""


class _Options(ctypes.Structure):
    """struct rwkv_sampler_options"""

    _fields_ = [
        ("temperature", ctypes.c_double), ("top_p", ctypes.c_double), ("presence_penalty", ctypes.c_double),
        ("frequency_penalty", ctypes.c_double), ("penalty_decay", ctypes.c_double), ("seed", ctypes.c_uint64),
        ("top_k", ctypes.c_uint32),
    ]


def _open_library() -> ctypes.CDLL:
    library = ctypes.CDLL(os.environ.get("RWKV_LIBRARY", "librwkv.so.0"))
    pointer, size, text, yes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_bool
    options = ctypes.POINTER(_Options)
    for name, result, *arguments in [
        ("get_last_error_text", size, pointer, pointer, size),
        ("open", pointer, text, ctypes.c_uint32, pointer, pointer),
        ("free", None, pointer),
        ("get_n_vocab", size, pointer),
        ("get_n_embed", size, pointer),
        ("get_architecture", size, pointer, pointer, size),
        ("encode", size, pointer, text, size, pointer, size),
        ("decode", size, pointer, pointer, size, pointer, size),
        ("get_hidden", yes, pointer, pointer),
        ("state_new", pointer, pointer),
        ("state_clone", pointer, pointer),
        ("state_free", None, pointer),
        ("state_eval", yes, pointer, pointer, pointer, size, pointer, pointer, pointer),
        ("state_save", yes, pointer, text, pointer, size),
        ("state_load", pointer, pointer, text),
        ("sampler_options_init", yes, options),
        ("sampler_new", pointer, pointer, options),
        ("sampler_free", None, pointer),
        ("generate", ctypes.c_int, pointer, pointer, pointer, text, size, size, pointer, size, _Receive, pointer),
    ]:
        function = getattr(library, "rwkv_" + name)
        function.restype, function.argtypes = result, arguments
    return library


_library = _open_library()


def _error(context: int | None) -> RWKVError:
    buffer = ctypes.create_string_buffer(4096)
    _library.rwkv_get_last_error_text(context, buffer, len(buffer))
    return RWKVError(buffer.value.decode(errors="replace"))


class State:
    """What a model remembers of the tokens it has read."""

    def __init__(self, model: Model, handle: int | None) -> None:
        if not handle:
            raise _error(model._handle)
        self._model, self._handle = model, handle

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _library.rwkv_state_free(self._handle)

    def copy(self) -> State:
        """An independent copy: a fork of the conversation."""
        return State(self._model, _library.rwkv_state_clone(self._handle))

    def save(self, path: str) -> None:
        """Writes the state to a file that appears complete or not at all."""
        if not _library.rwkv_state_save(self._handle, os.fsencode(path), None, 0):
            raise _error(None)


class Model:
    """A model with the memory and threads to evaluate it: one call at a time."""

    def __init__(self, path: str, threads: int = 0) -> None:
        """Opens a file; 0 threads are as many as this process may use."""
        self._handle: int | None = _library.rwkv_open(os.fsencode(path), threads, None, None)
        if not self._handle:
            raise _error(None)
        self.vocabulary: int = _library.rwkv_get_n_vocab(self._handle)
        self.embedding: int = _library.rwkv_get_n_embed(self._handle)
        name = ctypes.create_string_buffer(16)
        _library.rwkv_get_architecture(self._handle, name, len(name))
        self.architecture: str = name.value.decode()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _library.rwkv_free(self._handle)

    def _length(self, length: int) -> int:
        if length == _FAILED:
            raise _error(self._handle)
        return length

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Token ids of a text."""
        data = text.encode()
        tokens = np.empty(self._length(_library.rwkv_encode(self._handle, data, len(data), None, 0)), np.uint32)
        _library.rwkv_encode(self._handle, data, len(data), tokens.ctypes.data, tokens.size)
        return tokens

    def decode(self, tokens: Sequence[int] | NDArray[np.uint32]) -> bytes:
        """The bytes of tokens, which may start or end within a character."""
        ids = np.ascontiguousarray(tokens, np.uint32)
        size = self._length(_library.rwkv_decode(self._handle, ids.ctypes.data, ids.size, None, 0))
        buffer = ctypes.create_string_buffer(size + 1)
        _library.rwkv_decode(self._handle, ids.ctypes.data, ids.size, buffer, size + 1)
        return buffer.raw[:size]

    def new_state(self) -> State:
        """The state before the first token."""
        return State(self, _library.rwkv_state_new(self._handle))

    def load_state(self, path: str) -> State:
        """A state of this model that was saved."""
        return State(self, _library.rwkv_state_load(self._handle, os.fsencode(path)))

    def read(self, state: State, tokens: Sequence[int] | NDArray[np.uint32]) -> NDArray[np.float32]:
        """Reads tokens into a state; the logits [V] of the token after the last."""
        ids = np.ascontiguousarray(tokens, np.uint32)
        logits = np.empty(self.vocabulary, np.float32)
        if not _library.rwkv_state_eval(
            self._handle, state._handle, ids.ctypes.data, ids.size, logits.ctypes.data, None, None
        ):
            raise _error(self._handle)
        return logits

    def hidden(self) -> NDArray[np.float32]:
        """The hidden vector [D] from which the last logits were made."""
        vector = np.empty(self.embedding, np.float32)
        if not _library.rwkv_get_hidden(self._handle, vector.ctypes.data):
            raise _error(self._handle)
        return vector

    def generate(
        self, state: State, prompt: str, receive: Callable[[str], bool | None], count: int = 256,
        stop: Sequence[str] = (), **options: float,
    ) -> str:
        """Reads a prompt and writes up to `count` tokens; why it ended: length, end, stop or cancelled.

        `receive` gets whole characters and returns False to stop. Options are the fields of rwkv_sampler_options:
        temperature, top_p, top_k, presence_penalty, frequency_penalty, penalty_decay, seed.
        """
        chosen = _Options()
        _library.rwkv_sampler_options_init(chosen)
        for name, value in options.items():
            if not hasattr(chosen, name):
                raise TypeError(f"no sampling option is called {name}")
            setattr(chosen, name, value)
        sampler = _library.rwkv_sampler_new(self._handle, chosen)
        if not sampler:
            raise _error(self._handle)
        failure: list[BaseException] = []

        def call(text: int, length: int, _: object) -> bool:
            try:
                return receive(ctypes.string_at(text, length).decode()) is not False
            except BaseException as error:  # it cannot pass through C
                failure.append(error)
                return False

        data = prompt.encode()
        stops = (ctypes.c_char_p * len(stop))(*[text.encode() for text in stop])
        try:
            end = _library.rwkv_generate(
                self._handle, state._handle, sampler, data, len(data), count, stops, len(stop), _Receive(call), None
            )
        finally:
            _library.rwkv_sampler_free(sampler)
        if failure:
            raise failure[0]
        if _FINISH[end] == "error":
            raise _error(self._handle)
        return _FINISH[end]
