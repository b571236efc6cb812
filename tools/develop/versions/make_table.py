#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Converts every version from every source format to every type, runs each, and writes the table in docs/versions.md.

    make_table.py [--bin .build/release] [--check]

Each cell: rwkv-quantize, then rwkv-run logits over the golden case's tokens; the number is the root mean square
difference of all logits from the original implementation's. Fails where a conversion fails, where a logit is not
finite, and where an exact source converted to fp32 is off by more than the case's tolerance. --check writes nothing.
Needs numpy alone.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import containers

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDENS = ROOT / "Tests/Fixtures/goldens"
DOCUMENT = ROOT / "docs/versions.md"
CASES = {"4": "v4-hf", "5.0": "v50-std", "5.1": "v51-std", "5.2": "v52-hf", "6": "v6-hf", "7": "v7-f32-small",
         "7a": "v7a-pth", "7b": "v7b-std", "x": "x-one"}
# Published under BlinkDL's names alone, and by his trainer and others like it.
OWN_NAMES = ["7a", "7b", "x"]
TYPES = ["fp32", "fp16", "int8", "int5", "int4"]
CPP_TYPES = ["F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]
GGUF_TYPES = ["F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"]


def sources(model, folder):
    """(what it is, its path, whether it has the model's exact values, whether its values are the model's at all, and
    the options that it needs)"""
    yield from ((*source, []) for source in plain_sources(model, folder))
    if containers.version(model) != "x":
        yield "`.pth` and a LoRA in a PEFT folder", *adapted(model, folder)


def adapted(model, folder):
    peft = folder / "peft"
    peft.mkdir()
    (folder / "base.pth").write_bytes(containers.pth(containers.published(containers.adapter(model, peft))))
    return folder / "base.pth", True, True, ["--lora", peft]


def plain_sources(model, folder):
    def file(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    def directory(name, names, write, file):
        path = folder / name
        path.mkdir()
        if version not in OWN_NAMES:
            (path / "config.json").write_bytes(containers.config(model))
        containers.sharded(names, path, write, file)
        return path

    version = containers.version(model)
    own = containers.published(model)
    theirs = own if version in OWN_NAMES else containers.to_huggingface(model)
    style = {"4": "transformers", "7": "fla", "7a": "BlinkDL's", "7b": "BlinkDL's", "x": "RWKV-X"}.get(
        version, "Hugging Face")
    yield "safetensors", file("m.safetensors", containers.safetensors(own)), True, True
    yield f"safetensors, 2 shards, {style} names", directory(
        "shards", theirs, containers.safetensors, "model.safetensors"), True, True
    yield "`.pth`", file("m.pth", containers.pth(own)), True, True
    yield f"`pytorch_model.bin`, 2 shards, {style} names", directory(
        "torch", theirs, containers.pth, "pytorch_model.bin"), True, True
    yield "`.pth` before torch 1.6", file("old.pth", containers.old_pth(own)), True, True
    if version != "x":
        yield "Lightning's checkpoint", file("last.ckpt", containers.lightning(own)), True, True
        yield "DeepSpeed's `mp_rank_00_model_states.pt`", file("ds.pt", containers.deepspeed(own)), True, True
    if version not in ["5.0", *OWN_NAMES]:
        yield "`.st` of web-rwkv, Ai00, RWKV-Runner", file("m.st", containers.st(model)), False, True
    if version == "7":
        for style, theirs in [("transformers' own", containers.to_transformers(model)),
                              ("transformers-rwkv", containers.to_transformers_rwkv(model))]:
            yield f"safetensors, 2 shards, {style} names", directory(
                style, theirs, containers.safetensors, "model.safetensors"), True, True
    if version not in OWN_NAMES:
        yield "rwkv.cpp `.bin` FP32", file("m.bin", containers.rwkv_cpp(model)), True, True
        for kind in CPP_TYPES:
            name = "FP16" if kind == "F16" else kind
            yield f"rwkv.cpp `.bin` {name}", file(kind + ".bin", containers.rwkv_cpp(model, kind)), False, True
    if version in "67":
        yield "GGUF F32", file("m.gguf", containers.gguf(model)), True, True
        parts = [file(f"m-0000{number + 1}-of-00002.gguf", data)
                 for number, data in enumerate(containers.gguf_parts(model))]
        yield "GGUF F32, 2 parts", parts[0], True, True
        for kind in GGUF_TYPES:
            yield f"GGUF {kind}", file(kind + ".gguf", containers.gguf(model, kind)), False, not kind.endswith("_K")


class Runner:
    def __init__(self, programs, case):
        self.programs, self.folder = programs, GOLDENS / case
        expected = containers.read_safetensors(self.folder / "expected.safetensors")
        self.about = json.loads((self.folder / "case.json").read_text())
        self.rows = self.about.get("saved_positions", slice(None))
        self.expected = expected.get("logits", expected.get("decode.logits"))
        self.options = []
        if self.about["version"].startswith("5"):  # rwkv.cpp's files of version 5 imply its own, another epsilon
            self.options = ["--group-norm-eps", "64e-5"]
        if "config" in self.about:
            run = {**self.about["config"], **self.about["runs"]["decode"]}
            for option, key in [("--moba-chunk-size", "chunk_size"), ("--moba-topk", "topk"),
                                ("--max-kv-cache", "max_kv_cache_size"), ("--min-kv-cache", "min_kv_cache_size"),
                                ("--kv-window", "kv_cache_window_size")]:
                self.options += [option, str(run[key])]

    def cell(self, source, type_, scratch, options):
        model, out = scratch / "model.rwkv", scratch / "logits.safetensors"
        self.run("rwkv-quantize", source, model, "--type", type_, "--force", "--allow-quantized",
                 "--no-measure", *self.options, *options)
        self.run("rwkv-run", "logits", model, "--tokens", self.folder / "tokens.json", "--out", out)
        difference = containers.read_safetensors(out)["logits"][self.rows] - self.expected
        if not np.isfinite(difference).all():
            sys.exit(f"{source} as {type_}: logits that are not finite")
        return float(np.sqrt(np.mean(difference ** 2))), float(np.abs(difference).max())

    def run(self, name, *arguments):
        result = subprocess.run([self.programs / name, *map(str, arguments)], capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"{name} {' '.join(map(str, arguments))}\n{result.stderr}")


def rows(programs):
    for version, case in CASES.items():
        model, runner = containers.read_model(GOLDENS / case), Runner(programs, case)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for name, path, exact, comparable, options in sources(model, folder):
                cells = []
                for type_ in TYPES:
                    rms, largest = runner.cell(path, type_, folder, options)
                    if exact and type_ == "fp32" and largest > runner.about["abs_tolerance_fp32"]:
                        sys.exit(f"{version} from {name}: off by {largest}")
                    cells.append(f"{rms:.1g}" if comparable else "runs")
                yield f"| {'X' if version == 'x' else version} | {name} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=ROOT / ".build/release", type=pathlib.Path, help="where the programs are")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    table = ["| version | source | " + " | ".join(TYPES) + " |", "|---" * (2 + len(TYPES)) + "|"]
    table += rows(options.bin.resolve())
    cells = len(TYPES) * (len(table) - 2)
    if not options.check:
        before, _, rest = DOCUMENT.read_text().partition("<!-- table -->\n")
        after = rest.partition("<!-- end of table -->\n")[2]
        DOCUMENT.write_text(before + "<!-- table -->\n" + "\n".join(table) + "\n<!-- end of table -->\n" + after)
    print(f"{cells} conversions ran and gave logits")


if __name__ == "__main__":
    main()
