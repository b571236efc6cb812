# SPDX-License-Identifier: MIT
"""Spark: a function for `mapInPandas`, and the table that it makes.

from librwkv.spark import transform

documents = spark.read.json("documents/")
transform(documents, "/models/model.rwkv", task="score", column="text", threads=1).write.parquet("scores/")
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .columns import COLUMNS, Columns, Task

if TYPE_CHECKING:
    from pandas import DataFrame as Frame
    from pyspark.sql import DataFrame

_TYPES = {"logprob": "double", "perplexity": "double", "tokens": "int", "embedding": "array<float>"}


class Mapper(Columns):
    """A function for `mapInPandas`. Its arguments are those of `Columns`.

    A worker process opens the model with its first rows and keeps it. Those of a machine share the file's memory.
    """

    def __call__(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Tables with the new columns."""
        for frame in frames:
            yield frame.assign(**self.add(frame))

    @property
    def columns(self) -> str:
        """The columns that are added to a table, as Spark writes schemas."""
        return ", ".join(f"{name} {_TYPES.get(name, 'string')}" for name in COLUMNS[self.task])


def transform(table: DataFrame, model: str, task: Task = "generate", column: str = "text", **options: Any) -> DataFrame:
    """Adds the columns of a task to a table. The arguments are those of `Columns`.

    >>> from librwkv.spark import transform
    >>> table = spark.createDataFrame([{"text": "one"}, {"text": "two"}])
    >>> transform(table, "model.rwkv", task="score", threads=1).columns
    ['text', 'logprob', 'tokens', 'perplexity', 'error']
    """
    from pyspark.sql.types import StructType

    mapper = Mapper(model, task, column, **options)
    mapper.check(table.columns)
    added = StructType.fromDDL(mapper.columns)
    return table.mapInPandas(mapper, StructType([*table.schema.fields, *added.fields]))
