# SPDX-License-Identifier: MIT
"""OpenAI's batch files: requests of three routes, and the answers as its service writes them."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._objects import SAMPLING
from ._rows import Result

if TYPE_CHECKING:
    from ._model import Model

PREFIX = "batch_req_"
"""What stands before a digest in the id of a line."""
_HARMLESS = {
    "model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream_options",
    "tool_choice", "parallel_tool_calls",
}  # fmt: skip
"""Fields that change nothing in an answer; the last two because tools are refused."""
_TEXT = {*_HARMLESS, *SAMPLING, "max_tokens", "stop", "logit_bias", "logprobs", "response_format"}
_KNOWN = {
    "/v1/chat/completions": {*_TEXT, "messages", "max_completion_tokens"},
    "/v1/completions": {*_TEXT, "prompt"},
    "/v1/embeddings": {*_HARMLESS, "input", "encoding_format", "dimensions"},
}
_NEUTRAL = {
    "n": 1,
    "best_of": 1,
    "stream": False,
    "echo": False,
    "top_logprobs": 0,
    "suffix": "",
    "modalities": ["text"],
}
"""Values of other fields that ask for nothing."""


def request(line: dict[str, Any], model: Model) -> tuple[str, list[Any]]:
    """What is asked: the kind, and the items for the model."""
    url, body = line.get("url"), line["body"]
    if url not in _KNOWN or line.get("method", "POST") != "POST":
        raise ValueError(f"there is no {line.get('method', 'POST')} {url} here; there are {', '.join(_KNOWN)}")
    if not isinstance(body, dict):
        raise ValueError("'body' must be an object")
    for key, value in body.items():
        if key not in _KNOWN[url] and value not in (None, [], {}, _NEUTRAL.get(key)):
            only = f" other than {_NEUTRAL[key]!r}" if key in _NEUTRAL else ""
            raise ValueError(f"'{key}'{only} is not supported for {url}")
    if url == "/v1/embeddings":
        return "embed", _texts(body, model)
    options = _options(body)
    if url == "/v1/chat/completions":
        messages = [_message(message) for message in body["messages"]]
        logprobs = bool(body.get("logprobs"))
        return "generate", [{"max_tokens": 1024} | options | {"messages": messages, "logprobs": logprobs}]
    prompt = body["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        (prompt,) = prompt
    if isinstance(prompt, list) and any(isinstance(part, str | list) for part in prompt):
        raise ValueError("'prompt' must be one text; give each a line of its own")
    if (body.get("logprobs") or 0) > 1:
        raise ValueError("'logprobs' above 1 is not supported: there are only those of the tokens themselves")
    return "generate", [{"max_tokens": 16} | options | {"prompt": prompt, "logprobs": body.get("logprobs") is not None}]


def _texts(body: dict[str, Any], model: Model) -> list[Any]:
    """Of a request for embeddings: a text, token ids, or a list of either."""
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise ValueError("'encoding_format' must be float or base64")
    if body.get("dimensions") not in (None, model.embedding):
        raise ValueError(f"'dimensions' must be {model.embedding}, which is what the model has")
    texts = body["input"]
    if isinstance(texts, str) or (texts and all(isinstance(part, int) for part in texts)):
        return [texts]
    if not texts:
        raise ValueError("'input' is empty")
    return list(texts)


def _options(body: dict[str, Any]) -> dict[str, Any]:
    options = {key: body[key] for key in SAMPLING if body.get(key) is not None}
    if options.get("temperature") == 0:  # the most likely token, unless penalties are asked for
        options = {"presence_penalty": 0, "frequency_penalty": 0} | options
    for key in ("max_tokens", "max_completion_tokens"):
        if body.get(key) is not None:
            options["max_tokens"] = body[key]
    if body.get("stop"):
        options["stop"] = body["stop"]
    if body.get("logit_bias"):
        bias = {int(token): float(value) for token, value in body["logit_bias"].items()}
        options["bias"] = {token: value if value > -100 else float("-inf") for token, value in bias.items()}
    match (body.get("response_format") or {}).get("type"):
        case "json_object":
            options["json_schema"] = {"type": "object"}
        case "json_schema":
            options["json_schema"] = body["response_format"]["json_schema"]["schema"]
        case "text" | None:
            pass
        case other:
            raise ValueError(f"'response_format' {other!r} is not supported; there are text, json_object, json_schema")
    return options


def _message(message: dict[str, Any]) -> dict[str, str]:
    """With the roles of templates, and as one text."""
    for key in ("tool_calls", "function_call", "audio"):
        if message.get(key):
            raise ValueError(f"'{key}' in messages is not supported")
    role, content = message["role"], message.get("content") or ""
    if not isinstance(content, str):
        if any(part["type"] != "text" for part in content):
            raise ValueError("messages can only have text")
        content = "".join(part["text"] for part in content)
    return {"role": "system" if role == "developer" else role, "content": content}


def answer(line: dict[str, Any], digest: str, results: list[Result], model: Model) -> dict[str, Any]:
    """The line of a request that was answered."""
    body: dict[str, Any] = {"model": line["body"].get("model", model.name)}
    read, wrote = sum(result.prompt_tokens for result in results), sum(len(result.tokens) for result in results)
    if line["url"] == "/v1/embeddings":
        form = _base64 if line["body"].get("encoding_format") == "base64" else np.ndarray.tolist
        vectors: list[Any] = [[] if result.vector is None else form(result.vector) for result in results]
        data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
        body |= {"object": "list", "data": data, "usage": {"prompt_tokens": wrote, "total_tokens": wrote}}
        return _line(line.get("custom_id"), digest, 200, body)
    (result,) = results
    is_chat = line["url"] == "/v1/chat/completions"
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if result.finish_reason == "length" else "stop"}
    if is_chat:
        choice["message"] = {"role": "assistant", "content": result.text.strip(), "refusal": None}
        contents = [
            {"token": text, "logprob": value, "bytes": list(data), "top_logprobs": []}
            for (text, _, data), value in zip(_tokens(model, result.tokens), result.logprobs)
        ]
        choice["logprobs"] = {"content": contents} if contents else None
    else:
        choice["text"], choice["logprobs"] = result.text, None
        if result.logprobs:
            texts, offsets, _ = zip(*_tokens(model, result.tokens))
            choice["logprobs"] = {"tokens": texts, "token_logprobs": result.logprobs, "text_offset": offsets}
    body |= {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{digest}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "choices": [choice],
        "usage": {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote},
    }
    return _line(line.get("custom_id"), digest, 200, body)


def _base64(vector: NDArray[np.float32]) -> str:
    """Its values as little-endian 32-bit numbers."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _tokens(model: Model, tokens: list[int]) -> Iterator[tuple[str, int, bytes]]:
    """Of each token: its text, the character at which that begins, and its bytes."""
    offset = 0
    for token in tokens:
        data = model.decode([token])
        yield data.decode(errors="replace"), offset, data
        offset += sum(byte & 0xC0 != 0x80 for byte in data)


def failure(custom_id: Any, digest: str, message: str) -> dict[str, Any]:
    """The line of a request that cannot be answered."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return _line(custom_id, digest, 400, {"error": error})


def _line(custom_id: Any, digest: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"req_{digest}", "body": body}
    return {"id": PREFIX + digest, "custom_id": custom_id, "response": response, "error": None}
