# SPDX-License-Identifier: MIT
"""Faults behind switches in a copy of the tree: which there are, which compile, running a command with one of them."""
import ctypes
import hashlib
import itertools
import json
import os
import re
import resource
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
C_SWITCH = """extern int rk_mutant;
extern unsigned char *rk_reached;
#define rk_active(number) (rk_reached[number] = 1, rk_mutant == (number))
"""
C_DEFINITION = """
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
int rk_mutant;
static unsigned char unread[1 << 16];
unsigned char *rk_reached = unread;
int rwkv_mutant(int number) { return rk_reached[number] = 1, rk_mutant == number; }
__attribute__((constructor)) static void read_mutant(void) {
  const char *number = getenv("RWKV_MUTANT"), *record = getenv("RWKV_REACHED");
  rk_mutant = number ? atoi(number) : 0;
  int file = record ? open(record, O_RDWR) : -1;
  if (file >= 0) rk_reached = mmap(0, sizeof unread, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
}
"""
SWIFT_SWITCH = """
@_silgen_name("rwkv_mutant") private func isActiveMutant(_ number: Int32) -> Int32
@inline(__always) private func activeMutant(_ number: Int32) -> Bool { isActiveMutant(number) != 0 }
"""
PYTHON_SWITCH = """
import os as _os
def _mutant(number, active=int(_os.environ.get("RWKV_MUTANT", "0")), record=_os.environ.get("RWKV_REACHED")):
    if record:
        with open(record, "r+b") as file:
            file.seek(number)
            file.write(b"\\1")
    return active == number
"""

# Which tests are about what a drawn fault is part of: the first that fits.
SUITES = [
    ("Sources/CRWKVKernels", "KernelTests"), ("Sources/RWKVFormat", "FormatTests"),
    ("Sources/RWKVTokenizer", "TokenizerTests"), ("Sources/RWKVCheckpoint", "CheckpointTests"),
    ("Sources/RWKVChat", "ConversationTests|ChatTemplateTests|ChatTests"),
    ("Sources/RWKVQuantization", "QuantizationTests"), ("Sources/RWKVExports", "CABITests"),
    ("python", "everyMethodWorksFromPython|manyTextsAreTheSameAsEach|exampleInPythonRuns"),
    ("Sources/RWKV/", "ModelTests"), ("tools/rwkv-quantize", "CommandTests.Quantize"),
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
        active = f"{'rk_active' if is_c(self.path) else 'activeMutant'}({self.number})"
        if self.wrong is None:
            switched = f"if (!{active}) {{ {self.right} }}"
        else:
            switched = f"({active} ? ({self.wrong}) : ({self.right}))"
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
        is_ours = name.startswith(("Sources/", "tools/", "python/")) and not LEFT_OUT.search(name)
        if not is_ours or not name.endswith((".swift", ".c", ".h", ".inc", ".py")):
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
    print(f"{total} faults of {len(found)} lines; {min(count, len(drawn))} drawn with seed {seed}", flush=True)
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
    for base, _, files in itertools.chain.from_iterable(os.walk(os.path.join(tree, name)) for name in COPIED):
        for file in files:
            path = os.path.join(base, file)
            if os.path.relpath(path, tree) not in names:
                os.remove(path)
    return tree


def become_the_last_parent():
    """Makes processes whose parents have ended children of this one, so that none gets lost."""
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def below():
    """The processes below this one: id -> (state, seconds of CPU, with those of its ended children)."""
    parents, found = {}, {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(name)] = int(fields[1])
        found[int(name)] = fields[0], sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def is_below(process):
        while process in parents:
            process = parents[process]
            if process == os.getpid():
                return True
        return False

    return {process: entry for process, entry in found.items() if is_below(process)}


def kill_all():
    for process in below():
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass


def end_all():
    """Ends everything below this process, however many sessions and process groups it is in."""
    while below():
        kill_all()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            pass


class Watch(threading.Thread):
    """Kills what runs once it has taken `timeout` of CPU, or has slept for that and 40 s more, all of it, or has
    taken thirty times as long by the clock. Time in which it is halted, or waits for a core, is not sleep."""

    def __init__(self, timeout):
        super().__init__()
        self.timeout, self.started, self.asleep = timeout, time.time(), 0
        self.timed_out = self.is_over = False
        self.ended = threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(0.5):
            processes = below().values()
            if all(state in "SZ" for state, _ in processes):
                self.asleep += 0.5
            self.timed_out = self.timed_out or not self.is_over and (
                sum(seconds for _, seconds in processes) > self.timeout
                or self.asleep > 40 + self.timeout or time.time() - self.started > 60 + 30 * self.timeout)
            # Again and again: what is killed may just have started something.
            if self.timed_out or self.is_over:
                kill_all()

    def end(self):
        self.ended.set()
        self.join()


def run(command, tree, timeout, mutant=0, record=None):
    """(passed, seconds of CPU, output). The first issue decides; what takes longer than `timeout` has not passed (see
    Watch). Nothing that was started is left."""
    environment = dict(os.environ, RWKV_MUTANT=str(mutant))
    if record:
        environment["RWKV_REACHED"] = record
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        text=True, errors="replace",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (int(timeout) + 60,) * 2))  # should this one die
    watch = Watch(timeout)
    output = ""
    for line in process.stdout:
        output += line
        watch.is_over = watch.is_over or mutant > 0 and "recorded an issue" in line
    passed = process.wait() == 0 and not watch.is_over and not watch.timed_out
    watch.end()
    end_all()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if "Test run with 0 tests" in output:
        sys.exit(f"no test matches {command[-1]}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return passed, seconds, output + ("\ntimeout" if watch.timed_out else "")


def is_python(text):
    try:
        compile(text, "", "exec")
        return True
    except SyntaxError:
        return False


def arguments_of(kind):
    """The compiler's command lines for Swift modules or C files, from the plan of ROOT's own build."""
    plan = os.path.join(ROOT, ".build/debug.yaml")
    if not os.path.exists(plan):
        sys.exit("build the tests first: swift build --build-tests")
    with open(plan, encoding="utf-8") as file:
        for line in file:
            text = line.strip()
            if not text.startswith('args: ["') or f'{kind}"' not in text.split(",")[0]:
                continue
            arguments = json.loads(text[len("args: "):])
            for option in ("-emit-module-path", "-output-file-map", "-index-store-path", "-emit-objc-header-path",
                           "-MF", "-MT", "-o"):
                if option in arguments:
                    at = arguments.index(option)
                    del arguments[at:at + 2]
            dropped = {"-emit-module", "-emit-dependencies", "-incremental", "-enable-batch-mode", "-c", "-MD",
                       "-serialize-diagnostics", "-emit-objc-header", "-parseable-output"}
            arguments = [a for a in arguments if a not in dropped and not re.fullmatch(r"-j\d+", a)]
            lists = [a for a in arguments if a.startswith("@")]
            sources = [a for a in arguments if a.endswith((".c", ".swift")) and not a.startswith("-")]
            if not all(os.path.exists(name[1:]) for name in lists):
                continue
            for name in lists:
                with open(name[1:], encoding="utf-8") as names:
                    sources += [n.strip().strip("'") for n in names]
            arguments = [a for a in arguments if a not in lists and a not in sources]
            yield arguments, [os.path.relpath(name, ROOT) for name in sources]


def compile_errors(tree, changed):
    """What the compilers say of the modules and C files that contain faults; nothing is built.

    What a module imports is as it was: no fault changes an interface.
    """
    output = ""
    c_changed = any(is_c(name) for name in changed)
    for arguments, sources in arguments_of("swiftc"):
        if "-module-name" in arguments and changed & set(sources):
            files = [os.path.join(tree if os.path.exists(os.path.join(tree, name)) else ROOT, name) for name in sources]
            output += run(arguments + ["-wmo", "-emit-sil", "-o", "/dev/null"] + files, tree, 900)[2]
    for arguments, sources in arguments_of("clang") if c_changed else []:
        if sources and is_c(sources[0]):
            output += run(arguments + ["-fsyntax-only", "-w", os.path.join(tree, sources[0])], tree, 300)[2]
    return output


def failing_in(output, mutants):
    """The faults that the errors in a compiler's output are about."""
    failing = set()
    errors = r"([\w/.+-]+\.(?:swift|c|h|inc)):(\d+):\d+: (?:fatal )?error: (.*(?:\n.*note: .*)*)"
    for path, line, text in re.findall(errors, output):
        here = [m for m in mutants if os.path.basename(m.path) == os.path.basename(path)]
        at = [m for m in here if m.index == int(line) - 1]
        # What is not set without a statement that was left out is reported elsewhere in the file, by its name.
        left_out = [m for m in here if m.operator in ("dropped statement", "lost error")]
        names = set(re.findall(r"'(?:self\.)?(\w+)'", text))
        named = [m for m in left_out if names & set(re.findall(r"\w+", m.line.split(" = ")[0]))]
        before = sorted((m for m in left_out if m.index < int(line)), key=lambda m: m.index)[-1:]
        failing.update(at or named or before or left_out)
    return [m for m in mutants if m in failing]


def key_of(mutants):
    return hashlib.sha256("".join(mutant.id for mutant in mutants).encode()).hexdigest()[:12]


def without_failing(folder, mutants):
    """Those that compile; kept in a file."""
    path = os.path.join(folder, f"compile-{key_of(mutants)}.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            known = set(json.load(file))
        return [m for m in mutants if m.id in known]
    mutants = [m for m in mutants if not m.path.endswith(".py") or is_python(with_drawn([m])[m.path])]
    changed = {m.path for m in mutants}
    while changed:
        tree = make_tree(folder, with_drawn(mutants))
        failing = failing_in(compile_errors(tree, changed), mutants)
        print(f"{len(failing)} do not compile", flush=True)
        mutants = [m for m in mutants if m not in failing]
        # An error can hide others of its module.
        changed = {m.path for m in failing}
        if any(is_c(name) for name in changed):
            changed |= {m.path for m in mutants if is_c(m.path)}
    with open(path, "w", encoding="utf-8") as file:
        json.dump([m.id for m in mutants], file)
    return mutants


def build(folder, mutants):
    """Builds a tree with mutants."""
    tree = make_tree(folder, with_drawn(mutants))
    passed, seconds, output = run(["swift", "build", "--build-tests"], tree, 7200)
    if not passed:
        sys.exit(output[-6000:] + "\nthe copy does not build")
    print(f"built {len(mutants)} mutants in {seconds:.0f} s", flush=True)
    return tree
