# SPDX-License-Identifier: MIT
"""python -m librwkv batch … | lm_eval …"""

import sys

USAGE = """usage: python -m librwkv batch MODEL IN.jsonl OUT.jsonl    rows in, rows out; goes on where it was stopped
       python -m librwkv lm_eval --model_args path=MODEL --tasks TASKS …    lm-evaluation-harness
"""


def main(arguments: list[str]) -> int:
    match arguments:
        case ["batch", *rest]:
            from .batch import main as batch

            return batch(rest)
        case ["lm_eval", *rest]:
            from .evaluation import main as evaluate

            return evaluate(rest)
        case ["-h" | "--help"]:
            print(USAGE, end="")
            return 0
    print(USAGE, end="", file=sys.stderr)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
