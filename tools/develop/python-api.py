#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes docs/python-api.md from the docstrings of the Python package:

    PYTHONPATH=python RWKV_LIBRARY=build/lib/librwkv.so tools/develop/python-api.py [--check]

--check: writes nothing and fails if the page is another.
"""

import inspect
import pathlib
import sys

import librwkv
import librwkv.columns
import librwkv.ray
import librwkv.spark

PAGE = pathlib.Path(__file__).parents[2] / "docs/python-api.md"
HEAD = """# The Python package, function by function

Written by tools/develop/python-api.py from the docstrings. [python/README.md](../python/README.md) says how to
install it, [embedding.md](embedding.md) how it is used, [bulk.md](bulk.md) what it does with millions of texts. In
the examples `model` is an open model and `np` is NumPy; the tests run them.
"""


def text(value: object) -> str:
    """A docstring, its examples as code."""
    lines, is_code = [], False
    for line in inspect.getdoc(value).splitlines():
        if line.startswith(">>>") and not is_code:
            is_code = True
        elif not line:
            is_code = False
        lines.append(("    " + line if is_code or line.startswith("    ") else line).rstrip())
    return "\n".join(lines) + "\n"


def signature(name: str, value: object) -> str:
    """As it stands in the source, without `self`; a parameter per line where it is long."""
    shown = inspect.signature(value)
    words = []
    for parameter in shown.parameters.values():
        if parameter.name == "self":
            continue
        is_first_named = parameter.kind is parameter.KEYWORD_ONLY and not any(word.startswith("*") for word in words)
        words += ["*"] if is_first_named else []
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        words.append(f"{stars}{parameter.name}: {parameter.annotation}{default}")
    given = shown.return_annotation
    result = "" if given in (shown.empty, "None") else f" -> {given}"
    line = f"{name}({', '.join(words)}){result}"
    if len(line) <= 100:
        return line
    return f"{name}(\n        " + "\n        ".join(f"{word}," for word in words) + f"\n    ){result}"


def section(level: str, name: str, value: object) -> str:
    return f"{level} {name.split('.')[-1]}\n\n    {signature(name, value)}\n\n{text(value)}"


def members(owner: type) -> list[str]:
    """Those of a class and of `Handle`, as they stand in the files: properties, then methods."""
    owners = [owner, *(part for part in owner.__mro__ if part.__name__ == "Handle")]
    named = [(name, value) for part in owners for name, value in vars(part).items()]
    public = [(name, value) for name, value in named if not name.startswith("_") or name == "__call__"]
    lines = [f"- `{name}`: {text(value.fget).strip()}\n" for name, value in public if isinstance(value, property)]
    functions = [(name, value) for name, value in public if inspect.isfunction(value)]
    return [*lines, *("\n" + section("###", name, value) for name, value in functions)]


def fields(owner: type) -> list[str]:
    """Of a dataclass: the strings below its fields."""
    lines = [line.strip() for line in inspect.getsource(owner).splitlines()]
    pairs = [(line.split(":")[0], after.strip('"')) for line, after in zip(lines, lines[1:]) if after.startswith('"""')]
    return [f"- `{name}`: {meaning}\n" for name, meaning in pairs if name in owner.__dataclass_fields__]


def page() -> str:
    parts = [HEAD]
    for name, owner in {
        "Model": librwkv.Model,
        "State": librwkv.State,
        "Sampler": librwkv.Sampler,
        "Generation": librwkv.Generation,
        "Session": librwkv.Session,
        "Result": librwkv.Result,
        "librwkv.columns.Columns: the arguments of workers": librwkv.columns.Columns,
        "librwkv.ray.Worker": librwkv.ray.Worker,
        "librwkv.spark.Mapper": librwkv.spark.Mapper,
    }.items():
        parts.append(f"\n## {name}\n\n{text(owner)}\n")
        # States, generations and results are made by models; workers have the arguments of Columns.
        if owner in (librwkv.Model, librwkv.Sampler, librwkv.Session, librwkv.columns.Columns):
            parts.append(f"    {signature(owner.__name__, owner.__init__)}\n\n")
            parts += [text(owner.__init__) + "\n"] if owner.__init__.__doc__ else []
        parts += fields(owner) if owner is librwkv.Result else []
        parts += members(owner)
    parts.append("\n## Functions\n\n" + section("###", "quantize", librwkv.quantize))
    parts.append("\n" + section("###", "librwkv.spark.transform", librwkv.spark.transform))
    return "".join(parts).replace("\n\n\n", "\n\n")


written = page()
if sys.argv[1:] == ["--check"]:
    if PAGE.read_text() != written:
        sys.exit(f"{PAGE.name} is not what the docstrings say; run tools/develop/python-api.py")
else:
    PAGE.write_text(written)
