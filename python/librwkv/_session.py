# SPDX-License-Identifier: MIT
"""Conversations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ._generation import Generation

if TYPE_CHECKING:
    from ._model import Model
    from ._objects import State


class Session:
    """A conversation with a model, which reads each message once.

        with Model("model.rwkv") as model:
            talk = Session(model, system="Answer briefly.")
            print("".join(talk.send("What is a hash table?")))
            print("".join(talk.send("Why is it fast?")))

    template: the name of a template, or the text of one; by default the one that the model was most likely trained
    with.
    """

    def __init__(self, model: Model, system: str | None = None, template: str | None = None) -> None:
        self.model, self.template = model, template
        self._messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        self._state: State = model.new_state()
        self._read = b""
        self._answer: Generation | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was said so far, the last answer as far as it has been written."""
        if self._answer is None:
            return list(self._messages)
        return [*self._messages, {"role": "assistant", "content": self._answer.text.strip()}]

    def send(self, message: str, thinking: str | None = None, **options: Any) -> Generation:
        """Reads a message and answers, piece by piece. Options: those of `Model.generate`.

        >>> talk = Session(model)
        >>> answer = "".join(talk.send("Hello", max_tokens=10, seed=1))
        >>> [message["role"] for message in talk.messages]
        ['user', 'assistant']
        """
        if self._answer is not None:
            self._answer.close()
        self._messages = [*self.messages, {"role": "user", "content": message}]
        self._answer = None
        text, stops = self.model._conversation(self._messages, self.template, thinking)
        if not text.startswith(self._read):
            self._state, self._read = self.model.new_state(), b""
        tokens = self.model.encode(text[len(self._read) :])
        # The answer is read again with the next message, as the template writes it.
        if tokens.size > 1:
            self.model.read(self._state, tokens[:-1])
        self._read = text[: len(text) - len(self.model.decode(tokens[-1:]))]
        self._answer = self.model._continue(self._state.copy(), tokens[-1:], stops, self.template, options)
        return self._answer

    def fork(self) -> Session:
        """An independent conversation that goes on from here.

        >>> talk = Session(model, system="Answer briefly.")
        >>> other = talk.fork()
        >>> answer = "".join(other.send("Hello", max_tokens=10))
        >>> len(talk.messages), len(other.messages)
        (1, 3)
        """
        fork = Session(self.model, template=self.template)
        fork._messages, fork._state, fork._read = self.messages, self._state.copy(), self._read
        return fork

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state to a file. `rwkv-run chat --load-state` goes on from it.

        >>> talk = Session(model)
        >>> answer = "".join(talk.send("Hello", max_tokens=10))
        >>> talk.save("talk.state")
        """
        self._state.save(path, self.model.encode(self._read))
