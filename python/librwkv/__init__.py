"""RWKV language models on CPUs: librwkv for Python, with NumPy arrays in and out.

    from librwkv import Model

    model = Model("model.rwkv")
    state = model.new_state()
    for piece in model.generate("The database", state, max_tokens=100, temperature=0.8, seed=1):
        print(piece, end="", flush=True)
    state.save("talk.state")

Logits and hidden vectors are float32 arrays. A model does one thing at a time; `clone` makes another one over the same
weights for another thread. States and samplers belong to the model that made them. All of them are freed with their last
reference, by `close`, or at the end of a `with`. Ctrl-C cancels what a model is doing.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._library import FAILED, Progress, Receive, RWKVError, error, ids, library, text

__all__ = ["Generation", "Model", "RWKVError", "Sampler", "State", "quantize"]
__version__ = "{}.{}.{}".format(*(library.rwkv_version_number() // 1000**place % 1000 for place in (2, 1, 0)))

Self = TypeVar("Self")
Result = TypeVar("Result")
FinishReason = Literal["length", "end", "stop", "cancelled"]
_FINISH: list[FinishReason] = ["length", "end", "stop", "cancelled"]


class _Handle:
    """An object of the library, freed with the Python object."""

    def __init__(self, handle: int | None, kind: str, context: int | None) -> None:
        if not handle:
            raise error(context)
        self._handle: int = handle
        self._free: Callable[[int], None] = getattr(library, f"rwkv_{kind}free")

    def close(self) -> None:
        """Frees it now; using it afterwards is an error. What was made from it stays usable."""
        if hasattr(self, "_free"):
            self._free(self._handle)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class State(_Handle):
    """What a model remembers of the tokens it has read. Made by `Model.new_state` and `Model.load_state`."""

    def __init__(self, model: Model, handle: int | None) -> None:
        super().__init__(handle, "state_", model._handle)
        self._model = model

    def copy(self) -> State:
        """An independent copy: a fork of the conversation."""
        return State(self._model, library.rwkv_state_clone(self._handle))

    def reset(self) -> None:
        """Forgets everything."""
        if not library.rwkv_state_reset(self._handle):
            raise error(None)

    @property
    def nbytes(self) -> int:
        """Memory it takes now [bytes]; only RWKV-X's grow."""
        return _size(library.rwkv_state_get_size(self._handle), None)

    @property
    def tokens(self) -> NDArray[np.uint32]:
        """The tokens it was saved with; none if it was not loaded."""
        tokens = np.empty(_size(library.rwkv_state_get_tokens(self._handle, None, 0), None), np.uint32)
        library.rwkv_state_get_tokens(self._handle, tokens.ctypes.data, tokens.size)
        return tokens

    def save(self, path: str | os.PathLike[str], tokens: ArrayLike = ()) -> None:
        """Writes a file that appears complete or not at all, with the tokens that led here if they are given."""
        list = ids(tokens)
        if not library.rwkv_state_save(self._handle, os.fsencode(path), list.ctypes.data, list.size):
            raise error(None)

    def to_bytes(self, tokens: ArrayLike = ()) -> bytes:
        """The same as `save`, to memory."""
        list = ids(tokens)
        size = _size(library.rwkv_state_save_memory(self._handle, list.ctypes.data, list.size, None, 0), None)
        buffer = ctypes.create_string_buffer(size)
        library.rwkv_state_save_memory(self._handle, list.ctypes.data, list.size, buffer, size)
        return buffer.raw


class Sampler(_Handle):
    """Chooses tokens from logits.

    Options: temperature (1.0; 0 always takes the most likely token), top_p (0.85), top_k (0: no limit), min_p (0),
    presence_penalty (0.2), frequency_penalty (0.2), penalty_decay (0.996), seed (0), only_json (0; 1: one JSON
    object or array and nothing else). bias: what is added to the logits
    of single tokens; -inf bans.
    """

    def __init__(self, model: Model, bias: dict[int, float] | None = None, **options: float) -> None:
        super().__init__(library.rwkv_sampler_new(model._handle, None), "sampler_", model._handle)
        for name, value in options.items():
            if not library.rwkv_sampler_set(self._handle, name.encode(), value):
                raise error(None)
        for token, value in (bias or {}).items():
            if not library.rwkv_sampler_set_bias(self._handle, token, value):
                raise error(None)

    def sample(self, logits: ArrayLike) -> int:
        """Chooses a token by its logits [V] and remembers it for the penalties."""
        values = np.ascontiguousarray(logits, np.float32)
        token = ctypes.c_uint32()
        if not library.rwkv_sampler_sample(self._handle, values.ctypes.data, values.size, ctypes.byref(token)):
            raise error(None)
        return token.value

    def reset(self) -> None:
        """Forgets the tokens written so far. The random numbers go on."""
        if not library.rwkv_sampler_reset(self._handle):
            raise error(None)


class _Writer:
    """The library's side of a generation. It calls back; here it does so from a thread of its own, which waits while
    nobody asks for the next piece."""

    def __init__(self, vocabulary: int) -> None:
        self.logits = np.empty(vocabulary, np.float32)
        self.wanted, self.ready = threading.Semaphore(0), threading.Semaphore(0)
        self.goes_on = True
        self.piece: str | None = None
        self.error: RWKVError | None = None
        self.finish_reason: FinishReason | None = None

    def run(self, context: int, state: int, tokens: NDArray[np.uint32], *arguments: object) -> None:
        self.wanted.acquire()
        if self.goes_on:
            # Read here, where `close` can end it, not by the generation.
            read = tokens.size == 0 or library.rwkv_state_eval(
                context, state, tokens.ctypes.data, tokens.size, self.logits.ctypes.data, Progress(self.reads_on), None
            )
            end = library.rwkv_generate(context, state, *arguments, Receive(self.receive), None) if read else 0
            if end == 0 and not self.goes_on:
                self.finish_reason = "cancelled"
            elif end == 0:
                self.error = error(context)
            else:
                self.finish_reason = _FINISH[end - 1]
        self.ready.release()

    def reads_on(self, _done: float, _: object) -> bool:
        return self.goes_on

    def receive(self, address: int, length: int, _: object) -> bool:
        self.piece = ctypes.string_at(address, length).decode()
        self.ready.release()
        self.wanted.acquire()
        return self.goes_on


class Generation(Iterator[str]):
    """Text that is being written, piece by piece; every piece is whole characters.

    The state has read exactly the tokens whose text was handed out. A generation that is left early ends with its last
    reference, or by `close`.
    """

    def __init__(self, model: Model, state: State, sampler: Sampler, prompt: bytes, limit: int, stops: list[bytes]):
        self._held = (model, state, sampler)
        self._writer = _Writer(model.vocabulary)
        strings = (ctypes.c_char_p * len(stops))(*stops)
        tokens = model.encode(prompt)
        arguments = (model._handle, state._handle, tokens, sampler._handle, None, 0, limit, strings, len(stops))
        self._thread = threading.Thread(target=self._writer.run, args=arguments, daemon=True)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the text ended: at the wanted length, at the end of the document, at a stop text, or by `close`."""
        return self._writer.finish_reason

    def __next__(self) -> str:
        writer = self._writer
        if self._thread.ident is None and writer.goes_on:
            self._thread.start()
        if writer.goes_on and self._thread.is_alive():
            writer.piece = None
            writer.wanted.release()
            writer.ready.acquire()
            if writer.piece is not None:
                return writer.piece
            self._thread.join()
        failure, writer.error = writer.error, None
        if failure:
            raise failure
        raise StopIteration

    def close(self) -> None:
        """Ends the text here, so that the model and the state can be used for something else."""
        self._writer.goes_on = False
        if self._thread.is_alive():
            self._writer.wanted.release()
            self._thread.join()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self.close()


class Model(_Handle):
    """A model with the memory and threads to evaluate it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int = 0,
        memory_limit: int | None = None,
        progress: Callable[[float], bool | None] | None = None,
    ) -> None:
        """Opens a file: `.rwkv`, or a checkpoint, which is converted first.

        threads: 0 for as many as this process may use. memory_limit: the most bytes that the process may use, 0 for
        what the machine has left; a model that needs more is read from its file for each token. progress: gets the
        share done, from any thread, and returns False to cancel.
        """

        def open(report: object) -> int:
            handle: int | None = (
                library.rwkv_open(os.fsencode(path), threads, report, None)
                if memory_limit is None
                else library.rwkv_open_with_memory_limit(os.fsencode(path), threads, memory_limit, report, None)
            )
            if not handle:
                raise error(None)
            return handle

        self._take(_interruptible(progress, open))

    def _take(self, handle: int | None) -> None:
        super().__init__(handle, "", None)
        self.vocabulary: int = library.rwkv_get_n_vocab(handle)
        self.embedding: int = library.rwkv_get_n_embed(handle)
        self.layers: int = library.rwkv_get_n_layer(handle)
        self.heads: int = library.rwkv_get_n_head(handle)

    def clone(self, threads: int) -> Model:
        """Another model over the same weights, for another thread."""
        handle = library.rwkv_clone_context(self._handle, threads)
        if not handle:
            raise error(self._handle)
        clone = Model.__new__(Model)
        clone._take(handle)
        return clone

    @property
    def name(self) -> str:
        """The name of the model, or of its file."""
        return text(self._handle, "get_name").decode()

    @property
    def architecture(self) -> str:
        """Version of the architecture: 4, 5.0, 5.1, 5.2, 6, 7 or x."""
        return text(self._handle, "get_architecture").decode()

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        keys = [text(self._handle, "get_metadata_key", index) for index in range(self._metadata_count())]
        return {key.decode(): text(self._handle, "get_metadata", key).decode() for key in keys}

    def _metadata_count(self) -> int:
        return _size(library.rwkv_get_metadata_count(self._handle), self._handle)

    @property
    def weight_size(self) -> int:
        """Bytes of weights that reading one token can touch."""
        return _size(library.rwkv_get_weight_size(self._handle), self._handle)

    @property
    def streamed_size(self) -> int:
        """Those of them that a memory limit keeps in the file; 0: all are in memory."""
        return _size(library.rwkv_get_streamed_size(self._handle), self._handle)

    # Text

    def encode(self, string: str | bytes) -> NDArray[np.uint32]:
        """Token ids of a text."""
        data = string.encode() if isinstance(string, str) else string
        tokens = np.empty(_size(library.rwkv_encode(self._handle, data, len(data), None, 0), self._handle), np.uint32)
        library.rwkv_encode(self._handle, data, len(data), tokens.ctypes.data, tokens.size)
        return tokens

    def decode(self, tokens: ArrayLike) -> bytes:
        """The bytes of tokens, which may start or end within a character."""
        list = ids(tokens)
        return text(self._handle, "decode", list.ctypes.data, list.size)

    # States

    def new_state(self) -> State:
        """The state before the first token."""
        return State(self, library.rwkv_state_new(self._handle))

    def load_state(self, source: str | os.PathLike[str] | bytes) -> State:
        """A state of this model that was saved: a path, or the bytes of `State.to_bytes`."""
        if isinstance(source, bytes):
            return State(self, library.rwkv_state_load_memory(self._handle, source, len(source)))
        return State(self, library.rwkv_state_load(self._handle, os.fsencode(source)))

    # Evaluation

    def read(
        self, state: State, tokens: ArrayLike, progress: Callable[[float], bool | None] | None = None
    ) -> NDArray[np.float32]:
        """Reads tokens into a state; the logits [V] of the token after the last."""
        list, logits = ids(tokens), np.empty(self.vocabulary, np.float32)

        def read(report: object) -> bool:
            good: bool = library.rwkv_state_eval(
                self._handle, state._handle, list.ctypes.data, list.size, logits.ctypes.data, report, None
            )
            return good

        # One token is read at once, without a thread.
        good = _interruptible(progress, read) if list.size > 1 or progress else read(Progress())
        return self._checked(good, logits)

    def read_vectors(self, state: State, vectors: ArrayLike) -> NDArray[np.float32]:
        """Reads vectors [T, D] in place of rows of the embedding table: what an encoder of images or sound made."""
        values = np.ascontiguousarray(vectors, np.float32)
        if values.ndim != 2 or values.shape[1] != self.embedding:
            raise ValueError(f"vectors have shape {values.shape}, expected [T, {self.embedding}]")
        logits = np.empty(self.vocabulary, np.float32)
        good = library.rwkv_state_eval_vectors(
            self._handle, state._handle, values.ctypes.data, len(values), logits.ctypes.data
        )
        return self._checked(good, logits)

    def read_batch(self, states: Sequence[State], tokens: ArrayLike) -> NDArray[np.float32]:
        """Reads one token into each of up to 64 states, with one pass over the weights; their logits [n, V]."""
        list, logits = ids(tokens), np.empty((len(states), self.vocabulary), np.float32)
        if list.size != len(states):
            raise ValueError(f"{list.size} tokens for {len(states)} states")
        handles = (ctypes.c_void_p * len(states))(*[state._handle for state in states])
        good = library.rwkv_eval_batch(self._handle, handles, list.ctypes.data, len(states), logits.ctypes.data)
        return self._checked(good, logits)

    def hidden(self) -> NDArray[np.float32]:
        """The hidden vector [D] from which the last logits were made: an embedding of what was read."""
        vector = np.empty(self.embedding, np.float32)
        return self._checked(library.rwkv_get_hidden(self._handle, vector.ctypes.data), vector)

    def _checked(self, good: bool, result: NDArray[np.float32]) -> NDArray[np.float32]:
        if not good:
            raise error(self._handle)
        return result

    # Generation

    def generate(
        self,
        prompt: str | bytes = "",
        state: State | None = None,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        sampler: Sampler | None = None,
        bias: dict[int, float] | None = None,
        **options: float,
    ) -> Generation:
        """Reads a prompt and writes up to `max_tokens` tokens after it, piece by piece.

        state: what the prompt continues; it is advanced. Without one the text starts from nothing. The prompt may be
        empty if this model read or wrote something with this state last. stop: a text, or several, that end the generation and
        are not part of it. Options: those of `Sampler`, or a sampler that goes on from one call to the next.
        """
        if sampler is not None and (options or bias):
            raise TypeError("give a sampler or its options, not both")
        data = prompt.encode() if isinstance(prompt, str) else prompt
        stops = [stop] if isinstance(stop, str) else stop
        chooser = sampler or Sampler(self, bias, **options)
        return Generation(self, state or self.new_state(), chooser, data, max_tokens, [text.encode() for text in stops])


def quantize(source: str | os.PathLike[str], destination: str | os.PathLike[str], type: str = "int4") -> None:
    """Converts a checkpoint, or a `.rwkv` file of type FP32 or FP16, into a `.rwkv` file, which replaces an existing one
    when it is complete. type: int4, int5, int8, FP16 or FP32."""
    if not library.rwkv_quantize_model_file(os.fsencode(source), os.fsencode(destination), type.encode()):
        raise error(None)


def _size(size: int, context: int | None) -> int:
    if size == FAILED:
        raise error(context)
    return size


def _interruptible(progress: Callable[[float], bool | None] | None, call: Callable[[object], Result]) -> Result:
    """Runs `call(report)` in a thread and waits for it, so that Ctrl-C is noticed: it cancels at the next report.

    `report` is a C function that calls `progress`. Its exception cannot pass through C: it cancels too, and is raised
    afterwards.
    """
    goes_on = True
    results: list[Result] = []
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
    thread.start()
    try:
        thread.join()
    except BaseException:
        goes_on = False
        thread.join()
        raise
    if failures:
        raise failures[0]
    return results[0]
