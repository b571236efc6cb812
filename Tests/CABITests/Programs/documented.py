# SPDX-License-Identifier: MIT
"""The examples in the package's documentation run, and every public function has one.

documented.py MODEL CHECKPOINT EMBEDDER RERANKER FOLDER
"""

import doctest
import inspect
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import librwkv
import librwkv.columns
import librwkv.ray
import numpy as np

model, checkpoint, embedder, reranker, folder = (pathlib.Path(path).resolve() for path in sys.argv[1:])


def functions() -> Iterator[tuple[str, Any]]:
    """The public functions and methods, but for properties, and those of Python's own protocols."""
    for name in librwkv.__all__:
        value = getattr(librwkv, name)
        if not isinstance(value, type):
            yield name, value
        elif not issubclass(value, Exception):
            for method, function in inspect.getmembers(value, inspect.isfunction):
                if not method.startswith("_"):
                    yield f"{name}.{method}", function
            if value is librwkv.Model:
                yield f"{name}.__init__", value.__init__
    yield "ray.Worker.__call__", librwkv.ray.Worker.__call__
    yield "columns.Columns.add", librwkv.columns.Columns.add


place = folder / "documented"
place.mkdir(exist_ok=True)
os.chdir(place)
for source, name in (
    (model, "model.rwkv"),
    (checkpoint, "checkpoint.safetensors"),
    (embedder, "embedder.rwkv"),
    (reranker, "reranker.rwkv"),
):
    if not pathlib.Path(name).exists():
        os.symlink(source, name)
names = {name: getattr(librwkv, name) for name in librwkv.__all__} | {"np": np, "model": librwkv.Model("model.rwkv")}
runner, finder = doctest.DocTestRunner(), doctest.DocTestFinder(recurse=False)
seen = 0
for name, function in functions():
    tests = finder.find(function, name, globs=dict(names))
    assert any(test.examples for test in tests), f"{name} has no example"
    for test in tests:
        runner.run(test)
    seen += 1
assert runner.failures == 0 and seen > 30, (runner.failures, seen)
