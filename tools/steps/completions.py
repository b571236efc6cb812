#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes a shell's completions of a command.

usage: completions.py PROGRAM bash|zsh|fish > FILE

The argument parser generates them, but completes nothing for a command that is not written: `rwkv-run mod<Tab>`, which
means `rwkv-run generate mod<Tab>`. That is added here, and names of models wherever files of models are offered.
"""
import os
import re
import subprocess
import sys


def bash(text, name, default):
    """Words that begin with no command are handed to the default command as well."""
    return replace(
        text, r"    \*\)\n        # Offer subcommand completions\n        (COMPREPLY.*)\n",
        '    *)\n        if [[ "${COMP_CWORD}" -eq 1 ]]; then\n            \\1\n        fi\n'
        f'        unparsed_words=("${{COMP_WORDS[@]:1:${{COMP_CWORD}}}}")\n        _{name}_{default}\n')


def zsh(text, name, default):
    text = replace(
        text, r"(        _describe -V subcommand subcommands && ret=0\n)", f"\\1        _{name}_{default} && ret=0\n")
    return replace(
        text, r'(            "_' + name + r'_\$\{words\[1\]\}" && ret=0\n            ;;\n)',
        f'\\1        *)\n            words=({default} "${{words[@]}}")\n            (( CURRENT++ ))\n'
        f'            _{name}_{default} && ret=0\n            ;;\n')


def fish(text, name, default):
    parse = re.search(rf"case '{default}'\n(.*\n)", text).group(1)
    text = replace(
        text, r"(        case 'help'\n.*\n)",
        f"\\1        case '?*'\n            set unparsed_tokens '{default}' $unparsed_tokens\n"
        + parse.replace("\\", r"\\"))
    # The first word may be an argument of the default command.
    lines = re.findall(rf"complete .*for_positional \"{name} {default}\" -eq 1' .*\n", text)
    return text + "".join(line.replace(f'"{name} {default}"', f'"{name}"') for line in lines)


# How a shell asks for the names of models, as `rm` does, and the offer of files that this is added to.
NAMES = {
    "bash": (r"__\S+_add_completions .*---completion rm .*", r"( *)__.*_add_completions .*@\(rwkv\).*", r"\g<0>\n\1{names}"),
    "zsh": (r"__\S+ ---completion rm .*(?=\}')", r":(_files -g '\\''\*\.rwkv'\\'')'", r":{{\1; {names}}}'"),
    "fish": (
        r"\(\S+ ---completion rm .*\)(?='$)", r"(complete .*[rf]a ')\(for p in .*'rwkv.*", r"\g<0>\n\1{names}'"),
}


def with_names(text, shell):
    """Offers the names of models beside their files."""
    names, files, both = NAMES[shell]
    found = re.search(names, text, re.MULTILINE)
    if not found:
        return text
    return replace(text, files, both.format(names=found.group(0).replace("\\", r"\\")), every=True)


def replace(text, pattern, replacement, every=False):
    text, count = re.subn(pattern, replacement, text, count=0 if every else 1)
    if count == 0:
        sys.exit(f"completions.py: the generated script has changed, there is no {pattern!r}")
    return text


def main():
    program, shell = sys.argv[1:]
    text, information = (
        subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout
        for arguments in (["--generate-completion-script", shell], ["--help"]))
    text = with_names(text, shell)
    default = re.search(r"^  (\S+) \(default\)", information, re.MULTILINE)
    if default:
        text = {"bash": bash, "zsh": zsh, "fish": fish}[shell](text, os.path.basename(program), default.group(1))
    print(text, end="")


main()
