# SPDX-License-Identifier: MIT
"""Models."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._generation import Generation
from ._library import NO_LIMIT, Progress, RWKVError, error, ids, library, text
from ._many import embed_many, generate_many, score_many
from ._objects import Handle, Sampler, State, checked_size, interruptible, is_json
from ._reranking import EmbeddingTask, Ranked, read_documents, rerank
from ._rows import Item, Message, Result, ScoreItem, Text

_Reopening = tuple[str, int | None, int | None, int | None]


def _reopen(options: _Reopening, identity: str) -> Model:
    """A model that was pickled."""
    path, threads, memory_limit, max_context = options
    model = Model(path, threads=threads, memory_limit=memory_limit, max_context=max_context)
    if model.identity != identity:
        raise RWKVError(f"{path} is another model ({model.identity}) than the one that was pickled ({identity})")
    return model


class Model(Handle):
    """A model with the memory and threads to evaluate it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        memory_limit: int | None = None,
        max_context: int | None = None,
        progress: Callable[[float], bool | None] | None = None,
    ) -> None:
        """Opens a file: `.rwkv`, or a checkpoint, which is converted first.

        threads: by default as many as this process may use. memory_limit: the most bytes that the process may use, 0
        for what the machine has left; a model that needs more is read from its file for each token. max_context: of
        RWKV-7b, whose states grow with each token, the most tokens that a state remembers, by default as many as there
        is memory for. progress: gets the share done, from any thread, and returns False to cancel.

        A model pickles as its path, these options and its identity, and is opened again where it is unpickled: workers
        of one machine share the file's memory.

        >>> with Model("model.rwkv", threads=2) as opened:
        ...     print(opened.streamed_size)
        0
        """
        self._reopening: _Reopening = (os.path.abspath(os.fsdecode(path)), threads, memory_limit, max_context)
        limit = NO_LIMIT if memory_limit is None else memory_limit

        def open(report: object) -> int:
            handle: int | None = library.rwkv_open_with_max_context(
                os.fsencode(path), threads or 0, limit, max_context or 0, report, None
            )
            if not handle:
                raise error(None)
            return handle

        self._take(interruptible(progress, open))

    def _take(self, handle: int | None) -> None:
        super().__init__(handle, "", None)
        self.vocabulary: int = library.rwkv_get_n_vocab(handle)
        self.embedding: int = library.rwkv_get_n_embed(handle)
        self.layers: int = library.rwkv_get_n_layer(handle)
        self.heads: int = library.rwkv_get_n_head(handle)

    def clone(self, threads: int) -> Model:
        """Makes another model over the same weights, for another thread.

        >>> model.clone(threads=1).identity == model.identity
        True
        """
        handle = library.rwkv_clone_context(self._handle, threads)
        if not handle:
            raise error(self._handle)
        clone = Model.__new__(Model)
        clone._reopening = (self._reopening[0], threads, *self._reopening[2:])
        clone._take(handle)
        return clone

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[_Reopening, str]]:
        return _reopen, (self._reopening, self.identity)

    @property
    def _threads(self) -> int | None:
        return self._reopening[1]

    @property
    def name(self) -> str:
        """The name of the model, or of its file."""
        return text(self._handle, "get_name").decode()

    @property
    def identity(self) -> str:
        """16 digits that identify the weights. Models with the same digits read each other's states."""
        return text(self._handle, "get_identity").decode()

    @property
    def architecture(self) -> str:
        """The version of the architecture: 4, 5.0, 5.1, 5.2, 6, 7, 7a, 7b or x."""
        return text(self._handle, "get_architecture").decode()

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the file, by key."""
        keys = [text(self._handle, "get_metadata_key", index) for index in range(self._metadata_count())]
        return {key.decode(): text(self._handle, "get_metadata", key).decode() for key in keys}

    def _metadata_count(self) -> int:
        return checked_size(library.rwkv_get_metadata_count(self._handle), self._handle)

    @property
    def weight_size(self) -> int:
        """How many bytes of weights reading one token takes at most."""
        return checked_size(library.rwkv_get_weight_size(self._handle), self._handle)

    @property
    def streamed_size(self) -> int:
        """Bytes of weights that a memory limit leaves in the file, read for each token; 0: all are in memory."""
        return checked_size(library.rwkv_get_streamed_size(self._handle), self._handle)

    # Text

    def encode(self, string: str | bytes) -> NDArray[np.uint32]:
        """Token ids of a text.

        >>> tokens = model.encode("The database")
        >>> tokens.dtype, tokens.ndim
        (dtype('uint32'), 1)
        """
        data = string.encode() if isinstance(string, str) else string
        if not isinstance(data, bytes):
            raise TypeError(f"expected a text, not {type(data).__name__}")
        # No tokenizer makes more tokens than bytes, but for a few at the borders of words.
        tokens = np.empty(len(data) + 8, np.uint32)
        while True:
            written: int = library.rwkv_encode(self._handle, data, len(data), tokens.ctypes.data, tokens.size)
            count = checked_size(written, self._handle)
            if count <= tokens.size:
                return np.array(tokens[:count])
            tokens = np.empty(count, np.uint32)

    def decode(self, tokens: ArrayLike) -> bytes:
        """The bytes of tokens, which may start or end within a character.

        >>> model.decode(model.encode("naïve")).decode()
        'naïve'
        """
        list = ids(tokens)
        return text(self._handle, "decode", list.ctypes.data, list.size)

    # States

    def new_state(self) -> State:
        """The state before the first token.

        >>> state = model.new_state()
        >>> logits = model.read(state, model.encode("The database"))
        """
        return State(self, library.rwkv_state_new(self._handle))

    def load_state(self, source: str | os.PathLike[str] | bytes) -> State:
        """A state of this model that was saved: a path, or the bytes of `State.to_bytes`.

        >>> state = model.new_state()
        >>> data = state.to_bytes(tokens=[0])
        >>> model.load_state(data).tokens.tolist()
        [0]
        """
        if isinstance(source, bytes):
            return State(self, library.rwkv_state_load_memory(self._handle, source, len(source)))
        return State(self, library.rwkv_state_load(self._handle, os.fsencode(source)))

    # Evaluation

    def read(
        self, state: State, tokens: ArrayLike, progress: Callable[[float], bool | None] | None = None
    ) -> NDArray[np.float32]:
        """Reads tokens into a state, and returns the logits [V] of the token after the last.

        >>> logits = model.read(model.new_state(), model.encode("The database"))
        >>> logits.shape == (model.vocabulary,)
        True
        """
        list, logits = ids(tokens), np.empty(self.vocabulary, np.float32)

        def read(report: object) -> bool:
            good: bool = library.rwkv_state_eval(
                self._handle, state._handle, list.ctypes.data, list.size, logits.ctypes.data, report, None
            )
            return good

        # One token is read at once, without a thread.
        good = interruptible(progress, read) if list.size > 1 or progress else read(Progress())
        return self._checked(good, logits)

    def read_each(
        self, state: State, tokens: ArrayLike, progress: Callable[[float], bool | None] | None = None
    ) -> NDArray[np.float32]:
        """Reads tokens into a state, and returns the logits [T, V] after each of them.

        >>> model.read_each(model.new_state(), [0, 1, 2]).shape == (3, model.vocabulary)
        True
        """
        list = ids(tokens)
        logits = np.empty((list.size, self.vocabulary), np.float32)
        arguments = (self._handle, state._handle, list.ctypes.data, list.size, logits.ctypes.data)
        good = interruptible(progress, lambda report: bool(library.rwkv_state_eval_each(*arguments, report, None)))
        return self._checked(good, logits)

    def read_vectors(self, state: State, vectors: ArrayLike) -> NDArray[np.float32]:
        """Reads vectors [T, D] in place of rows of the embedding table, such as an encoder of images or sound makes.

        >>> vectors = np.zeros((4, model.embedding), np.float32)
        >>> logits = model.read_vectors(model.new_state(), vectors)
        """
        values = np.ascontiguousarray(vectors, np.float32)
        if values.ndim != 2 or values.shape[1] != self.embedding:
            raise ValueError(f"vectors have shape {values.shape}, expected [T, {self.embedding}]")
        logits = np.empty(self.vocabulary, np.float32)
        good = library.rwkv_state_eval_vectors(
            self._handle, state._handle, values.ctypes.data, len(values), logits.ctypes.data
        )
        return self._checked(good, logits)

    def read_batch(self, states: Sequence[State], tokens: ArrayLike) -> NDArray[np.float32]:
        """Reads a token into each of up to 64 states, with one pass over the weights, and returns the logits [n, V].

        >>> states = [model.new_state() for _ in range(3)]
        >>> model.read_batch(states, [1, 2, 3]).shape == (3, model.vocabulary)
        True
        """
        list, logits = ids(tokens), np.empty((len(states), self.vocabulary), np.float32)
        if list.size != len(states):
            raise ValueError(f"{list.size} tokens for {len(states)} states")
        handles = (ctypes.c_void_p * len(states))(*[state._handle for state in states])
        good = library.rwkv_eval_batch(self._handle, handles, list.ctypes.data, len(states), logits.ctypes.data)
        return self._checked(good, logits)

    def hidden(self) -> NDArray[np.float32]:
        """The hidden vector [D] from which the last logits were made: an embedding of what was read.

        >>> logits = model.read(model.new_state(), model.encode("The database"))
        >>> model.hidden().shape == (model.embedding,)
        True
        """
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
        stop: str | Sequence[str] | None = None,
        sampler: Sampler | None = None,
        bias: dict[int, float] | None = None,
        **options: Any,
    ) -> Generation:
        """Reads a prompt and writes up to `max_tokens` tokens after it, piece by piece.

        state: what the prompt continues; it is advanced. Without one the text starts from nothing. The prompt may be
        empty if this model read or wrote something with this state last. stop: a text, or several, that end the
        generation and are not part of it; None: those that the model's file has. Options: those of `Sampler`, or a
        sampler that goes on from one call to the next.

        >>> pieces = model.generate("The database", max_tokens=20, temperature=0.8, seed=1, stop="\\n\\n")
        >>> "".join(pieces) == pieces.text
        True
        """
        if sampler is not None and (options or bias):
            raise TypeError("give a sampler or its options, not both")
        chooser = sampler or Sampler(self, bias, **options)
        tokens = self.encode(prompt)
        return Generation(self, state or self.new_state(), chooser, tokens, max_tokens, self._stops(stop))

    def chat(
        self,
        messages: Sequence[Message],
        *,
        template: str | None = None,
        thinking: str | None = None,
        max_tokens: int = 1024,
        stop: str | Sequence[str] = (),
        **options: Any,
    ) -> Generation:
        """Answers messages like `{"role": "user", "content": "…"}`, with roles system, user, assistant and tool.

        template: a template's name (g1, bot, tools, world, raven, none), or the text of one; by default the one that
        the model was most likely trained with. thinking: a way of answering that the template knows (off, on, short,
        long, fake). If the last message is the assistant's, the answer goes on from there. Options: those of
        `generate`. `Session` keeps what it has read from one message to the next.

        >>> answer = model.chat([{"role": "user", "content": "What is a hash table?"}], max_tokens=20)
        >>> text = "".join(answer)
        >>> answer.finish_reason in ("length", "end", "stop")
        True
        """
        prompt, ends = self._conversation(messages, template, thinking)
        options |= {"max_tokens": max_tokens, "stop": stop}
        return self._continue(self.new_state(), self.encode(prompt), ends, template, options)

    def apply_template(
        self, messages: Sequence[Message], template: str | None = None, thinking: str | None = None
    ) -> str:
        """The text that `chat` lets the model read.

        >>> model.apply_template([{"role": "user", "content": "Hello"}], template="g1")
        'User: Hello\\n\\nAssistant:'
        """
        return self._conversation(messages, template, thinking)[0].decode()

    def _conversation(
        self, messages: Sequence[Message], template: str | None = None, thinking: str | None = None
    ) -> tuple[bytes, list[bytes]]:
        """The text of a conversation, and what ends an answer."""
        count = len(messages)
        roles, contents = (
            (ctypes.c_char_p * count)(*[message[key].encode() for message in messages]) for key in ("role", "content")
        )
        name = None if template is None else template.encode()
        way = None if thinking is None else thinking.encode()
        prompt = text(self._handle, "apply_template", name, way, roles, contents, count)
        return prompt, self._template_stops(name)

    def _template_stops(self, name: bytes | None) -> list[bytes]:
        """Those of the template, and those that the model's file has."""
        stops = checked_size(library.rwkv_get_template_stop_count(self._handle, name), self._handle)
        return [text(self._handle, "get_template_stop", name, index) for index in range(stops)]

    def _stops(self, stop: str | Sequence[str] | None) -> list[bytes]:
        """What ends a text outside of conversations. None: what the model's file has."""
        if stop is None:
            return self._template_stops(b"none")
        return [text.encode() for text in ([stop] if isinstance(stop, str) else stop)]

    def _continue(
        self,
        state: State,
        tokens: NDArray[np.uint32],
        ends: list[bytes],
        template: str | None,
        options: dict[str, Any],
    ) -> Generation:
        """Writes an answer with the options of `generate`."""
        stop, bias = options.pop("stop", ()), options.pop("bias", None)
        stops = self._stops(stop or ()) + ([] if is_json(options) else ends)
        limit = options.pop("max_tokens", 1024)
        chooser = options.pop("sampler", None) or Sampler(self, bias, template=template or "", **options)
        return Generation(self, state, chooser, tokens, limit, stops)

    # One text, and many

    def score(self, item: ScoreItem) -> Result:
        """How likely the model finds a text, or a text after a context (a pair): `logprobs` of its tokens.

        Both are read from an empty state, after token 0, which begins a document. They may also be token ids; then
        nothing is added before a context.

        >>> result = model.score(("The capital of France is", " Paris"))
        >>> result.text, result.logprob < 0
        (' Paris', True)
        """
        return next(self.score_many([item])).raised()

    @property
    def max_context(self) -> int | None:
        """How many tokens a state of RWKV-7b remembers at most; None in all other versions, without such a limit.

        >>> print(model.max_context)
        None
        """
        return library.rwkv_get_max_context(self._handle) or None

    def embed(
        self, string: str | bytes, *, task: EmbeddingTask | None = None, normalize: bool = True
    ) -> NDArray[np.float32]:
        """Makes a vector [D] of length 1 of a text, as `rwkv-run embed` does. Dot products tell how alike texts are.

        task: what an embedding model (EmbeddingRWKV) makes it for, by default retrieval; other models have no tasks.
        normalize: False leaves the vector as the model makes it, of any length.

        >>> model.embed("a table").shape == (model.embedding,)
        True
        """
        vector = next(self.embed_many([string], task=task, normalize=normalize)).raised().vector
        assert vector is not None
        return vector

    def read_documents(self, documents: Sequence[str | bytes]) -> list[State]:
        """Reads texts with an embedding model, and returns a state for each, for `rerank`. Save them as any state.

        >>> embedder = Model("embedder.rwkv")
        >>> embedder.read_documents(["Bees dance."])[0].save("bees.state")
        """
        return read_documents(self, documents)

    def rerank(self, reranker: Model, query: str | bytes, documents: Sequence[str | bytes | State]) -> list[Ranked]:
        """Sorts documents by how well they answer a query, as `rwkv-run rerank` does: `index` and `score` of each.

        Call it on the embedding model that the reranker was trained with. documents: texts, or what `read_documents`
        made of them; then a query costs its own tokens only, and the scores are the same.

        >>> embedder, reranker = Model("embedder.rwkv"), Model("reranker.rwkv")
        >>> documents = ["Bees dance to show where flowers are.", "Concrete hardens."]
        >>> ranked = embedder.rerank(reranker, "How do bees share food?", documents)
        >>> sorted(document.index for document in ranked)
        [0, 1]
        """
        return rerank(self, reranker, query, documents)

    def generate_many(
        self,
        items: Iterable[Item],
        *,
        seeds: Iterable[int] | None = None,
        max_rows: int = 16,
        ordered: bool = True,
        progress: bool = False,
        max_tokens: int = 256,
        logprobs: bool = True,
        **options: Any,
    ) -> Iterator[Result]:
        """Goes on with many prompts at the same time. Each text is the one that `generate` alone would write.

        items: prompts; lists of messages, as `chat` takes them; or mappings with `prompt` or `messages` and options
        for this row alone. They may be endless: a row is taken when a place is free. seeds: one for each row; by
        default `seed` (0) and upwards. max_rows: texts that are written at the same time, 64 at most. ordered: results
        come in the order of the items, otherwise as they finish. progress: shows tqdm's bar, where that is installed.
        logprobs: whether results have those of their tokens. Options: those of `generate`, for all rows.

        A row that cannot be written has an `error` and the others go on. Leaving the loop ends everything.

        >>> rows = ["The database", {"prompt": "A function", "max_tokens": 5}]
        >>> for result in model.generate_many(rows, max_tokens=10, seeds=[1, 2]):
        ...     print(result.index, result.error, len(result.tokens) <= 10)
        0 None True
        1 None True
        """
        options |= {"max_tokens": max_tokens, "logprobs": logprobs}
        return generate_many(self, items, seeds, max_rows, ordered, progress, options)

    def score_many(
        self,
        items: Iterable[ScoreItem],
        *,
        seeds: Iterable[int] | None = None,
        max_rows: int = 16,
        ordered: bool = True,
        progress: bool = False,
    ) -> Iterator[Result]:
        """Scores many texts as `score` does. What their contexts share is read once.

        Arguments: as those of `generate_many`. Nothing is drawn here, so `seeds` change nothing.

        >>> choices = [("The capital of France is", city) for city in (" Paris", " Rome")]
        >>> likely = max(model.score_many(choices), key=lambda result: result.logprob)
        >>> likely.text in (" Paris", " Rome")
        True
        """
        return score_many(self, items, seeds, max_rows, ordered, progress)

    def embed_many(
        self,
        items: Iterable[Text],
        *,
        task: EmbeddingTask | None = None,
        normalize: bool = True,
        seeds: Iterable[int] | None = None,
        max_rows: int = 16,
        ordered: bool = True,
        progress: bool = False,
    ) -> Iterator[Result]:
        """Makes vectors of many texts, as `embed` does: `vector` of each result.

        Other arguments: as those of `generate_many`. Nothing is drawn here, so `seeds` change nothing.

        >>> vectors = np.stack([result.vector for result in model.embed_many(["one", "two", "three"])])
        >>> alike = vectors @ vectors.T
        """
        return embed_many(self, items, task, normalize, seeds, max_rows, ordered, progress)
