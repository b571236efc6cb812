#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Do the tests notice when the code is wrong?

    tools/develop/mutate.py --sample N [--seed S] [--only TEXT] [--scratch FOLDER] [--timeout SECONDS]
    tools/develop/mutate.py [--only TEXT] [--scratch FOLDER] [--timeout SECONDS] [--keep]

The first form draws N faults at random from all that tools/develop/mutants.py can make of Sources, tools and python: nobody chose
them. The second takes those of tools/develop/mutants.txt, one expression each, chosen by hand. All of them are built into one copy
of the tree, every one behind a switch (`mutant == 7 ? wrong : right`), so that one build serves them all; RWKV_MUTANT=7 in
the environment switches fault 7 on. Drawn faults that do not compile are left out. For each, the suites that should notice
are run (those of the table; those that run what the file is part of), and for a drawn fault with which they pass, all
others. A fault with which everything passes is a survivor. Without any fault the suites must pass.

The copy is made in FOLDER (/tmp/mutants), which keeps its build for the next time. Results of drawn faults are kept in
FOLDER/results.jsonl: a run that was stopped goes on, and samples of other seeds add up. tools/develop/equivalent.txt lists drawn
faults that change nothing anybody could notice, each with its reason: they are counted apart. One closing line; exit 1 if
fewer than 95 % of the table, or 85 % of the drawn ones, are caught. --only: mutants whose path or text contains TEXT.
--keep: don't copy the tree again.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import mutants as operators

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COPIED = [
    "Package.swift", "Package.resolved", "Sources", "Tests", "tools", "examples", "formats", "python", "docs",
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]

# What reads the switch. The C variable is set before main; Swift reaches it without importing anything.
C_SWITCH = "extern int rk_mutant;\n#define rk_active(number) (rk_mutant == (number))\n"
C_DEFINITION = """
int rk_mutant;
int rwkv_mutant(void) { return rk_mutant; }
__attribute__((constructor)) static void read_mutant(void) {
  const char *number = getenv("RWKV_MUTANT");
  rk_mutant = number ? atoi(number) : 0;
}
"""
SWIFT_SWITCH = """
@_silgen_name("rwkv_mutant") private func activeMutant() -> Int32
@inline(__always) private func activeMutant(_ number: Int32) -> Bool { activeMutant() == number }
"""
PYTHON_SWITCH = """
import os as _os
def _mutant(number, active=int(_os.environ.get("RWKV_MUTANT", "0"))): return active == number
"""

# Which tests run what a drawn fault is part of: the first that fits.
SUITES = [
    ("Sources/CRWKVKernels", "KernelTests"), ("Sources/RWKVFormat", "FormatTests"),
    ("Sources/RWKVTokenizer", "TokenizerTests"), ("Sources/RWKVCheckpoint", "CheckpointTests"),
    ("Sources/RWKVChat", "ConversationTests|ChatTemplateTests|ChatTests"),
    ("Sources/RWKVQuantization", "QuantizationTests"), ("Sources/RWKVExports", "CABITests"),
    ("python", "everyMethodWorksFromPython|manyTextsAreTheSameAsEach|exampleInPythonRuns"), ("Sources/RWKV/", "ModelTests"), ("tools/rwkv-quantize", "CommandTests.Quantize"),
    ("tools", "CommandTests"), ("", "ModelTests"),
]
# Not what is shipped, or not under test by the suites.
LEFT_OUT = re.compile(
    r"tools/(develop|train|synthetic|fuzz|steps|shared/peak|bench-kernels)/|"
    r"Sources/CZstd|Sources/RWKVTokenizer/CanonicalDecompositions|Sources/CRWKVABI")


def is_c(path):
    return path.startswith("Sources/CRWKVKernels")


class Mutant:
    """One fault: in `path`, the expression `right` within the unique text `before + right + after` becomes `wrong`."""

    def __init__(self, number, path, suites):
        self.number, self.path, self.suites = number, path, suites
        self.before = self.right = self.after = ""
        self.wrong = None  # None: the statement is left out

    def set_right(self, text):
        match = re.fullmatch(r"(.*)«(.*)»(.*)", text)
        self.before, self.right, self.after = match.groups() if match else ("", text, "")

    def apply(self, source):
        found = source.count(self.before + self.right + self.after)
        if found != 1:
            sys.exit(f"{self.path}: found {found} times, expected once: {self.before}«{self.right}»{self.after}")
        active = "rk_mutant" if is_c(self.path) else "activeMutant()"
        if self.wrong is None:
            switched = f"if ({active} != {self.number}) {{ {self.right} }}"
        else:
            switched = f"({active} == {self.number} ? ({self.wrong}) : ({self.right}))"
        return source.replace(self.before + self.right + self.after, self.before + switched + self.after)

    def __str__(self):
        change = f"{self.right}  →  {'(left out)' if self.wrong is None else self.wrong}"
        return f"{self.number:3d} {os.path.basename(self.path)}: {change}"


def read_table(path):
    mutants, place = [], None
    for line in open(path, encoding="utf-8"):
        line = line.rstrip("\n")
        if line.startswith("@ "):
            place = [part.strip() for part in line[2:].split(" : ")]
        elif line.startswith("- "):
            mutants.append(Mutant(len(mutants) + 1, *place))
            mutants[-1].set_right(line[2:])
        elif line.startswith("+ "):
            mutants[-1].wrong = line[2:]
        elif line and not line.startswith("#"):
            sys.exit(f"{path}: what is this line? {line}")
    return mutants


class DrawnMutant:
    """A fault that tools/develop/mutants.py made of one line."""

    def __init__(self, path, index, line, operator, change, make):
        self.path, self.index, self.operator, self.change, self.make = path, index, operator, change, make
        self.line = line
        self.id = hashlib.sha256(f"{path}|{line}|{change}".encode()).hexdigest()[:12]
        self.number = 0
        self.suites = next(suites for prefix, suites in SUITES if path.startswith(prefix))

    def __str__(self):
        return f"{self.id} {self.path}:{self.index + 1}: {self.operator}: {self.change}"


def draw(seed, count, only):
    """`count` faults at random, at most one of each line; the same for the same seed and code."""
    found = {}
    for name in sorted(set(original_files())):
        is_source = name.startswith(("Sources/", "tools/", "python/")) and name.endswith((".swift", ".c", ".h", ".inc", ".py"))
        if not is_source or LEFT_OUT.search(name):
            continue
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            text = file.read()
        lines = text.split("\n")
        for index, operator, change, make in operators.candidates(name, text):
            mutant = DrawnMutant(name, index, lines[index], operator, change, make)
            if only in str(mutant):
                found.setdefault((name, index), []).append(mutant)

    def order(text):
        return hashlib.sha256(f"{seed}|{text}".encode()).digest()

    drawn = [min(choices, key=lambda m: order(m.id)) for choices in found.values()]
    drawn.sort(key=lambda m: order(m.path + m.line + str(m.index)))
    total = sum(map(len, found.values()))
    print(f"{total} faults of {len(found)} lines can be made; {min(count, len(drawn))} drawn with seed {seed}", flush=True)
    return drawn[:count]


def with_drawn(mutants):
    """The contents of the files that have drawn mutants."""
    texts = {}
    for number, mutant in enumerate(mutants, 1):
        mutant.number = number
        if mutant.path not in texts:
            with open(os.path.join(ROOT, mutant.path), encoding="utf-8") as file:
                texts[mutant.path] = file.read().split("\n")
        texts[mutant.path][mutant.index] = mutant.make(number)
    for path, lines in texts.items():
        text = "\n".join(lines)
        if is_c(path):
            texts[path] = C_SWITCH + f"#line 1 \"{os.path.basename(path)}\"\n" + text
        elif path.endswith(".py"):
            texts[path] = text + PYTHON_SWITCH if "from __future__" in text else PYTHON_SWITCH + text
        else:
            texts[path] = text + SWIFT_SWITCH
    return texts


def original_files():
    for name in COPIED:
        path = os.path.join(ROOT, name)
        if os.path.isfile(path):
            yield name
        for folder, folders, files in os.walk(path):
            folders[:] = [f for f in folders if not f.startswith((".", "__"))]
            for file in files:
                yield os.path.relpath(os.path.join(folder, file), ROOT)


def mutated(mutants):
    """The contents of the files that have mutants."""
    texts = {}
    for mutant in mutants:
        if mutant.path not in texts:
            with open(os.path.join(ROOT, mutant.path), encoding="utf-8") as file:
                texts[mutant.path] = file.read()
        texts[mutant.path] = mutant.apply(texts[mutant.path])
    for path in texts:
        # #line: compiler messages keep the numbers of the original.
        texts[path] = C_SWITCH + "#line 1\n" + texts[path] if is_c(path) else texts[path] + SWIFT_SWITCH
    return texts


def make_tree(folder, texts):
    """A copy of the tree, some files with these texts. Files that stay the same are not written again."""
    tree = os.path.join(folder, "tree")
    names = set(original_files())
    for name in names:
        target = os.path.join(tree, name)
        with open(os.path.join(ROOT, name), "rb") as file:
            content = file.read()
        if name in texts:
            content = texts[name].encode()
        if name == "Sources/CRWKVKernels/dispatch.c":
            content += C_DEFINITION.encode()
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.exists(target) and open(target, "rb").read() == content:
            continue
        with open(target, "wb") as file:
            file.write(content)
        shutil.copymode(os.path.join(ROOT, name), target)
    for base, folders, files in os.walk(tree):
        folders[:] = [f for f in folders if f != ".build"]
        for file in files:
            path = os.path.join(base, file)
            if os.path.relpath(path, tree) not in names and file != "Package.resolved":
                os.remove(path)
    return tree


def run(command, tree, timeout, mutant=0):
    """(passed, seconds, output). The first issue decides; a command that takes too long has not passed."""
    start = time.time()
    process = subprocess.Popen(
        command, cwd=tree, env=dict(os.environ, RWKV_MUTANT=str(mutant)), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True, text=True, errors="replace")

    def stop():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    timer = threading.Timer(timeout, stop)
    timer.start()
    output, failed = "", False
    for line in process.stdout:
        output += line
        if mutant and not failed and "recorded an issue" in line:
            failed = True
            stop()
    timer.cancel()
    passed = process.wait() == 0 and not failed
    if "Test run with 0 tests" in output:
        sys.exit(f"no test matches {command[-1]}")
    if time.time() - start >= timeout:
        output += "\ntimeout"
    return passed, time.time() - start, output


def tests(suites=None):
    # A switch is no tidy Python.
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


def is_python(text):
    try:
        compile(text, "", "exec")
        return True
    except SyntaxError:
        return False


def build_without_failing(options, mutants):
    """Builds a tree with the mutants that compile; returns it and them."""
    while True:
        mutants = [m for m in mutants if not m.path.endswith(".py") or is_python(with_drawn([m])[m.path])]
        tree = make_tree(options.scratch, with_drawn(mutants))
        passed, seconds, output = run(["swift", "build", "--build-tests"], tree, 7200)
        if passed:
            print(f"built {len(mutants)} mutants in {seconds:.0f} s", flush=True)
            return tree, mutants
        places = {
            (os.path.basename(path), int(line) - 1)
            for path, line in re.findall(r"([\w/.+-]+\.(?:swift|c|h|inc)):(\d+):\d+: error:", output)}
        failing = [m for m in mutants if (os.path.basename(m.path), m.index) in places]
        # What is not set without a statement that was left out is reported elsewhere in the file.
        elsewhere = {name for name, line in places if not any(
            (os.path.basename(m.path), m.index) == (name, line) for m in mutants)}
        failing += [
            m for m in mutants if m not in failing and m.operator in ("dropped statement", "lost error")
            and os.path.basename(m.path) in elsewhere]
        if not failing:
            sys.exit(output[-6000:] + "\nthe copy does not build")
        print(f"{len(failing)} do not compile", flush=True)
        mutants = [m for m in mutants if m not in failing]


def run_sample(options):
    """Draws, builds and runs faults; see the top."""
    results_path = os.path.join(options.scratch, "results.jsonl")
    os.makedirs(options.scratch, exist_ok=True)
    results = {}
    if os.path.exists(results_path):
        results = {entry["id"]: entry for entry in map(json.loads, open(results_path, encoding="utf-8"))}
    tree, mutants = build_without_failing(options, draw(options.seed, options.sample, options.only))
    waiting = [mutant for mutant in mutants if mutant.id not in results]
    require_passing("|".join(sorted({mutant.suites for mutant in waiting})), tree, options.timeout)
    for mutant in waiting:
        passed, seconds, output = run(tests(mutant.suites), tree, options.timeout, mutant.number)
        if passed:
            passed, more, output = run(tests(), tree, 4 * options.timeout, mutant.number)
            seconds += more
        noticed = "" if passed else first_failure(output)
        results[mutant.id] = {"id": mutant.id, "fault": str(mutant), "caught": not passed, "by": noticed}
        with open(results_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(results[mutant.id], ensure_ascii=False) + "\n")
        print(f"{'SURVIVES' if passed else 'caught'} {mutant}  [{seconds:.0f} s]\n     {noticed}", flush=True)
    equivalent = set()
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
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
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
        print(f"{'SURVIVES' if passed else 'caught'} {mutant}  [{seconds:.0f} s]" + ("" if passed else f"\n     {first_failure(output)}"),
              flush=True)
    for mutant in survivors:
        print(f"survivor {mutant}")
    caught = len(chosen) - len(survivors)
    share = 100 * caught / max(1, len(chosen))
    print(f"mutate: {caught} of {len(chosen)} caught ({share:.0f} %), {len(survivors)} survivors")
    sys.exit(0 if share >= 95 else 1)


if __name__ == "__main__":
    main()
