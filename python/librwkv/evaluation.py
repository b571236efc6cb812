# SPDX-License-Identifier: MIT
"""Models for EleutherAI's lm-evaluation-harness, under the name `rwkv`.

    python -m librwkv lm_eval --model_args path=model.rwkv --tasks lambada_openai

passes everything on to lm-eval. What the contexts of requests share is read once.
"""

from __future__ import annotations

import inspect
import logging
import sys
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ._model import Model
from ._objects import SAMPLING
from ._rows import MOST_ROWS

_LENGTHS = {"max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"}
_UNDERSTOOD = {*SAMPLING, *_LENGTHS, "until", "do_sample"}
_MEANINGLESS = {
    "dtype": "a model's file has its types; rwkv-quantize makes others",
    "tokenizer": "a model's file has its vocabulary; rwkv-quantize --tokenizer gives it another",
}

_log = logging.getLogger("lm_eval.rwkv")


@register_model("rwkv")
class RWKV(TemplateLM):  # type: ignore[misc]
    """A model for lm-eval.

    path (or pretrained): the file. threads, memory_limit: as for `librwkv.Model`. max_rows, or a batch_size above 1:
    how many texts are read at the same time, at most 64; it changes only the speed. add_bos_token: whether token 0
    begins every context, as it begins documents in training; where there is no context at all (rolling, empty contexts)
    lm-eval wants it in any case. max_length: how many earlier tokens a prediction may use, by default all. Longer
    contexts lose their beginning; longer texts (rolling) are read in windows, as other models of lm-eval do.
    max_gen_toks: tokens to write where a task does not say. device: ignored; it is always the CPU. Anything else is an
    error.
    """

    def __init__(
        self,
        path: str | None = None,
        pretrained: str | None = None,
        threads: int | None = None,
        memory_limit: int | None = None,
        max_rows: int | None = None,
        add_bos_token: bool = True,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        for name in others:
            known = list(inspect.signature(RWKV).parameters)[:-1]
            reason = _MEANINGLESS.get(name, f"there are {', '.join(known)}")
            raise ValueError(f"--model_args {name}=… has no meaning for rwkv: {reason}")
        file = path or pretrained
        if file is None:
            raise ValueError("--model_args path=MODEL is missing")
        if device not in (None, "cpu"):
            _log.info("rwkv runs on the CPU; device %s, which may be lm-eval's own default, changes nothing", device)
        if not isinstance(add_bos_token, bool):
            raise ValueError(f"add_bos_token is {add_bos_token!r}, expected True or False")
        self.model = Model(file, threads=threads, memory_limit=memory_limit)
        self.max_rows, self.max_gen_toks = _rows(max_rows, batch_size, max_batch_size), int(max_gen_toks)
        self.adds_bos, self.max_length = add_bos_token, None if max_length is None else int(max_length)
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length is {max_length}, expected 1 or more")

    @property
    def eot_token_id(self) -> int:
        return 0

    @property
    def tokenizer_name(self) -> str:
        return self.model.metadata.get("tokenizer.kind", "rwkv") + self._template

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        tokens: list[int] = self.model.encode(string).tolist()
        return tokens

    _template = ""
    """The one that was asked for; empty: the model's own."""

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Chooses the template of `apply_chat_template`, whose name this returns."""
        self._template = chat_template if isinstance(chat_template, str) else ""
        return self._template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.model.apply_template(chat_history, template=self._template or None)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        self._remark(any(context == "" for (context, _), _, _ in requests))
        # Neighbours in this order share most of their contexts.
        order = sorted(range(len(requests)), key=lambda index: requests[index][1])
        items = [self._item(requests[index][1], requests[index][2]) for index in order]
        answers = [(0.0, False)] * len(requests)
        results = self.model.score_many(items, max_rows=self.max_rows, progress=not disable_tqdm)
        for index, result in zip(order, results):
            result.raised()
            answers[index] = (result.logprob, bool(result.is_greedy))
        return answers

    def _item(self, context: list[int], text: list[int]) -> tuple[list[int], list[int]]:
        """A context and a text as they are read: after token 0, and within `max_length`."""
        if self.adds_bos and context[:1] != [0]:
            context = [0, *context]
        if self.max_length is not None:
            # The last token is only predicted, not read.
            room = self.max_length + 1 - len(text)
            if room < 1:
                raise ValueError(f"max_length is {self.max_length}, but a text to score has {len(text)} tokens")
            context = context[-room:]
        return context, text

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        self._remark(bool(requests))
        windows = [self._windows(request.args[0]) for request in requests]
        items = [window for text in windows for window in text]
        results = self.model.score_many(items, max_rows=self.max_rows, progress=not disable_tqdm)
        return [sum(next(results).raised().logprob for _ in text) for text in windows]

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """The parts of a text that are scored, each after what is read before it."""
        tokens = self.tok_encode(text)
        if self.max_length is None:
            return [([0], tokens)] if tokens else []
        windows = get_rolling_token_windows(tokens, prefix_token=0, max_seq_len=self.max_length, context_len=1)
        return [make_disjoint_window(window) for window in windows]

    def _remark(self, lack_context: bool) -> None:
        if lack_context and not self.adds_bos:
            _log.warning("add_bos_token=False: what has no context begins with token 0 all the same, as lm-eval asks")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        ignored = sorted({name for request in requests for name in request.args[1]} - _UNDERSTOOD)
        if ignored:
            _log.warning("generation_kwargs that rwkv does not know are ignored: %s", ", ".join(ignored))
        self._remark(any(request.args[0] == "" for request in requests))
        rows = [self._row(*request.args) for request in requests]
        results = self.model.generate_many(rows, max_rows=self.max_rows, logprobs=False, progress=not disable_tqdm)
        return [result.raised().text for result in results]

    def _row(self, context: str, given: dict[str, Any]) -> dict[str, Any]:
        """A row of `generate_many`. The harness's default is greedy, without penalties."""
        options = normalize_gen_kwargs(given, self.max_gen_toks)
        row: dict[str, Any] = {"temperature": 0, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
        row |= {key: options[key] for key in SAMPLING if options.get(key) is not None}
        limit, prompt = options["max_gen_toks"], [0] * self.adds_bos + self.tok_encode(context)
        if self.max_length is not None:
            if limit >= self.max_length:
                raise ValueError(f"max_length is {self.max_length}, but {limit} tokens are to be written")
            prompt = prompt[limit - self.max_length :]
        return row | {"prompt": prompt or [0], "max_tokens": limit, "stop": options["until"]}


def _rows(max_rows: int | None, batch_size: int | str | None, most: int | None) -> int:
    """Texts at a time. lm-eval's batch_size is 1 where nothing was said, or may be "auto"."""
    if max_rows is not None:
        return int(max_rows)
    if isinstance(batch_size, str) and batch_size.split(":")[0] == "auto":
        return min(int(most or 16), MOST_ROWS)
    size = int(batch_size or 1)
    return min(size, MOST_ROWS) if size > 1 else 16


def main(arguments: list[str]) -> int:
    """Runs lm-eval with this model."""
    from lm_eval.__main__ import cli_evaluate

    is_run = not arguments or arguments[0] not in ("ls", "validate")
    if is_run and "--model" not in arguments and not any(word.startswith("--model=") for word in arguments):
        arguments = [*arguments, "--model", "rwkv"]
    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
    return 0
