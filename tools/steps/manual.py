#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the man page of a program: all its commands, their options and defaults, in one page.

usage: manual.py PROGRAM > PROGRAM.1

The argument parser's own generator makes a page for each command, builds a package for it, and leaves defaults out.
"""
import json
import os
import re
import subprocess
import sys


def escaped(text):
    """Text as roff has it: no line of it is a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def paragraphs(text):
    """Lines that are indented stay as they are."""
    lines, is_plain = [], True
    for line in text.splitlines():
        plain = not line.startswith(" ")
        if plain != is_plain:
            lines.append(".fi" if plain else ".nf")
            is_plain = plain
        if line.split(" (")[0].isupper():
            lines.append(f".PP\n.B {escaped(line)}")
        else:
            lines.append(escaped(line) if line.strip() else ".PP")
    return "\n".join(lines + ([] if is_plain else [".fi"]))


def spelled(argument):
    """-n, --predict <predict>"""
    value = argument.get("valueName", "")
    if argument["kind"] == "positional":
        return rf"\fI{escaped(value)}\fR" + (" ..." if argument["isRepeating"] else "")
    names = sorted(argument["names"], key=lambda name: len(name["name"]))
    shown = [("-" if name["kind"] != "long" else "--") + name["name"] for name in names]
    text = ", ".join(rf"\fB{escaped(name)}\fR" for name in shown)
    return text + (rf" \fI{escaped(value)}\fR" if argument["kind"] == "option" else "")


def described(argument):
    text = argument.get("abstract", "")
    default = argument.get("defaultValue")
    if default and "(default" not in text and argument["kind"] != "flag":
        text = f"{text.removesuffix('.')} (default: {default})."
    return text


def arguments(command):
    out = []
    for argument in command.get("arguments", []):
        name = argument.get("names", [{"name": ""}])[0]["name"]
        if argument["shouldDisplay"] and name not in ("h", "help", "version"):
            out.append(f".TP\n{spelled(argument)}\n{escaped(described(argument))}")
    return "\n".join(out)


def walk(command, words=()):
    """The commands within a command, by their words."""
    for inner in command.get("subcommands", []):
        if inner["commandName"] != "help":
            yield (*words, inner["commandName"]), inner
            yield from walk(inner, (*words, inner["commandName"]))


def page(root, version, default):
    name = root["commandName"]
    commands = dict(walk(root))
    out = [f'.TH {escaped(name.upper())} 1 "" "{name} {version}"',
           ".SH NAME", f"{name} \\- {root['abstract'].rstrip('.')}", ".SH SYNOPSIS"]
    uses = [words for words in commands if "subcommands" not in commands[words]] or [()]
    for words in uses:
        command = commands.get(words, root)
        places = [spelled(a) for a in command.get("arguments", []) if a["kind"] == "positional" and a["shouldDisplay"]]
        said = [] if words == (default,) else list(words)
        arguments_of_it = " ".join(places + ["[\\fIoptions\\fR]"])
        out.append(rf".B {escaped(' '.join([name, *said]))}" + "\n" + arguments_of_it + "\n.br")
    out += [".SH DESCRIPTION", paragraphs(root.get("discussion", "")), arguments(root)]
    if commands:
        out.append(".SH COMMANDS")
        for words, command in commands.items():
            if "subcommands" not in command:
                out.append(f".SS {escaped(' '.join(words))}" + (" (default)" if words == (default,) else ""))
                out.append(escaped(command["abstract"]))
                if command.get("discussion") != root.get("discussion"):
                    out.append(".PP\n" + paragraphs(command.get("discussion", "")))
                out.append(arguments(command))
    codes = [("0", "success"), ("1", "an error, which is described on stderr"), ("64", "wrong usage"),
             ("130", "interrupted"), ("143", "terminated")]
    out.append(".SH EXIT STATUS")
    out += [f".TP\n.B {code}\n{meaning}" for code, meaning in codes]
    others = [other for other in ("rwkv-run", "rwkv-quantize", "rwkv-serve") if other != name]
    out += [".SH SEE ALSO", ", ".join(rf"\fB{escaped(other)}\fR(1)" for other in others)]
    return "\n".join(line for line in out if line) + "\n"


def main():
    program = sys.argv[1]

    def ask(*words):
        return subprocess.run([program, *words], capture_output=True, text=True).stdout

    root = json.loads(ask("--experimental-dump-help"))["command"]
    root["commandName"] = os.path.basename(program)
    # What the dump does not say.
    default = re.search(r"^  (\S+) \(default\)", ask("--help"), re.MULTILINE)
    print(page(root, ask("--version").split(",")[0].strip(), default and default.group(1)), end="")


if __name__ == "__main__":
    main()
