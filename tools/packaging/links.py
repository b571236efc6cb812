#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""links.py FOLDER: the relative links of the Markdown files in FOLDER that lead nowhere, one a line; 1 where there are any."""
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
sys.exit(dead > 0)
