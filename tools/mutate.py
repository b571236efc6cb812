#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Do the tests notice when the code is wrong?

    tools/mutate.py [--only TEXT] [--scratch FOLDER] [--timeout SECONDS] [--keep]

tools/mutants.txt lists deliberate faults, one expression each. All of them are built into one copy of the tree, every
one behind a switch (`mutant == 7 ? wrong : right`), so that one build serves them all; RWKV_MUTANT=7 in the environment
switches fault 7 on. For each, the suites that the table names are run. A fault with which they pass is a survivor. Without
any fault they must pass.

The copy is made in FOLDER (/tmp/mutants), which keeps its build for the next time. One closing line; exit 1 if fewer than
95 % are caught. --only: mutants whose path or text contains TEXT. --keep: don't copy the tree again.
"""
import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COPIED = ["Package.swift", "Package.resolved", "Sources", "Tests", "tools", "examples", "formats", "README.md"]

# What reads the switch. The C variable is set before main; Swift reaches it without importing anything.
C_SWITCH = "extern int rk_mutant;\n"
C_DEFINITION = """
int rk_mutant;
int rwkv_mutant(void) { return rk_mutant; }
__attribute__((constructor)) static void read_mutant(void) {
  const char *number = getenv("RWKV_MUTANT");
  rk_mutant = number ? atoi(number) : 0;
}
"""
SWIFT_SWITCH = '\n@_silgen_name("rwkv_mutant") private func activeMutant() -> Int32\n'


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


def make_tree(folder, mutants):
    """A copy of the tree with every mutant behind its switch. Files that stay the same are not written again."""
    tree = os.path.join(folder, "tree")
    texts = mutated(mutants)
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
    command = ["swift", "test", "--disable-xctest", "--skip-build"]
    return command + (["--filter", suites] if suites else [])


def first_failure(output):
    for line in output.splitlines():
        if re.search(r"recorded an issue|Fatal error|Precondition failed|unexpected signal|timeout", line):
            return re.sub(r"^\S+ ", "", line.strip())[:110]
    return "failed"


def main():
    parser = argparse.ArgumentParser(add_help=True, usage=__doc__.replace("%", "%%"))
    parser.add_argument("--only", default="")
    parser.add_argument("--scratch", default="/tmp/mutants")
    parser.add_argument("--timeout", type=int, default=600)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    mutants = read_table(os.path.join(ROOT, "tools/mutants.txt"))
    tree = os.path.join(options.scratch, "tree") if options.keep else make_tree(options.scratch, mutants)
    passed, seconds, output = run(["swift", "build", "--build-tests"], tree, 3600)
    if not passed:
        sys.exit(output[-6000:] + "\nthe copy does not build")
    print(f"built {len(mutants)} mutants in {seconds:.0f} s", flush=True)
    chosen = [m for m in mutants if options.only in str(m) + m.path]

    suites = sorted({name for m in chosen for name in m.suites.split("|")})
    passed, seconds, output = run(tests("|".join(suites)), tree, 3 * options.timeout)
    if not passed:
        issues = [line for line in output.splitlines() if "issue" in line]
        sys.exit("\n".join(issues or output.splitlines()[-40:]) + "\nthe tests fail without any mutant")
    print(f"without a mutant: the {len(suites)} named suites pass in {seconds:.0f} s", flush=True)

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
