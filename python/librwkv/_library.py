# SPDX-License-Identifier: MIT
"""librwkv.so.0 and the signatures of its functions, as rwkv.h declares them."""

from __future__ import annotations

import ctypes
import os
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAILED = ctypes.c_size_t(-1).value
NO_LIMIT = FAILED
Progress = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_double, ctypes.c_void_p)
Receive = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
Observe = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p)


class RWKVError(Exception):
    """What the library says went wrong: what, where, and what to do."""


def _load() -> ctypes.CDLL:
    beside = pathlib.Path(__file__).parent / "librwkv.so.0"
    path = os.environ.get("RWKV_LIBRARY") or (str(beside) if beside.exists() else "librwkv.so.0")
    library = ctypes.CDLL(path)
    pointer, size, text, yes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_bool
    id, number, many = ctypes.c_uint32, ctypes.c_uint64, ctypes.POINTER(ctypes.c_void_p)
    functions: list[tuple[str, Any, list[Any]]] = [
        ("version_number", id, []),
        ("get_last_error_text", size, [pointer, pointer, size]),
        ("open_with_max_context", pointer, [text, id, size, size, Progress, pointer]),
        ("get_max_context", size, [pointer]),
        ("quantize_with_vocabulary", yes, [text, text, text, text]),
        ("clone_context", pointer, [pointer, id]),
        ("free", None, [pointer]),
        ("get_name", size, [pointer, pointer, size]),
        ("get_architecture", size, [pointer, pointer, size]),
        ("get_n_vocab", size, [pointer]),
        ("get_n_embed", size, [pointer]),
        ("get_n_layer", size, [pointer]),
        ("get_n_head", size, [pointer]),
        ("get_weight_size", size, [pointer]),
        ("get_streamed_size", size, [pointer]),
        ("get_metadata_count", size, [pointer]),
        ("get_metadata_key", size, [pointer, size, pointer, size]),
        ("get_metadata", size, [pointer, text, pointer, size]),
        ("encode", size, [pointer, text, size, pointer, size]),
        ("decode", size, [pointer, pointer, size, pointer, size]),
        ("get_identity", size, [pointer, pointer, size]),
        ("get_hidden", yes, [pointer, pointer]),
        ("state_new", pointer, [pointer]),
        ("state_clone", pointer, [pointer]),
        ("state_reset", yes, [pointer]),
        ("state_free", None, [pointer]),
        ("state_get_size", size, [pointer]),
        ("state_get_tokens", size, [pointer, pointer, size]),
        ("state_eval", yes, [pointer, pointer, pointer, size, pointer, Progress, pointer]),
        ("state_eval_vectors", yes, [pointer, pointer, pointer, size, pointer]),
        ("eval_batch", yes, [pointer, many, pointer, size, pointer]),
        ("state_eval_each", yes, [pointer, pointer, pointer, size, pointer, Progress, pointer]),
        ("embed_texts_for", yes, [pointer, text, yes, pointer, pointer, size, pointer, Progress, pointer]),
        ("read_documents", yes, [pointer, ctypes.POINTER(text), pointer, size, many, Progress, pointer]),
        ("rerank", yes, [pointer, pointer, text, size, many, size, pointer, Progress, pointer]),
        ("state_save", yes, [pointer, text, pointer, size]),
        ("state_save_memory", size, [pointer, pointer, size, pointer, size]),
        ("state_load", pointer, [pointer, text]),
        ("state_load_memory", pointer, [pointer, text, size]),
        ("sampler_new", pointer, [pointer, pointer]),
        ("sampler_new_for_template", pointer, [pointer, text]),
        ("sampler_set", yes, [pointer, text, ctypes.c_double]),
        ("sampler_set_bias", yes, [pointer, id, ctypes.c_float]),
        ("sampler_set_json_schema", yes, [pointer, text]),
        ("sampler_sample", yes, [pointer, pointer, size, ctypes.POINTER(id)]),
        ("sampler_reset", yes, [pointer]),
        ("sampler_free", None, [pointer]),
        (
            "generate_observed",
            ctypes.c_int,
            [pointer, pointer, pointer, text, size, size, pointer, size, Observe, Receive, pointer],
        ),
        ("scheduler_new", pointer, [pointer, id, id]),
        ("scheduler_free", None, [pointer]),
        ("scheduler_generate", number, [pointer, pointer, pointer, pointer, size, size, pointer, size, id]),
        ("scheduler_score", number, [pointer, pointer, pointer, size, size]),
        ("scheduler_embed", number, [pointer, pointer, size]),
        ("scheduler_next", yes, [pointer, ctypes.c_double, many]),
        ("result_get_request", number, [pointer]),
        ("result_get_finish", ctypes.c_int, [pointer]),
        ("result_get_text", size, [pointer, pointer, size]),
        ("result_get_tokens", size, [pointer, pointer, size]),
        ("result_get_logprobs", size, [pointer, pointer, size]),
        ("result_get_vector", size, [pointer, pointer, size]),
        ("result_get_state", pointer, [pointer]),
        ("result_free", None, [pointer]),
        ("apply_template", size, [pointer, text, text, pointer, pointer, size, pointer, size]),
        ("get_template_stop_count", size, [pointer, text]),
        ("get_template_stop", size, [pointer, text, size, pointer, size]),
    ]
    for name, result, arguments in functions:
        function = getattr(library, "rwkv_" + name)
        function.restype, function.argtypes = result, arguments
    return library


library = _load()


def error(context: int | None) -> RWKVError:
    """The last error of a context, or of this thread."""
    size = library.rwkv_get_last_error_text(context, None, 0)
    buffer = ctypes.create_string_buffer(size + 1)
    library.rwkv_get_last_error_text(context, buffer, size + 1)
    return RWKVError(buffer.value.decode(errors="replace"))


def text(context: int, function: str, *arguments: object) -> bytes:
    """The bytes that a function writes into a buffer of any size."""
    call = getattr(library, "rwkv_" + function)
    size = call(context, *arguments, None, 0)
    if size == FAILED:
        raise error(context)
    buffer = ctypes.create_string_buffer(size + 1)
    call(context, *arguments, buffer, size + 1)
    return buffer.raw[:size]


def ids(tokens: object) -> NDArray[np.uint32]:
    """Token ids as C takes them. Refuses what is not an id instead of changing it."""
    values = np.asarray(tokens)
    if values.size == 0:
        return np.empty(0, np.uint32)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise TypeError("expected a list of token ids")
    if values.min() < 0 or values.max() > 0xFFFFFFFF:
        raise ValueError("a token id is negative or too large")
    return np.ascontiguousarray(values, np.uint32)
