# SPDX-License-Identifier: MIT
"""Ray's and Spark's workers make of every row what one process makes of it; so does examples/python/bulk.py.

tables.py one|ray|spark MODEL FOLDER
"""

import doctest
import json
import math
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from librwkv import Model
from librwkv.columns import Columns

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

    # Workers as important as what else the machine does; Ray's own choice is less.
    os.environ["RAY_worker_niceness"] = "0"
    # A core for each of two workers, and one for what brings them their rows.
    ray.init(num_cpus=3, object_store_memory=100_000_000, include_dashboard=False, logging_level="ERROR")
    results: dict[int, dict[str, Any]] = {row["number"]: {} for row in rows}  # type: ignore[misc]
    for task, options in TASKS.items():
        arguments = {"model": model_path, "task": task, "threads": 1, **options}
        table = ray.data.from_items(rows).repartition(6)
        worker: Any = KilledOnce if task == "generate" else Worker
        added = table.map_batches(
            worker, fn_constructor_kwargs=arguments, compute=ray.data.ActorPoolStrategy(size=2), num_cpus=1, batch_size=7,
            max_restarts=3, max_task_retries=3,
        )  # fmt: skip
        for row in added.take_all():
            number = row.pop("number")
            row.pop("text")
            for name, value in row.items():
                results[number][f"{task} {name}"] = value.tolist() if hasattr(value, "tolist") else value
    examples("generate", "score")
    ray.shutdown()
    return results


def with_spark() -> dict[int, dict[str, Any]]:
    from librwkv.spark import transform
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    # In one process Spark repeats tasks only if that is asked for, four times here.
    builder = SparkSession.builder.master("local[2,4]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", 5)
    spark = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    table = spark.createDataFrame(rows).repartition(4)
    results: dict[int, dict[str, Any]] = {row["number"]: {} for row in rows}  # type: ignore[misc]
    for task, options in TASKS.items():
        added = transform(table, model_path, task, threads=1, **options)  # type: ignore[arg-type]
        if task == "generate":
            mapper: Any = KilledMapper(model=model_path, task=task, threads=1, **options)
            out = str(folder / "killed-spark")
            table.mapInPandas(mapper, added.schema).write.mode("overwrite").parquet(out)
            assert marker.exists()
            added = spark.read.parquet(out)
        seen = 0
        for row in added.collect():
            values = row.asDict()
            number = values.pop("number")
            values.pop("text")
            seen += 1
            for name, value in values.items():
                results[number][f"{task} {name}"] = value
        assert seen == len(rows), (task, seen)
    documented(transform, {"spark": spark})
    examples("score", "generate")
    spark.stop()
    return results


def example(task: str, source: pathlib.Path, *options: str) -> pathlib.Path:
    """examples/python/bulk.py with the engine that has been started: where it writes."""
    out = folder / f"bulk-{kind}-{task}-{source.name}"
    sys.argv = ["bulk.py", model_path, task, str(source), str(out), "--engine", kind, *options]
    runpy.run_path(str(BULK), run_name="__main__")
    return out


BULK = pathlib.Path(__file__).parents[3] / "examples/python/bulk.py"
BULK_TASKS = {"score": "perplexity", "embed": "embed", "generate": "summarize"}
PROMPT = "Once {text} and"


def examples(with_lines: str, with_parquet: str) -> None:
    """A folder of JSON lines and one of Parquet files, each in two files."""
    import pyarrow as arrow
    from pyarrow import parquet

    folders = folder / "json", folder / "parquet"
    for place in (*folders, *folder.glob(f"bulk-{kind}-*")):
        shutil.rmtree(place, ignore_errors=True)
    for place in folders:
        place.mkdir()
    for part, some in enumerate((rows[:25], rows[25:])):
        (folders[0] / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        parquet.write_table(arrow.Table.from_pylist(some), folders[1] / f"{part}.parquet")
    for task, source in ((with_lines, folders[0]), (with_parquet, folders[1])):
        out = example(BULK_TASKS[task], source, "--prompt", PROMPT, "--max-tokens", "5")
        found = sorted(read(out), key=lambda row: int(row["number"]))
        options = {"prompt": PROMPT, "max_tokens": 5, "stop": "\n\n", "temperature": 0} if task == "generate" else {}
        added = Columns(model_path, task, threads=1, **options).add({"text": [row["text"] for row in rows]})  # type: ignore[arg-type]
        assert [row["number"] for row in found] == [row["number"] for row in rows]
        assert [row["text"] for row in found] == [row["text"] for row in rows]
        for name, values in added.items():
            for row, value in zip(found, values):
                other = row.get(name)
                assert same(other, value), (kind, task, name, other, value)
        for row in found:
            if "perplexity" in row and (row["tokens"] or 0) > 0:  # none where there is an error
                mean = -row["logprob"] / row["tokens"]
                assert math.isclose(row["perplexity"], math.exp(mean), rel_tol=1e-5), row


def read(out: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The rows of a folder that was written, of either kind."""
    from pyarrow import parquet

    for path in out.iterdir():
        if path.suffix == ".parquet":
            yield from parquet.read_table(path).to_pylist()
        elif path.suffix == ".json" or path.suffix == ".jsonl":
            yield from map(json.loads, path.read_text().splitlines())


def same(found: Any, expected: Any) -> bool:
    """Bit for bit; what is missing may be NaN, and decimal digits of a float of 32 bits may be fewer."""
    if isinstance(found, float) and math.isnan(found):
        found = None
    if isinstance(expected, list):
        return list(np.asarray(found if found is not None else [], np.float32)) == list(np.asarray(expected, np.float32))
    return bool(found == expected)


def by_itself() -> None:
    """examples/python/bulk.py in one process."""
    for tasks in (("score", "generate"), ("embed", "score"), ("generate", "embed")):
        examples(*tasks)
    # What is there is left, what is missing is made.
    source, out = folder / "json", folder / "bulk-one-perplexity-json"
    example("perplexity", source)
    first, second = (out / f"{part}.jsonl" for part in range(2))
    expected = second.read_bytes()
    first.write_text("left")
    second.unlink()
    (out / "1.jsonl.part").write_text("half a li")
    example("perplexity", source)
    assert first.read_text() == "left" and second.read_bytes() == expected and len(list(out.iterdir())) == 2
    # Rows of all kinds.
    odd = folder / "odd"
    shutil.rmtree(odd, ignore_errors=True)
    shutil.rmtree(folder / "bulk-one-embed-odd", ignore_errors=True)
    odd.mkdir()
    strange = ['{"text": "wörld \U0001f600"}', '{"other": 1}', '{"text": null}', "", '{"text": "\\ud800"}', '{"text": 3, "x": []}']
    (odd / "a.jsonl").write_text("\n".join(strange), encoding="utf-8")
    (odd / "b.jsonl").write_text("")
    out = example("embed", odd)
    found = [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()]
    assert [row["error"] is None for row in found] == [True, False, False, False, False] and found[1]["other"] == 1
    assert (out / "b.jsonl").read_bytes() == b""
    # What cannot be done.
    program = "import sys; sys.modules['pyarrow'] = None; import runpy; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    (odd / "c.jsonl").write_text('{"text": "x"}\n{"text": \n')
    for arguments, word in (
        ((folder / "parquet", folder / "never"), "need pyarrow"), ((empty, folder / "never"), "must hold"),
        ((source, folder / "never", "--column", "txet"), None), ((folder / "parquet", folder / "never", "--column", "txet"), None),
        ((out, folder / "never"), "rename it"), ((odd, folder / "bulk-one-embed-odd"), "line 2"),
    ):  # fmt: skip
        command = [sys.executable, "-B", "-c", program, str(BULK), model_path, "embed", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True)
        if word is not None:
            assert result.returncode == 1 and word in result.stderr.splitlines()[-1], result.stderr
    result = subprocess.run(
        [sys.executable, "-B", str(BULK), model_path, "embed", str(folder / "parquet"), str(folder / "never"), "--column", "txet"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "no column 'txet'" in result.stderr.splitlines()[-1], result.stderr


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


class KilledMapper:
    """The same for Spark: between two tables of a task."""

    def __init__(self, **arguments: Any) -> None:
        from librwkv.spark import Mapper

        self.mapper, self.marker = Mapper(**arguments), str(marker)

    def __call__(self, frames: Any) -> Any:
        for count, frame in enumerate(self.mapper(frames)):
            if count == 1 and not os.path.exists(self.marker):
                pathlib.Path(self.marker).touch()
                os.kill(os.getpid(), 9)
            yield frame


marker.unlink(missing_ok=True)
if kind == "one":
    by_itself()
    sys.exit()
one = expected()
many = with_ray() if kind == "ray" else with_spark()
for number, values in one.items():
    for name, value in values.items():
        other = many[number][name]
        assert same(other, value), (number, name, value, other)
assert one[7]["generate error"] and one[7]["score error"] and not one[8]["generate error"]
with Model(model_path, threads=2) as model:
    assert one[8]["score logprob"] == model.score(rows[8]["text"]).logprob  # type: ignore[arg-type]
print(json.dumps({"rows": len(rows), "kind": kind}))
