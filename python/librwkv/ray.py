# SPDX-License-Identifier: MIT
"""Ray Data: a class for `map_batches`.

import ray
from librwkv.ray import Worker

documents = ray.data.read_json("documents/")
documents.map_batches(
    Worker,
    fn_constructor_kwargs={"model": "/models/model.rwkv", "task": "embed", "threads": 1},
    compute=ray.data.ActorPoolStrategy(size=2),
    num_cpus=0.5,
    batch_size=64,
).write_parquet("vectors/")
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .columns import Columns


class Worker(Columns):
    """An actor that opens its model with its first batch and keeps it. Its arguments are those of `Columns`.

    The workers of a machine share the memory of the model's file.
    """

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch with the new columns.

        >>> from librwkv.ray import Worker
        >>> worker = Worker("model.rwkv", "score", threads=1)
        >>> sorted(worker({"text": np.array(["one", "two"])}))
        ['error', 'logprob', 'perplexity', 'text', 'tokens']
        """
        added = self.add(batch)
        return batch | {name: _array(name, values) for name, values in added.items()}


def _array(name: str, values: list[Any]) -> Any:
    """Numbers as such, NaN where there is none; vectors as one array, so that Ray stores them as tensors; texts as
    objects."""
    if name == "tokens":
        return np.array(values, np.int64)
    if name in ("logprob", "perplexity"):
        return np.array(values, np.float64)
    if name == "embedding" and len({len(vector) for vector in values}) == 1:
        return np.array(values, np.float32)
    column = np.empty(len(values), object)
    column[:] = values
    return column
