#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""links.py FOLDER: what the documents of an archive name that is not there, one a line; 1 where there is any.

Relative links of the Markdown files, and paths of the sources in README.md and the man pages.
"""
import pathlib
import re
import sys
import urllib.parse

folder = pathlib.Path(sys.argv[1])
dead = 0
for document in sorted(folder.rglob("*.md")):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
        if not urllib.parse.urlsplit(target).scheme and not (document.parent / urllib.parse.unquote(target)).exists():
            print(f"{document.relative_to(folder)}: {target} is not there")
            dead += 1
SOURCES = r"(?<![\w./-])(?:tools|Sources|Tests|server|python|docs|formats|examples)/[\w./-]*\w"
for document in [folder / "README.md", *sorted((folder / "share/man/man1").glob("*"))]:
    for name in re.findall(SOURCES, document.read_text().replace("\\-", "-")):
        if not (folder / name).exists():
            print(f"{document.relative_to(folder)}: {name} is not there")
            dead += 1
sys.exit(dead > 0)
