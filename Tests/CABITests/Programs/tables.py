# SPDX-License-Identifier: MIT
"""Ray's and Spark's workers make of every row what one process makes of it.

tables.py ray|spark MODEL FOLDER
"""

import doctest
import json
import math
import os
import pathlib
import runpy
import shutil
import sys
from typing import Any

from librwkv import Model
from librwkv._columns import Columns

kind, model_path, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
rows = [{"number": number, "text": "hello " * (1 + number % 4) + str(number)} for number in range(60)]
rows[7]["text"] = ""
TASKS: dict[str, dict[str, Any]] = {"generate": {"max_tokens": 9}, "score": {}, "embed": {}}


def expected() -> dict[int, dict[str, Any]]:
    table = {key: [row[key] for row in rows] for key in ("number", "text")}
    results: dict[int, dict[str, Any]] = {row["number"]: {} for row in rows}  # type: ignore[misc]
    for task, options in TASKS.items():
        added = Columns(model_path, task, threads=1, **options).add(table)  # type: ignore[arg-type]
        for name, values in added.items():
            for number, value in enumerate(values):
                results[number][f"{task} {name}"] = value
    return results


def with_ray() -> dict[int, dict[str, Any]]:
    import ray
    from librwkv.ray import Worker

    # A core for each of two workers, and one for what brings them their rows.
    ray.init(num_cpus=3, object_store_memory=100_000_000, include_dashboard=False, logging_level="ERROR")
    results: dict[int, dict[str, Any]] = {row["number"]: {} for row in rows}  # type: ignore[misc]
    for task, options in TASKS.items():
        arguments = {"model": model_path, "task": task, "threads": 1, **options}
        table = ray.data.from_items(rows).repartition(6)
        worker: Any = KilledOnce if task == "generate" else Worker
        added = table.map_batches(
            worker, fn_constructor_kwargs=arguments, concurrency=2, num_cpus=1, batch_size=7, max_restarts=3,
            max_task_retries=3,
        )  # fmt: skip
        for row in added.take_all():
            number = row.pop("number")
            row.pop("text")
            for name, value in row.items():
                results[number][f"{task} {name}"] = value.tolist() if hasattr(value, "tolist") else value
    example()
    ray.shutdown()
    return results


def with_spark() -> dict[int, dict[str, Any]]:
    from librwkv.spark import transform
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    table = spark.createDataFrame(rows).repartition(4)
    results: dict[int, dict[str, Any]] = {row["number"]: {} for row in rows}  # type: ignore[misc]
    for task, options in TASKS.items():
        for row in transform(table, model_path, task, threads=1, **options).collect():  # type: ignore[arg-type]
            values = row.asDict()
            number = values.pop("number")
            values.pop("text")
            for name, value in values.items():
                results[number][f"{task} {name}"] = value
    documented(transform, {"spark": spark})
    example()
    spark.stop()
    return results


def example() -> None:
    """examples/python/bulk.py with the engine that has been started: a folder of JSON lines to one of Parquet files."""
    from pyarrow import parquet

    documents, out = folder / "documents", folder / f"bulk-{kind}"
    documents.mkdir(exist_ok=True)
    (documents / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(out, ignore_errors=True)
    sys.argv = ["bulk.py", model_path, "score", str(documents), str(out), kind]
    runpy.run_path(str(pathlib.Path(__file__).parents[3] / "examples/python/bulk.py"))
    written = parquet.read_table(out).to_pylist()
    with Model(model_path, threads=1) as model:
        for row, result in zip(rows, model.score_many(row["text"] for row in rows)):  # type: ignore[misc]
            (found,) = (found for found in written if found["number"] == row["number"])
            assert found["logprob"] == result.logprob and (found["error"] is None) == (result.error is None)
    assert len(written) == len(rows)


def documented(function: Any, names: dict[str, Any]) -> None:
    """What a function's documentation shows is so."""
    runner, place = doctest.DocTestRunner(), pathlib.Path.cwd()
    os.chdir(folder)
    pathlib.Path("model.rwkv").unlink(missing_ok=True)
    os.symlink(pathlib.Path(model_path).resolve(), "model.rwkv")
    for test in doctest.DocTestFinder().find(function, globs=names):
        runner.run(test)
    os.chdir(place)
    assert runner.tries > 0 and runner.failures == 0


marker = folder / "killed"


class KilledOnce:
    """A worker whose process dies in the middle of its work, once."""

    def __init__(self, **arguments: Any) -> None:
        from librwkv.ray import Worker

        self.worker = Worker(**arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        result = self.worker(batch)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), 9)
        return result


marker.unlink(missing_ok=True)
one = expected()
many = with_ray() if kind == "ray" else with_spark()
for number, values in one.items():
    for name, value in values.items():
        other = many[number][name]
        if isinstance(other, float) and math.isnan(other):
            other = None
        assert other == value, (number, name, value, other)
assert one[7]["generate error"] and one[7]["score error"] and not one[8]["generate error"]
with Model(model_path, threads=2) as model:
    assert one[8]["score logprob"] == model.score(rows[8]["text"]).logprob  # type: ignore[arg-type]
print(json.dumps({"rows": len(rows), "kind": kind}))
