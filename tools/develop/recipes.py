#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What formats of single tensors cost a model: its KL in several types and recipes, as a Markdown table.

    recipes.py MODEL.safetensors --text TEXT [--calibrate TEXT] [--tokenizer FILE] [--bin DIR] ROW…

A row is a type and changes to it, lines of a recipe with "=": `int4`, `"int4 head.weight=int8 emb.weight=int5"`. It is
compared with the last row before it that is a type alone: bytes more, KL more, and the quotient. KL is that of
`rwkv-quantize compare` against FP32 on TEXT. Needs nothing but rwkv-quantize.
"""
import argparse
import json
import os
import subprocess
import tempfile


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="KL of one model in several types and recipes.")
    parser.add_argument("model")
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--text", required=True)
    parser.add_argument("--calibrate")
    parser.add_argument("--tokenizer", default="bytes")
    parser.add_argument("--bin", default=".build/release")
    options = parser.parse_args()
    tool = os.path.join(options.bin, "rwkv-quantize")
    print("| type | bytes | KL | same first choice | nats per token | more bytes | more KL | KL per 100 kB |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        exact, path, recipe = (os.path.join(folder, name) for name in ("exact.rwkv", "model.rwkv", "recipe.txt"))

        def convert(output, *arguments):
            subprocess.run([tool, options.model, output, "--force", "--no-measure", "--tokenizer", options.tokenizer,
                            *arguments], check=True, stderr=subprocess.DEVNULL)

        convert(exact, "--type", "fp32")
        base = None
        for row in options.rows:
            kind, *changes = row.split()
            with open(recipe, "w") as file:
                file.writelines(change.replace("=", " ") + "\n" for change in changes)
            convert(path, "--type", kind, *(["--recipe", recipe] if changes else []),
                    *(["--calibrate", options.calibrate] if options.calibrate else []))
            found = json.loads(subprocess.run([tool, "compare", exact, path, "--text", options.text, "--json"],
                                              check=True, stdout=subprocess.PIPE).stdout)
            size, kl, more = os.path.getsize(path), found["kl"], ["", "", ""]
            if changes and base:
                bytes_more, kl_more = size - base[0], kl - base[1]
                more = [f"{bytes_more:+,}", f"{kl_more:+.6f}", f"{abs(kl_more / bytes_more) * 1e5:.6f}"]
            elif not changes:
                base = size, kl
            cells = [row, f"{size:,}", f"{kl:.6f}", f"{100 * found['top1']:.2f} %", f"{found['model_nats']:.5f}", *more]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
