# SPDX-License-Identifier: MIT
"""Models for EleutherAI's lm-evaluation-harness, under the name `rwkv`.

    python -m librwkv lm_eval --model_args path=model.rwkv --tasks lambada_openai

passes everything on to lm-eval. What the contexts of requests share is read once.
"""

from __future__ import annotations

import sys
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from ._model import Model

_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "penalty_decay", "seed")


@register_model("rwkv")
class RWKV(TemplateLM):  # type: ignore[misc]
    """A model of a file.

    path (or pretrained): the file. threads, memory_limit: as for `librwkv.Model`. max_rows: texts at a time.
    add_bos_token: whether token 0 begins every context, as it begins documents in training. max_gen_toks: tokens to
    write where a task does not say.
    """

    def __init__(
        self,
        path: str | None = None,
        pretrained: str | None = None,
        threads: int | None = None,
        memory_limit: int | None = None,
        max_rows: int = 16,
        add_bos_token: bool = True,
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        file = path or pretrained
        if file is None:
            raise ValueError("--model_args path=MODEL is missing")
        self.model = Model(file, threads=threads, memory_limit=memory_limit)
        self.max_rows, self.max_gen_toks = int(max_rows), int(max_gen_toks)
        self.bos = [0] if add_bos_token else []

    @property
    def eot_token_id(self) -> int:
        return 0

    @property
    def tokenizer_name(self) -> str:
        return self.model.metadata.get("tokenizer.kind", "rwkv")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        tokens: list[int] = self.model.encode(string).tolist()
        return tokens

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.model.apply_template(chat_history)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        # Neighbours in this order share most of their contexts.
        order = sorted(range(len(requests)), key=lambda index: requests[index][1])
        items = [(self._begun(requests[index][1]), requests[index][2]) for index in order]
        answers = [(0.0, False)] * len(requests)
        results = self.model.score_many(items, max_rows=self.max_rows, progress=not disable_tqdm)
        for index, result in zip(order, results):
            result.raised()
            answers[index] = (result.logprob, bool(result.is_greedy))
        return answers

    def _begun(self, context: list[int]) -> list[int]:
        return context if context[:1] == [0] else self.bos + context

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]
        results = self.model.score_many(texts, max_rows=self.max_rows, progress=not disable_tqdm)
        return [result.raised().logprob if text else 0.0 for text, result in zip(texts, results)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        rows = [self._row(*request.args) for request in requests]
        results = self.model.generate_many(rows, max_rows=self.max_rows, progress=not disable_tqdm)
        return [result.raised().text for result in results]

    def _row(self, context: str, given: dict[str, Any]) -> dict[str, Any]:
        """A row of `generate_many`. The harness's default is greedy, without penalties."""
        options = normalize_gen_kwargs(given, self.max_gen_toks)
        row: dict[str, Any] = {"temperature": 0, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
        row |= {key: options[key] for key in _OPTIONS if options.get(key) is not None}
        prompt = self.bos + self.tok_encode(context)
        return row | {"prompt": prompt, "max_tokens": options["max_gen_toks"], "stop": options["until"]}


def main(arguments: list[str]) -> int:
    """Runs lm-eval with this model."""
    from lm_eval.__main__ import cli_evaluate

    is_run = not arguments or arguments[0] not in ("ls", "validate")
    if is_run and "--model" not in arguments and not any(word.startswith("--model=") for word in arguments):
        arguments = [*arguments, "--model", "rwkv"]
    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
    return 0
