#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Do the tests notice when the code is wrong?

    tools/develop/mutate.py --sample N [--seed S] [--limit SECONDS] [--slow SECONDS] [--only TEXT] [--scratch FOLDER]
    tools/develop/mutate.py [--only TEXT] [--scratch FOLDER] [--timeout SECONDS] [--keep]

The first form draws N faults at random from all that tools/develop/mutants.py can make of Sources, tools and python:
nobody chose them. The second takes those of tools/develop/mutants.txt, one expression each, chosen by hand. All of
them are built into one copy of the tree, every one behind a switch (`mutant == 7 ? wrong : right`), so that one build
serves them all; RWKV_MUTANT=7 in the environment switches fault 7 on.

Drawn faults that do not compile are left out: the compilers are asked before anything is built, with the arguments of
this tree's own debug build, which must be there. Then all tests run once without a fault, suite by suite, and each
switch notes that it was reached (RWKV_REACHED). A fault is tried with the tests that reach it alone, quick ones and
those of its own suites first, up to the first issue; one that no test reaches needs no run. What takes more CPU than
four times that of the tests without the fault, and 20 s, is caught too. Suites that take long are noted test by test;
a test that takes more than --slow (60 s of CPU), or fails without a fault, notices nothing. --limit: seconds of tests
to try for each fault, so that the whole of a sample comes sooner; survivors are tried again with a higher one.

For faults of the table the suites named there run, which must pass without a fault.

The copy is made in FOLDER (/tmp/mutants), which keeps its build, what the tests reach and FOLDER/results.jsonl: a run
that was stopped goes on, and samples of other seeds add up. tools/develop/equivalent.txt lists drawn faults that change
nothing anybody could notice, each with its reason: they are counted apart. One closing line; exit 1 if fewer than
95 % of the table, or 85 % of the drawn ones, are caught. --only: mutants whose path or text contains TEXT. --keep:
don't copy the tree again.
"""
import argparse
import json
import os
import re
import subprocess
import sys

from mutant_tree import (
    ROOT, become_the_last_parent, build, draw, key_of, make_tree, mutated, read_table, run, without_failing)


def tests(suites=None):
    command = ["swift", "test", "--disable-xctest", "--skip-build", "--skip", "thePackageIsTypedAndTidy"]
    return command + (["--filter", suites] if suites else [])


def require_passing(suites, tree, timeout):
    passed, seconds, output = run(tests(suites), tree, 3 * timeout)
    if not passed:
        issues = [line for line in output.splitlines() if "issue" in line]
        sys.exit("\n".join(issues or output.splitlines()[-40:]) + "\nthe tests fail without any mutant")
    print(f"without a mutant the suites pass in {seconds:.0f} s", flush=True)


def first_failure(output):
    for line in output.splitlines():
        if re.search(r"recorded an issue|Fatal error|Precondition failed|unexpected signal|timeout", line):
            return re.sub(r"^\S+ ", "", line.strip())[:110]
    return "failed"


class Unit:
    """Tests that run together, a suite or one test of a slow one: the faults they reach, and their seconds."""

    def __init__(self, name, seconds, reached):
        self.name, self.seconds, self.reached = name, seconds, reached

    @property
    def filter(self):
        return "^" + re.escape(self.name)


def program(tree, *arguments):
    bundle = os.path.join(tree, ".build/debug/rwkvPackageTests.xctest")
    return [bundle, "--testing-library", "swift-testing", *arguments]


def test_names(tree):
    listed = subprocess.run(program(tree, "--list-tests"), cwd=tree, stdout=subprocess.PIPE, text=True, check=True)
    names = [line.strip() for line in listed.stdout.splitlines() if "(" in line]
    return [name for name in names if "thePackageIsTypedAndTidy" not in name]  # a switch is no tidy Python


def reach(options, tree, count, key):
    """Runs all tests without a fault and notes which of `count` faults each reaches; kept in a file."""
    path = os.path.join(options.scratch, f"reach-{key}.jsonl")
    record = os.path.join(options.scratch, "reached")
    known = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            known = {entry["name"]: entry for entry in map(json.loads, file)}
    names = test_names(tree)
    waiting = list(dict.fromkeys(name.split("/")[0] if "/" in name else name for name in names))
    units = []
    while waiting:
        name = waiting.pop(0)
        if name not in known:
            with open(record, "wb") as file:
                file.write(bytes(1 << 16))
            passed, seconds, _ = run(
                program(tree, "--filter", "^" + re.escape(name)), tree, options.slow, record=record)
            with open(record, "rb") as file:
                reached = [n for n, mark in enumerate(file.read(count + 1)) if mark and n]
            known[name] = {"name": name, "passed": passed, "seconds": round(seconds, 1), "reached": reached}
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(known[name]) + "\n")
            print(f"{name}: {'' if passed else 'FAILS, '}{seconds:.0f} s, reaches {len(reached)}", flush=True)
        entry = known[name]
        members = [test for test in names if test.startswith(name + "/")]
        if members and (entry["seconds"] > options.slow / 3 or not entry["passed"]):
            waiting = members + waiting
        elif entry["passed"]:
            units.append(Unit(name, entry["seconds"], set(entry["reached"])))
    return units


def rounds(mutant, units, limit):
    """The units that reach a fault, in groups that run together: its own suites' and quick ones first."""
    own = re.compile(mutant.suites.replace("/", ""))
    reaching = sorted(
        (unit for unit in units if mutant.number in unit.reached),
        key=lambda unit: unit.seconds / (4 if own.search(unit.name) else 1))
    together, seconds, total, bound = [], 0.0, 0.0, 5
    for unit in reaching:
        if total + unit.seconds > limit:
            continue
        if together and seconds + unit.seconds > bound:
            yield together
            together, seconds, bound = [], 0.0, 6 * bound
        together.append(unit)
        seconds += unit.seconds
        total += unit.seconds
    if together:
        yield together


def verdict(mutant, units, tree, options):
    """(caught, by what, seconds of CPU): stops at the first issue."""
    seconds, tried = 0.0, False
    for together in rounds(mutant, units, options.limit):
        expected = sum(unit.seconds for unit in together)
        tried = True
        names = "|".join(unit.filter for unit in together)
        passed, took, output = run(program(tree, "--filter", names), tree, 20 + 4 * expected, mutant.number)
        seconds += took
        if not passed:
            return True, first_failure(output), seconds
    reached = any(mutant.number in unit.reached for unit in units)
    return False, "" if tried else "no test within the limit" if reached else "no test reaches it", seconds


def run_sample(options):
    """Draws, builds and runs faults; see the top."""
    results_path = os.path.join(options.scratch, "results.jsonl")
    os.makedirs(options.scratch, exist_ok=True)
    results = {}
    if os.path.exists(results_path):
        with open(results_path, encoding="utf-8") as file:
            results = {entry["id"]: entry for entry in map(json.loads, file)}
    mutants = without_failing(options.scratch, draw(options.seed, options.sample, options.only))
    tree = build(options.scratch, mutants)
    units = reach(options, tree, len(mutants), key_of(mutants))
    waiting = [m for m in mutants if m.id not in results]
    survivors = [m for m in mutants if m.id in results and not results[m.id]["caught"]]
    waiting += [m for m in survivors if results[m.id]["limit"] < options.limit]
    for mutant in waiting:
        caught, noticed, seconds = verdict(mutant, units, tree, options)
        results[mutant.id] = {
            "id": mutant.id, "fault": str(mutant), "caught": caught, "by": noticed, "limit": options.limit}
        with open(results_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(results[mutant.id], ensure_ascii=False) + "\n")
        print(f"{'caught' if caught else 'SURVIVES'} {mutant}  [{seconds:.0f} s]\n     {noticed}", flush=True)
    report(results)


def report(results):
    """The closing lines over all samples; ends the program."""
    with open(os.path.join(ROOT, "tools/develop/equivalent.txt"), encoding="utf-8") as file:
        equivalent = {line.split()[0] for line in file if line.strip() and not line.startswith("#")}
    counted = [entry for entry in results.values() if entry["id"] not in equivalent]
    caught = sum(entry["caught"] for entry in counted)
    share = 100 * caught / max(1, len(counted))
    for entry in counted:
        if not entry["caught"]:
            print(f"survivor {entry['fault']}")
    print(
        f"mutate: {caught} of {len(counted)} drawn faults caught ({share:.0f} %), {len(counted) - caught} survivors, "
        f"{len(results) - len(counted)} equivalent")
    sys.exit(0 if share >= 85 else 1)


def main():
    parser = argparse.ArgumentParser(add_help=True, usage=__doc__.replace("%", "%%"))
    parser.add_argument("--only", default="")
    parser.add_argument("--scratch", default="/tmp/mutants")
    parser.add_argument("--timeout", type=int, default=600)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--slow", type=int, default=60)
    parser.add_argument("--limit", type=float, default=float("inf"))
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    become_the_last_parent()
    if options.sample:
        run_sample(options)
    mutants = read_table(os.path.join(ROOT, "tools/develop/mutants.txt"))
    tree = os.path.join(options.scratch, "tree") if options.keep else make_tree(options.scratch, mutated(mutants))
    passed, seconds, output = run(["swift", "build", "--build-tests"], tree, 3600)
    if not passed:
        sys.exit(output[-6000:] + "\nthe copy does not build")
    print(f"built {len(mutants)} mutants in {seconds:.0f} s", flush=True)
    chosen = [m for m in mutants if options.only in str(m) + m.path]

    require_passing("|".join(sorted({name for m in chosen for name in m.suites.split("|")})), tree, options.timeout)

    survivors = []
    for mutant in chosen:
        passed, seconds, output = run(tests(mutant.suites), tree, options.timeout, mutant.number)
        if passed:
            survivors.append(mutant)
        noticed = "" if passed else f"\n     {first_failure(output)}"
        print(f"{'SURVIVES' if passed else 'caught'} {mutant}  [{seconds:.0f} s]{noticed}", flush=True)
    for mutant in survivors:
        print(f"survivor {mutant}")
    caught = len(chosen) - len(survivors)
    share = 100 * caught / max(1, len(chosen))
    print(f"mutate: {caught} of {len(chosen)} caught ({share:.0f} %), {len(survivors)} survivors")
    sys.exit(0 if share >= 95 else 1)


if __name__ == "__main__":
    main()
