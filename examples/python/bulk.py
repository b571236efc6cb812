# SPDX-License-Identifier: MIT
"""A folder of Parquet files or of JSON lines to perplexities, embeddings or summaries:

    python bulk.py MODEL perplexity|embed|summarize FOLDER OUT [--engine one|ray|spark] [--column text] [--prompt TEXT]

OUT is a folder of files of the same kind, with the columns that FOLDER's have and new ones: perplexity, tokens and
logprob, or embedding, or generated_text; and error. One process writes a file for each one that it reads, complete or
not at all, and leaves out those that are there: stopped, it goes on with the same command.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from librwkv import RWKVError
from librwkv.columns import COLUMNS, Columns

PROMPT = "User: Summarize the following text in one sentence.\n\n{text}\n\nAssistant:"
BATCH = 256


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("task", choices=["perplexity", "embed", "summarize"])
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("out", type=pathlib.Path, metavar="OUT")
    parser.add_argument("--engine", choices=["one", "ray", "spark"], default="one")
    parser.add_argument("--column", default="text", help="that of the texts")
    parser.add_argument("--prompt", default=PROMPT, help="of a summary; {text} stands for the text")
    parser.add_argument("--max-tokens", type=int, default=100, help="of a summary")
    return parser.parse_args()


def with_column(given: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Columns`, which those of Ray's and Spark's workers are, too."""
    shared = {"model": os.path.abspath(given.model), "column": given.column}
    if given.task == "summarize":
        written = {"prompt": given.prompt, "max_tokens": given.max_tokens, "stop": "\n\n", "temperature": 0}
        return {**shared, "task": "generate", **written}
    return {**shared, "task": "score" if given.task == "perplexity" else "embed"}


def files(folder: pathlib.Path) -> tuple[list[pathlib.Path], bool]:
    """Those of a folder, and whether they are Parquet files."""
    parquet, lines = sorted(folder.glob("*.parquet")), sorted({*folder.glob("*.jsonl"), *folder.glob("*.json")})
    if bool(parquet) == bool(lines):
        sys.exit(f"{folder} must hold *.parquet, or *.jsonl and *.json, and not both")
    return parquet or lines, bool(parquet)


def objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Those of JSON lines."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as problem:
                raise ValueError(f"line {number}: {problem}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            yield row


def write_lines(columns: Columns, source: pathlib.Path, target: str) -> None:
    """JSON lines to JSON lines. A row that lacks the column has an error."""
    with source.open("rb") as lines, open(target, "w", encoding="utf-8") as output:
        rows = objects(lines)
        while batch := list(itertools.islice(rows, BATCH)):
            names = dict.fromkeys([columns.column, *(name for row in batch for name in row)])
            added = columns.add({name: [row.get(name) for row in batch] for name in names})
            for row, *values in zip(batch, *added.values()):
                output.write(json.dumps(row | dict(zip(added, values))) + "\n")


def write_parquet(columns: Columns, source: pathlib.Path, target: str) -> None:
    """Parquet to Parquet."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        sys.exit("Parquet files need pyarrow: pip install pyarrow")
    types = {"logprob": arrow.float64(), "perplexity": arrow.float64(), "tokens": arrow.int64()}
    types["embedding"] = arrow.list_(arrow.float32())
    read = parquet.ParquetFile(source)
    schema = read.schema_arrow
    columns.check(schema.names)
    for name in COLUMNS[columns.task]:
        schema = schema.append(arrow.field(name, types.get(name, arrow.string())))
    with parquet.ParquetWriter(target, schema) as output:
        for batch in read.iter_batches(BATCH):
            added = columns.add({columns.column: batch.column(columns.column).to_pylist()})
            values = [arrow.array(values, schema.field(name).type) for name, values in added.items()]
            output.write_table(arrow.Table.from_arrays([*batch.columns, *values], schema=schema))


def one(given: argparse.Namespace) -> None:
    paths, is_parquet = files(given.folder)
    columns, write = Columns(**with_column(given)), write_parquet if is_parquet else write_lines
    given.out.mkdir(parents=True, exist_ok=True)
    for source in paths:
        target = given.out / source.name
        if not target.exists():
            unfinished = f"{target}.part"
            try:
                write(columns, source, unfinished)
            except (ValueError, RWKVError) as problem:
                sys.exit(f"{source}: {problem}")
            os.replace(unfinished, target)


def with_ray(given: argparse.Namespace) -> None:
    import ray
    from librwkv.ray import Worker

    folder, is_parquet = str(given.folder), files(given.folder)[1]
    documents = ray.data.read_parquet(folder) if is_parquet else ray.data.read_json(folder)
    options = {**with_column(given), "threads": 1}
    two = ray.data.ActorPoolStrategy(size=2)
    documents = documents.map_batches(Worker, fn_constructor_kwargs=options, compute=two, num_cpus=0.5)
    out = os.path.abspath(given.out)
    # JSON's numbers have the 15 digits that Ray writes at most.
    documents.write_parquet(out) if is_parquet else documents.write_json(out, double_precision=15)


def with_spark(given: argparse.Namespace) -> None:
    from librwkv.spark import transform
    from pyspark.sql import SparkSession

    folder, is_parquet = str(given.folder), files(given.folder)[1]
    spark = SparkSession.builder.getOrCreate()
    documents = transform(
        spark.read.parquet(folder) if is_parquet else spark.read.json(folder), **with_column(given), threads=1
    )
    (documents.write.parquet if is_parquet else documents.write.json)(str(given.out))


if __name__ == "__main__":
    chosen = arguments()
    {"one": one, "ray": with_ray, "spark": with_spark}[chosen.engine](chosen)
