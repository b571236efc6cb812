#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Problems with exact answers, written out step by step: what a small model is trained on and examined with.

    tasks.py examine 200                one JSON line per problem: task, size, prompt, answer
    tasks.py text 10                    that many problems of each task with their answers, as one text (--held-out)
    tasks.py check PROBLEMS ANSWERS     right answers by task; ANSWERS has one JSON string per line

A problem is bytes. The prompt ends with "=", the answer is every step, and byte 0 ends it. Every step needs the one
before, so one wrong byte spoils what follows. Letters number the places, least significant first:

    add    +a39b40=       a39+0=12;b40+1=05;              digits of both numbers, carry, sum
    times  *7:a3b4=       a3*7=21+0=21;b4*7=28+2=30;      digit, factor, product, carry, sum
    sort   $aDbBcC=       aD>D;bB>BD;cC>BCD;              each letter is put into the sorted ones
    stack  !a3b4c+d^e*=   a3>A3;b4>B4;c+A3B4>A7;d^A7>B7;e*A7B7>A9;   slots A, B, C…; all modulo 10

Operations of the stack machine: a digit is pushed, + * take two and push one, ^ doubles the top, ~ swaps, _ drops.
A problem is held out if the CRC of its prompt is a multiple of 16; training never sees these.
"""
import argparse
import json
import random
import sys
import zlib

LETTERS = "abcdefghijklmnopqrstuvwxyz"
UPPER = LETTERS.upper()


def add(rng, size):
    """Two numbers of `size` digits."""
    first, second, carry, steps = rng.choices(range(10), k=size), rng.choices(range(10), k=size), 0, []
    for letter, x, y in zip(LETTERS, first, second):
        total = x + y + carry
        steps.append(f"{letter}{x}{y}+{carry}={total:02};")
        carry = total // 10
    prompt = "".join(f"{letter}{x}{y}" for letter, x, y in zip(LETTERS, first, second))
    return f"+{prompt}=", "".join(steps)


def times(rng, size):
    """A number of `size` digits by one digit."""
    factor, digits, carry, steps = rng.randrange(2, 10), rng.choices(range(10), k=size), 0, []
    for letter, x in zip(LETTERS, digits):
        product, total = x * factor, x * factor + carry
        steps.append(f"{letter}{x}*{factor}={product:02}+{carry}={total:02};")
        carry = total // 10
    prompt = "".join(f"{letter}{x}" for letter, x in zip(LETTERS, digits))
    return f"*{factor}:{prompt}=", "".join(steps)


def sort(rng, size):
    """Different letters, by insertion."""
    letters, steps = rng.sample(UPPER, size), []
    for n, (place, letter) in enumerate(zip(LETTERS, letters)):
        steps.append(f"{place}{letter}>{''.join(sorted(letters[:n + 1]))};")
    return f"${''.join(map(''.join, zip(LETTERS, letters)))}=", "".join(steps)


def stack(rng, size, depth=8):
    """A program of `size` operations on at most `depth` slots."""
    values, program, steps = [], [], []
    for letter in LETTERS[:size]:
        choices = "0123456789" if len(values) < 2 else "+*+*~_^01234567"
        op = rng.choice(choices)
        if len(values) == depth and op in "^0123456789":
            op = "+"
        program.append(letter + op)
        used = {"^": 1, "_": 1, "+": 2, "*": 2, "~": 2}.get(op, 0)
        taken = values[len(values) - used:]
        shown = "".join(f"{UPPER[len(values) - used + n]}{value}" for n, value in enumerate(taken))
        x, y = (taken + [0, 0])[:2]
        made = {"+": [(x + y) % 10], "*": [x * y % 10], "~": [y, x], "^": [x], "_": []}
        put = made[op] if op in made else [int(op)]
        base = len(values) if op == "^" else len(values) - used
        values = values[:base] + put
        steps.append(f"{letter}{op}{shown}>" + "".join(f"{UPPER[base + n]}{v}" for n, v in enumerate(put)) + ";")
    return f"!{''.join(program)}=", "".join(steps)


# The sizes that training reaches and that the examination asks for, and those beyond.
TASKS = {"add": (add, range(1, 21), range(12, 21), range(21, 27)),
         "times": (times, range(1, 15), range(8, 15), range(15, 21)),
         "sort": (sort, range(1, 17), range(13, 17), range(17, 21)),
         "stack": (stack, range(1, 21), range(13, 21), range(21, 27))}


def held_out(prompt):
    """Whether training must not see this problem."""
    return zlib.crc32(prompt.encode()) % 16 == 0


def problem(task, size, rng, held=False):
    """A prompt and its answer (which byte 0 ends), held out or not. Prompts of few are not held out at all."""
    while True:
        prompt, answer = TASKS[task][0](rng, size)
        if held_out(prompt) == held or (not held and size < 4):
            return prompt, answer


def examination(count, longer=False, seed=1):
    """`count` held-out problems of each task: dictionaries with task, size, prompt and answer."""
    rng = random.Random(seed)
    for task, (_, _, asked, beyond) in TASKS.items():
        for n in range(count):
            size = (beyond if longer else asked)[n % len(beyond if longer else asked)]
            prompt, answer = problem(task, size, rng, held=True)
            yield {"task": task, "size": size, "prompt": prompt, "answer": answer}


def text(count, seed, held=False):
    """`count` problems of each task with their answers, as one text in which byte 0 ends each."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        for task, (_, trained, _, _) in TASKS.items():
            found.append("".join(problem(task, rng.choice(trained[3:]), rng, held)) + "\0")
    return "".join(found)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="Problems with exact answers.")
    commands = parser.add_subparsers(dest="command", required=True)
    examine = commands.add_parser("examine")
    examine.add_argument("count", type=int)
    examine.add_argument("--longer", action="store_true")
    examine.add_argument("--seed", type=int, default=1)
    written = commands.add_parser("text")
    written.add_argument("count", type=int)
    written.add_argument("--seed", type=int, default=5)
    written.add_argument("--held-out", action="store_true")
    check = commands.add_parser("check")
    check.add_argument("problems")
    check.add_argument("answers")
    options = parser.parse_args()
    if options.command == "examine":
        for found in examination(options.count, options.longer, options.seed):
            print(json.dumps(found))
        return
    if options.command == "text":
        sys.stdout.write(text(options.count, options.seed, options.held_out))
        return
    right = {}
    with open(options.problems) as problems, open(options.answers) as answers:
        for asked, given in zip(problems, answers, strict=True):
            asked = json.loads(asked)
            right.setdefault(asked["task"], []).append(json.loads(given) == asked["answer"])
    for task, results in right.items():
        print(f"{task}: {sum(results)} of {len(results)}")
    sys.exit(0 if all(all(results) for results in right.values()) else 1)


if __name__ == "__main__":
    main()
