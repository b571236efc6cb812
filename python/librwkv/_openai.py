# SPDX-License-Identifier: MIT
"""OpenAI's batch files: requests of three routes, and the answers as its service writes them."""

from __future__ import annotations

import time
from typing import Any

from ._rows import Result

_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "penalty_decay", "seed")


def request(line: dict[str, Any]) -> tuple[str, list[Any]]:
    """What is asked: the kind, and the items for the model."""
    body = line["body"]
    match line.get("url"):
        case "/v1/chat/completions":
            messages = [{"role": message["role"], "content": _text(message["content"])} for message in body["messages"]]
            return "generate", [_options(body) | {"messages": messages, "logprobs": bool(body.get("logprobs"))}]
        case "/v1/completions":
            prompt = body["prompt"]
            if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
                (prompt,) = prompt
            options = {"prompt": prompt, "max_tokens": 16, "logprobs": body.get("logprobs") is not None}
            return "generate", [options | _options(body)]
        case "/v1/embeddings":
            texts = body["input"]
            return "embed", [texts] if isinstance(texts, str) else list(texts)
        case url:
            raise ValueError(f"there is no {url} here")


def _options(body: dict[str, Any]) -> dict[str, Any]:
    if body.get("n", 1) != 1:
        raise ValueError("n must be 1")
    options = {key: body[key] for key in _OPTIONS if body.get(key) is not None}
    for key in ("max_tokens", "max_completion_tokens"):
        if body.get(key) is not None:
            options["max_tokens"] = body[key]
    if body.get("stop"):
        options["stop"] = body["stop"]
    if body.get("logit_bias"):
        options["bias"] = {int(token): float(value) for token, value in body["logit_bias"].items()}
    return options


def _text(content: Any) -> str:
    """Of a message: a text, or parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if any(part["type"] != "text" for part in content):
        raise ValueError("messages can only have text")
    return "".join(part["text"] for part in content)


def answer(line: dict[str, Any], index: int, results: list[Result], model: str) -> dict[str, Any]:
    """The line of a request that was answered."""
    body: dict[str, Any] = {"model": line["body"].get("model", model)}
    read, wrote = sum(result.prompt_tokens for result in results), sum(len(result.tokens) for result in results)
    if line["url"] == "/v1/embeddings":
        vectors = [[] if result.vector is None else result.vector.tolist() for result in results]
        data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
        body |= {"object": "list", "data": data, "usage": {"prompt_tokens": wrote, "total_tokens": wrote}}
        return _line(line.get("custom_id"), index, 200, body)
    (result,) = results
    is_chat = line["url"] == "/v1/chat/completions"
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if result.finish_reason == "length" else "stop"}
    if is_chat:
        choice["message"] = {"role": "assistant", "content": result.text.strip()}
        contents = [{"token": token, "logprob": value} for token, value in zip(result.tokens, result.logprobs)]
        choice["logprobs"] = {"content": contents} if contents else None
    else:
        choice["text"] = result.text
        choice["logprobs"] = {"token_logprobs": result.logprobs} if result.logprobs else None
    body |= {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{index}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "choices": [choice],
        "usage": {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote},
    }
    return _line(line.get("custom_id"), index, 200, body)


def failure(custom_id: Any, index: int, message: str) -> dict[str, Any]:
    """The line of a request that cannot be answered."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return _line(custom_id, index, 400, {"error": error})


def _line(custom_id: Any, index: int, status: int, body: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"req_{index}", "body": body}
    return {"id": f"batch_req_{index}", "custom_id": custom_id, "response": response, "error": None}
