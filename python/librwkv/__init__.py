# SPDX-License-Identifier: MIT
"""RWKV language models on CPUs: librwkv for Python, with NumPy arrays in and out.

    from librwkv import Model

    model = Model("model.rwkv")
    state = model.new_state()
    for piece in model.generate("The database", state, max_tokens=100, temperature=0.8, seed=1):
        print(piece, end="", flush=True)
    state.save("talk.state")

    for result in model.generate_many(["The database", "A function"], max_tokens=100):
        print(result.text)

Logits and hidden vectors are float32 arrays. A model does one thing at a time; `clone` makes another one over the
same weights for another thread. States and samplers belong to the model that made them. All of them are freed with
their last reference, by `close`, or at the end of a `with`. Ctrl-C cancels what a model is doing.
"""

from __future__ import annotations

import os

from ._generation import Generation
from ._library import RWKVError, error, library
from ._model import Model
from ._objects import Sampler, State
from ._reranking import Ranked
from ._rows import Result
from ._session import Session

__all__ = ["Generation", "Model", "RWKVError", "Ranked", "Result", "Sampler", "Session", "State", "quantize"]
__version__ = "{}.{}.{}".format(*(library.rwkv_version_number() // 1000**place % 1000 for place in (2, 1, 0)))


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    type: str = "int4",
    *,
    vocabulary: str | os.PathLike[str] | None = None,
) -> None:
    """Converts a checkpoint, or a `.rwkv` file of type fp32 or fp16, into a `.rwkv` file, which replaces an existing
    one when it is complete. type: int4, int5, int8, fp16 or fp32. vocabulary: a file in any published form, or "bytes",
    one token for each byte; None: the one that is in the checkpoint or beside it, if there is one.

    >>> quantize("checkpoint.safetensors", "small.rwkv", "int4")
    >>> Model("small.rwkv").metadata["quantization.type"]
    'int4'
    """
    chosen = None if vocabulary is None else os.fsencode(vocabulary)
    if not library.rwkv_quantize_with_vocabulary(os.fsencode(source), os.fsencode(target), type.encode(), chosen):
        raise error(None)
